//! A UDP association (RFC 1928 section 7): datagrams between one client and the targets that it names.
//!
//! It has two sockets however many targets there are: one that the client sends to, and one to the outside, made when the
//! first datagram goes out, for IPv4 and IPv6 alike. Replies are told apart by the address that they come from. Nothing is
//! sent to anybody but the client, whose address is pinned, and targets that it has named; nobody is heard but those.
//!
//! What may be sent where, names, rates and counting are its [`Terms`]. A datagram that cannot go at once is dropped and
//! counted: there are no queues here, but for the few that wait for a name.

mod names;
mod outside;
mod peers;
#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use self::names::{Names, Next, Ready};
use self::peers::{Peers, Standing};
use super::{Cut, Direction, Tally};
use crate::codec::socks5::Destination;
use crate::codec::socks5::datagram as codec;
use crate::ring::{Datagram, DatagramSocket, Failure, Inlet, Ring};
use crate::types::{Blame, Dropped, Reason};

/// Datagrams of one socket that are looked at in one go; then others have their turn.
const AT_ONCE: usize = 64;
/// Receives that may fail in a row before an association is given up: none does while the socket is sound.
const ERRORS: u32 = 100;
/// Bytes that are read at once from the control connection, which has nothing to say.
const CONTROL_READ: u32 = 1024;

/// What an association goes by.
pub trait Terms {
    /// A look-up in progress; gives no address where there is none.
    type Lookup: Future<Output = Vec<IpAddr>> + Unpin;

    /// What a host that the client named means: an address, or a name in the form that rules know; `None` where it is
    /// neither.
    fn name<'a>(&self, host: &'a [u8]) -> Option<Named<'a>>;
    /// Whether the client may send to this place.
    fn allows(&self, place: &Place<'_>) -> bool;
    /// Changes whenever [`Terms::allows`] may answer otherwise than before.
    fn edition(&self) -> u64;
    /// The client sends to a peer that it has not sent to lately, by the name or address that it says.
    fn sends_to(&self, place: &Place<'_>);
    /// Begins to look a name up.
    fn look_up(&self, name: &str) -> Self::Lookup;
    /// Whether so many bytes of payload may pass now.
    fn paces(&self, direction: Direction, bytes: usize) -> bool;
    /// Counts datagrams and bytes of payload that were sent on; negative ones take back what was not sent after all.
    fn count(&self, direction: Direction, datagrams: i64, bytes: i64);
    /// Counts a datagram that was dropped.
    fn dropped(&self, why: Dropped);
}

/// What a host means.
pub enum Named<'a> {
    Ip(IpAddr),
    Name(std::borrow::Cow<'a, str>),
}

/// Where a datagram would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// What the client said, where that was a name.
    pub name: Option<&'a str>,
    /// `None` as long as only the name is known.
    pub ip: Option<IpAddr>,
    pub port: u16,
}

/// An association whose client may send already.
pub struct Association {
    ring: Ring,
    /// Faces the client.
    inside: DatagramSocket,
    outside: Option<DatagramSocket>,
    client: IpAddr,
    /// Its port, where the request named one.
    client_port: Option<u16>,
    /// Where it sends from: known with its first datagram, and pinned from then on.
    client_at: Option<SocketAddr>,
    peers: Peers,
    /// Scratch for the header of an answer.
    head: Vec<u8>,
    /// Receives that failed in a row.
    errors: u32,
    idle: Duration,
    /// When something was passed on last.
    last: Duration,
}

