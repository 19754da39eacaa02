//! Connections per source address over the whole process, exact and without a lock.
//!
//! An open-addressed table of atomics: each slot holds a 48-bit tag of the address (keyed hash, so that nobody can
//! choose addresses that collide) and a 16-bit count; a count of 0 frees the slot. Two shards that meet a new address
//! at the same time may open two slots for it; a verdict therefore adds up all slots of the address, which makes the
//! limit exact: it is never exceeded.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Slots that may hold an address, beginning at its hash. With at most a quarter of the table in use, a full window is
/// practically impossible; it refuses the connection, as a limit must fail closed.
const WINDOW: usize = 64;
const COUNT_BITS: u32 = 16;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// Largest limit that can be counted per source.
pub const MAX_PER_SOURCE: u32 = (COUNT_MASK - 1) as u32;

#[derive(Debug)]
pub struct SourceTable {
    /// Made at the first lease: a listener without a limit per source pays nothing for its table.
    slots: OnceLock<Box<[AtomicU64]>>,
    /// A power of two.
    capacity: usize,
    hasher: RandomState,
}

impl SourceTable {
    /// A table for up to `connections` at once; 32 bytes each, from the first lease on.
    #[must_use]
    pub fn new(connections: u32) -> Self {
        let capacity = (connections as usize).saturating_mul(4).next_power_of_two().max(WINDOW);
        Self { slots: OnceLock::new(), capacity, hasher: RandomState::new() }
    }

    /// Makes the slots now rather than at the first lease, so that no connection waits for it.
    pub fn reserve(&self) {
        self.slots();
    }

    fn slots(&self) -> &[AtomicU64] {
        self.slots.get_or_init(|| std::iter::repeat_with(|| AtomicU64::new(0)).take(self.capacity).collect())
    }

    /// Counts one connection of `source`, or refuses it when it has `limit` already.
    #[must_use]
    pub fn lease(self: &Arc<Self>, source: IpAddr, limit: u32) -> Option<SourceLease> {
        self.lease_of(source, limit)
    }

    /// As [`SourceTable::lease`], for whatever else is counted so.
    #[must_use]
    pub fn lease_of(self: &Arc<Self>, who: impl Hash, limit: u32) -> Option<SourceLease> {
        let limit = u64::from(limit.min(MAX_PER_SOURCE));
        let hash = self.hasher.hash_one(who);
        let tag = (hash >> COUNT_BITS).max(1) << COUNT_BITS;
        let slot = self.increment(hash as usize, tag)?;
        let lease = SourceLease { table: Arc::clone(self), slot };
        (self.count(hash as usize, tag) <= limit).then_some(lease)
    }

    fn window(&self, start: usize) -> impl Iterator<Item = usize> {
        let mask = self.capacity - 1;
        (0..WINDOW).map(move |step| start.wrapping_add(step) & mask)
    }

    fn increment(&self, start: usize, tag: u64) -> Option<usize> {
        let slots = self.slots();
        loop {
            let mut free = None;
            let mut held = None;
            for index in self.window(start) {
                let value = slots[index].load(Ordering::SeqCst);
                if value & COUNT_MASK == 0 {
                    free = free.or(Some((index, value)));
                } else if value & !COUNT_MASK == tag {
                    held = Some((index, value));
                    break;
                }
            }
            let (index, seen) = held.or(free)?;
            let next = if held.is_some() { seen + 1 } else { tag | 1 };
            if held.is_some() && seen & COUNT_MASK == COUNT_MASK {
                return None;
            }
            if slots[index].compare_exchange(seen, next, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return Some(index);
            }
        }
    }

    fn count(&self, start: usize, tag: u64) -> u64 {
        let slots = self.slots();
        self.window(start)
            .map(|index| slots[index].load(Ordering::SeqCst))
            .filter(|value| value & !COUNT_MASK == tag)
            .map(|value| value & COUNT_MASK)
            .sum()
    }
}

/// One connection counted against its source; given back when dropped.
#[derive(Debug)]
pub struct SourceLease {
    table: Arc<SourceTable>,
    slot: usize,
}

impl Drop for SourceLease {
    fn drop(&mut self) {
        let before = self.table.slots()[self.slot].fetch_sub(1, Ordering::SeqCst);
        debug_assert!(before & COUNT_MASK > 0, "a source was given back twice");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(i: u32) -> IpAddr {
        IpAddr::from(i.to_be_bytes())
    }

    #[test]
    fn counts_each_source_by_itself() {
        let table = Arc::new(SourceTable::new(100));
        let held: Vec<_> = (0..50).flat_map(|i| (0..3).map(move |_| i)).map(|i| table.lease(address(i), 3)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!((0..50).all(|i| table.lease(address(i), 3).is_none()));
        drop(held);
        assert!(table.slots().iter().all(|slot| slot.load(Ordering::SeqCst) & COUNT_MASK == 0));
    }

    #[test]
    fn threads_never_exceed_the_limit() {
        use std::sync::atomic::AtomicU32;
        let table = Arc::new(SourceTable::new(64));
        let inside: Vec<AtomicU32> = (0..4).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                let (table, inside) = (&table, &inside);
                scope.spawn(move || {
                    for round in 0..20_000u32 {
                        let source = (round.wrapping_mul(thread + 1)) % 4;
                        if let Some(lease) = table.lease(address(source), 2) {
                            assert!(inside[source as usize].fetch_add(1, Ordering::SeqCst) < 2);
                            inside[source as usize].fetch_sub(1, Ordering::SeqCst);
                            drop(lease);
                        }
                    }
                });
            }
        });
    }
}
