//! Active health checks: one task per checked backend, which keeps its rhythm over reloads that do not concern it.
//!
//! A backend begins up, and so that nobody waits for `fall` timeouts of one that is down from the start, the very first
//! check decides alone. From then on it takes `fall` failures in a row to go down and `rise` passes to come back.

mod check;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::events::{Category, Events, Severity};
use super::resolver::Known;
use crate::config::plan;
use crate::shard::command::{Command, Mailbox, Snapshot};
use crate::upstream::state::{BackendId, BackendState, Health, LastCheck};
use check::{Failure, Terms, Tls, check};

/// Checks under way at once, over all backends.
const IN_FLIGHT: usize = 128;
/// Checks begin spread over this part of their interval, and stay spread.
const JITTER: f64 = 0.1;

pub(super) struct Checks {
    known: Known,
    shards: Arc<[Mailbox]>,
    events: Events,
    in_flight: Arc<Semaphore>,
    checked: HashMap<BackendId, Checked>,
}

struct Checked {
    backend: Arc<BackendState>,
    terms: Terms,
    task: JoinHandle<()>,
}

impl Drop for Checked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checks {
    pub(super) fn new(known: Known, shards: Arc<[Mailbox]>, events: Events) -> Self {
        Self { known, shards, events, in_flight: Arc::new(Semaphore::new(IN_FLIGHT)), checked: HashMap::new() }
    }

    /// Checks the backends of a snapshot, and no others from now on. Must be called inside the runtime.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.checked);
        let upstreams = snapshot.plan.upstreams.iter().zip(&snapshot.upstreams).zip(&snapshot.upstream_tls);
        for ((upstream, state), tls) in upstreams {
            let Some(health) = upstream.health.clone().map(Arc::new) else { continue };
            for (index, backend) in state.backends.iter().enumerate() {
                let tls = tls
                    .as_ref()
                    .and_then(|tls| Some(Tls { config: Arc::clone(&tls.config), name: tls.names.get(index)?.clone() }));
                let (source, send_proxy) = (upstream.source_address, upstream.send_proxy);
                let terms = Terms { health: Arc::clone(&health), source, send_proxy, tls };
                let checked = match before.remove(&backend.id) {
                    Some(same) if same.terms.is_same(&terms) => same,
                    changed => self.start(backend, &terms, changed.is_none()),
                };
                self.checked.insert(backend.id, checked);
            }
        }
        for unchecked in before.into_values() {
            // Nobody would ever find out that it is back.
            if unchecked.backend.set_health(Health::Up) {
                unchecked.backend.note_change(crate::stats::clock_ms());
            }
            unchecked.backend.last_check.store(None);
        }
    }

    fn start(&self, backend: &Arc<BackendState>, terms: &Terms, is_new: bool) -> Checked {
        let rounds = Rounds {
            backend: Arc::clone(backend),
            terms: terms.clone(),
            known: self.known.clone(),
            shards: Arc::clone(&self.shards),
            events: self.events.clone(),
            in_flight: Arc::clone(&self.in_flight),
        };
        let task = tokio::spawn(rounds.run(is_new));
        Checked { backend: Arc::clone(backend), terms: terms.clone(), task }
    }
}

/// The task of one backend.
struct Rounds {
    backend: Arc<BackendState>,
    terms: Terms,
    known: Known,
    shards: Arc<[Mailbox]>,
    events: Events,
    in_flight: Arc<Semaphore>,
}

impl Rounds {
    async fn run(self, is_new: bool) {
        let interval = self.terms.health.interval;
        let spread = RandomState::new();
        let mut series = Series::new(is_new);
        for round in 0u64.. {
            let (begun, at) = (Instant::now(), SystemTime::now());
            let result = check(&self.backend, &self.terms, &self.known, &self.in_flight).await;
            let failure = result.as_ref().err().cloned();
            self.backend.last_check.store(Some(Arc::new(LastCheck { at, took: begun.elapsed(), failure })));
            self.judge(&mut series, result);
            // A random part of the interval, from the randomness that std gives hash maps.
            let part = (spread.hash_one(round) >> 11) as f64 / (1u64 << 53) as f64;
            tokio::time::sleep_until(begun + jittered(interval, part)).await;
        }
    }

    fn judge(&self, series: &mut Series, result: Result<(), Failure>) {
        let is_up = self.backend.health() == Health::Up;
        let flips = series.flips(is_up, result.is_ok(), &self.terms.health);
        let BackendState { upstream, address, id, .. } = &*self.backend;
        if flips {
            self.backend.note_change(crate::stats::clock_ms());
        }
        match result {
            Ok(()) if flips => {
                self.backend.set_health(Health::Up);
                tracing::info!(%upstream, backend = %address, "backend is up");
                let details = json!({ "upstream": **upstream, "backend": address.to_string() });
                let message = format!("backend {address} of {upstream} is up");
                self.events.say(Severity::Info, Category::Backend, message, details);
                self.shards.iter().for_each(|shard| shard.hint(Command::SlotFreed(*id)));
            }
            Err(reason) if flips => {
                self.backend.set_health(Health::Down);
                let reason = reason.to_string();
                tracing::warn!(%upstream, backend = %address, reason, "backend is down");
                let details = json!({ "upstream": **upstream, "backend": address.to_string(), "reason": reason });
                let message = format!("backend {address} of {upstream} is down: {reason}");
                self.events.say(Severity::Warning, Category::Backend, message, details);
                for shard in self.shards.iter() {
                    if let Err(error) = shard.send(Command::BackendDown(*id)) {
                        tracing::warn!(%upstream, backend = %address, %error, "a shard was not told");
                    }
                }
            }
            Ok(()) => {}
            Err(reason) => {
                tracing::debug!(%upstream, backend = %address, reason = reason.to_string(), "health check failed")
            }
        }
    }
}

fn jittered(interval: Duration, part: f64) -> Duration {
    interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * part)
}

/// Results in a row.
#[derive(Debug)]
struct Series {
    length: u32,
    passed: bool,
    /// Nothing is known of the backend yet.
    is_first: bool,
}

impl Series {
    fn new(is_first: bool) -> Self {
        Self { length: 0, passed: true, is_first }
    }

    /// Takes a result in; whether it changes the backend's health.
    fn flips(&mut self, is_up: bool, passed: bool, health: &plan::Health) -> bool {
        self.length = if passed == self.passed { self.length.saturating_add(1) } else { 1 };
        self.passed = passed;
        let needed = match (std::mem::take(&mut self.is_first), passed) {
            (true, _) => 1,
            (false, true) => health.rise,
            (false, false) => health.fall,
        };
        passed != is_up && self.length >= needed
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
