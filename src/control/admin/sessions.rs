//! Sessions: the live ones, asked from the shards, and those that have ended, from the store; and cutting one.

use std::time::{Duration, SystemTime};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ask::{Answers, ask_all};
use super::refusal::{Problem, Refusal};
use super::verdict::{Association, Found as Seen, Held, Tcp, Verdict, examine};
use super::wanted::{Question, Wanted};
use crate::control::events::{Category, Severity};
use crate::control::handle::Control;
use crate::control::store::{Found, Store, Unanswered};
use crate::shard::command::Command;
use crate::stats::summary::Summary;
use crate::types::SessionId;
use crate::types::State::Active;

/// One session, in the words of the API.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Session {
    pub id: String,
    pub listener: String,
    pub service: String,
    pub user: Option<String>,
    /// Who the client is.
    pub source: String,
    /// Who connected, where a PROXY header named another source.
    pub peer: Option<String>,
    /// Where the client asked to go.
    pub target: Option<String>,
    pub backend: Option<String>,
    pub upstream: Option<String>,
    pub protocol: String,
    /// RFC 3339, UTC.
    pub start: String,
    pub end: Option<String>,
    pub duration_ms: u64,
    pub connect_ms: Option<f64>,
    pub first_byte_ms: Option<f64>,
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// Datagrams that a UDP association passed on.
    pub datagrams_up: Option<u64>,
    pub datagrams_down: Option<u64>,
    pub state: String,
    pub stage: String,
    pub blame: Option<String>,
    pub reason: Option<String>,
    pub acl_rule: Option<String>,
    pub sni: Option<String>,
    pub alpn: Option<String>,
    pub tls_version: Option<String>,
    pub tls_cipher: Option<String>,
    pub shard: u16,
    pub generation: u64,
    /// Who keeps it waiting. This and the next two are there when one live session is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// Of a live UDP association, instead of the two before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub association: Option<Association>,
}

/// A page of sessions.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Page {
    pub data: Vec<Session>,
    /// On all pages together.
    pub total: u64,
    pub page: usize,
    pub page_size: usize,
    /// Shards that did not answer in time: their live sessions are not counted in `total`.
    pub missing_shards: Vec<u16>,
}

/// The largest page.
pub const PAGE_SIZE: usize = 10_000;

/// Live sessions and those that have ended.
#[utoipa::path(get, path = "/api/v1/sessions", tag = "sessions", params(Wanted), responses((status = 200, body = Page), (status = 400, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem)))]
pub(super) async fn list(
    State(control): State<Control>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Page>, Refusal> {
    let Query(wanted) = wanted.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let Question { filter, order, page, page_size } = wanted.question(SystemTime::now())?;
    let Answers { given, missing } = match filter.state {
        None | Some(Active) => live(&control).await,
        // Nobody has to be asked.
        Some(_) => Answers { given: Vec::new(), missing: Vec::new() },
    };
    let skip = (page - 1).saturating_mul(page_size);
    let Found { sessions, total } = settled(&control).await?.list(given, filter, order, skip, page_size).await?;
    Ok(Json(Page { data: sessions, total, page, page_size, missing_shards: missing }))
}

pub(super) async fn live(control: &Control) -> Answers<Summary> {
    let Answers { given, missing } = ask_all(control, Command::Sessions).await;
    Answers { given: given.into_iter().flatten().collect(), missing }
}

/// The store, with what has ended before now.
pub(super) async fn settled(control: &Control) -> Result<&Store, Refusal> {
    let store = control.store().ok_or_else(|| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "arus is starting"))?;
    store.settle().await;
    Ok(store)
}

impl From<Unanswered> for Refusal {
    fn from(unanswered: Unanswered) -> Self {
        let code = match unanswered {
            Unanswered::TooSlow => StatusCode::GATEWAY_TIMEOUT,
            Unanswered::Unreadable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(code, unanswered.to_string())
    }
}

/// One session.
#[utoipa::path(get, path = "/api/v1/sessions/{id}", tag = "sessions", params(("id" = uuid::Uuid, Path)), responses(
    (status = 200, body = Session),
    (status = 404, description = "No such session", body = Problem),
    (status = 504, description = "Not on the shards that answered in time", body = Problem),
))]
pub(super) async fn show(State(control): State<Control>, Path(id): Path<String>) -> Result<Json<Session>, Refusal> {
    let id = parse(&id)?;
    let Answers { given, missing } = live(&control).await;
    if let Some(summary) = given.into_iter().find(|summary| summary.id == id) {
        let mut session = describe(&summary);
        if let Some(Seen { stream, association, verdict }) = examine(&control, &summary).await {
            (session.tcp, session.held) = stream.unzip();
            (session.association, session.verdict) = (association, Some(verdict));
        }
        return Ok(Json(session));
    }
    match settled(&control).await?.find(id).await? {
        Some(session) => Ok(Json(session)),
        None if missing.is_empty() => Err(Refusal::new(StatusCode::NOT_FOUND, format!("no session {id}"))),
        None => Err(not_found(id, &missing)),
    }
}

