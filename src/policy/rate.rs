//! Events per second over the whole process, in one atomic.
//!
//! A sliding second in two counters, as HAProxy's `freq_ctr`: the events of the running second plus the part of the
//! last second's that still lies inside the window. Never more than `limit` in a second that follows a quiet one; in
//! steady overload the estimate assumes that the last second's events came evenly, so a window may see up to
//! twice the limit if they all came at its end, and the average never exceeds the limit.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const COUNT_BITS: u32 = 20;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const SECOND_MASK: u64 = (1 << 24) - 1;

/// A limit of events per second. `take` may be called from any shard.
#[derive(Debug)]
pub struct Rate {
    limit: AtomicU32,
    /// second (24 bits) | events of the second before (20 bits) | events of this second (20 bits)
    window: AtomicU64,
}

impl Rate {
    /// The largest limit that can be counted, events per second.
    pub const MAX: u32 = COUNT_MASK as u32;
    pub const UNLIMITED: u32 = u32::MAX;

    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { limit: AtomicU32::new(limit), window: AtomicU64::new(0) }
    }

    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Counts one event at `now_ms` (milliseconds of any monotonic clock that all callers share), or refuses it.
    #[must_use]
    pub fn take(&self, now_ms: u64) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == Self::UNLIMITED {
            return true;
        }
        let second = (now_ms / 1000) & SECOND_MASK;
        let passed_ms = now_ms % 1000;
        self.window
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |window| {
                let (last, current) = match second.wrapping_sub(window >> (2 * COUNT_BITS)) & SECOND_MASK {
                    0 => ((window >> COUNT_BITS) & COUNT_MASK, window & COUNT_MASK),
                    1 => (window & COUNT_MASK, 0),
                    _ => (0, 0),
                };
                let seen = current + (last * (1000 - passed_ms)).div_ceil(1000);
                (seen < u64::from(limit.min(Self::MAX)))
                    .then(|| second << (2 * COUNT_BITS) | last << COUNT_BITS | (current + 1))
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_after_quiet_gets_the_limit_and_no_more() {
        let rate = Rate::new(5);
        assert_eq!((0..20).filter(|i| rate.take(10_000 + i)).count(), 5);
        assert_eq!((0..20).filter(|i| rate.take(20_950 + i * 5)).count(), 5);
    }

    #[test]
    fn the_average_keeps_to_the_limit() {
        let rate = Rate::new(100);
        let taken = (0..10_000u64).filter(|ms| rate.take(5_000 + ms)).count();
        assert!((900..=1_100).contains(&taken), "{taken}");
    }

    #[test]
    fn no_limit_refuses_nothing() {
        let rate = Rate::new(Rate::UNLIMITED);
        assert!((0..10_000).all(|_| rate.take(1)));
    }
}
