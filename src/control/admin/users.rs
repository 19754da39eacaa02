//! Users of SOCKS listeners: what each may, and what it uses of it now.

use std::cmp::Reverse;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::refusal::{Problem, Refusal};
use super::sessions::rfc3339;
use super::status::Use;
use super::wanted::{bad, read};
use crate::control::handle::Control;
use crate::policy::terms::{self, Limits, Qos};
use crate::policy::user;

const LIMIT: usize = 100;
const MOST: usize = 1000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Only the one of this name.
    user: Option<String>,
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    limit: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Users {
    /// Those with the most open connections first, then those that have moved the most.
    pub data: Vec<User>,
    /// That are known now: they have connections, or had within the last minute, or have a quota.
    pub total: usize,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = UserNow)]
pub struct User {
    pub user: String,
    /// Open now, associations too.
    pub connections: Use,
    /// Since the user is known: it is forgotten a minute after its last connection, unless it has a quota.
    pub begun: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// Both directions together; absent: no limit.
    pub max_bytes_per_second: Option<u64>,
    pub burst_bytes: Option<u64>,
    /// What it has before others share the global rate.
    pub guaranteed_bytes_per_second: Option<u64>,
    pub quota: Option<Quota>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Quota {
    pub bytes: u64,
    /// Of this period; may be more than `bytes` by what was under way when they were used up.
    pub used: u64,
    /// hour | day | month
    pub per: String,
    /// When the next period begins, RFC 3339, UTC.
    pub until: String,
}

/// Users: what each may, and what it uses of it now.
#[utoipa::path(get, path = "/api/v1/users", tag = "sessions", params(Wanted), responses(
    (status = 200, body = Users),
    (status = 400, description = "No such parameter, or no such value", body = Problem),
))]
pub(super) async fn list(
    State(control): State<Control>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Users>, Refusal> {
    let Query(Wanted { user, limit }) = wanted.map_err(|error| bad(error.body_text()))?;
    let parse = |text: &str| text.parse::<usize>().ok().filter(|limit| (1..=MOST).contains(limit));
    let limit = read(&limit, parse, || format!("limit is 1 to {MOST}"))?.unwrap_or(LIMIT);
    let view = control.view();
    let (users, qos) = (&view.snapshot.users, &view.snapshot.plan.qos);
    let mut all = Vec::new();
    match user.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => all.extend(users.find(name)),
        None => users.each(|user| all.push(std::sync::Arc::clone(user))),
    }
    let total = all.len();
    let rank = |user: &user::User| {
        let (up, down) = user.bytes();
        (Reverse((user.sessions(), up.saturating_add(down))), user.name().clone())
    };
    all.sort_by_cached_key(|user| rank(user));
    let now = SystemTime::now();
    let data = all.iter().take(limit).map(|user| show(user, qos, now)).collect();
    Ok(Json(Users { data, total }))
}

fn show(user: &user::User, qos: &Qos, now: SystemTime) -> User {
    let (bytes_up, bytes_down) = user.bytes();
    let Limits { guaranteed, max, burst } = user.limits();
    let given = |limit: u64| (limit > 0).then_some(limit);
    let quota = |terms::Quota { bytes, per }| Quota {
        bytes,
        used: user.used(),
        per: per.word().into(),
        until: rfc3339(UNIX_EPOCH + per.end(now.duration_since(UNIX_EPOCH).unwrap_or_default())),
    };
    User {
        user: user.name().to_string(),
        connections: Use { used: user.sessions().into(), limit: user.max_sessions() },
        begun: user.begun(),
        bytes_up,
        bytes_down,
        max_bytes_per_second: given(max),
        burst_bytes: given(burst).filter(|_| max > 0),
        guaranteed_bytes_per_second: given(guaranteed),
        quota: qos.of(user.name()).1.map(quota),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::terms::Period;
    use crate::policy::users::{Users as Known, clock};

    #[test]
    fn limits_and_what_is_used_of_them_are_shown() {
        let quota = Some(terms::Quota { bytes: 1000, per: Period::Day });
        let limits = Limits { guaranteed: 10, max: 100, burst: 50 };
        let qos = Qos {
            connections_per_user: 3,
            users: vec![terms::User { name: "alice".into(), limits, quota }],
            ..Qos::default()
        };
        let known = Known::new(&qos, clock());
        let session = known.enter(&"alice".into(), clock()).unwrap();
        let _other = known.enter(&"bob".into(), clock()).unwrap();
        let _ = (session.count(true, 300), session.count(false, 100));
        let day = UNIX_EPOCH + Duration::from_secs(86_400 + 5);
        let alice = show(session.user(), &qos, day);
        assert_eq!((alice.connections.used, alice.connections.limit, alice.begun), (1, Some(3), 1));
        assert_eq!((alice.bytes_up, alice.bytes_down), (300, 100));
        assert_eq!(
            (alice.max_bytes_per_second, alice.burst_bytes, alice.guaranteed_bytes_per_second),
            (Some(100), Some(50), Some(10))
        );
        let quota = alice.quota.unwrap();
        assert_eq!(
            (quota.bytes, quota.used, &*quota.per, &*quota.until),
            (1000, 400, "day", "1970-01-03T00:00:00.000Z")
        );
        let bob = show(&known.find("bob").unwrap(), &qos, day);
        assert!(bob.max_bytes_per_second.is_none() && bob.burst_bytes.is_none() && bob.quota.is_none());
    }
}
