//! Follows the addresses of backends that are given by host name.
//!
//! One task per name: it looks the name up, tells the shards when the set of addresses has changed, and sleeps until
//! the answer's TTL has run out. A lookup that fails leaves the last good addresses in use and is tried again soon.

mod lookup;
pub(in crate::control) mod order;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::plan::{Address, Resolve};
use crate::net;
use crate::shard::command::{Command, Mailbox, Snapshot};
use crate::types::Name;
use crate::upstream::state::BackendId;
use lookup::Answer;
pub(in crate::control) use lookup::{Family, Servers, System};

/// The addresses of backends, as shards get them.
pub(super) type Addresses = HashMap<BackendId, Arc<[SocketAddr]>>;

/// Longest wait between two tries while a name does not resolve.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often a name from the hosts file is looked at again.
const HOSTS_INTERVAL: Duration = Duration::from_secs(5);

/// What is followed; clones share it.
#[derive(Clone)]
pub(super) struct Known {
    addresses: Arc<Mutex<Addresses>>,
    shards: Arc<[Mailbox]>,
}

pub(super) struct Resolver {
    system: Arc<System>,
    known: Known,
    following: HashMap<Key, Following>,
}

/// A name, and how its TTLs are bounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    host: Name,
    ttl_min: Duration,
    ttl_max: Duration,
}

struct Following {
    backends: watch::Sender<Vec<(BackendId, u16)>>,
    /// True once there was a first answer, of whatever kind.
    answered: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Known {
    /// The addresses of all backends with host names, as far as they are known.
    pub(super) fn addresses(&self) -> Addresses {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The addresses of one backend now.
    pub(super) fn get(&self, backend: BackendId) -> Option<Arc<[SocketAddr]>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).get(&backend).cloned()
    }

    /// Remembers the addresses of a backend, and tells the shards if that is news.
    fn publish(&self, backend: BackendId, addresses: &Arc<[SocketAddr]>) {
        let before =
            self.addresses.lock().unwrap_or_else(PoisonError::into_inner).insert(backend, Arc::clone(addresses));
        if before.as_ref() == Some(addresses) {
            return;
        }
        for shard in self.shards.iter() {
            if let Err(error) = shard.send(Command::Addresses(backend, Arc::clone(addresses))) {
                tracing::warn!(?backend, %error, "a shard does not take new addresses");
            }
        }
    }
}

/// Asks as this system does: /etc/hosts and the servers of /etc/resolv.conf.
pub(super) fn system() -> System {
    System::new("/etc/hosts", Servers::ResolvConf("/etc/resolv.conf".into()))
}

impl Resolver {
    /// Asks as this system does.
    pub(super) fn new(shards: Arc<[Mailbox]>) -> Self {
        Self::with(system(), shards)
    }

    fn with(system: System, shards: Arc<[Mailbox]>) -> Self {
        let known = Known { addresses: Arc::default(), shards };
        Self { system: Arc::new(system), known, following: HashMap::new() }
    }

    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    /// Follows the host names of a snapshot, and no others from now on. Must be called inside the runtime.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) {
        let mut wanted: HashMap<Key, Vec<(BackendId, u16)>> = HashMap::new();
        for (upstream, state) in snapshot.plan.upstreams.iter().zip(&snapshot.upstreams) {
            let Resolve { ttl_min, ttl_max } = upstream.resolve;
            for backend in &state.backends {
                if let Address::Host { host, port } = &backend.address {
                    let key = Key { host: host.clone(), ttl_min, ttl_max };
                    wanted.entry(key).or_default().push((backend.id, *port));
                }
            }
        }
        self.following.retain(|key, _| wanted.contains_key(key));
        let ids: Vec<BackendId> = wanted.values().flatten().map(|(id, _)| *id).collect();
        self.known.addresses.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| ids.contains(id));
        for (key, backends) in wanted {
            match self.following.get(&key) {
                Some(following) => drop(following.backends.send(backends)),
                None => {
                    let following = self.start(&key, backends);
                    self.following.insert(key, following);
                }
            }
        }
    }

    fn start(&self, key: &Key, backends: Vec<(BackendId, u16)>) -> Following {
        let (backends, changes) = watch::channel(backends);
        let (first, answered) = watch::channel(false);
        let (key, system, known) = (key.clone(), Arc::clone(&self.system), self.known.clone());
        let task = tokio::spawn(async move { follow_name(&key, &system, &known, changes, &first).await });
        Following { backends, answered, task }
    }

    /// Waits until every name has had a first answer, but not longer than `limit` in all.
    pub(super) async fn settle(&self, limit: Duration) {
        let all = async {
            for following in self.following.values() {
                let mut answered = following.answered.clone();
                let _ = answered.wait_for(|answered| *answered).await;
            }
        };
        let _ = tokio::time::timeout(limit, all).await;
    }
}

