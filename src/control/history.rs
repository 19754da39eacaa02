//! Samples of the last hours, for graphs: one a second for ten minutes, and one every ten seconds for six hours.
//!
//! The stats thread adds them. They lie by a clock that does not jump; only what is shown is told in wall time, so that
//! a clock that was set moves all samples and tears nothing.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    ConnectionsActive,
    ConnectionsPerSecond,
    BytesUpPerSecond,
    BytesDownPerSecond,
    FailedPerSecond,
    RejectedPerSecond,
    ConnectP50,
    ConnectP99,
    FirstByteP99,
    /// Of one shard, or the mean of all.
    ShardBusy,
}

impl Metric {
    pub const ALL: [(&'static str, Self); 10] = [
        ("connections_active", Self::ConnectionsActive),
        ("connections_per_second", Self::ConnectionsPerSecond),
        ("bytes_up_per_second", Self::BytesUpPerSecond),
        ("bytes_down_per_second", Self::BytesDownPerSecond),
        ("failed_per_second", Self::FailedPerSecond),
        ("rejected_per_second", Self::RejectedPerSecond),
        ("connect_p50_ms", Self::ConnectP50),
        ("connect_p99_ms", Self::ConnectP99),
        ("first_byte_p99_ms", Self::FirstByteP99),
        ("shard_busy", Self::ShardBusy),
    ];
}

/// Metrics but the shards'.
const METRICS: usize = 9;

/// What one second brought. NaN: there was nothing to measure.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// In the order of [`Metric`].
    pub(super) values: [f32; METRICS],
    /// By shard.
    pub(super) busy: Box<[f32]>,
}

impl Sample {
    fn value(&self, metric: Metric, shard: Option<usize>) -> f64 {
        let value = match (metric, shard) {
            (Metric::ShardBusy, Some(shard)) => self.busy.get(shard).copied().unwrap_or(f32::NAN),
            (Metric::ShardBusy, None) => self.busy.iter().sum::<f32>() / self.busy.len().max(1) as f32,
            (metric, _) => self.values[metric as usize],
        };
        f64::from(value)
    }

    /// The mean of some, of what they have.
    fn mean(samples: &[Self]) -> Self {
        fn mean(values: impl Iterator<Item = f32>) -> f32 {
            let (sum, count) = values.filter(|value| !value.is_nan()).fold((0.0, 0u32), |(s, n), v| (s + v, n + 1));
            if count == 0 { f32::NAN } else { sum / count as f32 }
        }
        let shards = samples.iter().map(|sample| sample.busy.len()).max().unwrap_or(0);
        Self {
            values: std::array::from_fn(|at| mean(samples.iter().map(|sample| sample.values[at]))),
            busy: (0..shards)
                .map(|at| mean(samples.iter().filter_map(|sample| sample.busy.get(at).copied())))
                .collect(),
        }
    }
}

const FINE: Duration = Duration::from_secs(1);
const COARSE: Duration = Duration::from_secs(10);
/// Fine samples of a coarse one.
const FINE_PER_COARSE: usize = 10;
const FINE_SAMPLES: usize = 600;
const COARSE_SAMPLES: usize = 2160;
/// How far back it goes.
pub const WINDOW: Duration = Duration::from_secs(COARSE_SAMPLES as u64 * 10);

#[derive(Debug, Default)]
pub struct History(Mutex<Rings>);

#[derive(Debug, Default)]
struct Rings {
    fine: VecDeque<(Instant, Sample)>,
    coarse: VecDeque<(Instant, Sample)>,
    /// Of the coarse sample that is being made.
    parts: Vec<Sample>,
}

