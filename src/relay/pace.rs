//! What makes a direction wait where rates are limited: it asks for the bytes that it has, and sends them when their time
//! has come. Before that it receives no more, so that the sender waits too.

use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use crate::policy::pace::{Pace, Request};
use crate::policy::users::clock;
use crate::ring::{Ring, Timer};

/// Whoever waits for longer looks again meanwhile, as limits may have changed.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The gate of one direction.
pub(super) struct Gate {
    pace: Rc<Pace>,
    /// Only where a rate was limited at some time, which most connections never see.
    line: Option<Box<InLine>>,
}

/// A direction's place in the lines.
#[derive(Default)]
struct InLine {
    request: Option<Request>,
    timer: Option<Timer>,
}

impl Gate {
    pub(super) fn new(pace: Rc<Pace>) -> Self {
        Self { pace, line: None }
    }

    /// Whether there is any limit now.
    pub(super) fn is_limited(&self) -> bool {
        self.pace.is_limited() || self.waits()
    }

    /// Whether bytes wait for their time.
    pub(super) fn waits(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.request.is_some())
    }

    /// How much is best received at a time.
    pub(super) fn piece(&self) -> u32 {
        self.pace.piece() as u32
    }

    /// Whether `bytes` may go now; else the task is woken when it should ask again. For no bytes: whether what has gone
    /// without asking is paid for.
    pub(super) fn admits(&mut self, ring: &Ring, bytes: usize, context: &Context<'_>) -> bool {
        if !self.is_limited() {
            return true;
        }
        let (pace, now) = (&self.pace, clock());
        let InLine { request, timer } = &mut **self.line.get_or_insert_default();
        let request = request.get_or_insert_with(|| pace.ask(bytes as u64, now));
        let Err(wait) = pace.poll(request, now) else { return true };
        let after = Duration::from_nanos(wait).min(LOOK_AGAIN);
        let timer = match timer {
            Some(timer) => {
                timer.reset(after);
                timer
            }
            none => none.insert(ring.timer(after)),
        };
        if timer.poll(context).is_ready() {
            context.waker().wake_by_ref();
            ring.note_activity();
        }
        false
    }

    /// So many bytes went after they were let through.
    pub(super) fn sent(&mut self, bytes: usize) {
        let Some(request) = self.line.as_mut().and_then(|line| line.request.take()) else { return };
        match request.bytes.checked_sub(bytes as u64) {
            Some(0) => {}
            Some(unsent) => self.pace.give_back(request, unsent, clock()),
            // A transform had more to say meanwhile.
            None => self.pace.charge(bytes as u64 - request.bytes, clock()),
        }
    }

    /// So many bytes went without asking.
    pub(super) fn charge(&self, bytes: i64) {
        if let Ok(bytes) = u64::try_from(bytes)
            && bytes > 0
        {
            self.pace.charge(bytes, clock());
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.sent(0);
    }
}
