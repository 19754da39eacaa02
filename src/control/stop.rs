//! Stopping: no new connections, time for those that live, and an end.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::answers::{answers, ask};
use super::events::{Category, Severity};
use super::handle::{ReloadRefused, Request};
use super::supervisor::Supervisor;
use super::systemd;
use crate::shard::command::Command;

/// Shards cut what is left when `drain_timeout` ends; they get so much longer to say that they have.
const MARGIN: Duration = Duration::from_secs(3);
/// A signal to a process group comes twice where a parent, such as make, also hands it on: within this time two are one.
const ONE_SIGNAL: Duration = Duration::from_millis(50);
/// How long a blocked access log may hold up the end.
const LAST_LINES: Duration = Duration::from_secs(1);
/// And a database that takes nothing.
const LAST_RECORDS: Duration = Duration::from_secs(3);

impl Supervisor {
    /// Drains the shards; a second signal ends it at once. An order to drain is not a signal: Kubernetes sends its
    /// SIGTERM right after a `preStop` that ran `arus drain`.
    pub(super) async fn stop(mut self) {
        systemd::stopping();
        let snapshot = std::sync::Arc::clone(&self.control.view().snapshot);
        let limit = snapshot.plan.engine.drain_timeout;
        let sessions = snapshot.connections.used();
        tracing::info!(sessions, limit = %humantime::format_duration(limit), "stopping: no new connections");
        let details = json!({ "sessions": sessions, "limit_seconds": limit.as_secs_f64() });
        self.control.events().say(Severity::Info, Category::Process, "arus is stopping: no new connections", details);
        self.in_force.remove_socket_files();
        self.control.set_view(self.in_force.view(&snapshot, true));
        let asked = ask(&self.shards, |reply| Command::Drain(limit, reply));
        let drained = answers(asked, limit + MARGIN);
        tokio::pin!(drained);
        let mut signalled = self.signalled;
        let result = loop {
            tokio::select! {
                result = &mut drained => break result,
                () = self.signals.stop() => match signalled {
                    None => signalled = Some(Instant::now()),
                    Some(first) if first.elapsed() < ONE_SIGNAL => {}
                    Some(_) => break Err("told to stop a second time".to_string()),
                },
                Some(request) = self.requests.recv() => refuse(request),
                Some(event) = self.events.recv() => {
                    if let Err(lines) = self.take_event(event) {
                        break Err(lines.join("; "));
                    }
                }
            }
        };
        self.recorder.finish(LAST_LINES);
        if let Some(store) = self.control.store().cloned() {
            let _ = tokio::task::spawn_blocking(move || store.finish(LAST_RECORDS)).await;
        }
        match result {
            Ok(()) => tracing::info!("stopped"),
            Err(why) => tracing::warn!(sessions = snapshot.connections.used(), "stopped before all had ended: {why}"),
        }
    }
}

fn refuse(request: Request) {
    match request {
        Request::Reload(answer) => {
            let _ = answer.send(Err(ReloadRefused { errors: vec!["arus is stopping".into()] }));
        }
        Request::Drain => {}
    }
}
