//! Dialling one backend: its one address, or the several addresses of its name as RFC 8305 says.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Type};

use crate::policy::permit::Permit;
use crate::ring::{Ring, Socket};
use crate::types::{Blame, Endpoint, Reason};

/// RFC 8305 section 5: the Connection Attempt Delay.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Where to dial.
#[derive(Debug, Clone)]
pub enum Targets {
    Endpoint(Endpoint),
    /// In the order in which to try them.
    Addresses(Arc<[SocketAddr]>),
}

/// How to dial.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// For one address.
    pub timeout: Duration,
    pub source_address: Option<IpAddr>,
}

/// Whom a dial has reached.
pub struct Dialled {
    pub socket: Socket,
    /// Its address; a unix socket has none.
    pub remote: Option<SocketAddr>,
}

/// Why a backend could not be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialError {
    pub reason: Reason,
    pub blame: Blame,
}

impl DialError {
    const TIMEOUT: Self = Self { reason: Reason::ConnectTimeout, blame: Blame::Upstream };
    const UNRESOLVED: Self = Self { reason: Reason::Unresolved, blame: Blame::Upstream };
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        use libc::{
            EACCES, ECONNREFUSED, EHOSTUNREACH, EMFILE, ENETUNREACH, ENFILE, ENOBUFS, ENOENT, ENOMEM, ETIMEDOUT,
        };
        let (reason, blame) = match error.raw_os_error() {
            Some(ECONNREFUSED | ENOENT) => (Reason::ConnectRefused, Blame::Upstream),
            Some(ETIMEDOUT) => (Reason::ConnectTimeout, Blame::Upstream),
            Some(EHOSTUNREACH) => (Reason::Unreachable, Blame::Upstream),
            Some(ENETUNREACH) => (Reason::NetworkUnreachable, Blame::Upstream),
            Some(libc::ECONNRESET) => (Reason::Reset, Blame::Upstream),
            Some(EMFILE | ENFILE | libc::EADDRNOTAVAIL) => (Reason::Descriptors, Blame::Proxy),
            Some(ENOMEM | ENOBUFS) => (Reason::Memory, Blame::Proxy),
            Some(EACCES) => (Reason::Io, Blame::Proxy),
            _ => (Reason::Io, Blame::Upstream),
        };
        Self { reason, blame }
    }
}

/// Connects to the first target that answers.
///
/// # Errors
/// The last target's failure, or that there is no target.
pub async fn dial(ring: &Ring, _permit: &Permit, targets: &Targets, terms: Terms) -> Result<Dialled, DialError> {
    match targets {
        Targets::Endpoint(Endpoint::Ip(address)) => connect(ring, (*address).into(), terms).await,
        Targets::Endpoint(Endpoint::Unix(path)) => match SockAddr::unix(path) {
            Ok(address) => connect(ring, address, terms).await,
            Err(error) => Err(error.into()),
        },
        Targets::Addresses(addresses) => match **addresses {
            [] => Err(DialError::UNRESOLVED),
            [address] => connect(ring, address.into(), terms).await,
            _ => Box::pin(race(ring, addresses, terms)).await,
        },
    }
}

async fn connect(ring: &Ring, address: SockAddr, terms: Terms) -> Result<Dialled, DialError> {
    let socket = socket2::Socket::new(address.domain(), Type::STREAM, protocol(&address))?;
    if address.domain() != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
        bind_source(&socket, &address, terms.source_address)?;
    }
    let socket = match address.domain() {
        Domain::UNIX => ring.unix_socket(socket.into()),
        _ => ring.socket(socket.into()),
    };
    match ring.timeout(terms.timeout, socket.connect(&address)).await {
        Some(Ok(_)) => Ok(Dialled { socket, remote: address.as_socket() }),
        Some(Err(error)) => Err(error.into()),
        None => Err(DialError::TIMEOUT),
    }
}

fn protocol(address: &SockAddr) -> Option<Protocol> {
    (address.domain() != Domain::UNIX).then_some(Protocol::TCP)
}

/// Sets the local address, where it is of the target's family. The port is chosen at connect (IP_BIND_ADDRESS_NO_PORT),
/// so that one local port can serve many targets.
fn bind_source(socket: &socket2::Socket, target: &SockAddr, source: Option<IpAddr>) -> io::Result<()> {
    let Some(source) = source else { return Ok(()) };
    if source.is_ipv6() != target.is_ipv6() {
        return Ok(());
    }
    crate::net::set_bind_address_no_port(socket)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}

/// Tries the addresses in order, each as soon as the one before has failed or had [`ATTEMPT_DELAY`]; the first to
/// connect wins and the others are dropped.
async fn race(ring: &Ring, addresses: &[SocketAddr], terms: Terms) -> Result<Dialled, DialError> {
    let mut waiting = addresses.iter();
    let mut attempts: Vec<Pin<Box<_>>> = Vec::new();
    let mut last = DialError::UNRESOLVED;
    loop {
        if let Some(address) = waiting.next() {
            attempts.push(Box::pin(connect(ring, (*address).into(), terms)));
        } else if attempts.is_empty() {
            return Err(last);
        }
        let more = !waiting.as_slice().is_empty();
        let delay = if more { ATTEMPT_DELAY } else { terms.timeout.saturating_mul(2) };
        match ring.timeout(delay, first_of(&mut attempts)).await {
            Some(Ok(dialled)) => return Ok(dialled),
            Some(Err(error)) => last = error,
            None => {}
        }
    }
}

/// The outcome of whichever attempt ends first; that attempt is taken out.
async fn first_of<T, F: Future<Output = T>>(attempts: &mut Vec<Pin<Box<F>>>) -> T {
    poll_fn(|context| {
        for index in 0..attempts.len() {
            if let Poll::Ready(output) = pin!(&mut attempts[index]).poll(context) {
                drop(attempts.swap_remove(index));
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    })
    .await
}
