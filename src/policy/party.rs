//! One of those who share the global rate: a user, or a connection without one.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::bucket::{Bucket, Rate};
use super::share::{Global, PERIOD_NS};

/// Shared by all shards.
#[derive(Debug, Default)]
pub(super) struct Party {
    /// The line of its share.
    pub(super) share: Ration,
    /// Half of the share, for datagrams while streams stand in that line.
    pub(super) datagrams: Bucket,
    /// Streams that wait for the share or the rate.
    sharing: AtomicU32,
    /// Bytes of a period that went as its share without waiting.
    unhindered: AtomicU64,
    unhindered_in: AtomicU64,
    /// The period in which one of them waited last, where none does now.
    waited_in: AtomicU64,
    /// When one of them waited last.
    waited_at: AtomicU64,
}

impl Party {
    /// Bytes have gone as its share without having to wait for it.
    pub(super) fn note_unhindered(&self, global: &Global, bytes: u64, now: u64) {
        if self.shares(now) {
            return;
        }
        let period = now / PERIOD_NS;
        if self.unhindered_in.swap(period, Ordering::Relaxed) != period {
            self.unhindered.store(0, Ordering::Relaxed);
        }
        self.unhindered.fetch_add(bytes, Ordering::Relaxed);
        global.note_light(bytes, now);
    }

    pub(super) fn begin_sharing(&self, global: &Global, now: u64) {
        if !self.shares(now) {
            // From here on it is one of those who wait, so what it had belongs to what they share.
            let bytes = self.unhindered.swap(0, Ordering::Relaxed);
            global.take_back_light(bytes, self.unhindered_in.load(Ordering::Relaxed), now);
        }
        global.turn(now);
        self.waited_at.store(now, Ordering::Relaxed);
        if self.sharing.fetch_add(1, Ordering::AcqRel) == 0 {
            let period = now / PERIOD_NS;
            global.begin_waiting(self.waited_in.swap(period, Ordering::Relaxed) != period);
        }
    }

    pub(super) fn end_sharing(&self, global: &Global, now: u64) {
        global.turn(now);
        self.waited_at.store(now, Ordering::Relaxed);
        if self.sharing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.waited_in.store(now / PERIOD_NS, Ordering::Relaxed);
            global.end_waiting();
        }
    }

    /// Whether it is one of those who wait for a share of the global rate: now, or a moment ago.
    pub(super) fn shares(&self, now: u64) -> bool {
        self.is_sharing() || self.waited_at.load(Ordering::Relaxed) + 2 * PERIOD_NS > now
    }

    fn is_sharing(&self) -> bool {
        self.sharing.load(Ordering::Relaxed) > 0
    }

    /// Takes a datagram out of the share. While streams wait for it, half of it is for datagrams, and they wait the longer.
    pub(super) fn try_share(&self, bytes: u64, share: Rate, now: u64) -> bool {
        if self.share.try_take(bytes, share, now) {
            return true;
        }
        let is_taken = self.is_sharing() && self.datagrams.try_take(share.half(), bytes, now, 0);
        if is_taken {
            self.share.reserve(bytes);
        }
        is_taken
    }
}

/// The line of one user at its share. Counted in bytes, as the share changes: everybody in it goes on at the newest.
#[derive(Debug, Default)]
pub(super) struct Ration {
    /// Bytes that places were given for, and those whose turn has come, since the user is known. The second may be ahead.
    reserved: AtomicU64,
    released: AtomicU64,
    at: AtomicU64,
}

impl Ration {
    /// Gives a place behind all others.
    pub(super) fn reserve(&self, bytes: u64) -> u64 {
        self.reserved.fetch_add(bytes, Ordering::AcqRel) + bytes
    }

    /// When the turn of a place comes, at this share; now or earlier where it has come.
    pub(super) fn turn_of(&self, place: u64, share: Rate, now: u64) -> u64 {
        let rest = place.saturating_sub(self.advance(share, now));
        if rest == 0 { now } else { now.saturating_add(share.cost(rest).max(1)) }
    }

    /// Takes bytes for which nobody would have to wait, or nothing.
    pub(super) fn try_take(&self, bytes: u64, share: Rate, now: u64) -> bool {
        let released = self.advance(share, now);
        let next = |reserved: u64| Some(reserved + bytes).filter(|next| *next <= released);
        self.reserved.fetch_update(Ordering::AcqRel, Ordering::Relaxed, next).is_ok()
    }

    /// Bytes that had a place and do not wait for their turn.
    pub(super) fn skip(&self, bytes: u64) {
        self.released.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Bytes whose turn has come.
    fn advance(&self, share: Rate, now: u64) -> u64 {
        let at = self.at.load(Ordering::Relaxed);
        let passed = now.saturating_sub(at);
        let bytes = u64::try_from(u128::from(share.per_second) * u128::from(passed) / 1_000_000_000);
        let bytes = bytes.unwrap_or(u64::MAX).min(u64::MAX / 4);
        if bytes > 0 && self.at.compare_exchange(at, now, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            let most = self.reserved.load(Ordering::Acquire).saturating_add(share.burst);
            let next = |released: u64| Some(released.saturating_add(bytes).min(most));
            let _ = self.released.fetch_update(Ordering::AcqRel, Ordering::Relaxed, next);
        }
        self.released.load(Ordering::Acquire)
    }
}
