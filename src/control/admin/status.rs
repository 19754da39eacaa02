//! What runs and how it stands: the one document that `arus status`, `arus top` and monitoring read.
//!
//! Counts are since the start of the process; rates (`..._per_second`) and busy shares are those of the last second.
//! This is the API's view of `stats::totals`: names here are a promise to whoever reads the API, names there are not.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::response::Json;
use nix::sys::resource::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::plugins::{Plugin, plugins};
use super::sessions::rfc3339;
use super::shards::shards;
pub use super::shards::{Buffers, Shard};
use crate::config::plan::Identity;
use crate::control::handle::Control;
use crate::control::tls::date;
use crate::control::{logging, recorder, store};
use crate::stats::datagrams::DatagramTotals;
use crate::stats::totals::{
    BackendTotals, LatencyTotals, ListenerTotals, Reloads, Totals as Reading, Traffic, UpstreamTotals,
};
use crate::tls;
use crate::tls::certificates::Facts;

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// RFC 3339, UTC.
    pub started: String,
    pub uptime_seconds: u64,
    pub generation: u64,
    pub draining: bool,
    /// `None`: the built-in example.
    #[schema(value_type = Option<String>)]
    pub config: Option<PathBuf>,
    pub totals: Totals,
    /// Of finished sessions.
    #[serde(default)]
    pub store: Option<Store>,
    pub limits: Limits,
    /// By stage: connect, first_byte, session; since the start, up to a second old.
    pub latency: BTreeMap<String, Latency>,
    pub shards: Vec<Shard>,
    /// Shards that are stuck: their counters stand still, and their sessions cannot be listed.
    #[serde(default)]
    pub missing_shards: Vec<u16>,
    pub listeners: Vec<Listener>,
    pub upstreams: Vec<Upstream>,
    /// Those in force; their counts are of all configurations with a plugin of that name.
    #[serde(default)]
    pub plugins: Vec<Plugin>,
}

/// Where finished sessions go, and how that goes.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Store {
    /// As in the configuration.
    pub store: String,
    /// ok | opening | trouble | memory | off
    pub state: String,
    pub error: Option<String>,
    /// Records that the database took since the start.
    pub written: u64,
    /// Records that wait for it.
    pub waiting: usize,
    /// Records that no database took.
    pub dropped: u64,
}

/// Payload, and how fast it flows.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
pub struct Flow {
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub bytes_up_per_second: f64,
    pub bytes_down_per_second: f64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    pub active: u32,
    pub accepted: u64,
    pub accepted_per_second: f64,
    pub rejected: u64,
    pub failed: u64,
    #[serde(flatten)]
    pub flow: Flow,
    pub reloads: u64,
    pub reloads_refused: u64,
    /// Finished sessions that the access log could not take.
    pub summaries_dropped: u64,
    /// Lines of the access log that could not be written, as on a full disk.
    pub access_lines_unwritten: u64,
    pub log_lines_dropped: u64,
}

/// A limit and what of it is in use.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Use {
    pub used: u64,
    /// `None`: no limit.
    pub limit: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Connections of the whole process.
    pub connections: Use,
    /// RLIMIT_NOFILE; a proxied connection takes two descriptors.
    pub descriptors: Option<u64>,
}

/// Microseconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Latency {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub max: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Listener {
    pub name: String,
    /// Really bound: port 0 is a port here.
    pub addresses: Vec<String>,
    pub connections: Use,
    pub accepted: u64,
    pub accepted_per_second: f64,
    pub closed: u64,
    #[serde(flatten)]
    pub flow: Flow,
    /// By reason; those that never happened are left out.
    pub rejected: BTreeMap<String, u64>,
    pub failed: Vec<Failed>,
    /// TLS handshakes with clients; kinds that never came are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handshakes: Vec<Handshakes>,
    /// Where there were UDP associations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagrams: Option<Datagrams>,
    /// Those in use, where TLS is terminated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
}

