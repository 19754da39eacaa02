//! Sums over the sessions of the last hours: how many, how much, and whose.

use std::time::{Duration, SystemTime};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ask::Answers;
use super::refusal::{Problem, Refusal};
use super::sessions::{live, rfc3339, settled};
use super::wanted::{bad, read};
use crate::control::handle::Control;
use crate::control::store::{self, Named};

const HOURS: u32 = 48;
/// Ten years.
const MOST_HOURS: u32 = 24 * 3650;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    #[param(value_type = Option<u32>, minimum = 1, maximum = 87600)]
    window_hours: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Overview {
    pub window_hours: u32,
    /// Sessions that ended in this full hour or later, and those that live.
    pub since: String,
    pub totals: Totals,
    /// With the most bytes first, and with those that have the most sessions.
    pub top_users: Vec<User>,
    pub top_destinations: Vec<Destination>,
    pub missing_shards: Vec<u16>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = SessionTotals)]
pub struct Totals {
    pub sessions: u64,
    pub active: u64,
    pub closed: u64,
    pub failed: u64,
    pub rejected: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct User {
    pub user: String,
    pub sessions: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Destination {
    /// A host or an address, without its port.
    pub destination: String,
    pub sessions: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

/// Sums over the sessions of the last hours.
#[utoipa::path(get, path = "/api/v1/sessions/stats", tag = "sessions", params(Wanted), responses(
    (status = 200, body = Overview),
    (status = 400, description = "No such parameter, or no such value", body = Problem),
    (status = 503, description = "The session database cannot be read", body = Problem),
    (status = 504, description = "It took too long", body = Problem),
))]
pub(super) async fn show(
    State(control): State<Control>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Overview>, Refusal> {
    let Query(Wanted { window_hours }) = wanted.map_err(|error| bad(error.body_text()))?;
    let parse = |text: &str| text.parse::<u32>().ok().filter(|hours| (1..=MOST_HOURS).contains(hours));
    let hours = read(&window_hours, parse, || format!("window_hours is 1 to {MOST_HOURS}"))?.unwrap_or(HOURS);
    let Answers { given, missing } = live(&control).await;
    let found = settled(&control).await?.overview(given, hours).await?;
    let store::Overview { sessions, active, closed, failed, rejected, bytes_up, bytes_down, users, destinations } =
        found;
    let user = |Named { name, sessions, bytes_up, bytes_down }| User { user: name, sessions, bytes_up, bytes_down };
    let destination = |Named { name, sessions, bytes_up, bytes_down }| Destination {
        destination: name,
        sessions,
        bytes_up,
        bytes_down,
    };
    Ok(Json(Overview {
        window_hours: hours,
        since: rfc3339(begin(SystemTime::now(), hours)),
        totals: Totals { sessions, active, closed, failed, rejected, bytes_up, bytes_down },
        top_users: users.into_iter().map(user).collect(),
        top_destinations: destinations.into_iter().map(destination).collect(),
        missing_shards: missing,
    }))
}

/// The full hour after so many hours ago.
fn begin(now: SystemTime, hours: u32) -> SystemTime {
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let hour = (since_epoch / 3600 + 1).saturating_sub(u64::from(hours));
    SystemTime::UNIX_EPOCH + Duration::from_secs(hour * 3600)
}
