//! The counters summed up for people and monitoring: what `arus status`, `arus top` and the metrics show.
//!
//! Pure values, read from the shards' atomics at one moment; the rates are the change since an earlier moment. Who
//! reads when is the business of `control::stats`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::counters::{Handshake, ListenerState, ShardStats};
use super::datagrams::DatagramTotals;
use super::latency::{Latencies, Measure};
use crate::policy::budget::Budget;
use crate::types::{Blame, Reason, ShardId, Stage};
use crate::upstream::state::{BackendState, Health, LastCheck, UpstreamState};

/// Everything at one moment.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    /// On the clock of [`crate::stats::clock_ms`].
    pub at_ms: u64,
    pub generation: u64,
    pub uptime_seconds: u64,
    pub draining: bool,
    /// Sessions that are open now, counted against `max_connections`.
    pub connections: u32,
    pub max_connections: u32,
    pub reloads: Reloads,
    /// Over all shards.
    pub traffic: Traffic,
    pub shards: Vec<ShardTotals>,
    pub listeners: Vec<ListenerTotals>,
    pub upstreams: Vec<UpstreamTotals>,
    /// Since the start, by stage.
    pub latency: Vec<LatencyTotals>,
}

/// Reloads since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Reloads {
    pub ok: u64,
    pub failed: u64,
}

