//! What a client says before its bytes are relayed: the PROXY header of a trusted proxy, and the ClientHello with the
//! handshake that it begins. What is read too much is the next stage's.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use super::accept;
use super::session::{Outcome, Session};
use crate::codec::Progress;
use crate::codec::client_hello::{self, ClientHello, ServerName, TlsVersion};
use crate::codec::proxy_header;
use crate::limits;
use crate::policy::permit::Permit;
use crate::ring::{First, Inlet, Queue, Socket};
use crate::stats::counters::Handshake;
use crate::stats::latency::Measure;
use crate::stats::summary::TlsFacts;
use crate::tls::terms::ListenerTls;
use crate::tls::{self, HandshakeError};
use crate::types::{Blame, Client, Reason, Stage, State};

/// Bytes that a stage asks for at once.
pub(super) const READ: u32 = 16 * 1024;
// Descriptions of fatal alerts (RFC 8446 section 6.2).
const UNEXPECTED_MESSAGE: u8 = 10;
const PROTOCOL_VERSION: u8 = 70;
const UNRECOGNIZED_NAME: u8 = 112;

/// A client that has said all it has to say before its bytes count.
pub(super) struct Greeted {
    pub(super) inlet: Inlet,
    pub(super) permit: Permit,
    /// What the client's TLS ends in, here.
    pub(super) tls: Option<tls::Session>,
    /// What a dialogue has opened of it, and not heard.
    pub(super) opened: Queue,
    pub(super) hello: Option<Hello>,
    /// Where a PROXY header says that the client connected to.
    pub(super) destination: Option<SocketAddr>,
}

/// What routing needs of a ClientHello.
pub(super) struct Hello {
    pub(super) server_name: Option<ServerName>,
    /// The highest that is offered.
    version: TlsVersion,
    /// Names of protocols, each behind its length, as ALPN has them.
    protocols: Vec<u8>,
}

impl Hello {
    fn new(hello: &ClientHello<'_>) -> Self {
        let mut protocols = Vec::new();
        for name in hello.alpn() {
            protocols.push(name.len() as u8);
            protocols.extend_from_slice(name);
        }
        Self { server_name: hello.server_name, version: hello.version, protocols }
    }

    pub(super) fn protocols(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let mut rest = &self.protocols[..];
        std::iter::from_fn(move || {
            let (name, behind) = rest.split_first().map(|(len, behind)| behind.split_at(usize::from(*len)))?;
            rest = behind;
            Some(name)
        })
    }

    fn facts(&self) -> TlsFacts {
        let offered: Vec<_> = self.protocols().map(String::from_utf8_lossy).collect();
        TlsFacts {
            sni: self.server_name.as_ref().map(|name| name.as_str().into()),
            alpn: (!offered.is_empty()).then(|| offered.join(",").into()),
            version: Some(self.version.label()),
            cipher: None,
        }
    }
}

/// Hears the client out. `permit` is `None` where only a PROXY header tells who it is.
pub(super) async fn greet(session: &Session, client: Socket, permit: Option<Permit>) -> Result<Greeted, Outcome> {
    let mut inlet = Inlet::new(client, First::Try);
    let listener = session.listener();
    let (permit, destination) = match permit {
        Some(permit) => (permit, None),
        None => proxy_header(session, &mut inlet).await?,
    };
    let tls = session.generation().snapshot.tls[session.listener_index()].clone();
    let mut greeted = Greeted {
        opened: Queue::new(session.shard().ring().pool()),
        inlet,
        permit,
        tls: None,
        hello: None,
        destination,
    };
    if tls.is_some() || listener.peeks {
        let shaken = {
            // In a box, as it is larger than all that other connections need.
            let mut shake = Box::pin(shake(session, &mut greeted, tls.as_ref()));
            within(session, Stage::Tls, listener.timeouts.tls_handshake, Measure::Tls, shake.as_mut()).await
        };
        if let Some(tls) = &greeted.tls {
            session.handshake(Handshake::of(tls.facts.version, tls.facts.kind));
        } else if shaken.is_err() && session.generation().snapshot.tls[session.listener_index()].is_some() {
            session.handshake(Handshake::Failed);
        }
        shaken?;
    }
    Ok(greeted)
}

/// Hears the ClientHello, and where TLS ends here, shakes hands.
async fn shake(session: &Session, greeted: &mut Greeted, tls: Option<&Arc<ListenerTls>>) -> Result<(), Outcome> {
    let hello = client_hello(&mut greeted.inlet).await?;
    session.set_tls(hello.facts());
    if let Some(tls) = tls {
        greeted.tls = Some(terminate(session, &mut greeted.inlet, &hello, tls).await?);
    }
    greeted.hello = Some(hello);
    Ok(())
}

/// Bounds a stage in time, and measures it. (By reference: an async fn keeps room for its arguments as long as it lives.)
pub(super) async fn within<T>(
    session: &Session,
    stage: Stage,
    limit: Duration,
    measure: Measure,
    future: Pin<&mut impl Future<Output = Result<T, Outcome>>>,
) -> Result<T, Outcome> {
    session.set_stage(stage);
    let ring = session.shard().ring();
    let begun = ring.now();
    let slow = Outcome::failed(Reason::StageTimeout, Blame::Client);
    let output = ring.timeout(limit, future).await.unwrap_or(Err(slow))?;
    session.measure(measure, ring.now().saturating_sub(begun));
    Ok(output)
}

