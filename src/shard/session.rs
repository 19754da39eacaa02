//! Sessions: one accepted connection each. The guard counts it in, and out again however it ends.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Shard;
use super::access::Asked;
use super::generation::Generation;
use super::negotiated::Negotiated;
use super::seen::Seen;
use crate::config::plan;
use crate::policy::budget::Lease;
use crate::policy::pace::Pace;
use crate::policy::source::SourceLease;
use crate::policy::user::Membership;
use crate::policy::users::clock;
use crate::relay::sight::Sight;
use crate::relay::{Cut, Direction};
use crate::stats::counters::{Handshake, ListenerCounters, add, sub};
use crate::stats::datagrams::Datagrams;
use crate::stats::latency::Measure;
use crate::stats::summary::{Summary, TlsFacts};
use crate::types::{Blame, Client, ListenerIndex, Name, Protocol, Reason, Service, SessionId, Stage, State};
use crate::upstream::queue::Place;
use crate::upstream::state::BackendState;

/// What is known of a live session; the shard's table shares it with the session's task.
pub(super) struct Live {
    pub(super) id: SessionId,
    pub(super) client: Client,
    /// What a PROXY header said of it.
    source: Cell<Option<Client>>,
    /// What only sessions of SOCKS have.
    negotiated: OnceCell<Box<Negotiated>>,
    tls: RefCell<Option<Arc<TlsFacts>>>,
    pub(super) generation: Rc<Generation>,
    pub(super) listener: ListenerIndex,
    /// On the ring's clock, as all times here.
    start: Duration,
    stage: Cell<Stage>,
    backend: OnceCell<Arc<BackendState>>,
    connect: Cell<Option<Duration>>,
    first_byte: Cell<Option<Duration>>,
    bytes_up: Cell<u64>,
    bytes_down: Cell<u64>,
    pub(super) cut: Cut,
}

/// What counts a connection against limits until it is dropped.
#[derive(Debug)]
pub(super) struct Leases {
    pub(super) _process: Lease,
    pub(super) _listener: Lease,
}

/// How a session ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    pub(super) state: State,
    pub(super) reason: Reason,
    pub(super) blame: Option<Blame>,
}

impl Outcome {
    pub(super) const fn failed(reason: Reason, blame: Blame) -> Self {
        Self { state: State::Failed, reason, blame: Some(blame) }
    }
}

/// A session in progress. Dropped without [`Session::end`], its task panicked.
pub(super) struct Session {
    shard: Rc<Shard>,
    live: Rc<Live>,
    key: usize,
    _leases: Leases,
    of_source: Cell<Option<SourceLease>>,
    of_user: OnceCell<Membership>,
    outcome: Option<Outcome>,
}

impl Live {
    fn listener<'a>(&'a self, shard: &Shard) -> &'a ListenerCounters {
        &self.generation.snapshot.listeners[usize::from(self.listener.0)].counters[usize::from(shard.id().0)]
    }

    /// Who the client really is.
    pub(super) fn source(&self) -> Client {
        self.source.get().unwrap_or(self.client)
    }

    fn service(&self) -> Service {
        self.generation.snapshot.plan.listeners[usize::from(self.listener.0)].service
    }

    fn negotiated(&self) -> &Negotiated {
        self.negotiated.get_or_init(Box::default)
    }

    pub(super) fn asked(&self) -> Option<Asked> {
        self.negotiated.get()?.asked.borrow().clone()
    }

    pub(super) fn remote(&self) -> Option<SocketAddr> {
        self.negotiated.get()?.remote.get()
    }

    /// Notes the rule that decided.
    pub(super) fn set_rule(&self, rule: Option<Arc<str>>) {
        self.negotiated().rule.replace(rule);
    }

    pub(super) fn target(&self) -> Option<Arc<str>> {
        self.negotiated.get()?.target.borrow().clone()
    }

    pub(super) fn user(&self) -> Option<Name> {
        self.negotiated.get()?.user.borrow().clone()
    }

    fn rule(&self) -> Option<Arc<str>> {
        self.negotiated.get()?.rule.borrow().clone()
    }

    fn protocol(&self) -> Protocol {
        let is_association = self.negotiated.get().is_some_and(|negotiated| negotiated.is_association.get());
        if is_association { Protocol::Udp } else { Protocol::Tcp }
    }

    /// What it has done so far as a UDP association.
    pub(super) fn seen(&self) -> &Seen {
        self.negotiated().seen.get_or_init(Box::default)
    }

    /// How it stands; `None` where it is no UDP association.
    pub(super) fn sight(&self, now: Duration) -> Option<Sight> {
        Some(self.negotiated.get()?.seen.get()?.sight(now, self.datagrams()))
    }

    fn datagrams(&self) -> [u64; 2] {
        self.negotiated.get().map_or([0; 2], |negotiated| negotiated.datagrams.get())
    }

    pub(super) fn tls(&self) -> Option<Arc<TlsFacts>> {
        self.tls.borrow().clone()
    }

    pub(super) fn backend(&self) -> Option<&Arc<BackendState>> {
        self.backend.get()
    }

    pub(super) fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.start)
    }

    pub(super) fn summary(&self, shard: &Shard) -> Summary {
        let [datagrams_up, datagrams_down] = self.datagrams();
        let since = |at: Duration, from: Duration| at.saturating_sub(from);
        Summary {
            id: self.id,
            shard: shard.id(),
            generation: self.generation.snapshot.generation,
            listener: Arc::clone(&self.generation.snapshot.plan.listeners[usize::from(self.listener.0)].name),
            client: self.client,
            source: self.source(),
            service: self.service(),
            protocol: self.protocol(),
            user: self.user(),
            target: self.target(),
            rule: self.rule(),
            tls: self.tls(),
            backend: self.backend.get().cloned(),
            remote: self.remote(),
            start: shard.wall_clock(self.start),
            duration: since(shard.ring().now(), self.start),
            connect: self.connect.get(),
            first_byte: self.first_byte.get(),
            bytes_up: self.bytes_up.get(),
            bytes_down: self.bytes_down.get(),
            datagrams_up,
            datagrams_down,
            state: State::Active,
            stage: self.stage.get(),
            blame: None,
            reason: None,
        }
    }
}

