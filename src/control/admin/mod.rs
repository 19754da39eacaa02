//! The admin API: JSON over HTTP/1.1. One router for every way in: the control socket, whose file permissions (0600) are
//! its access control, and TCP, where `door` asks for credentials.
//!
//! Handlers read atomics and the current view, and ask shards by command with a deadline; nothing here can hold up a
//! shard. What a peer may use of arus is bounded in `serve`.

mod acl;
mod ask;
mod attempts;
mod config;
mod connect;
mod dashboard;
mod door;
pub(super) mod entrance;
pub mod events;
mod headers;
pub mod history;
mod login;
mod logins;
mod metrics;
mod openapi;
mod orders;
mod origin;
pub mod overview;
pub mod plugins;
mod refusal;
pub(super) mod secret;
mod serve;
pub mod sessions;
mod shards;
pub mod status;
pub(super) mod token;
pub mod users;
pub mod verdict;
mod wanted;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::handle::Control;
use door::Door;
pub use entrance::Listeners;
use refusal::{Problem, Refusal};

/// A reload takes milliseconds; whoever waits longer learns that it still goes on.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// What handlers have.
#[derive(Debug, Clone)]
struct Api {
    control: Control,
    door: Arc<Door>,
}

impl FromRef<Api> for Control {
    fn from_ref(api: &Api) -> Self {
        api.control.clone()
    }
}

impl FromRef<Api> for Arc<Door> {
    fn from_ref(api: &Api) -> Self {
        Arc::clone(&api.door)
    }
}

/// All endpoints with their documentation; `routes!` takes both from a handler, so that neither can be without the other.
fn endpoints() -> OpenApiRouter<Api> {
    openapi::router()
        .routes(routes!(health))
        .routes(routes!(metrics::show))
        .routes(routes!(openapi::show))
        .routes(routes!(login::begin))
        .routes(routes!(login::end))
        .routes(routes!(login::me))
        .routes(routes!(status::show))
        .routes(routes!(shards::show))
        .routes(routes!(status::show_upstreams))
        .routes(routes!(orders::order))
        .routes(routes!(plugins::show))
        .routes(routes!(sessions::list))
        .routes(routes!(overview::show))
        .routes(routes!(events::list))
        .routes(routes!(history::show))
        .routes(routes!(verdict::list))
        .routes(routes!(users::list))
        .routes(routes!(sessions::show, sessions::kill))
        .routes(routes!(reload))
        .routes(routes!(drain))
        .routes(routes!(config::show))
        .routes(routes!(acl::rules))
        .routes(routes!(acl::test))
        .routes(routes!(connect::connect))
}

fn router(api: Api) -> Router {
    let (router, _) = endpoints().split_for_parts();
    router
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "no such endpoint"))
        .method_not_allowed_fallback(async || Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method"))
        .with_state(api)
        .layer(from_fn(refusal::in_our_shape))
        .layer(from_fn(serve::take_body))
}

/// For peers that need no credential.
fn open(api: Api) -> Router {
    router(api).layer(from_fn(door::welcome)).layer(from_fn(headers::set))
}

/// For peers that do.
fn guarded(api: Api) -> Router {
    let door = Arc::clone(&api.door);
    router(api).merge(dashboard::router()).layer(from_fn_with_state(door, door::guard)).layer(from_fn(headers::set))
}

/// Serves the API on the control socket, and on TCP as `listeners` say, for ever; dropping the future ends all its
/// connections.
pub async fn serve(control: Control, socket: UnixListener, listeners: Listeners) {
    let api = Api { control: control.clone(), door: Arc::new(Door::new(control)) };
    let unix = serve::unix(open(api.clone()), socket, serve::SOCKET);
    tokio::join!(unix, serve::tcp(guarded(api), listeners, serve::TCP));
}

/// How arus is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct Health {
    /// healthy | draining
    status: String,
    version: String,
    uptime_seconds: u64,
}

/// Whether arus takes connections. Needs no credential.
#[utoipa::path(get, path = "/health", tag = "status", security(()), responses(
    (status = 200, description = "It does", body = Health),
    (status = 503, description = "It is draining", body = Health),
))]
async fn health(State(control): State<Control>) -> Response {
    let draining = control.view().draining;
    let (code, word) =
        if draining { (StatusCode::SERVICE_UNAVAILABLE, "draining") } else { (StatusCode::OK, "healthy") };
    let uptime_seconds = control.uptime().as_secs();
    (code, Json(Health { status: word.into(), version: env!("CARGO_PKG_VERSION").into(), uptime_seconds }))
        .into_response()
}

/// The configuration that came into force.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct Reloaded {
    generation: u64,
}

/// Why nothing has changed.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct ReloadErrors {
    /// One line each, as `arus check` prints them.
    errors: Vec<String>,
}

/// Loads the configuration again and puts it into force, or changes nothing.
#[utoipa::path(post, path = "/api/v1/reload", tag = "control", responses(
    (status = 200, body = Reloaded),
    (status = 400, description = "It has errors; nothing has changed", body = ReloadErrors),
    (status = 504, description = "It still goes on", body = Problem),
))]
async fn reload(State(control): State<Control>) -> Result<Response, Refusal> {
    match tokio::time::timeout(RELOAD_TIMEOUT, control.reload()).await {
        Ok(Ok(generation)) => Ok(Json(Reloaded { generation: generation.0 }).into_response()),
        Ok(Err(refused)) => {
            Ok((StatusCode::BAD_REQUEST, Json(ReloadErrors { errors: refused.errors })).into_response())
        }
        Err(_) => Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "the reload still goes on; see the log")),
    }
}

/// arus is on its way out.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct Draining {
    draining: bool,
}

/// Stops accepting, gives live sessions up to `drain_timeout` to end, and exits.
#[utoipa::path(post, path = "/api/v1/drain", tag = "control", responses((status = 202, body = Draining)))]
async fn drain(State(control): State<Control>) -> (StatusCode, Json<Draining>) {
    control.drain().await;
    (StatusCode::ACCEPTED, Json(Draining { draining: true }))
}

#[cfg(test)]
mod tests;
