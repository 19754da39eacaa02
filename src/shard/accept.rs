//! Accepting connections of one bound address. This task waits for the kernel and for a free place, never for a peer.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::Duration;

use socket2::SockRef;

use super::command::BindId;
use super::generation::Generation;
use super::reject::reject;
use super::session::{Leases, Session};
use super::{Shard, conn};
use crate::policy::permit::Permit;
use crate::policy::source::SourceLease;
use crate::ring::{Accept, Appetite, Socket};
use crate::stats::clock_ms;
use crate::stats::counters::add;
use crate::types::{Blame, Client, ListenerIndex, Reason, Stage};

/// Pause after an accept failed for want of descriptors or memory, and between looks at whether there are some again.
const BACK_OFF: Duration = Duration::from_millis(50);
/// While the process may have fewer connections than this before it runs out of descriptors, they are accepted one by
/// one: a multishot accept takes a whole queue at once, and each of its connections needs a second descriptor.
const ROOM_FOR_MANY: u32 = 4096 * 3 / 2;

/// One bound address on this shard.
pub(super) struct Listening {
    pub(super) id: BindId,
    generation: RefCell<Rc<Generation>>,
    listener: Cell<ListenerIndex>,
    retired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Listening {
    pub(super) fn new(id: BindId, generation: Rc<Generation>, listener: ListenerIndex) -> Rc<Self> {
        Rc::new(Self {
            id,
            generation: RefCell::new(generation),
            listener: Cell::new(listener),
            retired: Cell::new(false),
            waker: RefCell::default(),
        })
    }

    /// New connections belong to this generation's listener from now on.
    pub(super) fn renew(&self, generation: Rc<Generation>, listener: ListenerIndex) {
        self.generation.replace(generation);
        self.listener.set(listener);
    }

    /// Serves what waits in the accept queue, as the generation it belongs to says, and closes.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

enum Next {
    Connection(OwnedFd),
    Error(io::Error),
    /// No descriptors are left for another connection.
    Wait,
    Retired,
}

/// Accepts until the address is retired.
pub(super) async fn listen(shard: Rc<Shard>, listening: Rc<Listening>, socket: Socket) {
    let mut accept = socket.accept();
    loop {
        match next(&shard, &listening, &mut accept).await {
            Next::Connection(fd) => admit(&shard, &listening, fd),
            Next::Error(error) => {
                // ECONNABORTED and what a broken client may cause concern that connection alone.
                if let Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) = error.raw_os_error() {
                    add(&shard.stats().accept_errors, 1);
                    shard.ring().sleep(BACK_OFF).await;
                } else if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EBADF | libc::ENOTSOCK)) {
                    tracing::error!(shard = shard.id().0, %error, "a listening socket is broken");
                    shard.ring().sleep(Duration::from_secs(1)).await;
                }
            }
            Next::Wait => shard.ring().sleep(BACK_OFF).await,
            Next::Retired => break,
        }
    }
    drain(&shard, &listening, &socket, accept).await;
}

async fn next(shard: &Shard, listening: &Listening, accept: &mut Accept) -> Next {
    poll_fn(|context| {
        if listening.retired.get() {
            return Poll::Ready(Next::Retired);
        }
        let room = shard.connections_before_descriptors_run_out();
        if room == 0 {
            accept.pause();
            return Poll::Ready(Next::Wait);
        }
        listening.waker.replace(Some(context.waker().clone()));
        let appetite = if room >= ROOM_FOR_MANY { Appetite::Many } else { Appetite::One };
        accept.poll(context, appetite).map(|result| match result {
            Ok(connection) => Next::Connection(connection),
            Err(error) => Next::Error(error),
        })
    })
    .await
}

/// Closing a SO_REUSEPORT socket resets what waits in its queue, so that is served first.
async fn drain(shard: &Rc<Shard>, listening: &Listening, socket: &Socket, mut accept: Accept) {
    accept.pause();
    poll_fn(|context| accept.poll_paused(context)).await;
    while let Some(connection) = accept.take() {
        admit(shard, listening, connection);
    }
    if socket.options().set_nonblocking(true).is_ok() {
        // As many as the queue can hold: those that come meanwhile must not keep the shard here for ever.
        for _ in 0..=backlog(listening) {
            let Ok((connection, _)) = socket.options().accept() else { break };
            admit(shard, listening, connection.into());
        }
    }
}