/// Samples of one metric, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub interval: Duration,
    /// Unix seconds, and the value. Seconds that have none are left out.
    pub samples: Vec<(f64, f64)>,
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Rings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, at: Instant, sample: Sample) {
        let mut rings = self.lock();
        rings.parts.push(sample.clone());
        if rings.parts.len() >= FINE_PER_COARSE {
            let mean = Sample::mean(&rings.parts);
            rings.parts.clear();
            push(&mut rings.coarse, COARSE_SAMPLES, (at, mean));
        }
        push(&mut rings.fine, FINE_SAMPLES, (at, sample));
    }

    #[must_use]
    pub fn series(&self, metric: Metric, shard: Option<usize>, window: Duration) -> Series {
        self.series_at(metric, shard, window, Instant::now(), SystemTime::now())
    }

    fn series_at(
        &self,
        metric: Metric,
        shard: Option<usize>,
        window: Duration,
        now: Instant,
        wall: SystemTime,
    ) -> Series {
        let rings = self.lock();
        let (ring, interval) = match window <= FINE * FINE_SAMPLES as u32 {
            true => (&rings.fine, FINE),
            false => (&rings.coarse, COARSE),
        };
        let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let samples = ring.iter().filter_map(|(at, sample)| {
            let age = now.saturating_duration_since(*at);
            let value = sample.value(metric, shard);
            let t = ((wall - age.as_secs_f64()) * 1000.0).round() / 1000.0;
            (age <= window && !value.is_nan()).then_some((t, value))
        });
        Series { interval, samples: samples.collect() }
    }
}

fn push<T>(ring: &mut VecDeque<T>, most: usize, item: T) {
    if ring.len() >= most {
        ring.pop_front();
    }
    ring.push_back(item);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sample(value: f32) -> Sample {
        Sample { values: [value; METRICS], busy: Box::new([value, 2.0 * value]) }
    }

    #[test]
    fn ten_minutes_by_seconds_and_six_hours_by_ten() {
        let (history, begin) = (History::default(), Instant::now());
        let seconds = 7 * 3600;
        for second in 0..seconds {
            history.add(begin + Duration::from_secs(second), sample(second as f32));
        }
        let (now, wall) = (begin + Duration::from_secs(seconds), UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let series = |metric, shard, window| history.series_at(metric, shard, Duration::from_secs(window), now, wall);
        let fine = series(Metric::ConnectionsActive, None, 300);
        assert_eq!((fine.interval, fine.samples.len()), (FINE, 300));
        assert_eq!(fine.samples[299], (1_699_999_999.0, (seconds - 1) as f64));
        let coarse = series(Metric::ConnectionsActive, None, 6 * 3600);
        assert_eq!((coarse.interval, coarse.samples.len()), (COARSE, COARSE_SAMPLES));
        assert_eq!(coarse.samples.last().unwrap().1, (seconds - 10) as f64 + 4.5);
        let last = |series: Series| series.samples.last().unwrap().1;
        assert_eq!(last(series(Metric::ShardBusy, Some(1), 60)), 2.0 * (seconds - 1) as f64);
        assert_eq!(last(series(Metric::ShardBusy, None, 60)), 1.5 * (seconds - 1) as f64);
        assert_eq!(series(Metric::ShardBusy, Some(2), 60).samples, []);
    }

    #[test]
    fn a_clock_that_jumps_moves_all_and_tears_nothing() {
        let (history, begin) = (History::default(), Instant::now());
        for second in 0..10 {
            history.add(begin + Duration::from_secs(second), sample(1.0));
        }
        history.add(begin + Duration::from_secs(10), sample(f32::NAN));
        let now = begin + Duration::from_secs(10);
        for wall in [0, 5, 1_700_000_000, 4_000_000_000] {
            let wall = UNIX_EPOCH + Duration::from_secs(wall);
            let series = history.series_at(Metric::ConnectP50, None, Duration::from_secs(60), now, wall);
            assert_eq!(series.samples.len(), 10, "nothing was measured in the last second");
            assert!(series.samples.windows(2).all(|pair| (pair[1].0 - pair[0].0 - 1.0).abs() < 0.01));
        }
    }
}