/// Reads until `parse` is done with what has come, `limit` bytes at most; gives what it made and how much it took.
async fn read<T>(
    inlet: &mut Inlet,
    limit: usize,
    bad: Reason,
    mut parse: impl FnMut(&[u8]) -> Progress<T>,
) -> Result<(T, usize), Outcome> {
    loop {
        let mut bytes = Vec::new();
        let front = inlet.ahead.front();
        // Nearly always it has come in one piece.
        let seen = if front.len() == inlet.ahead.len() {
            &front[..front.len().min(limit)]
        } else {
            inlet.ahead.copy_front(limit, &mut bytes);
            &bytes
        };
        match parse(seen) {
            Progress::Done(message, used) => return Ok((message, used)),
            Progress::NeedMore if seen.len() < limit => {}
            Progress::NeedMore | Progress::Bad(_) => return Err(Outcome::failed(bad, Blame::Client)),
        }
        // Not while waiting: an unfinished message is in the inlet's buffers, and once is enough.
        drop(bytes);
        more(inlet).await?;
    }
}

async fn more(inlet: &mut Inlet) -> Result<(), Outcome> {
    match inlet.more(READ).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Outcome::failed(Reason::ClientGone, Blame::Client)),
        Err(error) => Err(broken(&error)),
    }
}

pub(super) fn broken(error: &io::Error) -> Outcome {
    match error.raw_os_error() {
        Some(libc::ENOBUFS | libc::ENOMEM) => Outcome::failed(Reason::Memory, Blame::Proxy),
        Some(libc::ECONNRESET | libc::EPIPE) => Outcome::failed(Reason::Reset, Blame::Client),
        _ => Outcome::failed(Reason::ClientGone, Blame::Client),
    }
}

/// Learns from the PROXY header who the client is, and asks policy about that one.
async fn proxy_header(session: &Session, inlet: &mut Inlet) -> Result<(Permit, Option<SocketAddr>), Outcome> {
    let limit = session.listener().timeouts.proxy_header;
    let header = pin!(async {
        let endpoints = |bytes: &[u8]| match proxy_header::parse(bytes) {
            Progress::Done(header, used) => Progress::Done(header.endpoints(), used),
            Progress::NeedMore => Progress::NeedMore,
            Progress::Bad(error) => Progress::Bad(error),
        };
        let (endpoints, used) = read(inlet, limits::PROXY_HEADER_BYTES, Reason::ProxyHeader, endpoints).await?;
        inlet.ahead.advance(used);
        Ok(endpoints)
    });
    let endpoints = within(session, Stage::ProxyHeader, limit, Measure::ProxyHeader, header).await?;
    if let Some((source, _)) = endpoints {
        session.set_source(Client::Ip(source));
    }
    let refused = |reason| Outcome { state: State::Rejected, reason, blame: Some(Blame::Policy) };
    let (permit, lease) =
        accept::judge_source(session.generation(), session.live().listener, session.source()).map_err(refused)?;
    session.keep(lease);
    Ok((permit, endpoints.map(|(_, destination)| destination)))
}

/// Reads the ClientHello, and leaves it where it is.
async fn client_hello(inlet: &mut Inlet) -> Result<Hello, Outcome> {
    let parse = |bytes: &[u8]| match client_hello::parse(bytes) {
        Progress::Done(hello, used) => Progress::Done(Hello::new(&hello), used),
        Progress::NeedMore => Progress::NeedMore,
        Progress::Bad(error) => Progress::Bad(error),
    };
    let read = read(inlet, limits::CLIENT_HELLO_WIRE_BYTES, Reason::ClientHello, parse).await;
    if read.as_ref().is_err_and(|outcome| outcome.reason == Reason::ClientHello) {
        // unexpected_message: whoever speaks TLS understands it, and others see that this is no port of theirs.
        alert(inlet, UNEXPECTED_MESSAGE).await;
    }
    read.map(|(hello, _)| hello)
}

/// Sends a fatal alert, as there is no handshake that would.
async fn alert(inlet: &Inlet, description: u8) {
    let _ = inlet.socket.send_bytes(Box::new([21, 3, 3, 0, 2, 2, description])).await;
}

async fn terminate(
    session: &Session,
    inlet: &mut Inlet,
    hello: &Hello,
    tls: &Arc<ListenerTls>,
) -> Result<tls::Session, Outcome> {
    // rustls looks at the version last, and finds other things wrong with an old hello.
    if hello.version < TlsVersion::TLS12 {
        alert(inlet, PROTOCOL_VERSION).await;
        return Err(Outcome::failed(Reason::TlsHandshake, Blame::Client));
    }
    if tls.certificates.refuses(hello.server_name.as_ref().map(ServerName::as_str)) {
        alert(inlet, UNRECOGNIZED_NAME).await;
        return Err(Outcome::failed(Reason::UnknownServerName, Blame::Client));
    }
    let made = tls::accept(inlet, &tls.config, session.shard().gate()).await.map_err(|error| {
        tracing::debug!(session = %session.live().id, source = %session.live().source(), %error, "TLS handshake failed");
        match error {
            HandshakeError::Io(error) => broken(&error),
            HandshakeError::Ended => Outcome::failed(Reason::ClientGone, Blame::Client),
            HandshakeError::Tls(_) | HandshakeError::NotTls | HandshakeError::TooLong => {
                Outcome::failed(Reason::TlsHandshake, Blame::Client)
            }
        }
    })?;
    let facts = &made.facts;
    session.set_tls(TlsFacts {
        sni: hello.server_name.as_ref().map(|name| name.as_str().into()),
        alpn: facts.alpn.as_deref().map(|alpn| String::from_utf8_lossy(alpn).into()),
        version: tls::names::version(facts.version),
        cipher: tls::names::cipher(facts.cipher),
    });
    Ok(made)
}
