//! Acquires what a plan needs: plan + what is in force -> snapshot + sockets for every shard.
//!
//! Preparing may fail, with every error at once, and is then thrown away whole: the new sockets close, the new socket
//! files go, and nothing that runs has noticed. Committing cannot fail. Addresses that are already bound keep their
//! sockets, whatever listener they belong to now; control itself keeps no descriptor of any of them, so that a shard
//! that closes a retired socket really ends it. For the same reason a changed `backlog` or `fast_open` counts for
//! addresses that are bound from then on.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::auth;
use super::bound::{Held, Want, match_up};
use super::handle::{Bound, View};
use super::plugins;
use super::states::States;
use super::tls::{self, Store};
use super::watch::Content;
use crate::config::plan::{Listener, Plan, Upstream};
use crate::net;
use crate::policy::acl::{Acl, Own};
use crate::policy::budget::Budget;
use crate::policy::rate::Rate;
use crate::policy::users::clock;
use crate::shard::command::{Bind, BindId, Handed, Handover, Snapshot};
use crate::types::{Endpoint, Generation, Service};
use crate::upstream::state::BackendId;

/// What is in force, and the numbers that were given out so far.
#[derive(Debug, Clone, Default)]
pub(super) struct InForce {
    snapshot: Option<Arc<Snapshot>>,
    held: Vec<Held>,
    /// What TLS and the access rules were loaded from, as it was before.
    tls_files: Vec<Content>,
    next_bind: u32,
    next_backend: u32,
    /// The file that plans come from: whoever may change it may change plugins.
    config: Option<PathBuf>,
}

/// A plan with everything it needs. Dropping it undoes all of that.
#[derive(Debug)]
pub(super) struct Prepared {
    snapshot: Arc<Snapshot>,
    held: Vec<Held>,
    /// The binds of each shard.
    binds: Vec<Vec<Bind>>,
    /// Addresses that were bound for this plan.
    new: usize,
    /// Addresses that were bound and are not wanted any more.
    retired: Vec<Held>,
    new_paths: NewPaths,
    tls_files: Vec<Content>,
    warnings: Vec<Problem>,
    next_bind: u32,
    next_backend: u32,
    /// The plugins of each shard.
    plugins: Vec<Vec<Handed>>,
    config: Option<PathBuf>,
}

/// Something that a plan needs and that could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// Where in the configuration what is wanted stands, from 1.
    pub line: u32,
    pub column: u32,
    pub message: String,
    /// Somebody else listens there, who may be about to go.
    pub is_in_use: bool,
    /// What the configuration names is wrong, rather than this machine.
    pub is_configuration: bool,
}

/// Socket files of listeners that are not in force yet; removed when that never happens.
#[derive(Debug, Default)]
struct NewPaths(Vec<PathBuf>);

impl Drop for NewPaths {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// How the addresses of a commit differ from those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moved {
    pub new: usize,
    pub kept: usize,
    pub retired: usize,
}

impl InForce {
    /// Nothing yet, before plans from this file.
    pub(super) fn nothing(config: Option<&Path>) -> Self {
        Self { config: config.map(Path::to_owned), ..Self::default() }
    }

    /// `None` before the first commit.
    pub(super) fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.snapshot.as_ref()
    }

    /// The files of its certificates, keys and authorities, as they were before they were loaded.
    pub(super) fn tls_files(&self) -> &[Content] {
        &self.tls_files
    }

    /// What the rest of control sees of it.
    pub(super) fn view(&self, snapshot: &Arc<Snapshot>, draining: bool) -> View {
        let bound = |held: &Held| Bound { id: held.id, listener: held.index, address: held.bound.clone() };
        View { snapshot: Arc::clone(snapshot), binds: self.held.iter().map(bound).collect(), draining }
    }

    /// Nobody listens on them any more.
    pub(super) fn remove_socket_files(&self) {
        for path in self.held.iter().filter_map(Held::path) {
            remove_socket_file(path);
        }
    }
}

