//! An operator's orders about backends.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Json;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::refusal::{Problem, Refusal};
use crate::control::events::{Category, Severity};
use crate::control::handle::Control;
use crate::shard::command::Command;
use crate::types::Name;
use crate::upstream::state::{BackendState, Health, UpstreamState};

/// The words of an order.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code)] // for the description only; what is wrong is answered in words
pub(super) enum Order {
    Drain,
    Up,
    Down,
}

/// An order that was carried out.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Ordered {
    upstream: String,
    backend: String,
    order: String,
}

/// `drain`: no new connections, live ones go on. `down`: the same, and live ones are cut where the upstream says
/// `on_down = "close"`. `up`: in use again, at once; health checks judge from there.
#[utoipa::path(post, path = "/api/v1/upstreams/{upstream}/backends/{backend}/{order}", tag = "upstreams",
    params(("upstream" = String, Path), ("backend" = String, Path, description = "its address, as listed"), ("order" = inline(Order), Path)),
    responses((status = 200, body = Ordered), (status = 404, description = "No such upstream, backend or order", body = Problem)))]
pub(super) async fn order(
    State(control): State<Control>,
    path: Result<Path<(String, String, String)>, PathRejection>,
) -> Result<Json<Ordered>, Refusal> {
    let Path((upstream, backend, order)) = path?;
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
    backend.note_change(crate::stats::clock_ms());
    let message = format!("an operator gave backend {} of {} the order {order}", backend.address, upstream.name);
    let details = json!({ "upstream": *upstream.name, "backend": backend.address.to_string(), "order": order });
    control.events().say(Severity::Info, Category::Admin, message, details);
    tracing::info!(upstream = %upstream.name, backend = %backend.address, %order, "an operator gave an order");
    Ok(Json(Ordered { upstream: upstream.name.to_string(), backend: backend.address.to_string(), order }))
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
