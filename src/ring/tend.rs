//! Care for the pools between turns: growth, shrinking, giving memory back.

use super::chain::Chain;
use super::core::Core;

impl Core {
    /// Keeps the pool as large as it is needed: it grows when few buffers are left, or when receives wait for one and
    /// none has come back while the tasks ran.
    pub(super) fn tend_pool(&self) {
        let mut pool = self.pool.borrow_mut();
        let none_for_those_who_wait = pool.counts().free == 0 && !self.starved.borrow().is_empty();
        if pool.is_low() || none_for_those_who_wait {
            pool.grow();
        }
        drop(pool);
        self.feed_starved();
        self.tend_mail();
    }

    /// Lets the pools shrink that were larger than needed since the last call.
    pub(super) fn shrink_pools(&self) {
        self.pool.borrow_mut().shrink();
        self.shrink_mail();
    }

    /// Gives the memory of free buffers back to the system, where it is known which ones are free: a buffer that a
    /// completion names is filled, and only reaping takes it from the kernel.
    pub(super) fn trim_pool(&self) {
        let mut uring = self.uring.borrow_mut();
        let is_reaped = uring.completion().is_empty() && !uring.submission().cq_overflow();
        drop(uring);
        if is_reaped {
            self.pool.borrow_mut().trim();
            self.trim_mail();
        }
    }

    /// Whether receives wait for a buffer although some are free: they are fed in turns, one for each buffer.
    pub(super) fn can_feed(&self) -> bool {
        let for_streams = !self.starved.borrow().is_empty() && self.pool.borrow().counts().free > 0;
        for_streams || self.can_feed_intakes()
    }

    pub(super) fn release(&self, chain: Chain) {
        self.pool.borrow_mut().release(chain);
    }
}
