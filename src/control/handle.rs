//! What the rest of the control plane (admin API, signals, file watcher) holds of the supervisor: a view of what is
//! running, and requests to change it.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::{mpsc, oneshot};

use super::auth::Auth;
use super::events::Events;
use super::history::History;
use super::store::Store;
use super::tls::Pending;
use crate::config::plan::TokenDigest;
use crate::policy::identity::Attempt;
use crate::shard::command::{BindId, Mailbox, Snapshot};
use crate::stats::counters::ShardStats;
use crate::stats::latency::Latencies;
use crate::stats::totals::{LatencyTotals, ListenerTotals, Reloads, ShardTotals, Totals};
use crate::types::{Endpoint, Generation, ListenerIndex, ShardId};

/// Cheap to clone; every clone speaks of the same supervisor.
#[derive(Debug, Clone)]
pub struct Control(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: SystemTime,
    /// `None`: the built-in example runs.
    config: Option<PathBuf>,
    shards: Vec<ShardView>,
    view: RwLock<Arc<View>>,
    latencies: Mutex<Latencies>,
    /// Of the last second in which a shard had any, by shard.
    recent: Mutex<HashMap<u16, Vec<LatencyTotals>>>,
    /// Digest of the token that arus made for the admin API, where the configuration has none.
    generated_token: ArcSwapOption<TokenDigest>,
    /// The last reading with rates, by the stats thread.
    paced: Mutex<Arc<Totals>>,
    /// Shards that stay in one turn, by the stats thread.
    stuck: Mutex<BTreeSet<u16>>,
    /// What the watch found and could not use.
    pending: Mutex<Pending>,
    events: Events,
    history: History,
    /// Set once at the start.
    store: OnceLock<Store>,
    reloads_ok: AtomicU64,
    reloads_failed: AtomicU64,
    /// Once it was made.
    auth: OnceLock<Auth>,
    requests: mpsc::Sender<Request>,
}

/// A running shard, as seen from control.
#[derive(Debug, Clone)]
pub struct ShardView {
    pub id: ShardId,
    pub cpu: Option<usize>,
    pub mailbox: Mailbox,
    pub stats: Arc<ShardStats>,
}

/// What is in force.
#[derive(Debug)]
pub struct View {
    pub snapshot: Arc<Snapshot>,
    pub binds: Vec<Bound>,
    pub draining: bool,
}

/// An address that arus listens on.
#[derive(Debug, Clone)]
pub struct Bound {
    pub id: BindId,
    pub listener: ListenerIndex,
    pub address: Endpoint,
}

impl View {
    /// The addresses really bound for one listener.
    #[must_use]
    pub fn addresses(&self, listener: ListenerIndex) -> Vec<String> {
        self.binds.iter().filter(|bound| bound.listener == listener).map(|bound| bound.address.to_string()).collect()
    }
}

/// Asked of the supervisor, which does one thing at a time.
#[derive(Debug)]
pub enum Request {
    Reload(oneshot::Sender<Result<Generation, ReloadRefused>>),
    /// Stop accepting, let sessions end up to `drain_timeout`, then exit.
    Drain,
}

/// Why a reload changed nothing. One rendered line per error, as `arus check` prints them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", errors.join("\n"))]
pub struct ReloadRefused {
    pub errors: Vec<String>,
}

