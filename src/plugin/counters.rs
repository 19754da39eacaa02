//! What is counted of a plugin: one writer a shard, read by whoever asks. Kept over reloads by the plugin's name.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::utils::CachePadded;

use crate::stats::counters::add;
use crate::types::Name;

/// Parts that each power of two is cut into: a duration is known within an eighth.
const PARTS_BITS: u32 = 3;
/// The longest duration that is told apart: 2^42 ns, more than an hour.
const LONGEST_BITS: u32 = 42;
const BUCKETS: usize = ((LONGEST_BITS - PARTS_BITS + 1) << PARTS_BITS) as usize + 1;

/// One plugin of the configuration, on all shards.
#[derive(Debug)]
pub struct PluginState {
    pub name: Name,
    /// Indexed by shard.
    pub shards: Box<[CachePadded<Meter>]>,
}

impl PluginState {
    #[must_use]
    pub fn new(name: Name, shards: u16) -> Self {
        Self { name, shards: (0..shards).map(|_| CachePadded::default()).collect() }
    }

    /// The sums over all shards.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { durations: vec![0; BUCKETS], ..Totals::default() };
        for meter in self.shards.iter() {
            let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            totals.connections += get(&meter.connections);
            totals.calls += get(&meter.calls);
            totals.faults += get(&meter.faults);
            totals.over_max_call += get(&meter.over_max_call);
            totals.bytes_in += get(&meter.bytes_in);
            totals.bytes_out += get(&meter.bytes_out);
            totals.log_dropped += get(&meter.log_dropped);
            totals.call_time += Duration::from_nanos(get(&meter.call_ns));
            for (sum, bucket) in totals.durations.iter_mut().zip(&meter.durations) {
                *sum += get(bucket);
            }
        }
        totals
    }
}

/// Written by one shard.
#[derive(Debug)]
pub struct Meter {
    /// Connections that the plugin had a part in.
    pub connections: AtomicU64,
    /// Data calls.
    pub calls: AtomicU64,
    pub faults: AtomicU64,
    /// Calls of any function that took longer than `max_call`.
    pub over_max_call: AtomicU64,
    /// Bytes that it consumed.
    pub bytes_in: AtomicU64,
    /// Bytes that it passed and made.
    pub bytes_out: AtomicU64,
    /// Log lines that it had too many of.
    pub log_dropped: AtomicU64,
    call_ns: AtomicU64,
    durations: [AtomicU64; BUCKETS],
}

impl Default for Meter {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            connections: zero(),
            calls: zero(),
            faults: zero(),
            over_max_call: zero(),
            bytes_in: zero(),
            bytes_out: zero(),
            log_dropped: zero(),
            call_ns: zero(),
            durations: std::array::from_fn(|_| zero()),
        }
    }
}

impl Meter {
    /// A data call has ended.
    pub(super) fn call(&self, consumed: usize, produced: usize, ns: u64) {
        add(&self.calls, 1);
        add(&self.bytes_in, consumed as u64);
        add(&self.bytes_out, produced as u64);
        add(&self.call_ns, ns);
        add(&self.durations[bucket(ns)], 1);
    }
}

/// Sums of [`Meter`]s.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    pub connections: u64,
    pub calls: u64,
    pub faults: u64,
    pub over_max_call: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub log_dropped: u64,
    /// Time in data calls.
    pub call_time: Duration,
    durations: Vec<u64>,
}

impl Totals {
    /// Data calls by the longest duration of their kind; kinds that never came are left out.
    pub fn calls_by_duration(&self) -> impl Iterator<Item = (Duration, u64)> {
        let some = self.durations.iter().enumerate().filter(|(_, count)| **count > 0);
        some.map(|(bucket, count)| (Duration::from_nanos(upper_end(bucket)), *count))
    }

    /// The duration that this part (0 to 1) of all data calls did not exceed; `None` before the first call.
    #[must_use]
    pub fn call_quantile(&self, part: f64) -> Option<Duration> {
        let total: u64 = self.durations.iter().sum();
        let rank = ((total as f64 * part).ceil() as u64).clamp(1, total.max(1));
        let mut below = 0;
        let bucket = self.durations.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        Some(Duration::from_nanos(upper_end(bucket)))
    }
}

/// The bucket of a duration: eight to each power of two.
fn bucket(ns: u64) -> usize {
    let parts = 1 << PARTS_BITS;
    if ns < parts {
        return ns as usize;
    }
    let exponent = ns.ilog2();
    let part = (ns >> (exponent - PARTS_BITS)) & (parts - 1);
    ((((exponent - PARTS_BITS + 1) as usize) << PARTS_BITS) + part as usize).min(BUCKETS - 1)
}

/// The longest duration of a bucket.
fn upper_end(bucket: usize) -> u64 {
    let parts = 1 << PARTS_BITS;
    if bucket < parts {
        return bucket as u64;
    }
    let shift = (bucket >> PARTS_BITS) - 1;
    (((parts + (bucket & (parts - 1)) + 1) as u64) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_has_one_bucket_within_an_eighth() {
        let mut last = 0;
        for ns in (0..5000).chain((12..42).map(|bits| (1 << bits) + 12345)) {
            let bucket = bucket(ns);
            assert!(bucket >= last && bucket < BUCKETS, "{ns}");
            last = bucket;
            assert!(upper_end(bucket) >= ns && upper_end(bucket) <= ns + ns / 8, "{ns}: {}", upper_end(bucket));
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_over_all_shards() {
        let state = PluginState::new("p".into(), 2);
        assert_eq!(state.totals().call_quantile(0.5), None);
        for ns in 1..=100 {
            state.shards[ns as usize % 2].call(3, 2, ns * 1000);
        }
        let totals = state.totals();
        assert_eq!((totals.calls, totals.bytes_in, totals.bytes_out), (100, 300, 200));
        let near = |part, us: u64| {
            let found = totals.call_quantile(part).expect("calls").as_nanos() as u64;
            assert!(found >= us * 1000 && found <= us * 1125, "{part}: {found}");
        };
        near(0.5, 50);
        near(0.99, 99);
        near(1.0, 100);
    }
}
