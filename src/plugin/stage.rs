//! One plugin in one direction of a connection: shows it the input, and does what it answers.

use std::rc::Rc;

use super::fault::{Fault, Function, Lie};
use super::ffi::{self, IDLE_CALLS_MAX, RESERVE_MAX};
use super::instance::{Standing, Stream};
use super::work::{Outcome, Work};
use crate::ring::{Buffers, Chain};

/// What a stage lets its direction do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The plugin is asked.
    Asks,
    /// Everything passes: it has detached, or is bypassed.
    Passes,
    /// Nothing passes any more.
    Closes,
}

/// Why a stage cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// There is no input left.
    Wants,
    /// As `Wants`, and nobody looks at what comes.
    Passes,
    Full,
    NoBuffer,
    /// It has had its calls for this time.
    Again,
    Ended,
    /// Its plugin closes the connection; `out` holds what is still to be delivered.
    Closes,
    Reset,
    Fault(Fault),
}

pub(super) struct Stage {
    stream: Rc<Stream>,
    function: Function,
    pub(super) work: Work,
    mode: Mode,
    /// It answered MORE_OUTPUT.
    is_to_be_called: bool,
    /// It was refused room in its last call: it gets some before the next.
    is_promised_room: bool,
    /// Such answers in a row without any progress.
    idle_calls: u32,
    /// The end of the direction has gone through.
    pub(super) has_ended: bool,
}

impl Stage {
    pub(super) fn new(stream: &Rc<Stream>, function: Function, buffers: &Buffers) -> Self {
        Self {
            stream: Rc::clone(stream),
            function,
            work: Work::new(buffers, &stream.instance().spares),
            mode: Mode::Asks,
            is_to_be_called: false,
            is_promised_room: false,
            idle_calls: 0,
            has_ended: false,
        }
    }

    /// Goes on as far as it can. `end` says that nothing will come behind `inbox`; `room` is how much `out` may hold, and
    /// `calls` how many times the plugin may be called.
    pub(super) fn turn(
        &mut self,
        buffers: &Buffers,
        inbox: &mut Chain,
        end: bool,
        room: usize,
        calls: &mut u32,
    ) -> Step {
        let step = self.go_on(buffers, inbox, end, room, calls);
        self.work.close();
        step
    }

    fn go_on(&mut self, buffers: &Buffers, inbox: &mut Chain, end: bool, room: usize, calls: &mut u32) -> Step {
        loop {
            match self.standing() {
                Mode::Asks => {}
                Mode::Passes => return self.pass(buffers, inbox, end, room),
                Mode::Closes => {
                    self.work.drop_rest();
                    return if self.work.settle() { Step::Closes } else { Step::NoBuffer };
                }
            }
            if self.has_ended {
                return if self.work.settle() { Step::Ended } else { Step::NoBuffer };
            }
            // Output of the last call first, except where the rest of the input lies in the same buffer and goes on.
            if (self.is_to_be_called || self.work.is_spent()) && !self.work.settle() {
                return Step::NoBuffer;
            }
            if self.work.waiting() >= room {
                return if self.work.settle() { Step::Full } else { Step::NoBuffer };
            }
            if self.is_to_be_called && self.is_promised_room && !self.work.open_with(RESERVE_MAX) {
                return Step::NoBuffer;
            }
            if *calls == 0 {
                return if self.work.settle() { Step::Again } else { Step::NoBuffer };
            }
            if !self.is_to_be_called && !self.work.show_more(inbox) && !end {
                return if self.work.rest() { Step::Wants } else { Step::NoBuffer };
            }
            *calls -= 1;
            let is_end = end && inbox.is_empty() && self.work.shows_all();
            let (answer, outcome) = self.stream.data(self.function, is_end, room, &mut self.work);
            if let Some(step) = self.obey(answer, &outcome, is_end) {
                return step;
            }
        }
    }

    fn standing(&mut self) -> Mode {
        if self.mode == Mode::Asks {
            self.mode = match self.stream.standing() {
                Standing::Active => return Mode::Asks,
                Standing::Bypassed => Mode::Passes,
                Standing::Closed => Mode::Closes,
            };
            if self.mode == Mode::Passes && !self.has_ended {
                self.stream.leave(false);
            }
        }
        self.mode
    }

    fn pass(&mut self, buffers: &Buffers, inbox: &mut Chain, end: bool, room: usize) -> Step {
        self.work.pass_rest();
        if !self.work.settle() {
            return Step::NoBuffer;
        }
        if self.work.waiting() >= room {
            return Step::Full;
        }
        self.work.close();
        buffers.append(&mut self.work.out, std::mem::take(inbox));
        self.has_ended = end;
        if end { Step::Ended } else { Step::Passes }
    }

    /// What an answer means, once the call has been found to be without fault.
    fn obey(&mut self, answer: i32, outcome: &Outcome, is_end: bool) -> Option<Step> {
        let lie = outcome.lie.or_else(|| self.lie_of(answer, outcome, is_end));
        if let Some(lie) = lie {
            return self.stream.fault(self.function, lie).map(Step::Fault);
        }
        self.is_to_be_called = answer == ffi::MORE_OUTPUT;
        self.is_promised_room = outcome.lacked;
        match answer {
            ffi::MORE_OUTPUT => {}
            ffi::DETACH => {
                self.mode = Mode::Passes;
                self.stream.leave(is_end);
            }
            ffi::CLOSE => {
                self.mode = Mode::Closes;
                self.stream.close();
            }
            ffi::RESET => {
                self.stream.close();
                return Some(Step::Reset);
            }
            _ if is_end => {
                self.has_ended = true;
                self.stream.leave(true);
            }
            _ => {}
        }
        None
    }

    fn lie_of(&mut self, answer: i32, outcome: &Outcome, is_end: bool) -> Option<Lie> {
        let (left, max) = (outcome.left, self.stream.instance().process().library.holdback_max());
        let has_moved = outcome.consumed > 0 || outcome.produced > 0 || outcome.lacked;
        let idle_calls = std::mem::take(&mut self.idle_calls);
        match answer {
            ffi::OK if left > 0 => Some(Lie::Left(left)),
            ffi::NEED_MORE if is_end && left > 0 => Some(Lie::LeftAtEnd(left)),
            ffi::NEED_MORE if left > max => Some(Lie::HeldBack { left, max }),
            ffi::MORE_OUTPUT if !has_moved => {
                self.idle_calls = idle_calls + 1;
                (self.idle_calls >= IDLE_CALLS_MAX).then_some(Lie::NoProgress(self.idle_calls))
            }
            ffi::OK | ffi::NEED_MORE | ffi::MORE_OUTPUT | ffi::DETACH | ffi::CLOSE | ffi::RESET => None,
            ffi::ERROR => Some(Lie::Error),
            answer => Some(Lie::Answer(answer)),
        }
    }
}
