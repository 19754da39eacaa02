//! The configuration, in three words that are never mixed: raw (what the file says), plan (what it means), and
//! snapshot (`shard::command::Snapshot`: a plan plus what was acquired).
//!
//! `load` reads a file, `raw` its tables and keys through the typed readers of `read`, `compile` makes the plan; each
//! reports to one `Report`, so that all errors come out at once. Apart from [`load`] and [`Environment::detect`]
//! nothing here touches the system.

mod acl_file;
mod address;
mod compile;
pub mod diff;
pub mod error;
pub mod plan;
mod raw;
mod read;
pub mod route;
#[cfg(test)]
mod tests;
mod units;

use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeTable;

pub use error::{Errors, Finding, Severity, nearest};
use error::{Report, Span};
use plan::Plan;
pub use units::show_duration;

use crate::limits;
pub use crate::types::Digest;
use crate::types::Name;

/// The configuration that runs where there is no file: a copy of proxy.toml, which people edit (a test compares them).
pub const EXAMPLE: &str = include_str!("example.toml");
/// What messages call it in place of a file name.
pub const EXAMPLE_NAME: &str = "<built-in example>";
/// The file that is looked for when none is named.
pub const DEFAULT_PATH: &str = "proxy.toml";

/// Where a configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    Example,
}

impl Source {
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Example => None,
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Example => f.write_str(EXAMPLE_NAME),
        }
    }
}

/// The named file, even if it does not exist (which is an error later); else `./proxy.toml`; else the example.
#[must_use]
pub fn locate(named: Option<&Path>) -> Source {
    match named {
        Some(path) => Source::File(path.to_path_buf()),
        None if Path::new(DEFAULT_PATH).exists() => Source::File(DEFAULT_PATH.into()),
        None => Source::Example,
    }
}

/// What a plan takes from the process it is made for. Detected once, at start and before privileges are dropped, so
/// that a reload means the same paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    pub is_root: bool,
    pub home: Option<PathBuf>,
    pub xdg_state_home: Option<PathBuf>,
    /// The working directory; absolute.
    pub directory: PathBuf,
}

impl Environment {
    #[must_use]
    pub fn detect() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            // The owner of a process's directory is its effective user.
            is_root: std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0),
            home: variable("HOME"),
            // The XDG specification: relative paths are to be ignored.
            xdg_state_home: variable("XDG_STATE_HOME").filter(|path| path.is_absolute()),
            directory: std::env::current_dir().unwrap_or_else(|_| "/".into()),
        }
    }

    /// `[engine] state_dir` where the file does not give it.
    pub(crate) fn state_dir(&self) -> PathBuf {
        if self.is_root {
            return "/var/lib/arus".into();
        }
        let state = self.xdg_state_home.clone();
        let state = state.or_else(|| self.home.as_ref().map(|home| home.join(".local/state")));
        state.map_or_else(|| self.directory.clone(), |state| self.directory.join(state)).join("arus")
    }
}

/// A configuration that can be used.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub plan: Plan,
    pub warnings: Vec<Finding>,
    pub digest: Digest,
}

/// Reads, parses and compiles a configuration.
///
/// # Errors
/// Every error of the file at once, or why it cannot be read.
pub fn load(source: &Source, environment: &Environment) -> Result<Loaded, Errors> {
    let name = source.to_string();
    match source {
        Source::Example => parse(EXAMPLE, &name, &environment.directory, environment),
        Source::File(path) => {
            let text = read_text(path, &name)?;
            // The directory of the path as it was given: a file that is a symlink keeps the neighbours it is seen with.
            let base = environment.directory.join(path.parent().unwrap_or(Path::new("")));
            understand(&text, &name, &base, environment, Reach::Files)
        }
    }
}

/// Parses and compiles a text. `name` is what findings call it; relative paths in it count from `base`, which must be
/// absolute.
///
/// # Errors
/// Every error of the text at once.
pub fn parse(text: &str, name: &str, base: &Path, environment: &Environment) -> Result<Loaded, Errors> {
    understand(text, name, base, environment, Reach::Text)
}

/// What is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Text,
    /// The files with more of the configuration, too.
    Files,
}

fn understand(text: &str, name: &str, base: &Path, environment: &Environment, reach: Reach) -> Result<Loaded, Errors> {
    let mut report = Report::new(name, text);
    let plan = document(text, &mut report).map(|document| {
        let raw = raw::File::from_document(document, &mut report);
        compile::compile(&raw, base, environment, &mut report)
    });
    let (file, listeners) = plan.as_ref().filter(|_| reach == Reach::Files).map_or_else(Default::default, |plan| {
        let listeners: Vec<Name> = plan.listeners.iter().map(|listener| Name::clone(&listener.name)).collect();
        (plan.acl.file.clone(), listeners)
    });
    let (plan, warnings) = acl_file::add(report.finish(plan), file, &listeners)?;
    Ok(Loaded { plan, warnings, digest: Digest::of(text.as_bytes()) })
}

/// The tree of a text without syntax errors: after one it has holes, and what it seems to lack may well be there.
fn document<'t>(text: &'t str, report: &mut Report<'_>) -> Option<Spanned<DeTable<'t>>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut errors: Vec<(Span, &str)> =
        errors.iter().map(|error| (error.span().unwrap_or_default(), error.message())).collect();
    errors.sort_by_key(|(span, _)| span.start);
    // The parser goes on with the next line; what more it says of the same one is mostly noise.
    errors.dedup_by_key(|(span, _)| report.line(span));
    for (span, message) in errors {
        report.error(&span, message);
    }
    (!report.has_errors()).then_some(document)
}

fn read_text(path: &Path, name: &str) -> Result<String, Errors> {
    let bytes = read_bounded(path).map_err(|message| Errors::of_file(name, message))?;
    String::from_utf8(bytes).or_else(|error| {
        let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let valid = String::from_utf8_lossy(valid);
        let mut report = Report::new(name, &valid);
        report.error(&(valid.len()..valid.len()), "the file is not UTF-8 from here on");
        report.finish(None).map(|(text, _)| text)
    })
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(limits::CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limits::CONFIG_BYTES {
        return Err(format!("is larger than {}", bytesize::ByteSize(limits::CONFIG_BYTES)));
    }
    Ok(bytes)
}