impl Association {
    /// Opens the socket for the client, on `local`, the address that it connected to. Gives the address to tell it.
    ///
    /// # Errors
    /// As socket(2) and bind(2); also for want of memory.
    pub fn open(
        ring: &Ring,
        mut local: SocketAddr,
        client: IpAddr,
        client_port: Option<u16>,
        idle: Duration,
    ) -> io::Result<(Self, SocketAddr)> {
        local.set_port(0);
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&local.into())?;
        let bound = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        let inside = ring.datagram_socket(socket.into())?;
        let (ring, last) = (ring.clone(), ring.now());
        let association = Self {
            ring,
            inside,
            outside: None,
            client: client.to_canonical(),
            client_port,
            client_at: None,
            peers: Peers::default(),
            head: Vec::with_capacity(codec::LONGEST),
            errors: 0,
            idle,
            last,
        };
        Ok((association, bound))
    }

    /// Passes datagrams on until the client closes its control connection, nothing has been passed on for a while, or
    /// it is cut. What comes on the control connection is read and forgotten.
    pub async fn run<T: Terms>(mut self, control: &mut Inlet, terms: &T, cut: &Cut) -> Tally {
        let mut names = Names::default();
        let mut idle = self.ring.timer(self.idle);
        self.last = self.ring.now();
        let mut gone = pin!(closed(control));
        let tally = poll_fn(|context| {
            if let Poll::Ready((reason, blame)) = cut.poll(context) {
                return Poll::Ready(Tally { reason, blame: Some(blame) });
            }
            if let Poll::Ready(reason) = gone.as_mut().poll(context) {
                return Poll::Ready(Tally { reason, blame: None });
            }
            // In this order, as the first datagram opens the socket that is listened to at last, whether it waited for a
            // name or not.
            let more_up = self.take_up(context, terms, &mut names);
            self.take_looked_up(context, terms, &mut names);
            let more = self.take_down(context, terms) | more_up;
            self.take_failures(context, terms);
            if self.errors > ERRORS {
                return Poll::Ready(Tally { reason: Reason::Io, blame: Some(Blame::Proxy) });
            }
            while idle.poll(context).is_ready() {
                let left = self.idle.saturating_sub(self.ring.now().saturating_sub(self.last));
                if left.is_zero() {
                    return Poll::Ready(Tally { reason: Reason::IdleTimeout, blame: None });
                }
                idle.reset(left);
            }
            if more {
                self.ring.note_activity();
                context.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
        // Nothing waits in a socket: what was sent a moment ago is known to have been sent, or not, in a moment.
        poll_fn(|context| {
            let sockets = [Some(&self.inside), self.outside.as_ref()];
            let is_settled = sockets.into_iter().flatten().all(|socket| socket.poll_settled(context).is_ready());
            self.take_failures(context, terms);
            if is_settled { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        tally
    }

    /// Takes what the client has sent. True where there may be more.
    fn take_up<T: Terms>(&mut self, context: &Context<'_>, terms: &T, names: &mut Names<T::Lookup>) -> bool {
        for _ in 0..AT_ONCE {
            match self.inside.poll_receive(context) {
                Poll::Pending => return false,
                Poll::Ready(Ok(datagram)) => {
                    self.errors = 0;
                    if let Err(why) = self.up(datagram, terms, names) {
                        terms.dropped(why);
                    }
                }
                // Want of memory: the socket goes on, if not for ever.
                Poll::Ready(Err(_)) => self.errors += 1,
            }
        }
        true
    }

    /// One datagram of the client's.
    fn up<T: Terms>(&mut self, mut datagram: Datagram, terms: &T, names: &mut Names<T::Lookup>) -> Result<(), Dropped> {
        let from = datagram.from;
        let is_pinned = |at| match self.client_at {
            Some(client) => client == at,
            None => at.ip() == self.client && self.client_port.is_none_or(|port| port == at.port()),
        };
        if !is_pinned(from) {
            return Err(Dropped::Stranger);
        }
        if datagram.is_truncated {
            return Err(Dropped::TooLarge);
        }
        let (header, used) = codec::parse(datagram.payload()).map_err(|_| Dropped::Malformed)?;
        if header.fragment != 0 {
            return Err(Dropped::Fragment);
        }
        let port = header.destination.port();
        let named = match header.destination {
            Destination::Ip(address) => Named::Ip(address.ip()),
            Destination::Name(name, _) => terms.name(name).ok_or(Dropped::Malformed)?,
        };
        if port == 0 {
            return Err(Dropped::Malformed);
        }
        self.client_at = Some(from);
        match named {
            Named::Ip(ip) => {
                datagram.advance(used);
                let target = (ip.to_canonical(), port).into();
                if !self.may_send(None, target, terms) {
                    return Err(Dropped::Denied);
                }
                self.forward(None, target, Payload::Received(datagram), terms)
            }
            Named::Name(name) => {
                let place = Place { name: Some(&name), ip: None, port };
                let next = names.find(&name, port, terms.edition(), self.ring.now(), || terms.allows(&place));
                match next {
                    Next::Denied => Err(Dropped::Denied),
                    Next::Full => Err(Dropped::Waiting),
                    Next::Known(name, addresses) => {
                        datagram.advance(used);
                        self.forward_to_one(&name, &addresses, port, Payload::Received(datagram), terms)
                    }
                    Next::LookUp => names.wait(&name, port, &datagram.payload()[used..], || terms.look_up(&name)),
                }
            }
        }
    }

    /// Sends to the first address of a name that is allowed.
    fn forward_to_one<T: Terms>(
        &mut self,
        name: &Rc<str>,
        addresses: &[IpAddr],
        port: u16,
        payload: Payload,
        terms: &T,
    ) -> Result<(), Dropped> {
        if addresses.is_empty() {
            return Err(Dropped::Unresolved);
        }
        let mut payload = Some(payload);
        for ip in addresses {
            let target = SocketAddr::from((ip.to_canonical(), port));
            if self.may_send(Some(name), target, terms)
                && let Some(payload) = payload.take()
            {
                return self.forward(Some(name), target, payload, terms);
            }
        }
        Err(Dropped::Denied)
    }

    /// Whether the client may send to this address now.
    fn may_send<T: Terms>(&mut self, name: Option<&Rc<str>>, target: SocketAddr, terms: &T) -> bool {
        if !outside::is_one_host(target.ip()) {
            return false;
        }
        match self.peers.standing(target, name, terms.edition()) {
            Standing::Current => true,
            Standing::Unknown | Standing::Stale(_) => {
                terms.allows(&Place { name: name.map(|name| &**name), ip: Some(target.ip()), port: target.port() })
            }
        }
    }

    /// Sends to an address that is allowed.
    fn forward<T: Terms>(
        &mut self,
        name: Option<&Rc<str>>,
        target: SocketAddr,
        payload: Payload,
        terms: &T,
    ) -> Result<(), Dropped> {
        let len = payload.len();
        if !terms.paces(Direction::Up, len) {
            return Err(Dropped::Rate);
        }
        let outside = match &mut self.outside {
            Some(outside) => outside,
            // For want of descriptors or memory; the next one tries again.
            none => none.insert(outside::open(&self.ring).map_err(|_| Dropped::Resources)?),
        };
        if self.peers.note(target, name, terms.edition()) {
            let name = name.map(|name| &**name);
            terms.sends_to(&Place { name, ip: Some(target.ip()), port: target.port() });
        }
        match payload {
            Payload::Received(datagram) => outside.send(&[], datagram, target),
            Payload::Kept(bytes) => outside.send_bytes(&[], bytes, target),
        }
        terms.count(Direction::Up, 1, len as i64);
        self.last = self.ring.now();
        Ok(())
    }

    /// Takes what has come from the outside. True where there may be more.
    fn take_down<T: Terms>(&mut self, context: &Context<'_>, terms: &T) -> bool {
        for _ in 0..AT_ONCE {
            let Some(outside) = &mut self.outside else { return false };
            match outside.poll_receive(context) {
                Poll::Pending => return false,
                Poll::Ready(Ok(datagram)) => {
                    self.errors = 0;
                    if let Err(why) = self.down(datagram, terms) {
                        terms.dropped(why);
                    }
                }
                Poll::Ready(Err(_)) => self.errors += 1,
            }
        }
        true
    }

    /// One datagram from the outside.
    fn down<T: Terms>(&mut self, datagram: Datagram, terms: &T) -> Result<(), Dropped> {
        let from = datagram.from;
        let edition = terms.edition();
        match self.peers.contacted(from, edition) {
            Standing::Unknown => return Err(Dropped::Unasked),
            Standing::Current => {}
            Standing::Stale(name) => {
                let place = Place { name: name.as_deref(), ip: Some(from.ip()), port: from.port() };
                if !terms.allows(&place) {
                    self.peers.forget(from);
                    return Err(Dropped::Denied);
                }
                self.peers.note(from, name.as_ref(), edition);
            }
        }
        let Some(client) = self.client_at else { return Err(Dropped::Unasked) };
        if datagram.is_truncated {
            return Err(Dropped::TooLarge);
        }
        let len = datagram.payload().len();
        if !terms.paces(Direction::Down, len) {
            return Err(Dropped::Rate);
        }
        self.head.clear();
        codec::encode(from, &mut self.head);
        self.inside.send(&self.head, datagram, client);
        terms.count(Direction::Down, 1, len as i64);
        self.last = self.ring.now();
        Ok(())
    }

    /// Sends on what waited for a name.
    fn take_looked_up<T: Terms>(&mut self, context: &mut Context<'_>, terms: &T, names: &mut Names<T::Lookup>) {
        while let Poll::Ready(Ready { name, addresses, waiting }) = names.poll(context, self.ring.now()) {
            for (port, payload) in waiting {
                // Rules may have changed while it waited.
                let sent = match terms.allows(&Place { name: Some(&name), ip: None, port }) {
                    true => self.forward_to_one(&name, &addresses, port, Payload::Kept(payload), terms),
                    false => Err(Dropped::Denied),
                };
                if let Err(why) = sent {
                    terms.dropped(why);
                }
            }
        }
    }

    /// Takes back what was counted and not sent.
    fn take_failures<T: Terms>(&self, context: &Context<'_>, terms: &T) {
        let sockets = [(Some(&self.inside), Direction::Down), (self.outside.as_ref(), Direction::Up)];
        for (socket, direction) in sockets {
            while let Some(Failure { errno, payload }) = socket.and_then(|socket| socket.failure(context)) {
                terms.count(direction, -1, -(payload as i64));
                terms.dropped(match errno {
                    libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => Dropped::NoRoom,
                    libc::EMSGSIZE => Dropped::TooLarge,
                    _ => Dropped::Network,
                });
            }
        }
    }
}

/// A datagram's payload, where it lies.
enum Payload {
    Received(Datagram),
    Kept(Box<[u8]>),
}

impl Payload {
    fn len(&self) -> usize {
        match self {
            Self::Received(datagram) => datagram.payload().len(),
            Self::Kept(bytes) => bytes.len(),
        }
    }
}

/// Ready when the client has closed its control connection.
async fn closed(control: &mut Inlet) -> Reason {
    loop {
        let len = control.ahead.len();
        control.ahead.advance(len);
        match control.more(CONTROL_READ).await {
            Ok(true) => {}
            Ok(false) => return Reason::AssociationClosed,
            // However it closed: that is what ends an association.
            Err(_) => return Reason::AssociationClosed,
        }
    }
}