/// Connections and payload bytes, and how fast they came in the last second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Traffic {
    pub connections: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub connections_per_second: f64,
    pub bytes_up_per_second: f64,
    pub bytes_down_per_second: f64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct ShardTotals {
    pub shard: u16,
    pub cpu: Option<usize>,
    /// Stays in one turn, so that its counters stand still and it answers nobody; noticed by `control::stats`.
    pub stuck: bool,
    /// Sessions that are open now.
    pub active: u64,
    pub traffic: Traffic,
    /// Part of the last second that was spent working, 0 to 1.
    pub busy: f64,
    pub busy_ns: u64,
    pub idle_ns: u64,
    pub turns: u64,
    pub completions: u64,
    pub operations: u64,
    pub cq_overflows: u64,
    pub enobufs: u64,
    pub buffers_free: u64,
    pub buffers_total: u64,
    pub buffers_watermark: u64,
    pub accept_errors: u64,
    pub panics: u64,
    pub summaries_dropped: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct ListenerTotals {
    pub listener: String,
    /// As really bound.
    pub addresses: Vec<String>,
    /// Sessions that are open now.
    pub active: u64,
    /// `None`: no limit.
    pub max_connections: Option<u32>,
    pub closed: u64,
    pub traffic: Traffic,
    /// Refused by a limit or rule, by reason; reasons that never came are left out.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Failed, by stage and blame; pairs that never came are left out.
    pub failed: Vec<Failed>,
    /// TLS handshakes with clients, by version and result; pairs that never came are left out.
    pub handshakes: Vec<Handshakes>,
    /// Of UDP associations.
    pub datagrams: DatagramTotals,
}

/// TLS handshakes of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Handshakes {
    /// Empty for those that failed: mostly there is no version yet.
    pub version: &'static str,
    pub result: &'static str,
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    pub stage: &'static str,
    pub blame: &'static str,
    pub count: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct UpstreamTotals {
    pub upstream: String,
    /// Connections that wait for a full backend.
    pub waiting: u32,
    pub backends: Vec<BackendTotals>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct BackendTotals {
    pub backend: String,
    /// As the health checks see it; a backend that nobody checks is up.
    pub up: bool,
    /// Put out of use by an operator.
    pub drained: bool,
    /// Out of use for failed connects in a row.
    pub ejected: bool,
    /// Connections that are open now.
    pub connections: u32,
    /// `None`: no limit.
    pub max_connections: Option<u32>,
    /// Connects that succeeded, and the bytes they carried.
    pub traffic: Traffic,
    pub connect_failures: u64,
    pub ejections: u64,
    /// For how long it has been what it is; `None`: since the start.
    pub unchanged_ms: Option<u64>,
    #[serde(skip)]
    pub last_check: Option<Arc<LastCheck>>,
}

/// Quantiles in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LatencyTotals {
    pub stage: &'static str,
    pub count: u64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn limit_of(budget: &Budget) -> Option<u32> {
    (budget.limit() != Budget::UNLIMITED).then(|| budget.limit())
}

impl Traffic {
    fn count(connections: u64, bytes_up: u64, bytes_down: u64) -> Self {
        Self { connections, bytes_up, bytes_down, ..Self::default() }
    }

    /// Sets the rates from what came since `before`, `seconds` ago.
    fn rates_since(&mut self, before: &Self, seconds: f64) {
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        self.connections_per_second = rate(self.connections, before.connections);
        self.bytes_up_per_second = rate(self.bytes_up, before.bytes_up);
        self.bytes_down_per_second = rate(self.bytes_down, before.bytes_down);
    }

    fn copy_rates(&mut self, from: &Self) {
        self.connections_per_second = from.connections_per_second;
        self.bytes_up_per_second = from.bytes_up_per_second;
        self.bytes_down_per_second = from.bytes_down_per_second;
    }

    /// Whether nothing came in the last second.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.connections_per_second == 0.0 && self.bytes_up_per_second == 0.0 && self.bytes_down_per_second == 0.0
    }
}

impl ShardTotals {
    #[must_use]
    pub fn read(id: ShardId, cpu: Option<usize>, stats: &ShardStats) -> Self {
        Self {
            shard: id.0,
            cpu,
            stuck: false,
            active: read(&stats.active),
            traffic: Traffic::count(read(&stats.accepted), read(&stats.bytes_up), read(&stats.bytes_down)),
            busy: 0.0,
            busy_ns: read(&stats.busy_ns),
            idle_ns: read(&stats.idle_ns),
            turns: read(&stats.turns),
            completions: read(&stats.completions),
            operations: read(&stats.operations),
            cq_overflows: read(&stats.cq_overflows),
            enobufs: read(&stats.enobufs),
            buffers_free: read(&stats.buffers_free),
            buffers_total: read(&stats.buffers_total),
            buffers_watermark: read(&stats.buffers_watermark),
            accept_errors: read(&stats.accept_errors),
            panics: read(&stats.panics),
            summaries_dropped: read(&stats.summaries_dropped),
        }
    }
}

impl ListenerTotals {
    #[must_use]
    pub fn read(state: &ListenerState, addresses: Vec<String>) -> Self {
        let mut totals = Self {
            listener: state.name.to_string(),
            addresses,
            max_connections: limit_of(&state.connections),
            ..Self::default()
        };
        let mut failed = [[0u64; Blame::ALL.len()]; Stage::ALL.len()];
        let mut handshakes = [0u64; Handshake::ALL.len()];
        for shard in &state.counters {
            totals.active += read(&shard.active);
            totals.closed += read(&shard.closed);
            totals.traffic.connections += read(&shard.accepted);
            totals.traffic.bytes_up += read(&shard.bytes_up);
            totals.traffic.bytes_down += read(&shard.bytes_down);
            totals.datagrams.add(&shard.datagrams);
            for (reason, count) in Reason::ALL.iter().zip(&shard.rejected) {
                let count = read(count);
                if count > 0 {
                    *totals.rejected.entry(reason.label()).or_default() += count;
                }
            }
            handshakes.iter_mut().zip(&shard.handshakes).for_each(|(sum, count)| *sum += read(count));
            for (sums, counts) in failed.iter_mut().zip(&shard.failed) {
                sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += read(count));
            }
        }
        for (stage, sums) in Stage::ALL.iter().zip(failed) {
            for (blame, count) in Blame::ALL.iter().zip(sums).filter(|(_, count)| *count > 0) {
                totals.failed.push(Failed { stage: stage.label(), blame: blame.label(), count });
            }
        }
        for (handshake, count) in Handshake::ALL.into_iter().zip(handshakes).filter(|(_, count)| *count > 0) {
            let (version, result) = handshake.labels();
            totals.handshakes.push(Handshakes { version, result, count });
        }
        totals
    }
}

impl UpstreamTotals {
    #[must_use]
    pub fn read(state: &UpstreamState, now_ms: u64) -> Self {
        Self {
            upstream: state.name.to_string(),
            waiting: state.waiting.used(),
            backends: state.backends.iter().map(|backend| BackendTotals::read(backend, now_ms)).collect(),
        }
    }
}

impl BackendTotals {
    #[must_use]
    pub fn read(state: &BackendState, now_ms: u64) -> Self {
        let mut totals = Self {
            backend: state.address.to_string(),
            up: state.health() == Health::Up,
            drained: state.is_drained(),
            ejected: state.is_ejected(now_ms),
            connections: state.connections.used(),
            max_connections: limit_of(&state.connections),
            ejections: read(&state.ejections),
            unchanged_ms: state.changed_ms(now_ms).map(|changed| now_ms.saturating_sub(changed)),
            last_check: state.last_check.load_full(),
            ..Self::default()
        };
        for shard in &state.counters {
            totals.traffic.connections += read(&shard.connects);
            totals.traffic.bytes_up += read(&shard.bytes_up);
            totals.traffic.bytes_down += read(&shard.bytes_down);
            totals.connect_failures += read(&shard.connect_failures);
        }
        totals
    }
}

