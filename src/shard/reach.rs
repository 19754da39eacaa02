//! Reaching a backend: a place in its upstream, a dial with retries, and what a backend is told before anything else.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{Ordering, fence};

use smallvec::SmallVec;

use super::attend::{attended, broken};
use super::greet::{Greeted, Hello};
use super::session::{Outcome, Session};
use crate::codec::proxy_header::{Facts, Origin, Outgoing, Ssl, Version};
use crate::config::plan::{self, ProxyTlvs, SendProxy};
use crate::policy::permit::Permit;
use crate::ring::{First, Inlet, Queue, Socket};
use crate::stats;
use crate::tls::{self, HandshakeError};
use crate::types::{Blame, Client, Reason, Stage, State, UpstreamIndex};
use crate::upstream::balance::{Asker, Choice};
use crate::upstream::dial::{self, DialError, dial};
use crate::upstream::queue::{Grant, Place};

/// Received from a client while its backend is dialled, where what comes first is to go along with a PROXY header.
const READ_AHEAD: u32 = 4 * 1024;

/// A backend's connection.
pub(super) struct Reached {
    pub(super) inlet: Inlet,
    /// `None` where the client said itself where it goes.
    pub(super) place: Option<Place>,
    pub(super) tls: Option<tls::Session>,
    /// Goes before the client's bytes.
    pub(super) up: Queue,
    /// Goes before the upstream's bytes.
    pub(super) down: Queue,
}

/// Gets a backend's connection for the session: routes, waits for a place where the configuration says so, dials, and
/// turns to another backend where one fails.
pub(super) async fn reach(session: &Session, greeted: &mut Greeted) -> Result<Reached, Outcome> {
    session.set_stage(Stage::Route);
    let Some(upstream) = route(session, greeted) else {
        return Err(Outcome { state: State::Rejected, reason: Reason::NoRoute, blame: Some(Blame::Policy) });
    };
    let plan = &session.generation().snapshot.plan.upstreams[usize::from(upstream.0)];
    let header = proxy_header(session, greeted, plan.send_proxy)?;
    if !header.is_empty() && greeted.inlet.ahead.is_empty() {
        greeted.inlet.begin(READ_AHEAD);
    }
    let ring = session.shard().ring();
    let mut tried: SmallVec<[u16; 8]> = SmallVec::new();
    let mut last = None;
    while tried.len() <= plan.retries as usize {
        session.set_stage(Stage::Connect);
        let client = &greeted.inlet.socket;
        let place = match attended(ring, pin!(place(session, upstream, &tried)), || broken(ring, client)).await? {
            Ok(place) => place,
            // The failure that made this a retry says more than that nobody is left.
            Err(outcome) => return Err(last.unwrap_or(outcome)),
        };
        tried.push(place.index());
        session.set_stage(Stage::Connect);
        let before = ring.now();
        let connected = {
            let connect = pin!(connect(session, &greeted.permit, plan, &place, &header));
            attended(ring, connect, || broken(ring, client)).await?
        };
        match connected {
            Ok((inlet, tls, preface)) => {
                place.backend().connect_succeeded();
                session.connected(&place, ring.now().saturating_sub(before));
                greeted.inlet.catch_up().await;
                let down = Queue::new(session.shard().ring().pool());
                return Ok(Reached { inlet, place: Some(place), tls, up: preface, down });
            }
            Err(error) => {
                session.shard().connect_failed(place.backend(), plan.outlier, error);
                last = Some(Outcome::failed(error.reason, error.blame));
                if error.blame == Blame::Proxy {
                    break;
                }
            }
        }
    }
    Err(last.unwrap_or(Outcome::failed(Reason::NoBackend, Blame::Upstream)))
}

fn route(session: &Session, greeted: &Greeted) -> Option<UpstreamIndex> {
    let (listener, source) = (session.listener(), session.source());
    let name = greeted.hello.as_ref().and_then(|hello| hello.server_name.as_ref()).map(|name| name.as_str());
    match &greeted.tls {
        // Where TLS ends here, what was agreed on counts; else what the client offers the one that it will agree with.
        Some(tls) => listener.route(source, name, tls.facts.alpn.as_deref().into_iter()),
        None => listener.route(source, name, greeted.hello.iter().flat_map(Hello::protocols)),
    }
    .upstream()
}

/// Takes a connection of a backend, waiting in the queue where there is one.
async fn place(session: &Session, upstream: UpstreamIndex, tried: &[u16]) -> Result<Place, Outcome> {
    let shard = session.shard();
    let generation = session.generation();
    let state = &generation.snapshot.upstreams[usize::from(upstream.0)];
    let queue = generation.snapshot.plan.upstreams[usize::from(upstream.0)].queue;
    let choose = || {
        let asker = Asker { source: session.source(), tried, random: shard.random(), now_ms: stats::clock_ms() };
        generation.pickers[usize::from(upstream.0)].choose(state, &asker)
    };
    match choose() {
        Choice::Backend(index) => return Ok(shard.queues().place(state, index)),
        Choice::None => return Err(Outcome::failed(Reason::NoBackend, Blame::Upstream)),
        Choice::Full => {}
    }
    let refused = |reason| Outcome { state: State::Rejected, reason, blame: Some(Blame::Policy) };
    let queue = queue.ok_or(refused(Reason::BackendFull))?;
    session.set_stage(Stage::Queue);
    let _waiting = state.waiting.lease().ok_or(refused(Reason::QueueFull))?;
    // A place that another shard gave back in between was told to nobody.
    fence(Ordering::SeqCst);
    if let Choice::Backend(index) = choose() {
        return Ok(shard.queues().place(state, index));
    }
    let wait = async {
        let mut again = false;
        loop {
            match shard.queues().wait(state, again).await {
                Grant::Backend(index) => return Ok(shard.queues().place(state, index)),
                Grant::Again => match choose() {
                    Choice::Backend(index) => {
                        shard.queues().try_next(state);
                        return Ok(shard.queues().place(state, index));
                    }
                    Choice::None => return Err(Outcome::failed(Reason::NoBackend, Blame::Upstream)),
                    Choice::Full => again = true,
                },
            }
        }
    };
    shard.ring().timeout(queue.timeout, wait).await.unwrap_or(Err(refused(Reason::QueueTimeout)))
}

