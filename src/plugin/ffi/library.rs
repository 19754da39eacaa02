//! Loaded libraries. None is ever unloaded: destructors of thread-local variables, and whatever else a library left
//! behind, would be called in memory that is gone. The same content is loaded once.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW, Symbol};

use super::abi;
use super::elf;
use super::host::{Current, Role, enter};
use super::image::{self, Digest, Image, Trust};
use super::maps::Maps;
use super::table::{self, Checked};
use crate::limits::PLUGIN_IMAGES;
use crate::plugin::fault::Function;
use crate::types::Generation;

/// Why a file is no plugin that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("is not loaded, as {0}")]
    Trust(String),
    #[error("cannot be copied into memory: {0}")]
    Image(String),
    #[error("cannot be loaded: {0}")]
    Link(String),
    #[error("{0}")]
    Table(String),
    #[error(
        "is not loaded: {PLUGIN_IMAGES} different files were since arus started, and none can be unloaded; restart it"
    )]
    TooMany,
}

/// One loaded file.
#[derive(Debug)]
pub struct Library {
    pub digest: Digest,
    pub(super) table: Checked,
}

impl Library {
    /// What the plugin calls itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.table.name
    }

    #[must_use]
    pub fn version(&self) -> &str {
        &self.table.version
    }

    /// Major and minor number that it was compiled with.
    #[must_use]
    pub fn abi(&self) -> (u16, u16) {
        (abi::MAJOR, self.table.minor)
    }

    #[must_use]
    pub fn sees_up(&self) -> bool {
        self.table.flags & abi::UP != 0
    }

    #[must_use]
    pub fn sees_down(&self) -> bool {
        self.table.flags & abi::DOWN != 0
    }

    /// Bytes of scratch memory for each connection.
    #[must_use]
    pub fn connection_size(&self) -> usize {
        self.table.connection_size as usize
    }

    #[must_use]
    pub fn holdback_max(&self) -> usize {
        self.table.holdback_max as usize
    }
}

/// Every file that was loaded since the process began, also those whose table was refused.
#[derive(Debug, Default)]
pub struct Libraries(Vec<(Digest, Result<Arc<Library>, LoadError>)>);

impl Libraries {
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Loads the file at `path` for the plugin that the configuration calls `plugin`; what was loaded before is given
    /// again.
    ///
    /// # Errors
    /// When it cannot be read, is not to be trusted, cannot be loaded, or its table is not as the header says.
    pub fn load(&mut self, plugin: &str, path: &Path, trust: Trust) -> Result<Arc<Library>, LoadError> {
        let (bytes, digest) = image::read(path, trust)?;
        if let Some((_, known)) = self.0.iter().find(|(known, _)| *known == digest) {
            return known.clone();
        }
        if self.0.len() >= PLUGIN_IMAGES {
            return Err(LoadError::TooMany);
        }
        elf::check(&bytes)?;
        let image = Image::new(&bytes, digest)?;
        let current = Current::control(plugin, Generation(0), Function::Load, Role::Other);
        let (handle, table) = enter(&current, || open(&image))?;
        // Never unloaded, whatever its table says. Nor is its descriptor ever closed: the loader knows a library by its
        // path, and would take the next file that got the same number for this one.
        std::mem::forget((handle, image.memory));
        let library = table.map(|table| Arc::new(Library { digest, table }));
        self.0.push((digest, library.clone()));
        library
    }
}

type Opened = (Handle, Result<Checked, LoadError>);

fn open(image: &Image) -> Result<Opened, LoadError> {
    // Debuggers look the library up by this path, and `self` would be the debugger (gdb would wait for ever on a
    // descriptor of its own). What /proc says of this process is right in any PID namespace.
    let own = std::fs::read_link("/proc/self").map_err(|error| LoadError::Image(format!("/proc/self: {error}")))?;
    let path = format!("/proc/{}/fd/{}", own.display(), image.memory.as_raw_fd());
    // SAFETY: this runs the library's initialisers, as loading a plugin must: whoever wrote the configuration asked for
    // that code, and `image::read` has refused files that others could have written.
    let handle = unsafe { Handle::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
    let handle = handle.map_err(|error| LoadError::Link(explain(&error, &path)))?;
    let table = look_up(&handle, image);
    Ok((handle, table))
}

/// The loader's words without the name of our copy, which says nothing to anybody.
fn explain(error: &libloading::Error, path: &str) -> String {
    let text = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    text.strip_prefix(path).map_or(text.as_str(), |text| text.trim_start_matches([':', ' '])).to_owned()
}

fn look_up(handle: &Handle, image: &Image) -> Result<Checked, LoadError> {
    let missing = || LoadError::Table(format!("is no arus plugin: it does not export {}", abi::SYMBOL));
    // SAFETY: the symbol is taken as an address only; it is called below, once it is known to be code of this file.
    let symbol: Result<Symbol<usize>, _> = unsafe { handle.get(abi::SYMBOL) };
    let address = symbol.map_err(|_| missing())?.into_raw() as usize;
    let maps = Maps::of(&image.name).map_err(|error| LoadError::Table(format!("/proc/self/maps: {error}")))?;
    if !maps.can_run(address) {
        return Err(missing());
    }
    // SAFETY: an address of code in this library that it exports under the name of this function; that it has the
    // signature is what exporting the name means.
    let function = unsafe { std::mem::transmute::<usize, unsafe extern "C" fn() -> *const abi::Table>(address) };
    // SAFETY: as above; it takes nothing, and the pointer that it gives is not believed.
    let table = unsafe { function() };
    table::check(table as usize, &maps).map_err(LoadError::Table)
}
