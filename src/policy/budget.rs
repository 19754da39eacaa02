//! A process-wide count with a limit, exact over all shards.
//!
//! A shard leases one unit at a time: one atomic read-modify-write for a connection of some 70 us is not worth a
//! larger lease, and with single units the limit is exact in both directions (never exceeded, never refused while a
//! unit is free). The rates of traffic, counted per byte, are the ones that need chunks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A limit and what of it is in use. `limit` may be changed while units are out (a reload): then nothing is cut, and
/// new units are refused until the count has fallen below it.
#[derive(Debug)]
pub struct Budget {
    limit: AtomicU32,
    used: AtomicU32,
}

impl Budget {
    /// The limit that stands for "no limit".
    pub const UNLIMITED: u32 = u32::MAX;

    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { limit: AtomicU32::new(limit), used: AtomicU32::new(0) }
    }

    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes one unit, or nothing when the limit is reached. The unit goes back when the lease is dropped.
    #[must_use]
    pub fn lease(self: &Arc<Self>) -> Option<Lease> {
        self.take().then(|| Lease(Arc::clone(self)))
    }

    /// As [`Budget::lease`], for a caller that gives the unit back itself with [`Budget::give_back`].
    #[must_use]
    pub fn take(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |used| (used < limit).then_some(used + 1)).is_ok()
    }

    pub fn give_back(&self) {
        let before = self.used.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "a unit was given back twice");
    }
}

/// One unit of a [`Budget`].
#[derive(Debug)]
pub struct Lease(Arc<Budget>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_one_means_one() {
        let budget = Arc::new(Budget::new(1));
        let lease = budget.lease();
        assert!(lease.is_some());
        assert!(budget.lease().is_none());
        drop(lease);
        assert!(budget.lease().is_some());
    }

    #[test]
    fn a_lowered_limit_cuts_nothing_and_refuses_until_below() {
        let budget = Arc::new(Budget::new(3));
        let mut leases: Vec<_> = (0..3).filter_map(|_| budget.lease()).collect();
        budget.set_limit(1);
        leases.truncate(1);
        assert!(budget.lease().is_none());
        leases.clear();
        assert!(budget.lease().is_some());
    }

    #[test]
    fn threads_never_exceed_the_limit_and_return_everything() {
        let budget = Arc::new(Budget::new(7));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let lease = budget.lease();
                        assert!(budget.used() <= 7);
                        drop(lease);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
    }
}
