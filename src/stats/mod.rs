//! Counting: per-shard atomics with one writer each, histograms, and the record of a finished session.

pub mod counters;
pub mod datagrams;
pub mod latency;
pub mod summary;
pub mod totals;

use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the process started plus one second, so that 0 can mean "never". Monotonic; the clock of every
/// time that threads share.
#[must_use]
pub fn clock_ms() -> u64 {
    START.elapsed().as_millis() as u64 + 1000
}