impl Control {
    #[must_use]
    pub fn new(config: Option<PathBuf>, shards: Vec<ShardView>, view: View) -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(64);
        let events = Events::new(view.snapshot.plan.telemetry);
        let inner = Inner {
            started: SystemTime::now(),
            config,
            shards,
            view: RwLock::new(Arc::new(view)),
            latencies: Mutex::default(),
            recent: Mutex::default(),
            generated_token: ArcSwapOption::empty(),
            paced: Mutex::default(),
            stuck: Mutex::default(),
            pending: Mutex::default(),
            events,
            history: History::default(),
            store: OnceLock::new(),
            reloads_ok: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
            auth: OnceLock::new(),
            requests,
        };
        (Self(Arc::new(inner)), receiver)
    }

    /// What happened.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.0.events
    }

    /// Samples of the last hours.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.0.history
    }

    /// Finished sessions; `None` only while arus starts.
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        self.0.store.get()
    }

    pub(super) fn set_store(&self, store: Store) {
        let _ = self.0.store.set(store);
    }

    /// Records of sessions that no database took: those that the writer had to drop, and those that did not reach it.
    #[must_use]
    pub fn sessions_dropped(&self) -> u64 {
        let dropped = self.0.shards.iter().map(|shard| shard.stats.summaries_dropped.load(Ordering::Relaxed));
        dropped.sum::<u64>() + self.store().map_or(0, Store::dropped)
    }

    /// Logins that shards remembered.
    #[must_use]
    pub fn logins_recalled(&self, attempt: Attempt) -> u64 {
        let recalled = self.0.shards.iter().map(|shard| &shard.stats.logins_recalled[attempt as usize]);
        recalled.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    #[must_use]
    pub fn started(&self) -> SystemTime {
        self.0.started
    }

    #[must_use]
    pub fn config(&self) -> Option<&PathBuf> {
        self.0.config.as_ref()
    }

    #[must_use]
    pub fn shards(&self) -> &[ShardView] {
        &self.0.shards
    }

    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.0.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_view(&self, view: View) {
        *self.0.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    /// All latencies since the start, merged over the shards; up to a second old.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        self.0.latencies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn merge_latencies(&self, shard: ShardId, recent: &Latencies) {
        self.0.latencies.lock().unwrap_or_else(PoisonError::into_inner).merge(recent);
        let totals = LatencyTotals::read(recent);
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner).insert(shard.0, totals);
    }

    /// Of the last second in which a shard had sessions that began or ended, by shard.
    #[must_use]
    pub fn recent_latencies(&self) -> HashMap<u16, Vec<LatencyTotals>> {
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn generated_token(&self) -> Option<Arc<TokenDigest>> {
        self.0.generated_token.load_full()
    }

    pub(super) fn set_generated_token(&self, digest: Option<TokenDigest>) {
        self.0.generated_token.store(digest.map(Arc::new));
    }

    /// All counters, read now; the rates are those of the last second.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = self.read_totals();
        totals.copy_rates(&self.0.paced.lock().unwrap_or_else(PoisonError::into_inner));
        let stuck = self.0.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        totals.shards.iter_mut().for_each(|shard| shard.stuck = stuck.contains(&shard.shard));
        drop(stuck);
        totals
    }

    /// Part of the last second in which a shard worked, 0 to 1.
    #[must_use]
    pub fn busy_share(&self, shard: ShardId) -> f64 {
        let paced = self.0.paced.lock().unwrap_or_else(PoisonError::into_inner);
        paced.shards.get(usize::from(shard.0)).map_or(0.0, |shard| shard.busy)
    }

    /// All counters, without rates.
    pub(super) fn read_totals(&self) -> Totals {
        let view = self.view();
        let Snapshot { generation, listeners, upstreams, connections, .. } = &*view.snapshot;
        let shards = self.0.shards.iter().map(|shard| ShardTotals::read(shard.id, shard.cpu, &shard.stats));
        let listeners = listeners
            .iter()
            .enumerate()
            .map(|(index, state)| ListenerTotals::read(state, view.addresses(ListenerIndex(index as u16))));
        Totals {
            generation: generation.0,
            uptime_seconds: self.uptime().as_secs(),
            draining: view.draining,
            connections: connections.used(),
            max_connections: connections.limit(),
            reloads: self.reloads(),
            latency: LatencyTotals::read(&self.latencies()),
            ..Totals::read(shards, listeners, upstreams)
        }
    }

    /// Who judges logins, and has counted them; `None` before the start is over.
    #[must_use]
    pub fn auth(&self) -> Option<&Auth> {
        self.0.auth.get()
    }

    pub(super) fn set_auth(&self, auth: Auth) {
        auth.set_events(self.0.events.clone());
        let _ = self.0.auth.set(auth);
    }

    /// Changed certificates that cannot be used, where those before stay.
    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_stuck(&self, shards: BTreeSet<u16>) {
        *self.0.stuck.lock().unwrap_or_else(PoisonError::into_inner) = shards;
    }

    pub(super) fn set_paced(&self, totals: Arc<Totals>) {
        *self.0.paced.lock().unwrap_or_else(PoisonError::into_inner) = totals;
    }

    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.0.started.elapsed().unwrap_or_default()
    }

    #[must_use]
    pub fn reloads(&self) -> Reloads {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Reloads { ok: read(&self.0.reloads_ok), failed: read(&self.0.reloads_failed) }
    }

    pub(super) fn count_reload(&self, is_ok: bool) {
        let counter = if is_ok { &self.0.reloads_ok } else { &self.0.reloads_failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Loads the configuration again and puts it into force, or changes nothing.
    ///
    /// # Errors
    /// Every error of the configuration, or that arus is stopping.
    pub async fn reload(&self) -> Result<Generation, ReloadRefused> {
        let (answer, result) = oneshot::channel();
        let stopping = || ReloadRefused { errors: vec!["arus is stopping".into()] };
        self.0.requests.send(Request::Reload(answer)).await.map_err(|_| stopping())?;
        result.await.map_err(|_| stopping())?
    }

    /// Begins to drain, as SIGTERM does; returns at once.
    pub async fn drain(&self) {
        let _ = self.0.requests.send(Request::Drain).await;
    }
}