impl LatencyTotals {
    #[must_use]
    pub fn read(latencies: &Latencies) -> Vec<Self> {
        let row = |measure: &Measure| {
            let histogram = latencies.get(*measure);
            let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
            Self {
                stage: measure.label(),
                count: histogram.len(),
                p50_ms: at(0.5),
                p90_ms: at(0.9),
                p99_ms: at(0.99),
                p999_ms: at(0.999),
                max_ms: histogram.max() as f64 / 1000.0,
            }
        };
        Measure::ALL.iter().map(row).collect()
    }
}

impl Totals {
    /// The parts that are read from shards, listeners and upstreams.
    #[must_use]
    pub fn read(
        shards: impl IntoIterator<Item = ShardTotals>,
        listeners: impl IntoIterator<Item = ListenerTotals>,
        upstreams: &[Arc<UpstreamState>],
    ) -> Self {
        let at_ms = super::clock_ms();
        let shards: Vec<ShardTotals> = shards.into_iter().collect();
        let mut traffic = Traffic::default();
        for shard in &shards {
            traffic.connections += shard.traffic.connections;
            traffic.bytes_up += shard.traffic.bytes_up;
            traffic.bytes_down += shard.traffic.bytes_down;
        }
        Self {
            at_ms,
            traffic,
            shards,
            listeners: listeners.into_iter().collect(),
            upstreams: upstreams.iter().map(|state| UpstreamTotals::read(state, at_ms)).collect(),
            ..Self::default()
        }
    }

    /// Sets every rate from the change since `before`. What was not there before has no rate yet.
    pub fn rates_since(&mut self, before: &Self) {
        let seconds = self.at_ms.saturating_sub(before.at_ms).max(1) as f64 / 1000.0;
        self.each_with(before, |now, then| now.rates_since(then, seconds));
        for (now, then) in self.shards.iter_mut().zip(&before.shards) {
            let busy = now.busy_ns.saturating_sub(then.busy_ns) as f64;
            let idle = now.idle_ns.saturating_sub(then.idle_ns) as f64;
            now.busy = if busy + idle > 0.0 { busy / (busy + idle) } else { 0.0 };
        }
    }

    /// Takes over the rates that another reading has computed.
    pub fn copy_rates(&mut self, from: &Self) {
        self.each_with(from, Traffic::copy_rates);
        for (now, then) in self.shards.iter_mut().zip(&from.shards) {
            now.busy = then.busy;
        }
    }

    /// Pairs every traffic record with the one of the same name in `other`.
    fn each_with(&mut self, other: &Self, mut pair: impl FnMut(&mut Traffic, &Traffic)) {
        pair(&mut self.traffic, &other.traffic);
        for (now, then) in self.shards.iter_mut().zip(&other.shards) {
            pair(&mut now.traffic, &then.traffic);
        }
        let listeners: BTreeMap<&str, &Traffic> =
            other.listeners.iter().map(|then| (then.listener.as_str(), &then.traffic)).collect();
        for now in &mut self.listeners {
            if let Some(then) = listeners.get(now.listener.as_str()) {
                pair(&mut now.traffic, then);
            }
        }
        let mut backends: BTreeMap<(&str, &str), &Traffic> = BTreeMap::new();
        for upstream in &other.upstreams {
            for then in &upstream.backends {
                backends.insert((&upstream.upstream, &then.backend), &then.traffic);
            }
        }
        for upstream in &mut self.upstreams {
            for now in &mut upstream.backends {
                if let Some(then) = backends.get(&(upstream.upstream.as_str(), now.backend.as_str())) {
                    pair(&mut now.traffic, then);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::counters::add;

    #[test]
    fn rates_are_the_change_over_the_time_between() {
        let stats = ShardStats::default();
        add(&stats.accepted, 10);
        let reading = || Totals::read([ShardTotals::read(ShardId(0), None, &stats)], [], &[]);
        let mut before = reading();
        add(&stats.accepted, 30);
        add(&stats.bytes_up, 4096);
        add(&stats.busy_ns, 250);
        add(&stats.idle_ns, 750);
        let mut now = reading();
        before.at_ms = 1_000;
        now.at_ms = 3_000;
        now.rates_since(&before);
        assert_eq!(now.traffic.connections, 40);
        assert!((now.traffic.connections_per_second - 15.0).abs() < 1e-9);
        assert!((now.shards[0].traffic.bytes_up_per_second - 2048.0).abs() < 1e-9);
        assert!((now.shards[0].busy - 0.25).abs() < 1e-9);
        assert!(!now.traffic.is_quiet() && before.traffic.is_quiet());
    }
}
