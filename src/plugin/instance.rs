//! A plugin on one shard, with what its connections share there; and one connection of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::counters::Meter;
use super::fault::{Fault, Function, Lie};
use super::ffi::{self, Facts, Opened, Process, Scratch, Site};
use super::watch::{LogLimit, now_ns};
use super::work::{Spares, Work};
use crate::config::plan::OnFault;
use crate::stats::counters::add;
use crate::types::SessionId;

/// Scratch memories that an instance keeps for the next connections, and how many bytes they may have together.
const SCRATCHES: usize = 64;
const SCRATCH_BYTES: usize = 256 * 1024;

/// A plugin on one shard.
pub struct Instance {
    opened: Opened,
    /// Of what the plugin logs, and of what arus says of it.
    log: LogLimit,
    own_log: LogLimit,
    pub(super) spares: Rc<Spares>,
    scratches: RefCell<Vec<Scratch>>,
}

impl Instance {
    #[must_use]
    pub fn new(opened: Opened) -> Rc<Self> {
        let (log, own_log) = (LogLimit::default(), LogLimit::default());
        Rc::new(Self { opened, log, own_log, spares: Rc::default(), scratches: RefCell::default() })
    }

    #[must_use]
    pub fn process(&self) -> &Process {
        self.opened.process()
    }

    pub(super) fn meter(&self) -> Option<&Meter> {
        let shards = &self.process().state.shards;
        shards.get(usize::from(self.opened.shard().0)).map(|meter| &**meter)
    }

    fn count(&self, counter: impl Fn(&Meter) -> &AtomicU64) {
        self.meter().into_iter().for_each(|meter| add(counter(meter), 1));
    }

    fn take_scratch(&self) -> Scratch {
        match self.scratches.borrow_mut().pop() {
            Some(mut scratch) => {
                scratch.clear();
                scratch
            }
            None => Scratch::new(self.process().library.connection_size()),
        }
    }

    fn give_back(&self, scratch: Scratch) {
        let size = self.process().library.connection_size().max(1);
        let mut scratches = self.scratches.borrow_mut();
        if scratches.len() < SCRATCHES.min(SCRATCH_BYTES / size).max(1) {
            scratches.push(scratch);
        }
    }
}

/// How a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The plugin is asked.
    Active,
    /// It is not asked any more, and everything passes untouched.
    Bypassed,
    /// It has closed the connection, or is at fault: nothing more passes.
    Closed,
}

/// What connection_open decided.
pub(super) enum Opening {
    Takes(Rc<Stream>),
    /// It is not interested.
    Bypasses,
    Close,
    Reset,
    Fault(Fault),
}

/// Why connection_close is called; as the header numbers them.
#[derive(Debug, Clone, Copy)]
enum End {
    Ended = 0,
    Detached = 1,
    Cut = 2,
    Fault = 3,
}

/// One connection of a plugin; both directions share it.
pub(super) struct Stream {
    instance: Rc<Instance>,
    scratch: Cell<Option<Scratch>>,
    session: SessionId,
    standing: Cell<Standing>,
    /// Directions that are neither ended nor detached.
    directions: Cell<u8>,
    has_ended: Cell<bool>,
    is_at_fault: Cell<bool>,
    /// connection_close is still to be called.
    is_open: Cell<bool>,
}

impl Stream {
    pub(super) fn open(instance: &Rc<Instance>, facts: &Facts<'_>) -> Opening {
        if instance.process().is_disabled() {
            return Opening::Bypasses;
        }
        let library = &instance.process().library;
        let scratch = instance.take_scratch();
        let site = Site { session: facts.session, log: &instance.log };
        let (answer, ns) = instance.opened.connection_open(&site, facts, &scratch);
        let stream = Self {
            instance: Rc::clone(instance),
            scratch: Cell::new(Some(scratch)),
            session: facts.session,
            standing: Cell::new(Standing::Active),
            directions: Cell::new(u8::from(library.sees_up()) + u8::from(library.sees_down())),
            has_ended: Cell::new(false),
            is_at_fault: Cell::new(false),
            is_open: Cell::new(answer == ffi::OK),
        };
        stream.note_duration(Function::ConnectionOpen, ns);
        match answer {
            ffi::OK => {
                instance.count(|meter| &meter.connections);
                Opening::Takes(Rc::new(stream))
            }
            ffi::BYPASS => Opening::Bypasses,
            ffi::CLOSE => Opening::Close,
            ffi::RESET => Opening::Reset,
            answer => {
                let lie = if answer == ffi::ERROR { Lie::Error } else { Lie::Answer(answer) };
                match stream.fault(Function::ConnectionOpen, lie) {
                    Some(fault) => Opening::Fault(fault),
                    None => Opening::Bypasses,
                }
            }
        }
    }

