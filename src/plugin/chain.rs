//! The plugins of one connection: a line of stages for each direction, through which its bytes go.

use std::rc::Rc;

use smallvec::SmallVec;

use super::fault::{Fault, Function};
use super::ffi::Facts;
use super::instance::{Instance, Opening, Stream};
use super::stage::{Stage, Step};
use crate::ring::{Buffers, Chain};

/// Bytes, and buffers, that may wait between two stages: few, so that a line hardly holds buffers that others lack.
const LINK: usize = 16 * 1024;
const LINK_BUFFERS: usize = 4;
/// Data calls of one stage in one run; then others on the shard have their turn.
const CALLS: u32 = 64;

/// Opens the plugins of a connection.
pub struct Streams;

/// A plugin does not want the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Close,
    Reset,
    Fault(Fault),
}

impl Streams {
    /// The lines of both directions, up and down. `None`: no plugin wants to see any of it.
    ///
    /// # Errors
    /// When a plugin refuses the connection, or is at fault and its `on_fault` is `close`.
    pub fn open(
        buffers: &Buffers,
        instances: &[Rc<Instance>],
        facts: &Facts<'_>,
    ) -> Result<Option<(Line, Line)>, Refusal> {
        let (mut up, mut down) = (Line::new(buffers), Line::new(buffers));
        for instance in instances {
            let stream = match Stream::open(instance, facts) {
                Opening::Takes(stream) => stream,
                Opening::Bypasses => continue,
                Opening::Close => return Err(Refusal::Close),
                Opening::Reset => return Err(Refusal::Reset),
                Opening::Fault(fault) => return Err(Refusal::Fault(fault)),
            };
            let library = &instance.process().library;
            if library.sees_up() {
                up.stages.push(Stage::new(&stream, Function::DataUp, buffers));
            }
            if library.sees_down() {
                // Client side first: what comes from the backend meets the last plugin first.
                down.stages.insert(0, Stage::new(&stream, Function::DataDown, buffers));
            }
        }
        let is_empty = up.stages.is_empty() && down.stages.is_empty();
        Ok((!is_empty).then_some((up, down)))
    }
}

/// One direction of a connection's plugins.
pub struct Line {
    buffers: Buffers,
    stages: SmallVec<[Stage; 1]>,
    /// The first stage that is not behind one that has closed the connection.
    first: usize,
}

/// What a line needs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Everything given was taken, or is held back: more input, or the end.
    Wants,
    /// The outbox holds as much as it may: call again when it has drained, no input is needed.
    Full,
    /// No private buffer could be had: call again later.
    NoBuffer,
    /// There is more to do at once; let others have their turn, and call again.
    Again,
    /// The end of the stream has gone through all plugins; the outbox holds what is left to deliver.
    Ended,
    /// Nobody looks at this direction any more: outbox, then inbox, hold all that remains, in order.
    Detached,
    /// Deliver the outbox, then close both sides.
    Close,
    Reset,
    Fault(Fault),
}

impl Line {
    fn new(buffers: &Buffers) -> Self {
        Self { buffers: buffers.clone(), stages: SmallVec::new(), first: 0 }
    }

    /// Bytes that its plugins hold back, or that wait between them.
    #[must_use]
    pub fn held_back(&self) -> usize {
        self.stages.iter().map(|stage| stage.work.held_back() + stage.work.waiting()).sum()
    }

    /// Moves bytes from `inbox` through the plugins into `outbox`, as long as that holds less than `room` bytes. `end`
    /// says that nothing will come behind the inbox. Faults have been logged and counted, and `bypass` and `disable` were
    /// obeyed.
    pub fn run(&mut self, inbox: &mut Chain, end: bool, outbox: &mut Chain, room: usize) -> Turn {
        if self.stages.is_empty() {
            return Turn::Detached;
        }
        let room = room.max(1);
        let mut calls: SmallVec<[u32; 4]> = SmallVec::from_elem(CALLS, self.stages.len());
        loop {
            let mut has_moved = false;
            let (mut all_pass, mut all_ended) = (true, true);
            let mut turn = Turn::Wants;
            for index in self.first..self.stages.len() {
                let is_last = index + 1 == self.stages.len();
                let (before, rest) = self.stages.split_at_mut(index);
                let stage = &mut rest[0];
                let (source, ends) = match before.last_mut() {
                    None => (&mut *inbox, end),
                    Some(before) => (&mut before.work.out, before.has_ended),
                };
                let stage_room = match is_last {
                    true => room.saturating_sub(outbox.len()),
                    false if stage.work.out.count() >= LINK_BUFFERS => 0,
                    false => LINK,
                };
                let was = (source.len(), stage.work.out.len(), stage.has_ended);
                let step = stage.turn(&self.buffers, source, ends, stage_room, &mut calls[index]);
                has_moved |= was != (source.len(), stage.work.out.len(), stage.has_ended);
                if is_last {
                    self.buffers.append(outbox, std::mem::take(&mut stage.work.out));
                }
                all_pass &= matches!(step, Step::Passes | Step::Ended);
                all_ended &= step == Step::Ended;
                match step {
                    Step::Wants | Step::Passes | Step::Ended => {}
                    // What the link holds is the next stage's to take, and then this one goes on.
                    Step::Full if is_last => turn = Turn::Full,
                    Step::Full => {}
                    Step::NoBuffer => turn = Turn::NoBuffer,
                    Step::Again => turn = Turn::Again,
                    Step::Closes => {
                        // The later stages still get what it let through; the earlier ones are done.
                        self.first = index;
                        turn = Turn::Close;
                    }
                    Step::Reset => return Turn::Reset,
                    Step::Fault(fault) => return Turn::Fault(fault),
                }
            }
            if has_moved && !matches!(turn, Turn::Full | Turn::NoBuffer | Turn::Again) {
                continue;
            }
            return match turn {
                Turn::Wants if all_ended => Turn::Ended,
                Turn::Wants if all_pass => Turn::Detached,
                turn => turn,
            };
        }
    }
}