/// Dials a backend and says what it has to be told first: the PROXY header, then our hello. Where there is no hello, the
/// header is left to go along with the first bytes of the client.
async fn connect(
    session: &Session,
    permit: &Permit,
    plan: &plan::Upstream,
    place: &Place,
    header: &[u8],
) -> Result<(Inlet, Option<tls::Session>, Queue), DialError> {
    let shard = session.shard();
    let mut inlet = Inlet::new(dial_backend(session, permit, plan, place).await?, First::Wait);
    let mut preface = Queue::new(shard.ring().pool());
    let Some(terms) = &session.generation().snapshot.upstream_tls[usize::from(plan.index.0)] else {
        if !preface.extend(header) {
            return Err(DialError { reason: Reason::Memory, blame: Blame::Proxy });
        }
        return Ok((inlet, None, preface));
    };
    // In a box, as it is larger than all that other connections need.
    let shake = Box::pin(async {
        if !header.is_empty() {
            inlet.socket.send_bytes(header.into()).await?;
        }
        let name = &terms.names[usize::from(place.index())];
        tls::connect(&mut inlet, &terms.config, name, shard.gate()).await
    });
    let failed = |reason| DialError { reason, blame: Blame::Upstream };
    match shard.ring().timeout(session.listener().timeouts.tls_handshake, shake).await {
        Some(Ok(tls)) => Ok((inlet, Some(tls), preface)),
        Some(Err(error)) => {
            let backend = &place.backend().address;
            tracing::warn!(session = %session.live().id, upstream = %plan.name, %backend, %error, "TLS handshake failed");
            Err(match error {
                HandshakeError::Io(error) => error.into(),
                _ => failed(Reason::TlsHandshake),
            })
        }
        None => Err(failed(Reason::StageTimeout)),
    }
}

async fn dial_backend(
    session: &Session,
    permit: &Permit,
    plan: &plan::Upstream,
    place: &Place,
) -> Result<Socket, DialError> {
    let shard = session.shard();
    if let Some(socket) = shard.stocks().take(place.backend().id) {
        return Ok(socket);
    }
    let terms = dial::Terms { timeout: session.listener().timeouts.connect, source_address: plan.source_address };
    let targets = shard.targets(place.backend());
    dial(shard.ring(), permit, &targets, terms).await.map(|dialled| dialled.socket)
}

/// The PROXY header that the backend gets; nothing where none is configured.
fn proxy_header(session: &Session, greeted: &Greeted, send: SendProxy) -> Result<Vec<u8>, Outcome> {
    let mut header = Vec::new();
    let (version, tlvs) = match send {
        SendProxy::Off => return Ok(header),
        SendProxy::V1 => (Version::V1, ProxyTlvs::default()),
        SendProxy::V2(tlvs) => (Version::V2, tlvs),
    };
    let source = match session.live().source() {
        Client::Ip(source) => Some(source),
        Client::Unix => None,
    };
    let destination = greeted.destination.or_else(|| destination(&greeted.inlet.socket));
    let id = tlvs.unique_id.then(|| session.live().id.to_string());
    let agreed = greeted.tls.as_ref().map(|tls| &tls.facts);
    let cn = agreed.and_then(|facts| facts.peer.as_deref()).and_then(tls::names::common_name);
    let ssl = agreed.map(|facts| {
        let (client, verify) = match facts.peer {
            Some(_) => (Ssl::CLIENT_SSL | Ssl::CLIENT_CERT_CONN | Ssl::CLIENT_CERT_SESS, 0),
            None => (Ssl::CLIENT_SSL, 1),
        };
        Ssl {
            client,
            verify,
            version: tls::names::version(facts.version).map(str::as_bytes),
            cn: cn.as_deref().map(str::as_bytes),
            cipher: tls::names::cipher(facts.cipher).map(str::as_bytes),
            ..Ssl::default()
        }
    });
    let name = greeted.hello.as_ref().and_then(|hello| hello.server_name.as_ref());
    let facts = Facts {
        alpn: agreed.filter(|_| tlvs.alpn).and_then(|facts| facts.alpn.as_deref()),
        authority: name.filter(|_| tlvs.authority).map(|name| name.as_str().as_bytes()),
        unique_id: id.as_deref().map(str::as_bytes),
        ssl: ssl.filter(|_| tlvs.ssl),
    };
    let outgoing = Outgoing { version, origin: Origin::Proxy { source, destination }, facts, checksum: tlvs.crc32c };
    // Every part is bounded far below what a header may hold.
    outgoing.encode(&mut header).map_err(|_| Outcome::failed(Reason::ProxyHeader, Blame::Proxy))?;
    Ok(header)
}

/// Where the client connected to.
pub(super) fn destination(client: &Socket) -> Option<SocketAddr> {
    client.options().local_addr().ok()?.as_socket()
}
