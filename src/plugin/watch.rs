//! Which plugin a shard is in, published, so that another thread can name one that hangs; the clock of calls; and how
//! often a plugin may log.

use std::cell::Cell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::fault::Function;
use crate::types::SessionId;

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since some moment of this process; never 0.
#[must_use]
pub fn now_ns() -> u64 {
    EPOCH.elapsed().as_nanos() as u64 + 1
}

/// Identity of a loaded and opened plugin for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId(pub u64);

/// Written by one shard: what it is in.
#[derive(Debug, Default)]
pub struct Watch {
    /// When the call began; 0: the shard is in none.
    since_ns: AtomicU64,
    process: AtomicU64,
    session: [AtomicU64; 2],
    function: AtomicU8,
}

/// A call that was going on when someone looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InCall {
    pub since_ns: u64,
    pub process: ProcessId,
    pub session: SessionId,
    pub function: Function,
}

impl InCall {
    #[must_use]
    pub fn lasts(&self) -> Duration {
        Duration::from_nanos(now_ns().saturating_sub(self.since_ns))
    }
}

impl Watch {
    pub(super) fn enter(&self, process: ProcessId, session: SessionId, function: Function, now_ns: u64) {
        self.process.store(process.0, Ordering::Relaxed);
        self.session[0].store((session.0 >> 64) as u64, Ordering::Relaxed);
        self.session[1].store(session.0 as u64, Ordering::Relaxed);
        self.function.store(function as u8, Ordering::Relaxed);
        self.since_ns.store(now_ns, Ordering::Release);
    }

    pub(super) fn leave(&self) {
        self.since_ns.store(0, Ordering::Release);
    }

    /// The call that goes on now.
    #[must_use]
    pub fn look(&self) -> Option<InCall> {
        let since_ns = self.since_ns.load(Ordering::Acquire);
        let word = |word: &AtomicU64| word.load(Ordering::Acquire);
        let session = u128::from(word(&self.session[0])) << 64 | u128::from(word(&self.session[1]));
        let process = ProcessId(word(&self.process));
        let function = *Function::ALL.get(usize::from(self.function.load(Ordering::Acquire)))?;
        // Another call has begun meanwhile: what was read may be of both, and neither hangs.
        let is_same = since_ns != 0 && self.since_ns.load(Ordering::Acquire) == since_ns;
        is_same.then_some(InCall { since_ns, process, session: SessionId(session), function })
    }
}

/// Log lines of one plugin on one shard: so many at once, and so many a second.
const LINES_AT_ONCE: u32 = 50;
const LINES_A_SECOND: u64 = 10;

/// Keeps a plugin from flooding the log.
#[derive(Debug)]
pub(super) struct LogLimit {
    lines: Cell<u32>,
    since_ns: Cell<u64>,
}

impl Default for LogLimit {
    fn default() -> Self {
        Self { lines: Cell::new(LINES_AT_ONCE), since_ns: Cell::new(now_ns()) }
    }
}

impl LogLimit {
    /// Whether another line may be logged now.
    pub(super) fn take(&self, now_ns: u64) -> bool {
        let earned = now_ns.saturating_sub(self.since_ns.get()) * LINES_A_SECOND / 1_000_000_000;
        if earned > 0 {
            self.lines.set((u64::from(self.lines.get()) + earned).min(u64::from(LINES_AT_ONCE)) as u32);
            self.since_ns.set(now_ns);
        }
        let left = self.lines.get();
        self.lines.set(left.saturating_sub(1));
        left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_seen_while_it_lasts() {
        let watch = Watch::default();
        assert_eq!(watch.look(), None);
        let session = SessionId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        watch.enter(ProcessId(7), session, Function::DataDown, 5);
        let call = watch.look().expect("a call");
        assert_eq!((call.process, call.session, call.function), (ProcessId(7), session, Function::DataDown));
        watch.leave();
        assert_eq!(watch.look(), None);
        assert!(Function::ALL.iter().enumerate().all(|(index, function)| index == *function as usize));
    }

    #[test]
    fn lines_come_back_with_time() {
        let limit = LogLimit::default();
        let begin = limit.since_ns.get();
        let taken = (0..1000).filter(|_| limit.take(begin)).count();
        assert_eq!(taken, LINES_AT_ONCE as usize);
        assert!(!limit.take(begin + 99_000_000));
        assert!(limit.take(begin + 100_000_000) && !limit.take(begin + 100_000_000));
        let later = begin + 3600 * 1_000_000_000;
        assert_eq!((0..1000).filter(|_| limit.take(later)).count(), LINES_AT_ONCE as usize);
    }
}