fn backlog(listening: &Listening) -> u32 {
    let generation = listening.generation.borrow();
    generation.snapshot.plan.listeners[usize::from(listening.listener.get().0)].backlog
}

/// Counts a connection in and starts its task, or refuses it by closing it.
fn admit(shard: &Rc<Shard>, listening: &Listening, fd: OwnedFd) {
    let generation = Rc::clone(&listening.generation.borrow());
    let listener = listening.listener.get();
    let counters = &generation.snapshot.listeners[usize::from(listener.0)].counters[usize::from(shard.id().0)];
    add(&shard.stats().accepted, 1);
    add(&counters.accepted, 1);
    // getpeername(2): a multishot accept cannot tell the address. A client that has gone again has none.
    let client = match SockRef::from(&fd).peer_addr().map(|address| address.as_socket()) {
        Ok(Some(address)) => Client::Ip(canonical(address)),
        Ok(None) => Client::Unix,
        Err(_) => {
            add(&counters.failed[Stage::Accept as usize][Blame::Client as usize], 1);
            return;
        }
    };
    match policy(&generation, listener, client) {
        Ok((judged, leases)) => {
            let session = Session::begin(shard, &generation, listener, client, leases);
            let permit = judged.map(|(permit, lease)| {
                session.keep(lease);
                permit
            });
            let socket = match client {
                Client::Unix => shard.ring().unix_socket(fd),
                Client::Ip(_) => shard.ring().socket(fd),
            };
            glommio::spawn_local(conn::serve(session, Box::new(conn::Arrival { permit, client: socket }))).detach();
        }
        Err(reason) => reject(shard, &generation, listener, client, reason),
    }
}

/// What policy says of a source.
type Judged = (Permit, Option<SourceLease>);

/// What may refuse a connection as it arrives, cheapest first. Where a PROXY header is to tell who the client is, its
/// source is judged after that ([`judge_source`]), and `None` is given for it.
fn policy(
    generation: &Generation,
    listener: ListenerIndex,
    client: Client,
) -> Result<(Option<Judged>, Leases), Reason> {
    let plan = &generation.snapshot.plan.listeners[usize::from(listener.0)];
    let state = &generation.snapshot.listeners[usize::from(listener.0)];
    let has_header = plan.accept_proxy.is_some();
    if has_header && !plan.trusts(client.ip()) {
        return Err(Reason::ProxyNotTrusted);
    }
    if !has_header && !plan.admits(client.ip()) {
        return Err(Reason::SourceNotAllowed);
    }
    if !state.rate.take(clock_ms()) {
        return Err(Reason::AcceptRate);
    }
    let process = generation.snapshot.connections.lease().ok_or(Reason::ProcessMaxConnections)?;
    let of_listener = state.connections.lease().ok_or(Reason::ListenerMaxConnections)?;
    let judged = if has_header { None } else { Some(judge_source(generation, listener, client.ip())?) };
    Ok((judged, Leases { _process: process, _listener: of_listener }))
}

/// Judges by who the client really is.
pub(super) fn judge_source(
    generation: &Generation,
    listener: ListenerIndex,
    source: Option<IpAddr>,
) -> Result<Judged, Reason> {
    let plan = &generation.snapshot.plan.listeners[usize::from(listener.0)];
    let state = &generation.snapshot.listeners[usize::from(listener.0)];
    let permit = Permit::for_source(&plan.allow_sources, source)?;
    let lease = match (state.per_source.load(Ordering::Relaxed), source) {
        (0, _) | (_, None) => None,
        (limit, Some(ip)) => Some(state.sources.lease(ip, limit).ok_or(Reason::SourceMaxConnections)?),
    };
    Ok((permit, lease))
}

/// An IPv4-mapped client is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
