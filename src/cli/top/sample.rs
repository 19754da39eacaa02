//! The last reading, the past of the throughput, and what has failed of late.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::control::admin::status::Status;
use crate::control::admin::verdict::Verdicts;

/// Readings of which the throughput is kept: more than any terminal has columns.
const HISTORY: usize = 1000;
/// What is of late.
const LATE: Duration = Duration::from_secs(60);

/// Failed sessions by blame.
pub(super) type Failures = BTreeMap<String, u64>;

#[derive(Debug, Default)]
pub(super) struct Samples {
    pub(super) status: Option<Status>,
    /// Who is waited for; asked less often than the rest.
    pub(super) verdicts: Option<Verdicts>,
    /// Bytes per second, oldest first.
    pub(super) up: VecDeque<u64>,
    pub(super) down: VecDeque<u64>,
    /// Over the last minute, or as long as this runs.
    failures: VecDeque<(Instant, Failures)>,
}

impl Samples {
    pub(super) fn take(&mut self, status: Status) {
        remember(&mut self.up, status.totals.flow.bytes_up_per_second);
        remember(&mut self.down, status.totals.flow.bytes_down_per_second);
        self.failures.push_back((Instant::now(), failures(&status)));
        while self.failures.len() > 2 && self.failures[1].0.elapsed() > LATE {
            self.failures.pop_front();
        }
        self.status = Some(status);
    }

    /// By blame: in all, and of late.
    pub(super) fn failures(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        let (first, last) = (self.failures.front(), self.failures.back());
        last.into_iter().flat_map(move |(_, last)| {
            last.iter().map(move |(blame, count)| {
                let before = first.and_then(|(_, first)| first.get(blame)).copied().unwrap_or(0);
                (blame.as_str(), *count, count.saturating_sub(before))
            })
        })
    }
}

fn failures(status: &Status) -> Failures {
    let mut sums = Failures::new();
    for failed in status.listeners.iter().flat_map(|listener| &listener.failed) {
        *sums.entry(failed.blame.clone()).or_default() += failed.count;
    }
    sums
}

fn remember(past: &mut VecDeque<u64>, rate: f64) {
    if past.len() == HISTORY {
        past.pop_front();
    }
    past.push_back(rate as u64);
}