impl Session {
    /// Counts a connection in.
    pub(super) fn begin(
        shard: &Rc<Shard>,
        generation: &Rc<Generation>,
        listener: ListenerIndex,
        client: Client,
        leases: Leases,
    ) -> Self {
        let live = Rc::new(Live {
            id: shard.new_session_id(),
            client,
            source: Cell::new(None),
            negotiated: OnceCell::new(),
            tls: RefCell::default(),
            generation: Rc::clone(generation),
            listener,
            start: shard.ring().now(),
            stage: Cell::new(Stage::Route),
            backend: OnceCell::new(),
            connect: Cell::new(None),
            first_byte: Cell::new(None),
            bytes_up: Cell::new(0),
            bytes_down: Cell::new(0),
            cut: Cut::default(),
        });
        add(&shard.stats().active, 1);
        add(&live.listener(shard).active, 1);
        let key = shard.sessions.borrow_mut().insert(Rc::clone(&live));
        Self {
            shard: Rc::clone(shard),
            live,
            key,
            _leases: leases,
            of_source: Cell::new(None),
            of_user: OnceCell::new(),
            outcome: None,
        }
    }

    pub(super) fn shard(&self) -> &Rc<Shard> {
        &self.shard
    }

    pub(super) fn live(&self) -> &Live {
        &self.live
    }

    pub(super) fn generation(&self) -> &Generation {
        &self.live.generation
    }

    /// The generation in force now: who may log in is a matter of the moment, not of when the connection began.
    pub(super) fn in_force(&self) -> Rc<Generation> {
        let current = self.shard.current.borrow();
        Rc::clone(current.as_ref().unwrap_or(&self.live.generation))
    }

    pub(super) fn listener(&self) -> &plan::Listener {
        &self.live.generation.snapshot.plan.listeners[usize::from(self.live.listener.0)]
    }

    pub(super) fn listener_index(&self) -> usize {
        usize::from(self.live.listener.0)
    }

    /// Who the client really is.
    pub(super) fn source(&self) -> Option<IpAddr> {
        self.live.source().ip()
    }

    /// Notes what a PROXY header said.
    pub(super) fn set_source(&self, source: Client) {
        self.live.source.set(Some(source));
    }

    /// Counts the session against its source until it ends.
    pub(super) fn keep(&self, lease: Option<SourceLease>) {
        self.of_source.set(lease);
    }

    /// Notes who the client has proved to be, and counts the session as one of the user's until it ends.
    ///
    /// # Errors
    /// When the user may have no more.
    pub(super) fn set_user(&self, user: Name) -> Result<(), Reason> {
        self.live.negotiated().user.replace(Some(Name::clone(&user)));
        let _ = self.of_user.set(self.generation().snapshot.users.enter(&user, clock())?);
        Ok(())
    }

    /// How fast the session may go.
    pub(super) fn pace(&self) -> Pace {
        let users = &self.generation().snapshot.users;
        self.of_user.get().map_or_else(|| Pace::anonymous(users), |membership| Pace::of(users, membership))
    }

    /// Notes where the client wants to go.
    pub(super) fn set_target(&self, target: Arc<str>) {
        self.live.negotiated().target.replace(Some(target));
    }

    /// Notes what is judged, so that it can be judged again.
    pub(super) fn set_asked(&self, asked: Asked) {
        self.live.negotiated().asked.replace(Some(asked));
    }

    /// Notes the rule that decided.
    pub(super) fn set_rule(&self, rule: Option<Arc<str>>) {
        self.live.set_rule(rule);
    }

    pub(super) fn set_tls(&self, facts: TlsFacts) {
        self.live.tls.replace(Some(Arc::new(facts)));
    }

