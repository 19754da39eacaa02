//! A rate of bytes, exact over all shards, in one atomic.
//!
//! The generic cell rate algorithm: the atomic holds the instant up to which everything that was taken is paid for. Who
//! takes bytes moves it on by what they cost, and may send them once that instant, less the burst, has come. So those
//! who wait have places in a line: nobody asks twice, nobody holds what he does not send, and between any two instants
//! no more goes than the rate allows and one burst.

use std::sync::atomic::{AtomicU64, Ordering};

const SECOND_NS: u128 = 1_000_000_000;

/// Bytes per second, and how many may go at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Not 0.
    pub per_second: u64,
    pub burst: u64,
}

impl Rate {
    /// Nanoseconds that `bytes` take at this rate. Rounded up, so that rounding never lets more through.
    #[must_use]
    pub fn cost(self, bytes: u64) -> u64 {
        let cost = (u128::from(bytes) * SECOND_NS).div_ceil(u128::from(self.per_second.max(1)));
        u64::try_from(cost).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
    }

    /// Half as much, with the same burst.
    #[must_use]
    pub fn half(self) -> Self {
        Self { per_second: (self.per_second / 2).max(1), burst: self.burst }
    }

    /// How far ahead of its payment a taking of so many bytes may go. One larger than the burst goes when the bucket is
    /// full, so that there is always progress.
    fn slack(self, cost: u64) -> u64 {
        self.cost(self.burst).max(cost)
    }
}

/// All instants are nanoseconds of one clock that all callers share.
#[derive(Debug, Default)]
pub struct Bucket {
    paid_until: AtomicU64,
}

impl Bucket {
    /// Takes a place in the line for `bytes`; gives the instant from which they may go, which may have passed.
    pub fn reserve(&self, rate: Rate, bytes: u64, now: u64) -> u64 {
        let cost = rate.cost(bytes);
        let paid_until = self.push(cost, now);
        paid_until.saturating_sub(rate.slack(cost))
    }

    /// Takes `bytes` if they may go within `grace` from now, or nothing.
    #[must_use]
    pub fn try_take(&self, rate: Rate, bytes: u64, now: u64, grace: u64) -> bool {
        let cost = rate.cost(bytes);
        let latest = now.saturating_add(rate.slack(cost)).saturating_add(grace);
        let taken = self.paid_until.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |paid_until| {
            Some(paid_until.max(now).saturating_add(cost)).filter(|next| *next <= latest)
        });
        taken.is_ok()
    }

    /// Takes `bytes` that have gone already.
    pub fn charge(&self, rate: Rate, bytes: u64, now: u64) {
        self.push(rate.cost(bytes), now);
    }

    /// Bytes that were taken and did not go.
    pub fn give_back(&self, rate: Rate, bytes: u64) {
        let cost = rate.cost(bytes);
        let _ = self
            .paid_until
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |paid_until| Some(paid_until.saturating_sub(cost)));
    }

    /// After a change of the rate: whoever waits asks anew, so the line is emptied; nobody gets a burst for it.
    pub fn empty_line(&self, rate: Rate, now: u64) {
        let latest = now.saturating_add(rate.cost(rate.burst));
        self.paid_until.fetch_min(latest, Ordering::AcqRel);
    }

    /// How far the payment is ahead of now: 0 when the bucket is full, its burst's cost when it is empty, more when
    /// somebody waits.
    #[must_use]
    pub fn ahead(&self, now: u64) -> u64 {
        self.paid_until.load(Ordering::Relaxed).saturating_sub(now)
    }

    fn push(&self, cost: u64, now: u64) -> u64 {
        let next = |paid_until: u64| paid_until.max(now).saturating_add(cost);
        let before = self.paid_until.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |before| Some(next(before)));
        match before {
            Ok(before) | Err(before) => next(before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const RATE: Rate = Rate { per_second: 1_000_000, burst: 10_000 };

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_the_rate() {
        let bucket = Bucket::default();
        let start = 5_000 * MS;
        assert!(bucket.try_take(RATE, 10_000, start, 0));
        assert!(!bucket.try_take(RATE, 1, start, 0));
        assert!(!bucket.try_take(RATE, 1_001, start + MS, 0));
        assert!(bucket.try_take(RATE, 1_000, start + MS, 0));
    }

    #[test]
    fn a_line_is_served_in_order_at_the_rate() {
        let bucket = Bucket::default();
        let places: Vec<u64> = (0..5).map(|_| bucket.reserve(RATE, 10_000, 1_000 * MS)).collect();
        assert_eq!(places, [1_000, 1_010, 1_020, 1_030, 1_040].map(|ms| ms * MS));
    }

    #[test]
    fn what_is_larger_than_the_burst_goes_when_the_bucket_is_full() {
        let (bucket, rate) = (Bucket::default(), Rate { per_second: 1_000, burst: 1 });
        assert_eq!(bucket.reserve(rate, 500, 1_000 * MS), 1_000 * MS);
        assert!(!bucket.try_take(rate, 500, 1_499 * MS, 0));
        assert!(bucket.try_take(rate, 500, 1_500 * MS, 0));
    }

    #[test]
    fn what_did_not_go_can_be_had_again() {
        let bucket = Bucket::default();
        assert!(bucket.try_take(RATE, 10_000, 1_000 * MS, 0));
        bucket.give_back(RATE, 4_000);
        assert!(!bucket.try_take(RATE, 4_001, 1_000 * MS, 0));
        assert!(bucket.try_take(RATE, 4_000, 1_000 * MS, 0));
    }

    #[test]
    fn a_change_empties_the_line_and_gives_no_burst() {
        let bucket = Bucket::default();
        bucket.reserve(RATE, 50_000_000, 1_000 * MS);
        bucket.empty_line(RATE, 1_000 * MS);
        assert!(!bucket.try_take(RATE, 1, 1_000 * MS, 0));
        assert!(bucket.try_take(RATE, 1_000, 1_001 * MS, 0));
    }

    #[test]
    fn threads_never_take_more_than_the_rate_and_a_burst() {
        let bucket = Bucket::default();
        let clock = AtomicU64::new(1_000 * MS);
        let taken: u64 = std::thread::scope(|scope| {
            let take = || {
                let mut taken = 0;
                for size in (1..=700).cycle().take(50_000) {
                    let now = clock.fetch_add(1_000, Ordering::SeqCst);
                    taken += if bucket.try_take(RATE, size, now, 0) { size } else { 0 };
                }
                taken
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
        });
        let passed_ns = clock.load(Ordering::SeqCst) - 1_000 * MS;
        let most = passed_ns / 1_000 + RATE.burst;
        assert!(taken <= most, "{taken} of {most}");
        assert!(taken >= most - 2_000, "{taken} of {most}");
    }
}