/// Datagrams of UDP associations.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Datagrams {
    /// Open now.
    pub associations: u64,
    /// Sent on.
    pub up: u64,
    pub down: u64,
    /// Not sent on, by reason; those that never happened are left out.
    pub dropped: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    pub subject: String,
    /// DNS names and IP addresses.
    pub names: Vec<String>,
    /// RFC 3339, UTC.
    pub not_before: String,
    pub not_after: String,
    /// Why the files, changed since, cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_error: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Handshakes {
    /// 1.2 or 1.3; empty for those that failed.
    pub version: String,
    /// full | resumed | failed
    pub result: String,
    pub count: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Failed {
    pub stage: String,
    pub blame: String,
    pub count: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Upstream {
    pub name: String,
    /// Connections that wait for a full backend.
    pub waiting: u32,
    pub backends: Vec<Backend>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Backend {
    pub address: String,
    /// up | down | ejected | drained
    pub state: String,
    pub connections: Use,
    pub connects: u64,
    pub connects_per_second: f64,
    pub connect_failures: u64,
    pub ejections: u64,
    /// When it last became what it is, RFC 3339; absent: at the start.
    #[serde(default)]
    pub since: Option<String>,
    /// Absent where nobody checks it.
    #[serde(default)]
    pub last_check: Option<Check>,
    #[serde(flatten)]
    pub flow: Flow,
}

/// A health check.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// RFC 3339, UTC.
    pub time: String,
    pub took_ms: f64,
    /// Why it failed; absent when it passed.
    pub error: Option<String>,
}

/// What runs and how it stands.
#[utoipa::path(get, path = "/api/v1/status", tag = "status", responses((status = 200, body = Status)))]
pub(super) async fn show(State(control): State<Control>) -> Json<Status> {
    Json(status(&control))
}

/// Upstreams and their backends.
#[utoipa::path(get, path = "/api/v1/upstreams", tag = "upstreams", responses((status = 200, body = Vec<Upstream>)))]
pub(super) async fn show_upstreams(State(control): State<Control>) -> Json<Vec<Upstream>> {
    Json(control.totals().upstreams.into_iter().map(Upstream::from).collect())
}

fn status(control: &Control) -> Status {
    let reading = control.totals();
    let view = control.view();
    let pending = control.pending().clone();
    // A reload may have come between the two readings; names tell.
    let listener = |(index, totals): (usize, ListenerTotals)| {
        let mut listener = Listener::from(totals);
        let is_same = view.snapshot.plan.listeners.get(index).is_some_and(|same| *same.name == *listener.name);
        let terms = view.snapshot.tls.get(index).filter(|_| is_same).and_then(Option::as_ref);
        listener.certificates =
            terms.iter().flat_map(|terms| terms.certificates.all()).map(Certificate::from).collect();
        let tls = view.snapshot.plan.listeners.get(index).filter(|_| is_same).and_then(|plan| plan.tls.as_ref());
        if let Some(Identity::Files(pairs)) = tls.map(|tls| &tls.identity) {
            for (shown, pair) in listener.certificates.iter_mut().zip(pairs) {
                shown.pending_error = pending.get(&(pair.certificates.path.clone(), pair.key.path.clone())).cloned();
            }
        }
        listener
    };
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        started: rfc3339(control.started()),
        uptime_seconds: reading.uptime_seconds,
        generation: reading.generation,
        draining: reading.draining,
        config: control.config().cloned(),
        totals: totals(&reading),
        store: control.store().map(|store| store.state().into()),
        limits: Limits {
            connections: Use { used: u64::from(reading.connections), limit: Some(reading.max_connections) },
            descriptors: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
        },
        latency: reading.latency.iter().map(|latency| (latency.stage.to_owned(), Latency::from(latency))).collect(),
        shards: shards(control, &reading.shards),
        missing_shards: reading.shards.iter().filter(|shard| shard.stuck).map(|shard| shard.shard).collect(),
        listeners: reading.listeners.into_iter().enumerate().map(listener).collect(),
        upstreams: reading.upstreams.into_iter().map(Upstream::from).collect(),
        plugins: plugins(control),
    }
}

fn totals(reading: &Reading) -> Totals {
    let Reloads { ok, failed } = reading.reloads;
    Totals {
        active: reading.connections,
        accepted: reading.traffic.connections,
        accepted_per_second: reading.traffic.connections_per_second,
        rejected: reading.listeners.iter().flat_map(|listener| listener.rejected.values()).sum(),
        failed: reading.listeners.iter().flat_map(|listener| &listener.failed).map(|failed| failed.count).sum(),
        flow: reading.traffic.into(),
        reloads: ok,
        reloads_refused: failed,
        summaries_dropped: reading.shards.iter().map(|shard| shard.summaries_dropped).sum(),
        access_lines_unwritten: recorder::unwritten_lines(),
        log_lines_dropped: logging::dropped_lines(),
    }
}

