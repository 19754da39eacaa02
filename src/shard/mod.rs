//! One shard: a pinned executor with its own listeners, ring, buffers and timers. It shares nothing with the others but
//! the snapshot, the counters that it alone writes, and channels.

mod accept;
mod access;
mod attend;
pub mod command;
mod conn;
mod errands;
mod generation;
mod greet;
mod logins;
mod look;
mod negotiated;
mod reach;
mod reject;
mod seen;
mod session;
mod socks;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, Sender};
use glommio::{LocalExecutorBuilder, Placement};
use slab::Slab;

use crate::config::plan::{BusyPoll, Engine, OnDown, Outlier};
use crate::ring::{self, Features, Options, Pacing, Ring};
use crate::stats;
use crate::stats::counters::{ShardStats, add};
use crate::stats::latency::Latencies;
use crate::stats::summary::Summary;
use crate::tls::Gate;
use crate::types::{Blame, Reason, SessionId, ShardId};
use crate::upstream::dial::{DialError, Targets};
use crate::upstream::queue::Queues;
use crate::upstream::state::{BackendId, BackendState};
use crate::upstream::warm::Stocks;
use accept::Listening;
use command::{Answer, BindId, Command, Commission, Errand, Event, Handover, Inbox, Mailbox, Reply};
use errands::Errands;
use generation::Generation;
use logins::Logins;
use session::Live;

/// glommio's reactor gets its turn so often. Nothing on a shard waits for it.
const PREEMPT_TIMER: Duration = Duration::from_secs(1);
/// Completions that may wait to be reaped; every armed receive may have one at the same time.
const COMPLETIONS: u32 = 16 * 1024;
/// Between two looks at whether sessions have begun after the time to drain was over.
const CUT_AGAIN: Duration = Duration::from_millis(10);
/// Descriptors kept for everything but connections: logs, rings, DNS, checks, the admin API.
const DESCRIPTOR_RESERVE: u32 = 64;

/// What a shard is made of. It begins without listeners; the first [`command::Command::Apply`] brings them.
#[derive(Debug)]
pub struct Parts {
    pub id: ShardId,
    /// The CPU to pin to; `None`: not pinned.
    pub cpu: Option<usize>,
    pub engine: Engine,
    /// What the kernel can do, as probed once at start.
    pub features: Features,
    pub inbox: Inbox,
    pub stats: Arc<ShardStats>,
    pub events: Sender<Event>,
    /// Finished sessions, for the access log. A full channel drops and counts.
    pub summaries: Sender<Summary>,
    /// What control does for shards. A full channel refuses.
    pub errands: Sender<Commission>,
    /// The mailboxes of all shards, by [`ShardId`], this one's included.
    pub peers: Arc<[Mailbox]>,
}

/// Starts a shard on a thread of its own, named `shard-N`. The ring is made on that thread; when that fails the shard
/// says so by [`Event::Failed`] and ends. A shard ends after it has drained.
///
/// # Errors
/// When the thread cannot be made.
pub fn spawn(parts: Parts) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("shard-{}", parts.id.0)).spawn(move || {
        let (id, events) = (parts.id, parts.events.clone());
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(parts)));
        let failure = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".into(),
        };
        let _ = events.send(Event::Failed(id, failure));
    })
}

fn run(parts: Parts) -> io::Result<()> {
    if let Err(error) = ring::ask_for_short_slices() {
        tracing::debug!(shard = parts.id.0, %error, "the scheduler gives no short slices");
    }
    let placement = parts.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let executor = LocalExecutorBuilder::new(placement)
        .name(&format!("shard-{}", parts.id.0))
        .io_memory(0) // glommio's own files are not used here
        .preempt_timer(PREEMPT_TIMER)
        .make()
        .map_err(|error| io::Error::other(format!("the executor cannot be made: {error}")))?;
    executor.run(async move {
        let options = Options {
            buffer_size: parts.engine.buffer_size,
            buffers: parts.engine.buffers,
            max_buffers: parts.engine.max_buffers,
            completions: COMPLETIONS,
        };
        let ring = Ring::new(&options, parts.features)?;
        let stats = Arc::clone(&parts.stats);
        let (shard, inbox) = Shard::new(parts, ring.clone());
        glommio::spawn_local(Rc::clone(&shard).obey(inbox)).detach();
        ring.drive(&stats, || shard.turn()).await
    })
}

