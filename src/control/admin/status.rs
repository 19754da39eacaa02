//! What runs and how it stands: the one document that `arus status`, `arus top` and monitoring read.
//!
//! All counters count from the start of the process, so that whoever asks twice gets exact rates, however often
//! others ask.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::extract::State;
use axum::response::Json;
use crossbeam::utils::CachePadded;
use serde::{Deserialize, Serialize};

use super::sessions::{rfc3339, service};
use crate::control::handle::{Control, ShardView, View};
use crate::control::logging;
use crate::policy::budget::Budget;
use crate::shard::command::Snapshot;
use crate::stats::clock_ms;
use crate::stats::counters::{ListenerCounters, ListenerState};
use crate::stats::latency::{Latencies, Measure};
use crate::types::{Blame, Reason, Stage};
use crate::upstream::state::{BackendState, Health};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// RFC 3339, UTC.
    pub started: String,
    pub uptime_seconds: f64,
    pub generation: u64,
    pub draining: bool,
    /// `None`: the built-in example.
    pub config: Option<PathBuf>,
    pub totals: Totals,
    pub limits: Limits,
    /// By stage: connect, first_byte, session; since the start, up to a second old.
    pub latency: BTreeMap<String, Latency>,
    pub shards: Vec<Shard>,
    pub listeners: Vec<Listener>,
    pub upstreams: Vec<Upstream>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Totals {
    pub active: u64,
    pub accepted: u64,
    pub rejected: u64,
    pub failed: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// Finished sessions that the access log could not take.
    pub summaries_dropped: u64,
    pub log_lines_dropped: u64,
}

/// A limit and what of it is in use.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Use {
    pub used: u32,
    /// `None`: no limit.
    pub limit: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Limits {
    /// Connections of the whole process.
    pub connections: Use,
    /// RLIMIT_NOFILE; a proxied connection takes two descriptors.
    pub descriptors: Option<u64>,
}

/// Microseconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub max: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shard {
    pub id: u16,
    pub cpu: Option<usize>,
    pub active: u64,
    pub accepted: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// Part of its time that it worked, since the start; of two readings, busy_ns and idle_ns give any other span.
    pub busy_share: f64,
    pub busy_ns: u64,
    pub idle_ns: u64,
    pub turns: u64,
    pub completions: u64,
    /// In flight.
    pub operations: u64,
    pub buffers: Buffers,
    pub cq_overflows: u64,
    pub enobufs: u64,
    pub accept_errors: u64,
    pub panics: u64,
    pub summaries_dropped: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Buffers {
    pub free: u64,
    pub total: u64,
    /// Most in use at once.
    pub watermark: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listener {
    pub name: String,
    pub service: String,
    /// Really bound: port 0 is a port here.
    pub addresses: Vec<String>,
    pub connections: Use,
    pub accepted: u64,
    pub closed: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// By reason; those that never happened are left out.
    pub rejected: BTreeMap<String, u64>,
    pub failed: Vec<Failed>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failed {
    pub stage: String,
    pub blame: String,
    pub count: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Upstream {
    pub name: String,
    /// Connections that wait for a full backend.
    pub waiting: Use,
    pub backends: Vec<Backend>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Backend {
    pub address: String,
    /// up | down | ejected | drained
    pub state: String,
    pub weight: u16,
    pub backup: bool,
    pub connections: Use,
    pub connects: u64,
    pub connect_failures: u64,
    pub ejections: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

pub(super) async fn show(State(control): State<Control>) -> Json<Status> {
    Json(read(&control))
}

pub(super) async fn show_shards(State(control): State<Control>) -> Json<Vec<Shard>> {
    Json(control.shards().iter().map(shard).collect())
}

/// Everything at this moment. Counters are read one after another, so sums may differ by what happened meanwhile.
fn read(control: &Control) -> Status {
    let view = control.view();
    let shards: Vec<Shard> = control.shards().iter().map(shard).collect();
    let listeners = listeners(&view);
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        started: rfc3339(control.started()),
        uptime_seconds: control.started().elapsed().unwrap_or_default().as_millis() as f64 / 1000.0,
        generation: view.snapshot.generation.0,
        draining: view.draining,
        config: control.config().cloned(),
        totals: totals(&shards, &listeners),
        limits: Limits { connections: in_use(&view.snapshot.connections), descriptors: descriptor_limit() },
        latency: latency(&control.latencies()),
        shards,
        listeners,
        upstreams: upstreams(&view.snapshot),
    }
}

fn totals(shards: &[Shard], listeners: &[Listener]) -> Totals {
    let sum = |of: fn(&Shard) -> u64| shards.iter().map(of).sum();
    Totals {
        active: sum(|shard| shard.active),
        accepted: sum(|shard| shard.accepted),
        rejected: listeners.iter().flat_map(|listener| listener.rejected.values()).sum(),
        failed: listeners.iter().flat_map(|listener| &listener.failed).map(|failed| failed.count).sum(),
        bytes_up: sum(|shard| shard.bytes_up),
        bytes_down: sum(|shard| shard.bytes_down),
        summaries_dropped: sum(|shard| shard.summaries_dropped),
        log_lines_dropped: logging::dropped_lines(),
    }
}

fn shard(view: &ShardView) -> Shard {
    let stats = &view.stats;
    let (busy_ns, idle_ns) = (stats.busy_ns.load(Relaxed), stats.idle_ns.load(Relaxed));
    Shard {
        id: view.id.0,
        cpu: view.cpu,
        active: stats.active.load(Relaxed),
        accepted: stats.accepted.load(Relaxed),
        bytes_up: stats.bytes_up.load(Relaxed),
        bytes_down: stats.bytes_down.load(Relaxed),
        busy_share: share(busy_ns, idle_ns),
        busy_ns,
        idle_ns,
        turns: stats.turns.load(Relaxed),
        completions: stats.completions.load(Relaxed),
        operations: stats.operations.load(Relaxed),
        buffers: Buffers {
            free: stats.buffers_free.load(Relaxed),
            total: stats.buffers_total.load(Relaxed),
            watermark: stats.buffers_watermark.load(Relaxed),
        },
        cq_overflows: stats.cq_overflows.load(Relaxed),
        enobufs: stats.enobufs.load(Relaxed),
        accept_errors: stats.accept_errors.load(Relaxed),
        panics: stats.panics.load(Relaxed),
        summaries_dropped: stats.summaries_dropped.load(Relaxed),
    }
}

/// The part of the whole that was busy, to three digits; 0 of nothing.
#[must_use]
pub fn share(busy_ns: u64, idle_ns: u64) -> f64 {
    let whole = busy_ns.saturating_add(idle_ns).max(1);
    (busy_ns as f64 / whole as f64 * 1000.0).round() / 1000.0
}

fn listeners(view: &View) -> Vec<Listener> {
    let snapshot = &view.snapshot;
    let states = snapshot.plan.listeners.iter().zip(&snapshot.listeners);
    states
        .map(|(plan, state)| Listener {
            name: plan.name.to_string(),
            service: service(plan.service).into(),
            addresses: view
                .binds
                .iter()
                .filter(|bound| bound.listener == plan.index)
                .map(|bound| bound.address.to_string())
                .collect(),
            connections: in_use(&state.connections),
            accepted: sum(&state.counters, |counters| &counters.accepted),
            closed: sum(&state.counters, |counters| &counters.closed),
            bytes_up: sum(&state.counters, |counters| &counters.bytes_up),
            bytes_down: sum(&state.counters, |counters| &counters.bytes_down),
            rejected: rejected(state),
            failed: failed(state),
        })
        .collect()
}

/// Sums one counter over the shards.
fn sum<T>(counters: &[CachePadded<T>], which: impl Fn(&T) -> &AtomicU64) -> u64 {
    counters.iter().map(|counters| which(counters).load(Relaxed)).sum()
}

fn rejected(state: &ListenerState) -> BTreeMap<String, u64> {
    let count =
        |reason: Reason| sum(&state.counters, |counters: &ListenerCounters| &counters.rejected[reason as usize]);
    let counts = Reason::ALL.iter().map(|&reason| (reason.label().to_owned(), count(reason)));
    counts.filter(|&(_, count)| count > 0).collect()
}

fn failed(state: &ListenerState) -> Vec<Failed> {
    let pairs = Stage::ALL.iter().flat_map(|&stage| Blame::ALL.iter().map(move |&blame| (stage, blame)));
    let counts = pairs.map(|(stage, blame)| Failed {
        stage: stage.label().into(),
        blame: blame.label().into(),
        count: sum(&state.counters, |counters| &counters.failed[stage as usize][blame as usize]),
    });
    counts.filter(|failed| failed.count > 0).collect()
}

pub(super) fn upstreams(snapshot: &Snapshot) -> Vec<Upstream> {
    let states = snapshot.plan.upstreams.iter().zip(&snapshot.upstreams);
    states
        .map(|(plan, state)| Upstream {
            name: plan.name.to_string(),
            waiting: in_use(&state.waiting),
            backends: plan.backends.iter().zip(&state.backends).map(|(plan, state)| backend(plan, state)).collect(),
        })
        .collect()
}

fn backend(plan: &crate::config::plan::Backend, state: &BackendState) -> Backend {
    Backend {
        address: plan.address.to_string(),
        state: backend_state(state).into(),
        weight: plan.weight,
        backup: plan.backup,
        connections: in_use(&state.connections),
        connects: sum(&state.counters, |counters| &counters.connects),
        connect_failures: sum(&state.counters, |counters| &counters.connect_failures),
        ejections: state.ejections.load(Relaxed),
        bytes_up: sum(&state.counters, |counters| &counters.bytes_up),
        bytes_down: sum(&state.counters, |counters| &counters.bytes_down),
    }
}

/// The gravest that holds: a backend may be down, drained and ejected at once.
fn backend_state(state: &BackendState) -> &'static str {
    if state.health() == Health::Down {
        "down"
    } else if state.is_drained() {
        "drained"
    } else if state.is_ejected(clock_ms()) {
        "ejected"
    } else {
        "up"
    }
}

fn in_use(budget: &Budget) -> Use {
    let limit = budget.limit();
    Use { used: budget.used(), limit: (limit != Budget::UNLIMITED).then_some(limit) }
}

fn latency(latencies: &Latencies) -> BTreeMap<String, Latency> {
    let of = |measure: Measure| {
        let histogram = latencies.get(measure);
        if histogram.is_empty() {
            return Latency::default();
        }
        Latency {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.50),
            p90: histogram.value_at_quantile(0.90),
            p99: histogram.value_at_quantile(0.99),
            max: histogram.max(),
        }
    };
    Measure::ALL.iter().map(|&measure| (measure.label().to_owned(), of(measure))).collect()
}

/// The soft limit, as the kernel shows it: no unsafe call needed for a number that people read.
fn descriptor_limit() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