/// Follows one name until its task is aborted.
async fn follow_name(
    key: &Key,
    system: &System,
    known: &Known,
    mut backends: watch::Receiver<Vec<(BackendId, u16)>>,
    first: &watch::Sender<bool>,
) {
    let mut record = Record::default();
    loop {
        let answer = system.look_up(&key.host).await;
        let verdict = record.take(key, answer);
        if let Verdict::Failed { error, .. } = &verdict {
            let in_use = record.addresses.len();
            if record.failures == 1 {
                tracing::warn!(host = %key.host, error = error.to_string(), in_use, "a backend's name does not resolve; trying again");
            } else {
                tracing::debug!(host = %key.host, %error, in_use, failures = record.failures, "still does not resolve");
            }
        } else if let Verdict::Changed { .. } = &verdict {
            tracing::info!(host = %key.host, addresses = ?record.addresses, "a backend's name has new addresses");
        }
        record.publish(&backends.borrow_and_update(), known);
        let _ = first.send(true);
        let next = tokio::time::sleep(verdict.wait());
        tokio::pin!(next);
        loop {
            tokio::select! {
                () = &mut next => break,
                // Another backend has this name now: it need not wait for the next lookup.
                changed = backends.changed() => match changed {
                    Ok(()) => record.publish(&backends.borrow_and_update(), known),
                    Err(_) => return,
                },
            }
        }
    }
}

/// What is known of a name.
#[derive(Debug, Default)]
struct Record {
    v6: Vec<IpAddr>,
    v4: Vec<IpAddr>,
    /// In the order in which they are tried.
    addresses: Vec<IpAddr>,
    /// Lookups in a row that told nothing.
    failures: u32,
}

/// What came of a lookup, and when to make the next.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Changed { wait: Duration },
    Same { wait: Duration },
    Failed { error: String, wait: Duration },
}

impl Verdict {
    fn wait(&self) -> Duration {
        match self {
            Self::Changed { wait } | Self::Same { wait } | Self::Failed { wait, .. } => *wait,
        }
    }
}

impl Record {
    /// Takes an answer in. A family that failed keeps what it had; a name is never left without addresses once it has
    /// had some.
    fn take(&mut self, key: &Key, answer: Answer) -> Verdict {
        let Answer { v6, v4 } = answer;
        let mut error = None;
        let mut ttl: Option<Duration> = None;
        let mut found = 0;
        let mut take = |family: Family, before: &[IpAddr]| match family {
            Family::Found(addresses, valid) => {
                found += 1;
                let valid = valid.map_or(HOSTS_INTERVAL, |valid| valid.min(key.ttl_max).max(key.ttl_min));
                ttl = Some(ttl.map_or(valid, |ttl| ttl.min(valid)));
                addresses
            }
            Family::Nothing => Vec::new(),
            Family::Failed(why) => {
                error.get_or_insert(why);
                before.to_vec()
            }
        };
        let (v6, v4) = (take(v6, &self.v6), take(v4, &self.v4));
        if found == 0 {
            self.failures += 1;
            let wait = key.ttl_min.saturating_mul(1 << (self.failures - 1).min(8)).min(RETRY_MAX.max(key.ttl_min));
            return Verdict::Failed { error: error.unwrap_or_else(|| "it has no address".into()), wait };
        }
        self.failures = 0;
        let wait = ttl.unwrap_or(key.ttl_min).max(Duration::from_millis(100));
        let is_same = same_set(&v6, &self.v6) && same_set(&v4, &self.v4);
        if is_same {
            return Verdict::Same { wait };
        }
        (self.v6, self.v4) = (v6, v4);
        self.addresses = order::order(&self.v6, &self.v4, net::is_routed);
        Verdict::Changed { wait }
    }

    fn publish(&self, backends: &[(BackendId, u16)], known: &Known) {
        if self.addresses.is_empty() {
            return;
        }
        for (backend, port) in backends {
            let addresses = self.addresses.iter().map(|address| SocketAddr::new(*address, *port)).collect();
            known.publish(*backend, &addresses);
        }
    }
}

/// Name servers turn their answers round; the order alone is no change.
fn same_set(a: &[IpAddr], b: &[IpAddr]) -> bool {
    a.iter().all(|address| b.contains(address)) && b.iter().all(|address| a.contains(address))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