/// The state of a shard.
struct Shard {
    id: ShardId,
    ring: Ring,
    stats: Arc<ShardStats>,
    events: Sender<Event>,
    summaries: Sender<Summary>,
    queues: Rc<Queues>,
    stocks: Stocks,
    errands: Rc<Errands>,
    logins: Logins,
    /// Bounds the handshakes of one turn.
    gate: Gate,
    listening: RefCell<Vec<Rc<Listening>>>,
    /// Accept tasks that have not ended yet.
    accepting: Cell<usize>,
    current: RefCell<Option<Rc<Generation>>>,
    /// Addresses of the backends that have names.
    addresses: RefCell<HashMap<BackendId, Arc<[SocketAddr]>>>,
    sessions: RefCell<Slab<Rc<Live>>>,
    latencies: RefCell<Latencies>,
    random: Cell<u64>,
    busy_poll: Cell<BusyPoll>,
    /// Connections that the process may have before it runs out of descriptors.
    descriptor_limit: u32,
    draining: RefCell<Option<Reply<ShardId>>>,
    stopped: Cell<bool>,
}

impl Shard {
    fn new(parts: Parts, ring: Ring) -> (Rc<Self>, Inbox) {
        let (id, peers) = (parts.id, Arc::clone(&parts.peers));
        let tell = move |backend| {
            for (index, peer) in peers.iter().enumerate() {
                if index != usize::from(id.0) {
                    peer.hint(Command::SlotFreed(backend));
                }
            }
        };
        let limit = rlimit_nofile().saturating_sub(DESCRIPTOR_RESERVE + 16 * parts.peers.len() as u32);
        let shard = Rc::new(Self {
            id,
            queues: Queues::new(ring.clone(), tell),
            stocks: Stocks::new(ring.clone()),
            gate: Gate::default(),
            errands: Errands::new(id, ring.clone(), parts.errands),
            logins: Logins::new(),
            ring,
            stats: parts.stats,
            events: parts.events,
            summaries: parts.summaries,
            listening: RefCell::default(),
            accepting: Cell::new(0),
            current: RefCell::default(),
            addresses: RefCell::default(),
            sessions: RefCell::default(),
            latencies: RefCell::default(),
            random: Cell::new(RandomState::new().hash_one(id)),
            busy_poll: Cell::new(parts.engine.busy_poll),
            descriptor_limit: (limit / 2).max(1),
            draining: RefCell::default(),
            stopped: Cell::new(false),
        });
        (shard, parts.inbox)
    }

    fn id(&self) -> ShardId {
        self.id
    }

    fn ring(&self) -> &Ring {
        &self.ring
    }

    fn stats(&self) -> &ShardStats {
        &self.stats
    }

    fn queues(&self) -> &Rc<Queues> {
        &self.queues
    }

    fn stocks(&self) -> &Stocks {
        &self.stocks
    }

    /// Has control do what may block; `None` where it has too much to do already, or is gone.
    async fn ask(&self, errand: Errand) -> Option<Answer> {
        Some(self.errands.ask(errand)?.await)
    }

    fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Called by the driver once a turn.
    fn turn(&self) -> ControlFlow<(), Pacing> {
        if self.stopped.get() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(Pacing { busy_poll: self.busy_poll.get(), more_to_run: self.gate.turn() })
    }

    /// Takes commands for as long as the shard lives.
    async fn obey(self: Rc<Self>, inbox: Inbox) {
        let doorbell = self.ring.doorbell(match inbox.doorbell.try_clone() {
            Ok(doorbell) => doorbell,
            Err(error) => return self.fail(&error),
        });
        loop {
            if let Err(error) = doorbell.rung().await {
                return self.fail(&error);
            }
            self.obey_all(&inbox.commands);
        }
    }