impl From<store::State> for Store {
    fn from(state: store::State) -> Self {
        let store::State { store, state, error, written, waiting, dropped } = state;
        Self { store, state: state.into(), error, written, waiting, dropped }
    }
}

impl From<Traffic> for Flow {
    fn from(traffic: Traffic) -> Self {
        let Traffic { bytes_up, bytes_down, bytes_up_per_second, bytes_down_per_second, .. } = traffic;
        Self { bytes_up, bytes_down, bytes_up_per_second, bytes_down_per_second }
    }
}

impl From<ListenerTotals> for Listener {
    fn from(listener: ListenerTotals) -> Self {
        let failed = listener.failed.iter().map(|failed| Failed {
            stage: failed.stage.into(),
            blame: failed.blame.into(),
            count: failed.count,
        });
        let handshakes = listener.handshakes.iter().map(|handshakes| Handshakes {
            version: handshakes.version.into(),
            result: handshakes.result.into(),
            count: handshakes.count,
        });
        Self {
            name: listener.listener,
            addresses: listener.addresses,
            connections: Use { used: listener.active, limit: listener.max_connections },
            accepted: listener.traffic.connections,
            accepted_per_second: listener.traffic.connections_per_second,
            closed: listener.closed,
            flow: listener.traffic.into(),
            rejected: listener.rejected.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
            failed: failed.collect(),
            handshakes: handshakes.collect(),
            datagrams: (!listener.datagrams.is_empty()).then(|| listener.datagrams.into()),
            certificates: Vec::new(),
        }
    }
}

impl From<DatagramTotals> for Datagrams {
    fn from(totals: DatagramTotals) -> Self {
        let DatagramTotals { associations, up, down, dropped } = totals;
        let dropped = dropped.into_iter().map(|(why, count)| (why.to_owned(), count)).collect();
        Self { associations, up, down, dropped }
    }
}

impl From<tls::certificates::Certificate> for Certificate {
    fn from(certificate: tls::certificates::Certificate) -> Self {
        let Facts { subject, names, not_before, not_after } = (*certificate.facts).clone();
        Self { subject, names, not_before: date(not_before), not_after: date(not_after), pending_error: None }
    }
}

impl From<UpstreamTotals> for Upstream {
    fn from(upstream: UpstreamTotals) -> Self {
        let backends = upstream.backends.into_iter().map(Backend::from).collect();
        Self { name: upstream.upstream, waiting: upstream.waiting, backends }
    }
}

impl From<BackendTotals> for Backend {
    fn from(backend: BackendTotals) -> Self {
        Self {
            state: backend_state(&backend).into(),
            address: backend.backend,
            connections: Use { used: u64::from(backend.connections), limit: backend.max_connections },
            connects: backend.traffic.connections,
            connects_per_second: backend.traffic.connections_per_second,
            connect_failures: backend.connect_failures,
            ejections: backend.ejections,
            since: backend.unchanged_ms.map(|ms| rfc3339(SystemTime::now() - Duration::from_millis(ms))),
            last_check: backend.last_check.as_deref().map(|check| Check {
                time: rfc3339(check.at),
                took_ms: check.took.as_micros() as f64 / 1000.0,
                error: check.failure.clone(),
            }),
            flow: backend.traffic.into(),
        }
    }
}

/// The gravest that holds: a backend may be down, drained and ejected at once.
fn backend_state(backend: &BackendTotals) -> &'static str {
    match backend {
        BackendTotals { up: false, .. } => "down",
        BackendTotals { drained: true, .. } => "drained",
        BackendTotals { ejected: true, .. } => "ejected",
        _ => "up",
    }
}

impl From<&LatencyTotals> for Latency {
    fn from(latency: &LatencyTotals) -> Self {
        let micros = |ms: f64| (ms * 1000.0).round() as u64;
        Self {
            count: latency.count,
            p50: micros(latency.p50_ms),
            p90: micros(latency.p90_ms),
            p99: micros(latency.p99_ms),
            max: micros(latency.max_ms),
        }
    }
}
