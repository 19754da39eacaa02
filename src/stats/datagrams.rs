//! Counts of UDP associations and their datagrams.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::counters::add;
use crate::types::Dropped;

/// Written by one shard.
#[derive(Debug, Default)]
pub struct Datagrams {
    /// Associations that are open now.
    pub associations: AtomicU64,
    /// Sent on, client to targets.
    pub up: AtomicU64,
    /// Sent on, targets to client.
    pub down: AtomicU64,
    dropped: [AtomicU64; Dropped::ALL.len()],
}

impl Datagrams {
    pub fn drop_one(&self, why: Dropped) {
        add(&self.dropped[why as usize], 1);
    }
}

/// Summed over shards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DatagramTotals {
    pub associations: u64,
    pub up: u64,
    pub down: u64,
    /// Not sent on, by reason; reasons that never came are left out.
    pub dropped: BTreeMap<&'static str, u64>,
}

impl DatagramTotals {
    pub fn add(&mut self, shard: &Datagrams) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.associations += read(&shard.associations);
        self.up += read(&shard.up);
        self.down += read(&shard.down);
        for (why, count) in Dropped::ALL.iter().zip(&shard.dropped) {
            let count = read(count);
            if count > 0 {
                *self.dropped.entry(why.label()).or_default() += count;
            }
        }
    }

    /// Whether there was ever anything to count.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up_and_what_never_came_is_left_out() {
        let (one, two) = (Datagrams::default(), Datagrams::default());
        add(&one.up, 3);
        add(&two.up, 4);
        one.drop_one(Dropped::Stranger);
        two.drop_one(Dropped::Stranger);
        two.drop_one(Dropped::Rate);
        let mut totals = DatagramTotals::default();
        assert!(totals.is_empty());
        totals.add(&one);
        totals.add(&two);
        assert_eq!((totals.up, totals.down), (7, 0));
        assert_eq!(totals.dropped, BTreeMap::from([("rate", 1), ("stranger", 2)]));
        assert!(!totals.is_empty());
    }
}
