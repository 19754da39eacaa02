//! The states that live over reloads (counters, budgets, health): found again by name and address, made where new.
//!
//! Nothing in a state that is kept is changed here; the commit does that.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use super::prepare::{ListenerLimits, backend_connections, queue_size};
use crate::config::plan::{Address, Engine, Listener, Qos, Upstream};
use crate::limits;
use crate::policy::budget::Budget;
use crate::policy::rate::Rate;
use crate::policy::source::SourceTable;
use crate::policy::users::{Users, clock};
use crate::shard::command::Snapshot;
use crate::stats::counters::ListenerState;
use crate::upstream::state::{BackendId, BackendState, UpstreamState};

/// What the snapshot in force has, and what is added to it.
pub(super) struct States<'s> {
    listeners: HashMap<&'s str, &'s Arc<ListenerState>>,
    upstreams: HashMap<&'s str, &'s Arc<UpstreamState>>,
    connections: Option<&'s Arc<Budget>>,
    associations: Option<&'s Arc<SourceTable>>,
    users: Option<&'s Arc<Users>>,
    shards: u16,
    next_backend: u32,
}

impl<'s> States<'s> {
    pub(super) fn new(in_force: Option<&'s Snapshot>, shards: u16, next_backend: u32) -> Self {
        let listeners = in_force.map_or(&[][..], |snapshot| &snapshot.listeners);
        let upstreams = in_force.map_or(&[][..], |snapshot| &snapshot.upstreams);
        Self {
            listeners: listeners.iter().map(|state| (&*state.name, state)).collect(),
            upstreams: upstreams.iter().map(|state| (&*state.name, state)).collect(),
            connections: in_force.map(|snapshot| &snapshot.connections),
            associations: in_force.map(|snapshot| &snapshot.associations),
            users: in_force.map(|snapshot| &snapshot.users),
            shards,
            next_backend,
        }
    }

    pub(super) fn next_backend(&self) -> u32 {
        self.next_backend
    }

    pub(super) fn connections(&self, limit: u32) -> Arc<Budget> {
        self.connections.cloned().unwrap_or_else(|| Arc::new(Budget::new(limit)))
    }

    /// An association has three descriptors, so a process has not nearly so many.
    pub(super) fn associations(&self) -> Arc<SourceTable> {
        self.associations.cloned().unwrap_or_else(|| Arc::new(SourceTable::new(limits::UDP_ASSOCIATIONS)))
    }

    pub(super) fn users(&self, qos: &Qos) -> Arc<Users> {
        self.users.cloned().unwrap_or_else(|| Arc::new(Users::new(qos, clock())))
    }

    pub(super) fn listener(&self, listener: &Listener, engine: &Engine) -> Arc<ListenerState> {
        let limits = ListenerLimits::of(listener);
        let state = self.listeners.get(&*listener.name).map_or_else(
            || {
                Arc::new(ListenerState {
                    name: listener.name.clone(),
                    connections: Arc::new(Budget::new(limits.connections)),
                    rate: Rate::new(limits.rate),
                    sources: Arc::new(SourceTable::new(engine.max_connections)),
                    per_source: AtomicU32::new(limits.per_source),
                    counters: (0..self.shards).map(|_| CachePadded::default()).collect(),
                })
            },
            |state| Arc::clone(state),
        );
        if limits.per_source != 0 {
            state.sources.reserve();
        }
        state
    }

    /// The state of an upstream; the very same as before if its backends are.
    pub(super) fn upstream(&mut self, upstream: &Upstream) -> Arc<UpstreamState> {
        let before = self.upstreams.get(&*upstream.name).copied();
        let backends = self.backends(upstream, before);
        if let Some(before) = before
            && before.backends.len() == backends.len()
            && before.backends.iter().zip(&backends).all(|(old, new)| Arc::ptr_eq(old, new))
        {
            return Arc::clone(before);
        }
        let turn = before.map_or(0, |before| before.turn.load(Ordering::Relaxed));
        let waiting =
            before.map_or_else(|| Arc::new(Budget::new(queue_size(upstream))), |before| Arc::clone(&before.waiting));
        let turn = CachePadded::new(AtomicU64::new(turn));
        Arc::new(UpstreamState { name: upstream.name.clone(), backends, turn, waiting })
    }

    fn backends(&mut self, upstream: &Upstream, before: Option<&Arc<UpstreamState>>) -> Vec<Arc<BackendState>> {
        let mut known: HashMap<&Address, Vec<&Arc<BackendState>>> = HashMap::new();
        for state in before.into_iter().flat_map(|before| before.backends.iter().rev()) {
            known.entry(&state.address).or_default().push(state);
        }
        let mut backends = Vec::with_capacity(upstream.backends.len());
        for backend in &upstream.backends {
            let state = known.get_mut(&backend.address).and_then(Vec::pop).cloned().unwrap_or_else(|| {
                self.next_backend += 1;
                let limit = backend_connections(upstream);
                let (id, name) = (BackendId(self.next_backend), upstream.name.clone());
                Arc::new(BackendState::new(id, name, backend.address.clone(), limit, self.shards))
            });
            backends.push(state);
        }
        backends
    }
}
