//! BIND: waits for the one connection that the client expects from outside (RFC 1928 section 4).

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::task::Poll;

use socket2::{Domain, Protocol, SockRef, Type};

use super::dialogue::Ask;
use super::talk::Talk;
use super::target::{self, Allowed, Host};
use super::{Reached, Reply, answer, public_address, refused, welcome};
use crate::policy::host;
use crate::ring::{Appetite, First, Inlet, Queue, Socket};
use crate::shard::session::{Outcome, Session};
use crate::types::{Blame, Reason, Stage};
use crate::upstream::dial::DialError;

/// Connections that may wait: one is taken, and whoever else comes is not wanted.
const BACKLOG: i32 = 4;

/// Listens for the peer that was asked for, and says where; the first connection from there is the other side.
pub(super) async fn bind(session: &Session, talk: &mut Talk<'_>, ask: Ask) -> Result<Reached, Outcome> {
    let socks = &session.generation().snapshot.plan.socks;
    // RFC 1928 section 4: DST tells the peer that is expected, and nobody else is let in.
    if matches!(&ask.host, Host::Ip(ip) if ip.is_unspecified()) {
        return Err(refused(Reason::BindPeer));
    }
    let allowed = talk.attended(target::resolve(session, &ask)).await??;
    session.set_stage(Stage::Connect);
    let ring = session.shard().ring();
    let public = public_address(session, talk).ok_or(Outcome::failed(Reason::Io, Blame::Proxy))?;
    let failed = |error: std::io::Error| Outcome::failed(DialError::from(error).reason, Blame::Proxy);
    let here = super::local(&talk.inlet.socket).unwrap_or(public);
    let (listening, port) = listen(host::canonical(here.ip())).map_err(failed)?;
    let listening = ring.socket(listening.into());
    let bound = SocketAddr::new(public.ip(), port);
    talk.say(&answer(ask.version, Reply::Succeeded, Some(bound))).await?;
    let before = ring.now();
    let arrival = ring.timeout(socks.bind_timeout, arrival(talk, &listening, &allowed)).await;
    let (socket, peer) = match arrival {
        Some(arrived) => arrived?,
        None => return Err(Outcome::failed(Reason::BindTimeout, Blame::Upstream)),
    };
    drop(listening);
    allowed.confirm(session, peer)?;
    session.connected_to(peer, ring.now().saturating_sub(before));
    let down = welcome(session, talk, &answer(ask.version, Reply::Succeeded, Some(peer))).await?;
    let inlet = Inlet::new(ring.socket(socket), First::Try);
    Ok(Reached { inlet, place: None, tls: None, up: Queue::new(ring.pool()), down })
}

fn listen(ip: IpAddr) -> std::io::Result<(socket2::Socket, u16)> {
    let address = SocketAddr::new(ip, 0);
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let port = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
    Ok((socket, port))
}

/// The connection that the client waits for. Others are closed; and when the client goes, so does the port.
async fn arrival(talk: &mut Talk<'_>, listening: &Socket, allowed: &Allowed) -> Result<(OwnedFd, SocketAddr), Outcome> {
    let mut accept = listening.accept();
    let peer = poll_fn(|context| {
        loop {
            let Poll::Ready(accepted) = accept.poll(context, Appetite::One) else { return Poll::Pending };
            let accepted = match accepted.map_err(|error| (error.raw_os_error(), error)) {
                Ok(accepted) => accepted,
                // A peer that has gone again.
                Err((Some(libc::ECONNABORTED | libc::EPROTO), _)) => continue,
                Err((_, error)) => {
                    return Poll::Ready(Err(Outcome::failed(DialError::from(error).reason, Blame::Proxy)));
                }
            };
            let peer = SockRef::from(&accepted).peer_addr().ok().and_then(|address| address.as_socket());
            if let Some(peer) = peer.map(|peer| SocketAddr::new(host::canonical(peer.ip()), peer.port()))
                && allowed.expects(peer.ip())
            {
                let _ = SockRef::from(&accepted).set_tcp_nodelay(true);
                return Poll::Ready(Ok((accepted, peer)));
            }
        }
    });
    let mut peer = pin!(peer);
    let mut gone = pin!(client_gone(talk));
    poll_fn(|context| {
        if let Poll::Ready(outcome) = peer.as_mut().poll(context) {
            return Poll::Ready(outcome);
        }
        gone.as_mut().poll(context).map(Err)
    })
    .await
}

/// Waits until the client goes. What it sends meanwhile is for the peer, and is kept, within bounds.
async fn client_gone(talk: &mut Talk<'_>) -> Outcome {
    loop {
        if let Err(outcome) = talk.more().await {
            return outcome;
        }
        if talk.has_much() {
            // No more is taken than there is room for; that it goes is still to be seen.
            let _ = talk.inlet.socket.readiness(libc::POLLRDHUP).await;
            return Outcome::failed(Reason::ClientGone, Blame::Client);
        }
    }
}