    pub(super) fn instance(&self) -> &Rc<Instance> {
        &self.instance
    }

    pub(super) fn standing(&self) -> Standing {
        match self.standing.get() {
            Standing::Active if self.instance.process().is_disabled() => Standing::Bypassed,
            standing => standing,
        }
    }

    pub(super) fn close(&self) {
        self.standing.set(Standing::Closed);
    }

    /// A data call; gives the plugin's answer, and what it did.
    pub(super) fn data(
        &self,
        function: Function,
        is_end: bool,
        room: usize,
        work: &mut Work,
    ) -> (i32, super::work::Outcome) {
        let scratch = self.scratch.take().expect("it is put back below, and taken away only with the stream");
        let (input, len) = work.begin(room);
        let site = Site { session: self.session, log: &self.instance.log };
        let (answer, ns) = self.instance.opened.data(&site, &scratch, function, is_end, (input, len), work);
        self.scratch.set(Some(scratch));
        let outcome = work.finish();
        if let Some(meter) = self.instance.meter() {
            meter.call(outcome.consumed, outcome.produced, ns);
        }
        self.note_duration(function, ns);
        (answer, outcome)
    }

    /// A direction is over; the last one ends the plugin's part in the connection.
    pub(super) fn leave(&self, has_ended: bool) {
        self.directions.set(self.directions.get().saturating_sub(1));
        self.has_ended.set(self.has_ended.get() || has_ended);
        if self.directions.get() == 0 {
            let end = if self.has_ended.get() { End::Ended } else { End::Detached };
            self.end(end);
        }
    }

    /// The plugin has lied, or cannot go on. What `on_fault` says is done; `None`: the connection goes on without it.
    pub(super) fn fault(&self, function: Function, lie: Lie) -> Option<Fault> {
        let process = self.instance.process();
        let (plugin, generation) = (&process.terms.name, process.generation);
        self.instance.count(|meter| &meter.faults);
        self.is_at_fault.set(true);
        let bypasses = process.terms.on_fault != OnFault::Close;
        self.standing.set(if bypasses { Standing::Bypassed } else { Standing::Closed });
        if self.instance.own_log.take(now_ns()) {
            let (session, generation, shard) = (self.session, generation.0, self.instance.opened.shard().0);
            let on_fault = process.terms.on_fault.word();
            tracing::warn!(%plugin, generation, shard, %session, %function, on_fault, "plugin fault: it {lie}");
        }
        if process.terms.on_fault == OnFault::Disable && process.disable() {
            tracing::error!(%plugin, "plugin disabled after a fault; a reload brings it back");
        }
        (!bypasses).then(|| Fault { plugin: plugin.clone(), generation, function, lie })
    }

    fn end(&self, end: End) {
        if !self.is_open.replace(false) {
            return;
        }
        let end = if self.is_at_fault.get() { End::Fault } else { end };
        let Some(scratch) = self.scratch.take() else { return };
        let site = Site { session: self.session, log: &self.instance.log };
        let ns = self.instance.opened.connection_close(&site, &scratch, end as u32);
        self.scratch.set(Some(scratch));
        self.note_duration(Function::ConnectionClose, ns);
    }

    fn note_duration(&self, function: Function, ns: u64) {
        let process = self.instance.process();
        let (took, max_call) = (Duration::from_nanos(ns), process.terms.max_call);
        if took <= max_call {
            return;
        }
        self.instance.count(|meter| &meter.over_max_call);
        if self.instance.own_log.take(now_ns()) {
            let (plugin, session, shard) = (&process.terms.name, self.session, self.instance.opened.shard().0);
            let generation = process.generation.0;
            tracing::warn!(%plugin, generation, shard, %session, %function, ?took, ?max_call, "plugin call took too long");
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.end(End::Cut);
        if let Some(scratch) = self.scratch.take() {
            self.instance.give_back(scratch);
        }
    }
}
