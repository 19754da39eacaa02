//! Who a client is: passwords, PAM, groups, bans. Asked by the shards through control; nothing here blocks control's
//! thread, and nothing here is done on a shard.
//!
//! - [`Auth`] decides; `state` is what the configuration in force says, `login` how one attempt goes.
//! - `secret` compares on the threads of a `pool`; `policy::logins` remembers what was right, `bans` who was wrong too often.
//! - `pam` asks processes of its own; `groups` asks the system; `counters` and `voice` tell of it.
//! - `ground` says what a configuration lacks on this machine.

mod bans;
pub mod counters;
mod ground;
mod groups;
mod login;
pub mod pam;
mod pool;
mod secret;
mod state;
#[cfg(test)]
mod tests;
mod voice;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use bans::Bans;
use counters::{Attempt, Counters, Outcome};
pub use ground::check;
pub(super) use ground::{problems, warnings};
use login::Login;
use pam::Pam;
use pool::Pool;
use state::State;
use voice::Voice;

use super::events::{Category, Events, Severity};
use super::turns::{Limits, Turns};
use crate::config::plan;
use crate::policy::banned::{self, Source};
use crate::policy::identity::Verdict;
use crate::policy::logins::{self, Cache, Key, Sealer};
use crate::stats::clock_ms;

/// Checks that may wait for a thread: with one thread and an argon2id hash of the usual cost, some ten seconds' worth.
const HASHES_WAITING: usize = 512;
const LOOKUPS_WAITING: usize = 512;
const LOOKUP_THREADS: usize = 2;
/// Logins of one source that may wait for their turn.
const WAITING_OF_ONE: usize = 512;
/// Different logins under way at a time, waiting ones included.
const FLIGHTS: usize = 2048;

/// So that one source's logins, right or wrong, leave room for others'.
fn turns(all: usize) -> Arc<Turns> {
    let patience = Duration::from_secs(10);
    Turns::new(Limits { all, one: all - 1, all_waiting: FLIGHTS, one_waiting: WAITING_OF_ONE, patience })
}

/// Cheap to clone; every clone is the same.
#[derive(Clone)]
pub struct Auth(Arc<Inner>);