    /// Counts a handshake with the client.
    pub(super) fn handshake(&self, handshake: Handshake) {
        add(&self.live.listener(&self.shard).handshakes[handshake as usize], 1);
    }

    pub(super) fn measure(&self, measure: Measure, took: Duration) {
        self.shard.latencies.borrow_mut().record(measure, took);
    }

    pub(super) fn set_stage(&self, stage: Stage) {
        self.live.stage.set(stage);
    }

    /// Notes that the session is connected to the backend of `place`; dialling took `connect`.
    pub(super) fn connected(&self, place: &Place, connect: Duration) {
        add(&place.backend().counters[usize::from(self.shard.id().0)].connects, 1);
        let _ = self.live.backend.set(Arc::clone(place.backend()));
        self.note_connect(connect);
    }

    /// Likewise, without a backend of the configuration.
    pub(super) fn connected_to(&self, remote: SocketAddr, connect: Duration) {
        self.live.negotiated().remote.set(Some(remote));
        self.note_connect(connect);
    }

    fn note_connect(&self, connect: Duration) {
        self.set_stage(Stage::FirstByte);
        self.live.connect.set(Some(connect));
        self.shard.latencies.borrow_mut().record(Measure::Connect, connect);
    }

    pub(super) fn awaits_first_byte(&self) -> bool {
        self.live.first_byte.get().is_none()
    }

    /// Notes how long after connecting the upstream's first byte came.
    pub(super) fn first_byte(&self, after: Duration) {
        self.live.first_byte.set(Some(after));
        self.shard.latencies.borrow_mut().record(Measure::FirstByte, after);
    }

    /// Counts bytes that were sent on; a negative number takes back what was not sent after all.
    pub(super) fn count(&self, direction: Direction, bytes: i64) {
        // Counters wrap, so that adding a negative number subtracts.
        let bytes = bytes as u64;
        if let Some(user) = self.of_user.get()
            && !user.count(direction == Direction::Up, bytes)
        {
            self.live.cut.cut(Reason::Quota, Blame::Policy);
            self.shard.ring().note_activity();
        }
        let (shard, listener) = (self.shard.stats(), self.live.listener(&self.shard));
        let backend = self.live.backend().map(|backend| &backend.counters[usize::from(self.shard.id().0)]);
        match direction {
            Direction::Up => {
                self.live.bytes_up.set(self.live.bytes_up.get().wrapping_add(bytes));
                add(&shard.bytes_up, bytes);
                add(&listener.bytes_up, bytes);
                if let Some(backend) = backend {
                    add(&backend.bytes_up, bytes);
                }
            }
            Direction::Down => {
                self.live.stage.set(Stage::Relay);
                self.live.bytes_down.set(self.live.bytes_down.get().wrapping_add(bytes));
                add(&shard.bytes_down, bytes);
                add(&listener.bytes_down, bytes);
                if let Some(backend) = backend {
                    add(&backend.bytes_down, bytes);
                }
            }
        }
    }

    /// Counts datagrams that were sent on, with their payload, as [`Session::count`].
    pub(super) fn count_datagrams(&self, direction: Direction, datagrams: i64, bytes: i64) {
        self.count(direction, bytes);
        let mut counts = self.live.datagrams();
        counts[direction as usize] = counts[direction as usize].wrapping_add(datagrams as u64);
        self.live.negotiated().datagrams.set(counts);
        let totals = self.datagrams();
        let total = if direction == Direction::Up { &totals.up } else { &totals.down };
        add(total, datagrams as u64);
    }

    /// The listener's counts of datagrams.
    pub(super) fn datagrams(&self) -> &Datagrams {
        &self.live.listener(&self.shard).datagrams
    }

    /// Notes that the session is an association for datagrams.
    pub(super) fn becomes_association(&self) {
        self.live.negotiated().is_association.set(true);
    }

    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let shard = &self.shard;
        let live = &self.live;
        shard.sessions.borrow_mut().remove(self.key);
        let outcome = self.outcome.unwrap_or_else(|| {
            add(&shard.stats().panics, 1);
            Outcome::failed(Reason::Panic, Blame::Proxy)
        });
        let counters = live.listener(shard);
        sub(&shard.stats().active, 1);
        sub(&counters.active, 1);
        match (outcome.state, outcome.blame) {
            (State::Failed, Some(blame)) => {
                add(&counters.failed[live.stage.get() as usize][blame as usize], 1);
                add(&shard.stats().failed, 1);
            }
            (State::Rejected, _) => {
                add(&counters.rejected[outcome.reason as usize], 1);
                add(&shard.stats().rejected, 1);
            }
            _ => add(&counters.closed, 1),
        }
        let mut latencies = shard.latencies.borrow_mut();
        latencies.record(Measure::Session, shard.ring().now().saturating_sub(live.start));
        drop(latencies);
        if live.generation.keeps_summaries() {
            let mut summary = live.summary(shard);
            summary.state = outcome.state;
            summary.reason = Some(outcome.reason);
            summary.blame = outcome.blame;
            shard.record(summary);
        }
        shard.session_ended();
    }
}
