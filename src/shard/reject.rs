//! Connections that never become sessions.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Shard;
use super::generation::Generation;
use crate::stats::counters::add;
use crate::stats::summary::Summary;
use crate::types::{Blame, Client, ListenerIndex, Protocol, Reason, Stage, State};

/// Counts a connection that was refused before it became a session.
pub(super) fn reject(
    shard: &Rc<Shard>,
    generation: &Rc<Generation>,
    listener: ListenerIndex,
    client: Client,
    reason: Reason,
) {
    let state = &generation.snapshot.listeners[usize::from(listener.0)];
    add(&state.counters[usize::from(shard.id().0)].rejected[reason as usize], 1);
    add(&shard.stats().rejected, 1);
    if generation.keeps_summaries() {
        shard.record(Summary {
            id: shard.new_session_id(),
            shard: shard.id(),
            generation: generation.snapshot.generation,
            listener: Arc::clone(&state.name),
            client,
            source: client,
            service: generation.snapshot.plan.listeners[usize::from(listener.0)].service,
            protocol: Protocol::Tcp,
            user: None,
            target: None,
            rule: None,
            tls: None,
            backend: None,
            remote: None,
            start: shard.wall_clock(shard.ring().now()),
            duration: Duration::ZERO,
            connect: None,
            first_byte: None,
            bytes_up: 0,
            bytes_down: 0,
            datagrams_up: 0,
            datagrams_down: 0,
            state: State::Rejected,
            stage: Stage::Accept,
            blame: Some(Blame::Policy),
            reason: Some(reason),
        });
    }
}
