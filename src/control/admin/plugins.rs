//! The plugins in force, and what was counted of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use axum::extract::State;
use axum::response::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::control::handle::Control;
use crate::plugin::Process;

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Plugin {
    /// In the configuration.
    pub name: String,
    /// What its file calls itself.
    pub library: String,
    pub version: String,
    #[schema(value_type = String)]
    pub path: PathBuf,
    pub sha256: String,
    /// The configuration that opened it.
    pub generation: u64,
    pub on_fault: String,
    /// A fault has disabled it.
    pub disabled: bool,
    pub connections: u64,
    pub calls: u64,
    pub faults: u64,
    /// Calls that took longer than `max_call`.
    pub over_max_call: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Nanoseconds in data calls.
    pub call_ns: u64,
    /// Nanoseconds of a data call; absent before the first.
    pub call_ns_p50: Option<u64>,
    pub call_ns_p99: Option<u64>,
    /// Log lines that it had too many of.
    pub log_dropped: u64,
    /// Counters of its own, by name; those of the processes in force.
    pub counters: BTreeMap<String, u64>,
}

/// The plugins in force, and what was counted of them.
#[utoipa::path(get, path = "/api/v1/plugins", tag = "plugins", responses((status = 200, body = Vec<Plugin>)))]
pub(super) async fn show(State(control): State<Control>) -> Json<Vec<Plugin>> {
    Json(plugins(&control))
}

pub(super) fn plugins(control: &Control) -> Vec<Plugin> {
    control.view().snapshot.plugins.iter().map(|process| plugin(process)).collect()
}

fn plugin(process: &Process) -> Plugin {
    let Process { terms, library, generation, state, .. } = process;
    let totals = state.totals();
    let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Plugin {
        name: terms.name.to_string(),
        library: library.name().to_owned(),
        version: library.version().to_owned(),
        path: terms.path.clone(),
        sha256: library.digest.to_string(),
        generation: generation.0,
        on_fault: terms.on_fault.word().to_owned(),
        disabled: process.is_disabled(),
        connections: totals.connections,
        calls: totals.calls,
        faults: totals.faults,
        over_max_call: totals.over_max_call,
        bytes_in: totals.bytes_in,
        bytes_out: totals.bytes_out,
        call_ns: ns(totals.call_time),
        call_ns_p50: totals.call_quantile(0.5).map(ns),
        call_ns_p99: totals.call_quantile(0.99).map(ns),
        log_dropped: totals.log_dropped,
        counters: process.own_counters().map(|(counter, value)| (counter.name.clone(), value)).collect(),
    }
}
