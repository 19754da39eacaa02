//! What was measured, in the fixed buckets that Prometheus gets. The shards keep far finer histograms, cumulative since
//! the start.

use hdrhistogram::Histogram;

use crate::plugin::counters::Totals;

/// Seconds of a stage: from a handshake on the same machine to the longest time limit anybody sets.
pub(super) const STAGE: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Seconds of a session.
pub(super) const SESSION: &[f64] =
    &[0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0];
/// Seconds of a plugin's call.
pub(super) const CALL: &[f64] = &[1e-7, 2.5e-7, 5e-7, 1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0];

/// Counts between bounds.
#[derive(Debug)]
pub(super) struct Spread {
    pub(super) bounds: &'static [f64],
    /// Not cumulative; one more than bounds, for what is above the last.
    pub(super) counts: Vec<u64>,
    pub(super) sum: f64,
}

impl Spread {
    fn new(bounds: &'static [f64], values: impl Iterator<Item = (f64, u64)>) -> Self {
        let mut spread = Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 };
        for (value, count) in values {
            spread.counts[bounds.partition_point(|bound| *bound < value)] += count;
            spread.sum += value * count as f64;
        }
        spread
    }

    /// Of microseconds.
    pub(super) fn of_micros(bounds: &'static [f64], histogram: &Histogram<u64>) -> Self {
        // The lowest of the values that a step stands for: a second is not more than a second.
        let values = histogram
            .iter_recorded()
            .map(|step| (histogram.lowest_equivalent(step.value_iterated_to()) as f64 / 1e6, step.count_at_value()));
        Self::new(bounds, values)
    }

    /// Of a plugin's calls. The sum is exact.
    pub(super) fn of_calls(totals: &Totals) -> Self {
        let values = totals.calls_by_duration().map(|(longest, count)| (longest.as_secs_f64(), count));
        Self { sum: totals.call_time.as_secs_f64(), ..Self::new(CALL, values) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::latency::{Latencies, Measure};
    use std::time::Duration;

    #[test]
    fn values_are_in_their_buckets() {
        let mut latencies = Latencies::default();
        for ms in [1, 1000, 20_000] {
            latencies.record(Measure::Connect, Duration::from_millis(ms));
        }
        let spread = Spread::of_micros(STAGE, latencies.get(Measure::Connect));
        let at = |bound: f64| spread.counts[spread.bounds.iter().position(|known| *known == bound).unwrap_or(99)];
        assert_eq!((at(0.001), at(1.0), spread.counts[STAGE.len()]), (1, 1, 1));
        assert!((spread.sum - 21.001).abs() < 0.2, "{}", spread.sum);
    }

    #[test]
    fn bounds_rise() {
        for bounds in [STAGE, SESSION, CALL] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
    }
}