struct Inner {
    state: ArcSwap<State>,
    sealer: Sealer,
    cache: Mutex<Cache>,
    bans: Mutex<Bans>,
    /// Logins that are being checked, with all who wait for the answer: a browser that opens thirty connections at once
    /// costs one hash.
    flights: Mutex<HashMap<Key, Vec<oneshot::Sender<Verdict>>>>,
    hashes: Pool,
    lookups: Pool,
    hash_turns: Arc<Turns>,
    pam_turns: Arc<Turns>,
    pam: OnceLock<Pam>,
    counters: Counters,
    voice: Voice,
    /// Once control has them.
    events: OnceLock<Events>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth")
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Auth {
    /// To be made inside the runtime. `started`: the PAM processes, where the plan needs them.
    ///
    /// # Errors
    /// One line, when threads or randomness cannot be had.
    pub fn new(plan: &plan::Auth, started: Option<pam::Started>) -> Result<Self, String> {
        let said = |error: std::io::Error| format!("authentication: {error}");
        let pam = OnceLock::new();
        if let Some(started) = started {
            let _ = pam.set(Pam::new(started).map_err(said)?);
        }
        Ok(Self(Arc::new(Inner {
            state: ArcSwap::from_pointee(State::of(plan)),
            sealer: Sealer::new()?,
            cache: Mutex::new(Cache::new(logins::CONTROL)),
            bans: Mutex::default(),
            flights: Mutex::default(),
            hashes: Pool::new("passwords", pool::hash_threads(), HASHES_WAITING).map_err(said)?,
            lookups: Pool::new("groups", LOOKUP_THREADS, LOOKUPS_WAITING).map_err(said)?,
            hash_turns: turns(2 * pool::hash_threads()),
            pam_turns: turns(pam::WORKERS),
            pam,
            counters: Counters::default(),
            voice: Voice::default(),
            events: OnceLock::new(),
        })))
    }

    /// Where bans are to be told, and that PAM's processes were lost.
    pub(super) fn set_events(&self, events: Events) {
        if let Some(pam) = self.0.pam.get() {
            pam.set_events(events.clone());
        }
        let _ = self.0.events.set(events);
    }

    /// How often PAM's processes had to be started again.
    #[must_use]
    pub fn pam_restarts(&self) -> u64 {
        self.0.pam.get().map_or(0, Pam::restarts)
    }

    /// Whether PAM is needed and its processes were never started.
    pub(super) fn lacks_pam(&self, plan: &plan::Auth) -> bool {
        plan.needs_pam() && self.0.pam.get().is_none()
    }

    /// Puts another plan into force: logins that begin from now on go by it, those under way end as they began.
    pub(super) fn follow(&self, plan: &plan::Auth, started: Option<pam::Started>) {
        if let Some(pam) = started.and_then(|started| Pam::new(started).ok()) {
            if let Some(events) = self.0.events.get() {
                pam.set_events(events.clone());
            }
            let _ = self.0.pam.set(pam);
        }
        if self.0.state.load().plan != *plan {
            self.0.state.store(Arc::new(State::of(plan)));
        }
    }

    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Judges a user and a password. `source`: `None` where the client has no address (unix sockets).
    pub async fn authenticate(&self, source: Option<IpAddr>, user: &[u8], password: &[u8]) -> Verdict {
        let state = self.0.state.load_full();
        let attempt = state.plan.first_attempt();
        let login = Login { state, source, user: user.to_vec(), password: Zeroizing::new(password.to_vec()) };
        let now = Instant::now();
        if self.0.is_banned(source, now) {
            return self.0.conclude(attempt, source, user, Verdict::Banned);
        }
        let key = login.key(&self.0.sealer);
        if let Some(identity) = locked(&self.0.cache).get(&key, now) {
            // Said when it was checked.
            self.0.counters.count(attempt, Outcome::Ok);
            return Verdict::Accepted(identity);
        }
        let verdict = self
            .board(key, {
                let inner = Arc::clone(&self.0);
                async move { login.check(&inner).await }
            })
            .await;
        self.0.conclude(attempt, source, user, verdict)
    }

    /// Judges the address of a client that has not said anything yet. An identity that comes with `Accepted` is nobody's.
    pub async fn admit_address(&self, source: Option<IpAddr>) -> Verdict {
        let state = self.0.state.load_full();
        let Some(service) = state.plan.client_pam_service.clone() else {
            return Verdict::Accepted(state::nobody());
        };
        let now = Instant::now();
        if self.0.is_banned(source, now) {
            return self.0.conclude(Attempt::Address, source, b"", Verdict::Banned);
        }
        let address = source.map(|source| source.to_canonical().to_string());
        let key =
            self.0.sealer.seal(&[b"address", service.name.as_bytes(), address.as_deref().unwrap_or("").as_bytes()]);
        if let Some(identity) = locked(&self.0.cache).get(&key, now) {
            self.0.counters.count(Attempt::Address, Outcome::Ok);
            return Verdict::Accepted(identity);
        }
        let verdict = self
            .board(key, {
                let inner = Arc::clone(&self.0);
                async move { login::check_address(&inner, &service, source, address).await }
            })
            .await;
        self.0.conclude(Attempt::Address, source, b"", verdict)
    }

    /// Waits for the check that `key` stands for, which goes on if whoever asked goes away: its work is bounded by what
    /// was begun, not by who still listens.
    async fn board(&self, key: Key, check: impl Future<Output = Verdict> + Send + 'static) -> Verdict {
        let (sender, answer) = oneshot::channel();
        let is_first = {
            let mut flights = locked(&self.0.flights);
            if flights.len() >= FLIGHTS && !flights.contains_key(&key) {
                return Verdict::Unavailable;
            }
            let passengers = flights.entry(key).or_default();
            passengers.push(sender);
            passengers.len() == 1
        };
        if is_first {
            let inner = Arc::clone(&self.0);
            tokio::spawn(async move {
                let verdict = check.await;
                if let Verdict::Accepted(identity) = &verdict {
                    locked(&inner.cache).insert(key, Arc::clone(identity), Instant::now());
                }
                for passenger in locked(&inner.flights).remove(&key).unwrap_or_default() {
                    let _ = passenger.send(verdict.clone());
                }
            });
        }
        answer.await.unwrap_or(Verdict::Unavailable)
    }
}

impl Inner {
    fn is_banned(&self, source: Option<IpAddr>, now: Instant) -> bool {
        source.is_some_and(|source| locked(&self.bans).is_banned(Source::of(source), now))
    }

    /// Counts one failed check against its source.
    fn fail(&self, source: Option<IpAddr>, state: &State) {
        let Some(source) = source else { return };
        let failures = state.plan.failures;
        if locked(&self.bans).fail(Source::of(source), failures, Instant::now()) {
            let seconds = failures.ban.as_secs();
            // For shards, which remember logins of theirs.
            banned::note(Source::of(source), clock_ms().saturating_add(seconds.saturating_add(1) * 1000));
            tracing::warn!(%source, seconds, "source banned after failed logins");
            if let Some(events) = self.events.get() {
                let details = serde_json::json!({ "source": source.to_string(), "seconds": seconds });
                events.say(Severity::Warning, Category::Auth, "source banned after failed logins", details);
            }
        }
    }

    fn conclude(&self, attempt: Attempt, source: Option<IpAddr>, user: &[u8], verdict: Verdict) -> Verdict {
        let outcome = Outcome::of(&verdict);
        self.counters.count(attempt, outcome);
        self.voice.say(attempt, outcome, source, user);
        verdict
    }
}
