//! An operator's orders about backends.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Json;
use serde_json::json;

use super::refusal::Refusal;
use crate::control::handle::Control;
use crate::shard::command::Command;
use crate::types::Name;
use crate::upstream::state::{BackendState, Health, UpstreamState};

/// `drain`: no new connections, live ones go on. `down`: the same, and live ones are cut where the upstream says
/// `on_down = "close"`. `up`: in use again, at once; health checks judge from there.
pub(super) async fn order(
    State(control): State<Control>,
    Path((upstream, backend, order)): Path<(String, String, String)>,
) -> Result<Json<serde_json::Value>, Refusal> {
    let view = control.view();
    let upstream = find(&view.snapshot.upstreams, &upstream)?;
    let backend = upstream.backends.iter().find(|state| state.address.to_string() == backend).ok_or_else(|| {
        let known: Vec<String> = upstream.backends.iter().map(|state| state.address.to_string()).collect();
        let message = format!("upstream {} has no backend {backend}, but {}", upstream.name, known.join(", "));
        Refusal::new(StatusCode::NOT_FOUND, message)
    })?;
    match order.as_str() {
        "drain" => backend.set_drained(true),
        "up" => {
            backend.readmit();
            backend.set_drained(false);
            backend.set_health(Health::Up);
            control.shards().iter().for_each(|shard| shard.mailbox.hint(Command::SlotFreed(backend.id)));
        }
        "down" => {
            backend.set_drained(true);
            backend.set_health(Health::Down);
            cut(&control, backend);
        }
        _ => return Err(Refusal::new(StatusCode::NOT_FOUND, "an order is drain, up or down")),
    }
    tracing::info!(upstream = %upstream.name, backend = %backend.address, %order, "an operator gave an order");
    Ok(Json(json!({
        "upstream": upstream.name.as_ref(),
        "backend": backend.address.to_string(),
        "order": order,
    })))
}

fn find<'a>(upstreams: &'a [Arc<UpstreamState>], name: &str) -> Result<&'a UpstreamState, Refusal> {
    upstreams.iter().find(|upstream| *upstream.name == *name).map(Arc::as_ref).ok_or_else(|| {
        let known: Vec<Name> = upstreams.iter().map(|upstream| Arc::clone(&upstream.name)).collect();
        Refusal::new(StatusCode::NOT_FOUND, format!("no upstream {name}, but {}", known.join(", ")))
    })
}

/// The shards know whether the upstream wants its connections cut.
fn cut(control: &Control, backend: &BackendState) {
    for shard in control.shards() {
        if let Err(error) = shard.mailbox.send(Command::BackendDown(backend.id)) {
            tracing::warn!(shard = shard.id.0, %error, "a shard did not hear that a backend is down");
        }
    }
}
