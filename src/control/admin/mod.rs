//! The admin API: JSON over HTTP/1.1. One router for every way in; today the control socket, whose file permissions
//! (0600) are its access control.
//!
//! Handlers read atomics and the current view, and ask shards by command with a deadline; nothing here can hold up a
//! shard. A peer of the API is bounded as everyone else: connections at once, time for its headers, size of its
//! body, time to take the answer.

mod ask;
mod config;
pub mod events;
pub mod history;
mod orders;
pub mod overview;
pub mod plugins;
mod refusal;
pub mod sessions;
pub mod status;
pub mod verdict;
mod wanted;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

use super::handle::Control;
use refusal::Refusal;

/// What a peer of the API may use.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// At once; more wait in the accept queue.
    connections: usize,
    /// From the connection, or the last answer, to the end of the next request's headers.
    header_timeout: Duration,
    /// How long the peer may not take an answer.
    write_timeout: Duration,
}

const BOUNDS: Bounds =
    Bounds { connections: 64, header_timeout: Duration::from_secs(5), write_timeout: Duration::from_secs(10) };
/// Bytes of a request's head; hyper's least is 8 KiB.
const HEAD_BYTES: usize = 16 * 1024;
/// Bytes of a request's body.
const BODY_BYTES: usize = 64 * 1024;
/// A reload takes milliseconds; whoever waits longer learns that it still goes on.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// All endpoints. Whoever serves it decides who may call them.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/api/v1/status", get(status::show))
        .route("/api/v1/shards", get(status::show_shards))
        .route("/api/v1/upstreams", get(status::show_upstreams))
        .route("/api/v1/upstreams/{upstream}/backends/{backend}/{order}", post(orders::order))
        .route("/api/v1/plugins", get(plugins::show))
        .route("/api/v1/sessions", get(sessions::list))
        .route("/api/v1/sessions/stats", get(overview::show))
        .route("/api/v1/events", get(events::list))
        .route("/api/v1/history", get(history::show))
        .route("/api/v1/sessions/verdicts", get(verdict::list))
        .route("/api/v1/sessions/{id}", get(sessions::show).delete(sessions::kill))
        .route("/api/v1/reload", post(reload))
        .route("/api/v1/drain", post(drain))
        .route("/api/v1/config", get(config::show))
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "no such endpoint"))
        .method_not_allowed_fallback(async || Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method"))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(control)
}

/// Serves the API on the control socket for ever; dropping the future ends all its connections.
pub async fn serve(control: Control, listener: UnixListener) {
    serve_within(router(control), listener, BOUNDS).await;
}

async fn serve_within(router: Router, mut listener: UnixListener, bounds: Bounds) {
    let slots = Arc::new(Semaphore::new(bounds.connections));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        // axum's accept retries by itself, with a pause, when descriptors run out.
        let (stream, _) = axum::serve::Listener::accept(&mut listener).await;
        let router = router.clone();
        connections.spawn(async move {
            converse(router, stream, bounds).await;
            drop(slot);
        });
    }
}

/// One connection, any number of requests.
async fn converse(router: Router, stream: impl AsyncRead + AsyncWrite + 'static, bounds: Bounds) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(bounds.write_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_timeout)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection of the admin API ended");
    }
}

async fn health(State(control): State<Control>) -> Response {
    let draining = control.view().draining;
    let (code, word) =
        if draining { (StatusCode::SERVICE_UNAVAILABLE, "draining") } else { (StatusCode::OK, "healthy") };
    let uptime = control.uptime().as_secs();
    (code, Json(json!({ "status": word, "version": env!("CARGO_PKG_VERSION"), "uptime_seconds": uptime })))
        .into_response()
}

async fn reload(State(control): State<Control>) -> Result<Response, Refusal> {
    match tokio::time::timeout(RELOAD_TIMEOUT, control.reload()).await {
        Ok(Ok(generation)) => Ok(Json(json!({ "generation": generation.0 })).into_response()),
        Ok(Err(refused)) => Ok((StatusCode::BAD_REQUEST, Json(json!({ "errors": refused.errors }))).into_response()),
        Err(_) => Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "the reload still goes on; see the log")),
    }
}

async fn drain(State(control): State<Control>) -> (StatusCode, Json<serde_json::Value>) {
    control.drain().await;
    (StatusCode::ACCEPTED, Json(json!({ "draining": true })))
}

#[cfg(test)]
mod tests;
