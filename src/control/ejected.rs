//! A backend that was ejected: said, and said again when it is tried again.

use std::sync::Arc;

use serde_json::json;

use super::events::{Category, Severity};
use super::handle::Control;
use crate::shard::command::{Command, Mailbox};
use crate::upstream::state::BackendId;

/// Logs it; and when its time is over, whoever waits in a queue may go there.
pub(super) fn note(control: &Control, shards: &Arc<[Mailbox]>, backend: BackendId) {
    let snapshot = &control.view().snapshot;
    for (plan, upstream) in snapshot.plan.upstreams.iter().zip(&snapshot.upstreams) {
        let Some(state) = upstream.backends.iter().find(|state| state.id == backend) else { continue };
        let (upstream, address) = (&state.upstream, &state.address);
        tracing::warn!(%upstream, backend = %address, "backend ejected after failed connects");
        // A backend that is dead is ejected again and again.
        let message = format!("backend {address} of {upstream} ejected after failed connects");
        let details = json!({ "upstream": **upstream, "backend": address.to_string() });
        control.events().say_seldom(&message, Severity::Warning, Category::Backend, &*message, details.clone());
        let Some(outlier) = plan.outlier else { continue };
        let (shards, state, events) = (Arc::clone(shards), Arc::clone(state), control.events().clone());
        let message = format!("backend {address} of {upstream} is tried again after its ejection");
        tokio::spawn(async move {
            tokio::time::sleep(outlier.eject).await;
            shards.iter().for_each(|shard| shard.hint(Command::SlotFreed(backend)));
            if !state.is_ejected(crate::stats::clock_ms()) {
                tracing::info!(upstream = %state.upstream, backend = %state.address, "backend is tried again after its ejection");
                events.say_seldom(&message, Severity::Info, Category::Backend, &*message, details);
            }
        });
    }
}
