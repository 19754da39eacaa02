//! What happened: the events, newest first.

use std::time::SystemTime;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Json;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::refusal::{Problem, Refusal};
use super::sessions::rfc3339;
use super::wanted::{bad, read, since, word};
use crate::control::events::{Category, Severity};
use crate::control::handle::Control;

const LIMIT: usize = 100;
const MOST: usize = 10_000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    #[param(pattern = "^(info|warning|error)?$")]
    severity: Option<String>,
    #[param(pattern = "^(process|reload|backend|plugin|limit|auth|store|certificate|shard|admin)?$")]
    category: Option<String>,
    since: Option<String>,
    #[param(value_type = Option<u32>, minimum = 1, maximum = 10000)]
    limit: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Events {
    pub data: Vec<Event>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// RFC 3339, UTC.
    pub time: String,
    /// info | warning | error
    pub severity: String,
    pub category: String,
    pub message: String,
    pub details: Map<String, Value>,
}

/// What happened, newest first.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", params(Wanted), responses(
    (status = 200, body = Events),
    (status = 400, description = "No such parameter, or no such value", body = Problem),
    (status = 503, description = "The session database cannot be read", body = Problem),
    (status = 504, description = "It took too long", body = Problem),
))]
pub(super) async fn list(
    State(control): State<Control>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Events>, Refusal> {
    let Query(wanted) = wanted.map_err(|error| bad(error.body_text()))?;
    let severities = Severity::ALL.iter().map(|severity| (severity.label(), *severity));
    let severity = word("severity", &wanted.severity, severities)?;
    let categories = Category::ALL.iter().map(|category| (category.label(), *category));
    let category = word("category", &wanted.category, categories)?;
    let since = since(&wanted.since, SystemTime::now())?;
    let parse = |text: &str| text.parse::<usize>().ok().filter(|limit| (1..=MOST).contains(limit));
    let limit = read(&wanted.limit, parse, || format!("limit is 1 to {MOST}"))?.unwrap_or(LIMIT);
    let newest = control.events().newest(limit, |event| {
        severity.is_none_or(|severity| severity == event.severity)
            && category.is_none_or(|category| category == event.category)
            && since.is_none_or(|since| event.time >= since)
    });
    let show = |event: crate::control::events::Event| Event {
        time: rfc3339(event.time),
        severity: event.severity.label().into(),
        category: event.category.label().into(),
        message: event.message,
        details: event.details,
    };
    Ok(Json(Events { data: newest.into_iter().map(show).collect() }))
}
