//! The thread that names a plugin which hangs, while it hangs: its shard cannot.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};
use serde_json::json;

use super::events::{Category, Severity};
use super::handle::Control;
use crate::plugin::Process;
use crate::plugin::watch::{InCall, ProcessId};
use crate::shard::command::Snapshot;

/// Between two looks: half the shortest `max_call`, within these; the longest where there is no plugin.
const SHORTEST: Duration = Duration::from_millis(25);
const LONGEST: Duration = Duration::from_millis(250);
const NO_PLUGINS: Duration = Duration::from_secs(1);
/// A call that goes on hanging is named again after so long.
const AGAIN: Duration = Duration::from_secs(10);

/// The thread runs until this is dropped.
#[derive(Debug)]
pub(super) struct HangWatch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HangWatch {
    pub(super) fn spawn(control: Control) -> io::Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        let mut look = Look::default();
        let thread = std::thread::Builder::new().name("plugin-watch".into()).spawn(move || {
            let mut pause = NO_PLUGINS;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let view = control.view();
                for (shard, call) in look.at(&view.snapshot) {
                    let plugin = look.processes.get(&call.process).and_then(Weak::upgrade);
                    let plugin = plugin.map_or_else(String::new, |process| process.terms.name.to_string());
                    let InCall { session, function, .. } = &call;
                    let details = json!({
                        "plugin": plugin,
                        "shard": shard,
                        "session": session.to_string(),
                        "function": function.to_string(),
                        "lasts_seconds": call.lasts().as_secs_f64(),
                    });
                    let message = format!("plugin {plugin} hangs, and shard {shard} with it");
                    control.events().say(Severity::Error, Category::Plugin, message, details);
                }
                pause = interval(&view.snapshot);
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for HangWatch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn interval(snapshot: &Snapshot) -> Duration {
    let shortest = snapshot.plugins.iter().map(|process| process.terms.max_call).min();
    shortest.map_or(NO_PLUGINS, |max_call| (max_call / 2).clamp(SHORTEST, LONGEST))
}

#[derive(Default)]
struct Look {
    /// Also of older configurations, as long as a connection keeps them.
    processes: HashMap<ProcessId, Weak<Process>>,
    /// By shard: the call that was named last, and how long it had lasted then.
    named: HashMap<usize, (u64, Duration)>,
}

impl Look {
    /// Names the calls that last too long; gives them, with their shards.
    fn at(&mut self, snapshot: &Snapshot) -> Vec<(usize, InCall)> {
        self.processes.retain(|_, process| process.strong_count() > 0);
        for process in &snapshot.plugins {
            self.processes.entry(process.id).or_insert_with(|| Arc::downgrade(process));
        }
        let calls = snapshot.watches.iter().enumerate().filter_map(|(shard, watch)| Some((shard, watch.look()?)));
        calls.filter(|(shard, call)| self.name(*shard, call)).collect()
    }

    fn name(&mut self, shard: usize, call: &InCall) -> bool {
        let Some(process) = self.processes.get(&call.process).and_then(Weak::upgrade) else { return false };
        let lasts = call.lasts();
        if lasts <= process.terms.max_call {
            return false;
        }
        if let Some((since_ns, then)) = self.named.get(&shard)
            && *since_ns == call.since_ns
            && lasts < *then + AGAIN
        {
            return false;
        }
        self.named.insert(shard, (call.since_ns, lasts));
        let InCall { session, function, .. } = call;
        let (plugin, generation) = (&process.terms.name, process.generation.0);
        tracing::error!(%plugin, generation, shard, %session, %function, ?lasts, "plugin hangs, and its shard with it");
        true
    }
}