    fn obey_all(self: &Rc<Self>, commands: &Receiver<Command>) {
        while let Ok(command) = commands.try_recv() {
            match command {
                Command::Apply(handover, reply) => {
                    self.apply(*handover);
                    reply.send(self.id);
                }
                Command::Addresses(backend, addresses) => {
                    self.addresses.borrow_mut().insert(backend, addresses);
                }
                Command::BackendDown(backend) => self.cut_backend(backend),
                Command::SlotFreed(backend) => self.queues.place_freed(backend),
                Command::Sessions(reply) => {
                    reply.send(self.sessions.borrow().iter().map(|(_, live)| live.summary(self)).collect());
                }
                Command::Look(ids, answers) => self.look(&ids, &answers),
                Command::SomeSessions { from, most, age, reply } => reply.send(self.some_sessions(from, most, age)),
                Command::Kill(id, reply) => reply.send(self.kill(id)),
                Command::Latencies(reply) => reply.send(self.latencies.borrow_mut().take()),
                Command::Done(ticket, answer) => self.errands.answer(ticket, answer),
                Command::Drain(limit, reply) => self.drain(limit, reply),
            }
        }
    }

    fn fail(&self, error: &io::Error) {
        let _ = self.events.send(Event::Failed(self.id, format!("its doorbell failed: {error}")));
    }

    /// Puts a snapshot into force. Nothing here can fail.
    fn apply(self: &Rc<Self>, handover: Handover) {
        let before = self.current.borrow().clone();
        let generation = Generation::new(handover.snapshot, handover.plugins, before.as_deref());
        self.busy_poll.set(generation.snapshot.plan.engine.busy_poll);
        self.addresses.replace(handover.addresses);
        let mut known: HashMap<BindId, Rc<Listening>> =
            self.listening.take().into_iter().map(|listening| (listening.id, listening)).collect();
        for bind in handover.binds {
            let listening = match (known.remove(&bind.id), bind.socket) {
                (Some(listening), _) => {
                    listening.renew(Rc::clone(&generation), bind.listener);
                    listening
                }
                (None, Some(socket)) => self.listen(bind.id, &generation, bind.listener, socket),
                (None, None) => continue,
            };
            self.listening.borrow_mut().push(listening);
        }
        known.values().for_each(|listening| listening.retire());
        self.keep_stocks(&generation);
        self.current.replace(Some(generation));
        self.queues.limits_changed();
        self.reevaluate();
    }

    /// Connections are made ahead for the backends that this generation wants them for.
    fn keep_stocks(self: &Rc<Self>, generation: &Generation) {
        let snapshot = &generation.snapshot;
        let wanted = snapshot.plan.upstreams.iter().zip(&snapshot.upstreams).flat_map(|(plan, state)| {
            let terms = plan.warm.filter(|warm| warm.connections > 0);
            let backends = terms.map(|terms| {
                state.backends.iter().map(move |backend| (Arc::clone(backend), terms, plan.source_address))
            });
            backends.into_iter().flatten()
        });
        let shard = Rc::clone(self);
        self.stocks.keep(wanted, move |backend| shard.targets(backend));
    }

    fn listen(
        self: &Rc<Self>,
        id: BindId,
        generation: &Rc<Generation>,
        listener: crate::types::ListenerIndex,
        socket: socket2::Socket,
    ) -> Rc<Listening> {
        let listening = Listening::new(id, Rc::clone(generation), listener);
        self.accepting.set(self.accepting.get() + 1);
        let (shard, task) = (Rc::clone(self), Rc::clone(&listening));
        let socket = self.ring.socket(socket.into());
        glommio::spawn_local(async move {
            accept::listen(Rc::clone(&shard), task, socket).await;
            shard.accepting.set(shard.accepting.get() - 1);
            shard.finish_drain();
        })
        .detach();
        listening
    }

