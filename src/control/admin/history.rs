//! Samples of the last hours, for graphs.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::refusal::{Problem, Refusal};
use super::wanted::{bad, duration, read, word};
use crate::control::handle::Control;
use crate::control::history::{Metric, Series, WINDOW};

const DEFAULT: Duration = Duration::from_secs(300);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    metric: Option<String>,
    window: Option<String>,
    #[param(value_type = Option<u32>)]
    shard: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct History {
    pub metric: String,
    pub interval_seconds: u64,
    /// Oldest first. Where nothing was measured, as a latency without a connection, there is no sample.
    pub samples: Vec<Sample>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Sample {
    /// Unix seconds.
    pub t: f64,
    pub v: f64,
}

/// Samples of the last hours, for graphs.
#[utoipa::path(get, path = "/api/v1/history", tag = "history", params(Wanted), responses(
    (status = 200, body = History),
    (status = 400, description = "No such parameter, or no such value", body = Problem),
    (status = 503, description = "The session database cannot be read", body = Problem),
    (status = 504, description = "It took too long", body = Problem),
))]
pub(super) async fn show(
    State(control): State<Control>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<History>, Refusal> {
    let Query(wanted) = wanted.map_err(|error| bad(error.body_text()))?;
    let known = || Metric::ALL.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    let Some(metric) = word("metric", &wanted.metric, Metric::ALL.into_iter())? else {
        return Err(bad(format!("metric is one of {}", known())));
    };
    let windows = |text: &str| duration(text).filter(|window| (Duration::from_secs(1)..=WINDOW).contains(window));
    let window = read(&wanted.window, windows, || "window is 1s to 6h".into())?.unwrap_or(DEFAULT);
    let shards = control.shards().len();
    let shard = read(
        &wanted.shard,
        |text| text.parse().ok().filter(|shard| *shard < shards),
        || format!("shard is 0 to {}", shards.saturating_sub(1)),
    )?;
    if shard.is_some() && metric != Metric::ShardBusy {
        return Err(bad("shard goes with metric=shard_busy only"));
    }
    let Series { interval, samples } = control.history().series(metric, shard, window);
    Ok(Json(History {
        metric: wanted.metric.unwrap_or_default(),
        interval_seconds: interval.as_secs(),
        samples: samples.into_iter().map(|(t, v)| Sample { t, v }).collect(),
    }))
}