/// Acquires what `plan` needs beyond what is `now` in force.
///
/// # Errors
/// Every address that cannot be bound and every file that cannot be used; nothing has changed then.
pub(super) fn prepare(plan: Plan, now: &InForce, shards: u16) -> Result<Prepared, Vec<Problem>> {
    let wants: Vec<Want<'_>> = plan.listeners.iter().flat_map(Want::of).collect();
    let (matches, retired) = match_up(&wants, &now.held);
    // At the first start nobody else may listen there; asked of all before any is bound, as a wildcard of ours and an
    // address of ours may share a port.
    let first = now.held.is_empty();
    let mut problems: Vec<Problem> = wants.iter().filter(|_| first).filter_map(|want| want.taken()).collect();
    problems.extend(auth::problems(&plan.auth));
    let addresses = own_addresses(&plan).unwrap_or_else(|problem| {
        problems.push(problem);
        Vec::new()
    });
    if !problems.is_empty() {
        return Err(problems);
    }
    let tls = tls::acquire(&plan, now.snapshot.as_deref(), Store::Kept(&plan.engine.state_dir));
    let tls = tls.unwrap_or_else(|mut wrong| {
        problems.append(&mut wrong);
        tls::Acquired::default()
    });
    let mut new_paths = NewPaths::default();
    let mut binds: Vec<Vec<Bind>> = (0..shards).map(|_| Vec::with_capacity(wants.len())).collect();
    let mut held = Vec::with_capacity(wants.len());
    let mut next_bind = now.next_bind;
    let mut new = 0;
    let mut seen = HashSet::new();
    for (want, kept) in wants.iter().zip(matches) {
        if !want.is_any_port() && !seen.insert(want.endpoint) {
            problems.push(want.problem("is listed twice"));
            continue;
        }
        let (id, bound, sockets) = match kept {
            Some(kept) => (kept.id, kept.bound.clone(), Vec::new()),
            None => match want.bind(shards) {
                Ok((bound, sockets)) => {
                    next_bind += 1;
                    new += 1;
                    if let Endpoint::Unix(path) = &bound {
                        new_paths.0.push(path.clone());
                    }
                    (BindId(next_bind), bound, sockets)
                }
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            },
        };
        let index = want.listener.index;
        let mut sockets = sockets.into_iter();
        for shard in &mut binds {
            shard.push(Bind { id, listener: index, address: bound.clone(), socket: sockets.next() });
        }
        held.push(Held { id, index, listener: want.listener.name.clone(), configured: want.endpoint.clone(), bound });
    }
    let generation = Generation(now.snapshot.as_ref().map_or(1, |snapshot| snapshot.generation.0 + 1));
    let plugins = plugins::prepare(&plan, now.snapshot.as_deref(), now.config.as_deref(), generation, shards);
    let plugins = match plugins {
        Ok(plugins) if problems.is_empty() => plugins,
        Ok(_) => return Err(problems),
        Err(more) => {
            problems.extend(more);
            return Err(problems);
        }
    };
    let mut states = States::new(now.snapshot.as_deref(), shards, now.next_backend);
    let own = held.iter().filter_map(|held| match held.bound {
        Endpoint::Ip(address) => Some(address),
        Endpoint::Unix(_) => None,
    });
    let own = own
        .chain(plan.admin.listen.as_ref().map(|listen| listen.address))
        .chain(plan.demo.as_ref().map(|demo| demo.hello));
    let own = Own::new(addresses, own);
    let before = now.snapshot.as_ref().map(|snapshot| &*snapshot.acl);
    let acl = Arc::new(Acl::compile(plan.acl.default, &plan.acl.rules, own, before));
    let acl_file = plan.acl.file.as_ref().map(|file| Content::read(&file.path, file.digest));
    let mut warnings = tls.warnings;
    warnings.extend(auth::warnings(&plan, now.config.as_deref()));
    let snapshot = Snapshot {
        generation,
        listeners: plan.listeners.iter().map(|listener| states.listener(listener, &plan.engine)).collect(),
        upstreams: plan.upstreams.iter().map(|upstream| states.upstream(upstream)).collect(),
        tls: tls.listeners,
        upstream_tls: tls.upstreams,
        connections: states.connections(plan.engine.max_connections),
        associations: states.associations(),
        users: states.users(&plan.qos),
        acl,
        plugins: plugins.processes,
        watches: plugins.watches,
        plan,
    };
    let next_backend = states.next_backend();
    Ok(Prepared {
        snapshot: Arc::new(snapshot),
        held,
        binds,
        new,
        retired,
        new_paths,
        tls_files: tls.files.into_iter().chain(acl_file).collect(),
        warnings,
        next_bind,
        next_backend,
        plugins: plugins.handed,
        config: now.config.clone(),
    })
}

