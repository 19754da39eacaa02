//! What happens per second: the difference of two readings of the counters, and the past of the throughput.

use std::collections::{HashMap, VecDeque};

use crate::control::admin::status::{Status, share};

/// Seconds of past that are kept: wider than any terminal.
const HISTORY: usize = 1000;

/// The last reading and what it says against the one before.
#[derive(Debug, Default)]
pub(super) struct Samples {
    pub(super) status: Option<Status>,
    pub(super) rates: Rates,
    /// Bytes per second, oldest first.
    pub(super) up: VecDeque<u64>,
    pub(super) down: VecDeque<u64>,
}

/// Per second, between the last two readings.
#[derive(Debug, Default)]
pub(super) struct Rates {
    pub(super) up: f64,
    pub(super) down: f64,
    pub(super) accepted: f64,
    pub(super) shards: HashMap<u16, ShardRates>,
    /// By upstream and address.
    pub(super) backends: HashMap<(String, String), BackendRates>,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct ShardRates {
    /// Part of the time that it worked.
    pub(super) busy: f64,
    pub(super) accepted: f64,
    pub(super) up: f64,
    pub(super) down: f64,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct BackendRates {
    pub(super) connects: f64,
    pub(super) up: f64,
    pub(super) down: f64,
}

impl Samples {
    /// Takes a new reading. Counters of another process (arus was restarted) say nothing against these.
    pub(super) fn take(&mut self, status: Status) {
        match &self.status {
            Some(before) if before.pid == status.pid && before.started == status.started => {
                let seconds = status.uptime_seconds - before.uptime_seconds;
                if seconds > 0.0 {
                    self.rates = Rates::between(before, &status, seconds);
                    remember(&mut self.up, self.rates.up);
                    remember(&mut self.down, self.rates.down);
                }
            }
            _ => *self = Self::default(),
        }
        self.status = Some(status);
    }
}

fn remember(past: &mut VecDeque<u64>, rate: f64) {
    if past.len() == HISTORY {
        past.pop_front();
    }
    past.push_back(rate as u64);
}

impl Rates {
    fn between(before: &Status, now: &Status, seconds: f64) -> Self {
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        let shards = now.shards.iter().filter_map(|now| {
            let before = before.shards.iter().find(|before| before.id == now.id)?;
            let busy = now.busy_ns.saturating_sub(before.busy_ns);
            let rates = ShardRates {
                busy: share(busy, now.idle_ns.saturating_sub(before.idle_ns)),
                accepted: rate(before.accepted, now.accepted),
                up: rate(before.bytes_up, now.bytes_up),
                down: rate(before.bytes_down, now.bytes_down),
            };
            Some((now.id, rates))
        });
        let old: HashMap<_, _> = (before.upstreams.iter())
            .flat_map(|upstream| upstream.backends.iter().map(|backend| ((&upstream.name, &backend.address), backend)))
            .collect();
        let backends = now.upstreams.iter().flat_map(|upstream| {
            upstream.backends.iter().map(|backend| (&upstream.name, backend)).filter_map(|(upstream, now)| {
                let before = old.get(&(upstream, &now.address))?;
                let rates = BackendRates {
                    connects: rate(before.connects, now.connects),
                    up: rate(before.bytes_up, now.bytes_up),
                    down: rate(before.bytes_down, now.bytes_down),
                };
                Some(((upstream.clone(), now.address.clone()), rates))
            })
        });
        Self {
            up: rate(before.totals.bytes_up, now.totals.bytes_up),
            down: rate(before.totals.bytes_down, now.totals.bytes_down),
            accepted: rate(before.totals.accepted, now.totals.accepted),
            shards: shards.collect(),
            backends: backends.collect(),
        }
    }
}