    fn cut_backend(&self, backend: BackendId) {
        for (_, live) in self.sessions.borrow().iter() {
            let Some(used) = live.backend().filter(|used| used.id == backend) else { continue };
            let upstreams = &live.generation.snapshot.plan.upstreams;
            let closes = upstreams.iter().any(|plan| plan.name == used.upstream && plan.on_down == OnDown::Close);
            if closes {
                live.cut.cut(Reason::BackendDown, Blame::Upstream);
            }
        }
        self.ring.note_activity();
    }

    fn kill(&self, id: SessionId) -> bool {
        let sessions = self.sessions.borrow();
        let Some((_, live)) = sessions.iter().find(|(_, live)| live.id == id) else { return false };
        live.cut.cut(Reason::Killed, Blame::Policy);
        self.ring.note_activity();
        true
    }

    fn drain(self: &Rc<Self>, limit: Duration, reply: Reply<ShardId>) {
        self.listening.take().iter().for_each(|listening| listening.retire());
        self.stocks.clear();
        self.draining.replace(Some(reply));
        let shard = Rc::clone(self);
        glommio::spawn_local(async move {
            shard.ring.sleep(limit).await;
            loop {
                // What waits in an accept queue may become a session after the time is over.
                let is_last = shard.accepting.get() == 0;
                for (_, live) in shard.sessions.borrow().iter() {
                    live.cut.cut(Reason::Drained, Blame::Proxy);
                }
                shard.ring.note_activity();
                if is_last {
                    break;
                }
                shard.ring.sleep(CUT_AGAIN).await;
            }
        })
        .detach();
        self.finish_drain();
    }

    /// Ends the shard once it drains and nothing is left.
    fn finish_drain(&self) {
        let done = self.accepting.get() == 0 && self.sessions.borrow().is_empty();
        if done && let Some(reply) = self.draining.take() {
            reply.send(self.id);
            self.stopped.set(true);
            self.ring.note_activity();
        }
    }

    fn session_ended(&self) {
        if self.draining.borrow().is_some() {
            self.finish_drain();
        }
    }

    fn record(&self, summary: Summary) {
        if self.summaries.try_send(summary).is_err() {
            add(&self.stats.summaries_dropped, 1);
        }
    }

    fn connect_failed(&self, backend: &BackendState, outlier: Option<Outlier>, error: DialError) {
        add(&backend.counters[usize::from(self.id.0)].connect_failures, 1);
        if error.blame == Blame::Upstream && backend.connect_failed(stats::clock_ms(), outlier) {
            let _ = self.events.send(Event::Ejected(backend.id));
        }
    }

    fn targets(&self, backend: &BackendState) -> Targets {
        use crate::config::plan::Address;
        match &backend.address {
            Address::Endpoint(endpoint) => Targets::Endpoint(endpoint.clone()),
            Address::Host { .. } => {
                Targets::Addresses(self.addresses.borrow().get(&backend.id).cloned().unwrap_or_else(|| Arc::new([])))
            }
        }
    }

    /// How many connections more the process can have, each with a descriptor to either side.
    fn connections_before_descriptors_run_out(&self) -> u32 {
        let used = self.current.borrow().as_ref().map_or(0, |current| current.snapshot.connections.used());
        self.descriptor_limit.saturating_sub(used)
    }

    fn random(&self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014): for choices among equals, not for secrets.
        let state = self.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn new_session_id(&self) -> SessionId {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.random().to_ne_bytes());
        random[8..].copy_from_slice(&self.random().to_ne_bytes()[..2]);
        let id = uuid::Builder::from_unix_timestamp_millis(since_epoch.as_millis() as u64, &random);
        SessionId(id.into_uuid().as_u128())
    }

    /// A time of the ring's clock, which has passed, as people tell time.
    fn wall_clock(&self, at: Duration) -> SystemTime {
        SystemTime::now() - self.ring.now().saturating_sub(at)
    }
}

/// Descriptors that this process may have.
fn rlimit_nofile() -> u32 {
    crate::net::rlimit_nofile().unwrap_or(1024)
}
