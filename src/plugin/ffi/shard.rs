//! A plugin as one shard has it, and the calls that go with a connection.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

use super::abi::{self, Connection, Io};
use super::host::{Current, Facts, Role, Texts, enter};
use super::process::{ErrorText, Pointer, Process};
use crate::plugin::fault::Function;
use crate::plugin::watch::{LogLimit, Watch, now_ns};
use crate::plugin::work::Work;
use crate::types::{SessionId, ShardId};

/// Scratch memory of a connection, aligned to 16.
#[derive(Debug)]
pub(in crate::plugin) struct Scratch {
    memory: Option<NonNull<u8>>,
    layout: Layout,
}

impl Scratch {
    pub(in crate::plugin) fn new(size: usize) -> Self {
        let layout = Layout::from_size_align(size, 16).expect("bounded by the table's check");
        // SAFETY: the layout is not empty.
        let memory = (size > 0).then(|| unsafe { alloc_zeroed(layout) });
        let memory = memory.map(|memory| NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout)));
        Self { memory, layout }
    }

    /// Zeros, for the next connection.
    pub(in crate::plugin) fn clear(&mut self) {
        if let Some(memory) = self.memory {
            // SAFETY: the memory is this long, and only this refers to it.
            unsafe { memory.as_ptr().write_bytes(0, self.layout.size()) };
        }
    }

    fn as_ptr(&self) -> *mut std::ffi::c_void {
        self.memory.map_or(std::ptr::null_mut(), |memory| memory.as_ptr().cast())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(memory) = self.memory {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(memory.as_ptr(), self.layout) };
        }
    }
}

/// A plugin that shard_open has opened for one shard; closed when it is dropped. Made on a control thread, which hands it
/// to the shard.
#[derive(Debug)]
pub struct Opened {
    process: Arc<Process>,
    shard: ShardId,
    pointer: Pointer,
    watch: Arc<Watch>,
}

/// What a call needs to know, beside the functions.
pub(in crate::plugin) struct Site<'a> {
    pub(in crate::plugin) session: SessionId,
    pub(in crate::plugin) log: &'a LogLimit,
}

impl Opened {
    /// Opens a process for a shard, which publishes in `watch` when it is in the plugin. On a control thread.
    ///
    /// # Errors
    /// What the plugin says is wrong.
    pub fn new(process: &Arc<Process>, shard: ShardId, watch: &Arc<Watch>) -> Result<Self, String> {
        let mut pointer = process.opened.0;
        if let Some(shard_open) = process.library.table.shard_open {
            pointer = std::ptr::null_mut();
            let mut error = ErrorText::new();
            let name = &process.terms.name;
            let mut current = Current::control(name, process.generation, Function::ShardOpen, Role::Other);
            current.host = &raw const process.host.0;
            current.shard = Some(shard);
            current.own = process.own_of(shard);
            let number = u32::from(shard.0);
            let answer = enter(&current, || {
                // SAFETY: a checked function of a loaded library; the pointers hold for the call.
                unsafe {
                    let error = error.as_mut_ptr();
                    shard_open(process.opened.0, number, error, abi::ERROR_MAX, &raw mut pointer)
                }
            });
            error.judge(answer, Function::ShardOpen)?;
        }
        Ok(Self { process: Arc::clone(process), shard, pointer: Pointer(pointer), watch: Arc::clone(watch) })
    }

    #[must_use]
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// A call on the shard's thread. Gives how long it took as well, in nanoseconds.
    fn call<R>(&self, site: &Site<'_>, function: Function, role: Role<'_>, call: impl FnOnce() -> R) -> (R, u64) {
        let process = &*self.process;
        let current = Current {
            plugin: &process.terms.name,
            generation: process.generation,
            host: &raw const process.host.0,
            shard: Some(self.shard),
            session: Some(site.session),
            function,
            role,
            log: Some(site.log),
            log_dropped: process.state.shards.get(usize::from(self.shard.0)).map(|meter| &meter.log_dropped),
            own: process.own_of(self.shard),
        };
        let begin = now_ns();
        self.watch.enter(process.id, site.session, function, begin);
        let result = enter(&current, call);
        self.watch.leave();
        (result, now_ns() - begin)
    }

    /// A connection begins; gives the plugin's answer, which is OK where it has no such function.
    pub(in crate::plugin) fn connection_open(
        &self,
        site: &Site<'_>,
        facts: &Facts<'_>,
        scratch: &Scratch,
    ) -> (i32, u64) {
        let Some(function) = self.process.library.table.connection_open else { return (abi::OK, 0) };
        let connection = Connection {
            size: size_of::<Connection>() as u32,
            shard: u32::from(self.shard.0),
            host: &raw const self.process.host.0,
            session: facts.session.0.to_be_bytes(),
            generation: facts.generation.0,
        };
        let texts = Texts::default();
        let pointer = &raw const connection;
        self.call(site, Function::ConnectionOpen, Role::ConnectionOpen(pointer, facts, &texts), || {
            // SAFETY: a checked function of a loaded library; the pointers hold for the call, `scratch` for longer.
            unsafe { function(self.pointer.0, pointer, scratch.as_ptr()) }
        })
    }

    /// The end of a connection that was opened.
    pub(in crate::plugin) fn connection_close(&self, site: &Site<'_>, scratch: &Scratch, reason: u32) -> u64 {
        let Some(function) = self.process.library.table.connection_close else { return 0 };
        let ((), ns) = self.call(site, Function::ConnectionClose, Role::Other, || {
            // SAFETY: a checked function of a loaded library, with the pointers that it knows.
            unsafe { function(self.pointer.0, scratch.as_ptr(), reason) }
        });
        ns
    }

    /// A data call over what `work` shows; gives the plugin's answer.
    pub(in crate::plugin) fn data(
        &self,
        site: &Site<'_>,
        scratch: &Scratch,
        function: Function,
        is_end: bool,
        (input, input_len): (*const u8, usize),
        work: &mut Work,
    ) -> (i32, u64) {
        let mut io = Io {
            size: size_of::<Io>() as u32,
            flags: if is_end { abi::END } else { 0 },
            direction: if function == Function::DataUp { abi::UP } else { abi::DOWN },
            reserved: 0,
            input,
            input_len,
            host: &raw const self.process.host.0,
        };
        let io = &raw mut io;
        let data = self.process.library.table.data;
        self.call(site, function, Role::Data(io, std::ptr::from_mut(work)), || {
            // SAFETY: a checked function of a loaded library; `io` and the input hold for the call, as `work` is borrowed
            // and moves its input only when the plugin has consumed it.
            unsafe { data(self.pointer.0, scratch.as_ptr(), io) }
        })
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let table = &self.process.library.table;
        // Without a function to open it, the pointer is the process's.
        let Some(shard_close) = table.shard_close.filter(|_| table.shard_open.is_some()) else { return };
        let process = &*self.process;
        let name = &process.terms.name;
        let mut current = Current::control(name, process.generation, Function::ShardClose, Role::Other);
        current.host = &raw const process.host.0;
        current.shard = Some(self.shard);
        current.own = process.own_of(self.shard);
        // SAFETY: a checked function of a loaded library, with the pointer that it gave; every connection on this shard
        // refers to this, so they are closed.
        enter(&current, || unsafe { shard_close(self.pointer.0) });
    }
}
