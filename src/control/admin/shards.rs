//! How each shard stands, and how evenly the work is spread over them.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::status::{Flow, Latency};
use crate::control::handle::Control;
use crate::stats::totals::ShardTotals;

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Shard {
    pub id: u16,
    pub cpu: Option<usize>,
    /// It has been in one turn for a second or more, as in a plugin that hangs: it answers nobody, and its counters
    /// stand still.
    #[serde(default)]
    pub stuck: bool,
    /// Connections that are open now.
    pub active: u64,
    pub accepted: u64,
    pub accepted_per_second: f64,
    #[serde(flatten)]
    pub flow: Flow,
    /// Part of the last second that it worked, 0 to 1.
    pub busy_share: f64,
    /// Its open connections, as a multiple of the mean over all shards; 1 where there are none.
    #[serde(default)]
    pub skew_index: f64,
    pub busy_ns: u64,
    pub idle_ns: u64,
    pub turns: u64,
    pub completions: u64,
    /// Of its io_uring, in flight: the ring's depth.
    pub operations: u64,
    pub buffers: Buffers,
    pub cq_overflows: u64,
    pub enobufs: u64,
    pub accept_errors: u64,
    pub panics: u64,
    pub summaries_dropped: u64,
    /// By stage, of the last second in which the shard had sessions that began or ended.
    #[serde(default)]
    pub latency: BTreeMap<String, Latency>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Buffers {
    pub free: u64,
    pub total: u64,
    /// Most in use at once.
    pub watermark: u64,
}

/// How each shard stands.
#[utoipa::path(get, path = "/api/v1/shards", tag = "status", responses((status = 200, body = Vec<Shard>)))]
pub(super) async fn show(State(control): State<Control>) -> Json<Vec<Shard>> {
    Json(shards(&control, &control.totals().shards))
}

pub(super) fn shards(control: &Control, totals: &[ShardTotals]) -> Vec<Shard> {
    let recent = control.recent_latencies();
    let mean = totals.iter().map(|shard| shard.active as f64).sum::<f64>() / totals.len().max(1) as f64;
    let shown = |totals: &ShardTotals| {
        let mut shard = Shard::from(totals);
        shard.skew_index = if mean > 0.0 { (totals.active as f64 / mean * 1000.0).round() / 1000.0 } else { 1.0 };
        let latency = recent.get(&totals.shard).into_iter().flatten();
        shard.latency =
            latency.filter(|latency| latency.count > 0).map(|each| (each.stage.to_owned(), each.into())).collect();
        shard
    };
    totals.iter().map(shown).collect()
}

impl From<&ShardTotals> for Shard {
    fn from(shard: &ShardTotals) -> Self {
        Self {
            id: shard.shard,
            cpu: shard.cpu,
            stuck: shard.stuck,
            active: shard.active,
            accepted: shard.traffic.connections,
            accepted_per_second: shard.traffic.connections_per_second,
            flow: shard.traffic.into(),
            busy_share: shard.busy,
            skew_index: 1.0,
            busy_ns: shard.busy_ns,
            idle_ns: shard.idle_ns,
            turns: shard.turns,
            completions: shard.completions,
            operations: shard.operations,
            buffers: Buffers {
                free: shard.buffers_free,
                total: shard.buffers_total,
                watermark: shard.buffers_watermark,
            },
            cq_overflows: shard.cq_overflows,
            enobufs: shard.enobufs,
            accept_errors: shard.accept_errors,
            panics: shard.panics,
            summaries_dropped: shard.summaries_dropped,
            latency: BTreeMap::new(),
        }
    }
}
