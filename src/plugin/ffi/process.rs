//! A plugin as one configuration opened it.

use std::cell::RefCell;
use std::ffi::{CString, c_void};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::utils::CachePadded;

use super::abi::{self, Host};
use super::host::{self, Current, OwnCounter, Role, enter};
use super::library::Library;
use crate::config::plan::OnFault;
use crate::plugin::counters::PluginState;
use crate::plugin::fault::Function;
use crate::plugin::watch::ProcessId;
use crate::types::{Generation, Name, ShardId};

/// What a configuration says of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub name: Name,
    pub path: PathBuf,
    pub config: String,
    pub on_fault: OnFault,
    pub max_call: Duration,
}

/// A plugin that process_open has opened; closed when nobody refers to it any more. Shared by control and all shards.
#[derive(Debug)]
pub struct Process {
    pub id: ProcessId,
    pub terms: Terms,
    /// The configuration that opened it.
    pub generation: Generation,
    pub library: Arc<Library>,
    /// What is counted under its name.
    pub state: Arc<PluginState>,
    is_disabled: AtomicBool,
    pub(super) opened: Pointer,
    /// At a fixed address, which is what the plugin knows this process by.
    pub(super) host: Box<HostTable>,
    own: Vec<OwnCounter>,
    /// Values of `own`, by shard.
    own_values: Box<[CachePadded<Box<[AtomicU64]>>]>,
}

/// The plugin's own pointer: arus only hands it back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pointer(pub(super) *mut c_void);

// SAFETY: arus never follows the pointer. The header says on which threads the functions that get it run.
unsafe impl Send for Pointer {}
// SAFETY: as above.
unsafe impl Sync for Pointer {}

pub(super) struct HostTable(pub(super) Host);

// SAFETY: the table is constant: functions, and a text that is a constant of the program.
unsafe impl Send for HostTable {}
// SAFETY: as above.
unsafe impl Sync for HostTable {}

impl std::fmt::Debug for HostTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostTable")
    }
}

/// Where an open function writes what is wrong.
pub(super) struct ErrorText([u8; abi::ERROR_MAX]);

impl ErrorText {
    pub(super) fn new() -> Self {
        Self([0; abi::ERROR_MAX])
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut std::ffi::c_char {
        self.0.as_mut_ptr().cast()
    }

    /// What the answer of an open function means.
    pub(super) fn judge(&self, answer: i32, function: Function) -> Result<(), String> {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        let text = host::printable(&self.0[..end]);
        match (answer, text.is_empty()) {
            (abi::OK, _) => Ok(()),
            (abi::ERROR, false) => Err(text),
            (abi::ERROR, true) => Err(format!("{function} answered ERROR and said nothing")),
            (answer, _) => Err(format!("{function} gave the unknown answer {answer}")),
        }
    }
}

impl Process {
    /// Opens a plugin. Not to be called on a shard.
    ///
    /// # Errors
    /// What the plugin says is wrong.
    pub fn open(
        terms: Terms,
        library: Arc<Library>,
        state: Arc<PluginState>,
        generation: Generation,
        shards: u16,
    ) -> Result<Arc<Self>, String> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let host = Box::new(HostTable(host::table()));
        let (own, mut opened) = (RefCell::new(Vec::new()), std::ptr::null_mut());
        if let Some(process_open) = library.table.process_open {
            let config = CString::new(terms.config.as_str()).map_err(|_| "its config contains a NUL".to_owned())?;
            let mut error = ErrorText::new();
            let role = Role::ProcessOpen(&own);
            let mut current = Current::control(&terms.name, generation, Function::ProcessOpen, role);
            current.host = &raw const host.0;
            let (table, text) = (&raw const host.0, config.as_bytes());
            let answer = enter(&current, || {
                // SAFETY: a checked function of a loaded library; all pointers hold for the call, and the host table
                // until after process_close.
                unsafe {
                    let error = error.as_mut_ptr();
                    process_open(table, text.as_ptr().cast(), text.len(), error, abi::ERROR_MAX, &raw mut opened)
                }
            });
            error.judge(answer, Function::ProcessOpen)?;
        }
        let own = own.into_inner();
        let zeros = || CachePadded::new(own.iter().map(|_| AtomicU64::new(0)).collect());
        Ok(Arc::new(Self {
            id: ProcessId(NEXT.fetch_add(1, Ordering::Relaxed)),
            terms,
            generation,
            library,
            state,
            is_disabled: AtomicBool::new(false),
            opened: Pointer(opened),
            host,
            own_values: (0..shards).map(|_| zeros()).collect(),
            own,
        }))
    }

    /// Whether a fault has disabled it (`on_fault = "disable"`).
    #[must_use]
    pub fn is_disabled(&self) -> bool {
        self.is_disabled.load(Ordering::Relaxed)
    }

    /// Says whether that is news.
    pub(crate) fn disable(&self) -> bool {
        !self.is_disabled.swap(true, Ordering::Relaxed)
    }

    /// A reload brings a disabled plugin back.
    pub fn enable(&self) {
        self.is_disabled.store(false, Ordering::Relaxed);
    }

    /// The counters that it made, with their sums over all shards.
    pub fn own_counters(&self) -> impl Iterator<Item = (&OwnCounter, u64)> {
        self.own.iter().enumerate().map(|(number, counter)| {
            let values = self.own_values.iter().map(|values| values[number].load(Ordering::Relaxed));
            (counter, values.sum())
        })
    }

    pub(super) fn own_of(&self, shard: ShardId) -> &[AtomicU64] {
        self.own_values.get(usize::from(shard.0)).map_or(&[], |values| values)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let table = &self.library.table;
        let Some(process_close) = table.process_close.filter(|_| table.process_open.is_some()) else { return };
        let name = &self.terms.name;
        let mut current = Current::control(name, self.generation, Function::ProcessClose, Role::Other);
        current.host = &raw const self.host.0;
        // SAFETY: a checked function of a loaded library, with the pointer of its own; everything that was opened with it
        // holds a reference to this, so it is closed.
        enter(&current, || unsafe { process_close(self.opened.0) });
    }
}