impl Prepared {
    pub(super) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// What works today, and may not for long.
    pub(super) fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Puts limits into force, removes the socket files of retired addresses, and gives the handovers that the shards
    /// must get. `addresses` are those of the backends with host names.
    pub(super) fn commit(
        mut self,
        addresses: &HashMap<BackendId, Arc<[SocketAddr]>>,
    ) -> (InForce, Vec<Handover>, Moved) {
        self.new_paths.0.clear();
        for path in self.retired.iter().filter_map(Held::path) {
            // Before the shards hear of it: whoever comes now finds no file, rather than a socket about to close.
            remove_socket_file(path);
        }
        set_limits(&self.snapshot);
        self.snapshot.plugins.iter().for_each(|process| process.enable());
        let handover = |(binds, plugins)| Handover {
            snapshot: Arc::clone(&self.snapshot),
            binds,
            addresses: addresses.clone(),
            plugins,
        };
        let handovers = self.binds.into_iter().zip(self.plugins).map(handover).collect();
        let moved = Moved { new: self.new, kept: self.held.len() - self.new, retired: self.retired.len() };
        let in_force = InForce {
            snapshot: Some(self.snapshot),
            held: self.held,
            tls_files: self.tls_files,
            next_bind: self.next_bind,
            next_backend: self.next_backend,
            config: self.config,
        };
        (in_force, handovers, moved)
    }
}

/// The addresses of this machine, where clients choose where they go.
fn own_addresses(plan: &Plan) -> Result<Vec<IpAddr>, Problem> {
    let Some(listener) = plan.listeners.iter().find(|listener| listener.service == Service::Socks5) else {
        return Ok(Vec::new());
    };
    // Without them clients could get at what this machine serves to itself.
    net::own_addresses().map_err(|error| Problem {
        line: listener.line,
        column: 1,
        message: format!(
            "the addresses of this machine cannot be listed, which `[acl]` must know: {error} (under systemd, \
             RestrictAddressFamilies= must have AF_NETLINK)"
        ),
        is_in_use: false,
        is_configuration: false,
    })
}

fn remove_socket_file(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "the socket file of a listener that has ended cannot be removed");
    }
}

/// Brings the limits of states that were kept to what the plan says.
fn set_limits(snapshot: &Snapshot) {
    snapshot.connections.set_limit(snapshot.plan.engine.max_connections);
    snapshot.users.set(&snapshot.plan.qos, clock());
    for (listener, state) in snapshot.plan.listeners.iter().zip(&snapshot.listeners) {
        let limits = ListenerLimits::of(listener);
        state.connections.set_limit(limits.connections);
        state.rate.set_limit(limits.rate);
        state.per_source.store(limits.per_source, Ordering::Relaxed);
    }
    for (upstream, state) in snapshot.plan.upstreams.iter().zip(&snapshot.upstreams) {
        state.waiting.set_limit(queue_size(upstream));
        for backend in &state.backends {
            backend.connections.set_limit(backend_connections(upstream));
        }
    }
}

/// The limits of a listener in the form that its state has.
pub(super) struct ListenerLimits {
    pub connections: u32,
    pub rate: u32,
    /// 0: no limit.
    pub per_source: u32,
}

impl ListenerLimits {
    pub(super) fn of(listener: &Listener) -> Self {
        Self {
            connections: listener.max_connections.unwrap_or(Budget::UNLIMITED),
            rate: listener.accept_rate.unwrap_or(Rate::UNLIMITED),
            per_source: listener.max_connections_per_source.unwrap_or(0),
        }
    }
}

pub(super) fn queue_size(upstream: &Upstream) -> u32 {
    upstream.queue.map_or(0, |queue| queue.size)
}

pub(super) fn backend_connections(upstream: &Upstream) -> u32 {
    upstream.max_connections_per_backend.unwrap_or(Budget::UNLIMITED)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "prepare_tests.rs"]
mod tests;