/// A session that was cut.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Killed {
    id: String,
    killed: bool,
}

/// Cuts a session.
#[utoipa::path(delete, path = "/api/v1/sessions/{id}", tag = "sessions", params(("id" = uuid::Uuid, Path)), responses(
    (status = 200, body = Killed),
    (status = 404, description = "No such live session", body = Problem),
    (status = 504, description = "Not on the shards that answered in time", body = Problem),
))]
pub(super) async fn kill(State(control): State<Control>, Path(id): Path<String>) -> Result<Json<Killed>, Refusal> {
    let id = parse(&id)?;
    let Answers { given, missing } = ask_all(&control, |reply| Command::Kill(id, reply)).await;
    if given.contains(&true) {
        let details = serde_json::json!({ "session": id.to_string() });
        tracing::info!(session = %id, "an operator cut a session");
        control.events().say(Severity::Info, Category::Admin, "an operator cut a session", details);
        Ok(Json(Killed { id: id.to_string(), killed: true }))
    } else {
        Err(not_found(id, &missing))
    }
}

pub(super) fn parse(id: &str) -> Result<SessionId, Refusal> {
    id.parse().map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("not a session id: {error}")))
}

/// Nobody who answered has the session; whoever did not answer may.
fn not_found(id: SessionId, missing: &[u16]) -> Refusal {
    if missing.is_empty() {
        Refusal::new(StatusCode::NOT_FOUND, format!("no live session {id}"))
    } else {
        let message = format!("no live session {id} on the shards that answered; these did not: {missing:?}");
        Refusal::new(StatusCode::GATEWAY_TIMEOUT, message)
    }
}

pub(in crate::control) fn describe(summary: &Summary) -> Session {
    let ended = summary.reason.is_some();
    let tls = summary.tls.as_deref();
    Session {
        id: summary.id.to_string(),
        listener: summary.listener.to_string(),
        service: summary.service.label().into(),
        user: summary.user.as_deref().map(Into::into),
        source: summary.source.to_string(),
        peer: (summary.source != summary.client).then(|| summary.client.to_string()),
        target: summary.target.as_deref().map(Into::into),
        backend: summary.address().map(ToString::to_string),
        upstream: summary.backend.as_ref().map(|backend| backend.upstream.to_string()),
        protocol: summary.protocol.label().into(),
        start: rfc3339(summary.start),
        end: ended.then(|| rfc3339(summary.start + summary.duration)),
        duration_ms: summary.duration.as_millis() as u64,
        connect_ms: summary.connect.map(millis),
        first_byte_ms: summary.first_byte.map(millis),
        bytes_up: summary.bytes_up,
        bytes_down: summary.bytes_down,
        datagrams_up: summary.datagrams().map(|[up, _]| up),
        datagrams_down: summary.datagrams().map(|[_, down]| down),
        state: summary.state.label().into(),
        stage: summary.stage.label().into(),
        blame: summary.blame.map(|blame| blame.label().into()),
        reason: summary.reason.map(|reason| reason.label().into()),
        acl_rule: summary.rule.as_deref().map(Into::into),
        sni: tls.and_then(|tls| tls.sni.as_deref()).map(Into::into),
        alpn: tls.and_then(|tls| tls.alpn.as_deref()).map(Into::into),
        tls_version: tls.and_then(|tls| tls.version).map(Into::into),
        tls_cipher: tls.and_then(|tls| tls.cipher).map(Into::into),
        shard: summary.shard.0,
        generation: summary.generation.0,
        verdict: None,
        tcp: None,
        held: None,
        association: None,
    }
}

pub(in crate::control) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// Milliseconds to the microsecond, as a number that JSON prints short.
pub(in crate::control) fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
