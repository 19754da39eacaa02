//! The rate of the whole process, and how users share it.
//!
//! `global` is one [`Bucket`] that all bytes go through, so it is exact whatever the sharing does. Before it stands each
//! user's own line ([`super::party`]), at the user's fair share: what is over, divided by the users who wait for it. Both
//! are known from atomics alone: a count of the users that wait or did so a moment ago, and the bytes of those who wait for
//! nothing (guaranteed ones included), in periods of 100 ms. Shares are only estimates, so they are widened while the
//! bucket fills up and narrowed while a line forms at it, and nobody has to wait while nobody uses it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::bucket::{Bucket, Rate};
use super::terms::rate_of;

/// A period of the estimates, nanoseconds; also what a user may use of its share at once.
pub(super) const PERIOD_NS: u64 = 100_000_000;
/// Least part of `global` that is shared when guarantees take it all.
const LEAST_PART: u64 = 64;

/// The rate of the process.
#[derive(Debug, Default)]
pub struct Global {
    /// Bytes per second; 0: no limit.
    per_second: AtomicU64,
    pub(super) line: Bucket,
    /// Half of it, for datagrams while streams stand in that line.
    pub(super) datagrams: Bucket,
    /// Users with something that waits for its share.
    waiting: AtomicU32,
    period: AtomicU64,
    /// Users that waited as this period began, that began to wait since, and those of both kinds in the period before.
    carried: AtomicU32,
    begun: AtomicU32,
    last: AtomicU32,
    /// Bytes that went without having to wait for a share, likewise.
    light: AtomicU64,
    last_light: AtomicU64,
}

impl Global {
    pub(super) fn set(&self, per_second: u64, now: u64) {
        self.per_second.store(per_second, Ordering::Relaxed);
        if let Some(rate) = self.rate() {
            self.line.empty_line(rate, now);
        }
    }

    #[must_use]
    pub(super) fn rate(&self) -> Option<Rate> {
        rate_of(self.per_second.load(Ordering::Relaxed))
    }

    /// What a user may have of the rate now; `waits` says that it is one of those who wait.
    pub(super) fn share(&self, rate: Rate, waits: bool, now: u64) -> Rate {
        self.turn(now);
        let current = self.carried.load(Ordering::Relaxed) + self.begun.load(Ordering::Relaxed);
        let users = current.max(self.last.load(Ordering::Relaxed));
        let users = u64::from(users + u32::from(!waits)).max(1);
        let light = u128::from(self.last_light.load(Ordering::Relaxed)) * 1_000_000_000 / u128::from(PERIOD_NS);
        let over = rate.per_second.saturating_sub(u64::try_from(light).unwrap_or(u64::MAX));
        let over = over.max(rate.per_second / LEAST_PART);
        // In 1/1024: 5/4 while the bucket is full, 1 at half, 3/4 when it is empty, 1/2 when as much again waits.
        let (ahead, burst) = (self.line.ahead(now), rate.cost(rate.burst).max(1));
        let factor = 1280 - (u128::from(ahead) * 512 / u128::from(burst)).min(768) as u64;
        let per_second = (u128::from(over) * u128::from(factor) / 1024 / u128::from(users)) as u64;
        let per_second = per_second.max(1);
        Rate { per_second, burst: (u128::from(per_second) * u128::from(PERIOD_NS) / 1_000_000_000) as u64 }
    }

    /// About what each of those who wait has.
    pub(super) fn last_share(&self, rate: Rate) -> Rate {
        let users = u64::from(self.last.load(Ordering::Relaxed).max(1));
        Rate { per_second: (rate.per_second / users).max(1), burst: rate.burst }
    }

    /// Whether nobody uses it: then nobody has to wait for a share.
    pub(super) fn is_unused(&self, now: u64) -> bool {
        self.line.ahead(now) == 0
    }

    pub(super) fn note_light(&self, bytes: u64, now: u64) {
        self.turn(now);
        self.light.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that were counted so in a period are none of those any more.
    pub(super) fn take_back_light(&self, bytes: u64, period: u64, now: u64) {
        self.turn(now);
        let current = self.period.load(Ordering::Relaxed);
        let count = match current.wrapping_sub(period) {
            0 => &self.light,
            1 => &self.last_light,
            _ => return,
        };
        let less = |light: u64| Some(light.saturating_sub(bytes));
        let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// A user begins to wait; `is_new` says that it did not wait in this period before.
    pub(super) fn begin_waiting(&self, is_new: bool) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(u32::from(is_new), Ordering::Relaxed);
    }

    pub(super) fn end_waiting(&self) {
        let before = self.waiting.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a user has ceased to wait twice");
    }

    /// Begins a new period when it is time. What is counted meanwhile may fall into either: these are estimates.
    pub(super) fn turn(&self, now: u64) {
        let (period, last) = (now / PERIOD_NS, self.period.load(Ordering::Relaxed));
        if period <= last || self.period.compare_exchange(last, period, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let carried = self.carried.swap(self.waiting.load(Ordering::Relaxed), Ordering::Relaxed);
        let users = carried + self.begun.swap(0, Ordering::Relaxed);
        let light = self.light.swap(0, Ordering::Relaxed);
        let is_next = period == last + 1;
        self.last.store(if is_next { users } else { 0 }, Ordering::Relaxed);
        self.last_light.store(if is_next { light } else { 0 }, Ordering::Relaxed);
    }
}
