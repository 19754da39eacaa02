//! The SOCKS service: what a client says of where it wants to go, and getting it there. It ends in what plain forwarding
//! ends in, two sides to relay between.
//!
//! [`reach`] tells it: the dialogue (`dialogue`) up to the request, then CONNECT (here), BIND (`bind`) or UDP ASSOCIATE.
//! A failure has its reply, and the client hears it before the connection ends.

mod bind;
mod chain;
mod dialogue;
mod talk;
mod target;
mod udp;

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use super::greet::{self, Greeted};
use super::reach::Reached;
use super::session::{Outcome, Session};
use crate::codec::socks4;
use crate::codec::socks5::{self, Command, Reply};
use crate::ring::{First, Inlet, Queue, Socket};
use crate::stats::latency::Measure;
use crate::types::{Blame, Reason, Stage, State};
use crate::upstream::dial::Dialled;
use dialogue::{Ask, Version};
use talk::Talk;

/// How long the last word to a client may take; what is said is a few bytes.
const FAREWELL: Duration = Duration::from_secs(2);

/// Hears what the client wants, and gets it there.
pub(super) async fn reach(session: &Session, greeted: &mut Greeted) -> Result<Reached, Outcome> {
    let ring = session.shard().ring();
    let Greeted { inlet, tls, opened, .. } = greeted;
    let mut talk = Talk::new(ring, inlet, tls.as_mut(), opened);
    let limit = session.listener().timeouts.negotiate;
    let heard = {
        let dialogue = pin!(dialogue::run(session, &mut talk));
        greet::within(session, Stage::Negotiate, limit, Measure::Negotiate, dialogue).await
    };
    let ask = match heard {
        Ok(Ok(ask)) => ask,
        Ok(Err(refused)) => {
            say_goodbye(session, &mut talk, &refused.last_words).await;
            return Err(refused.outcome);
        }
        Err(outcome) => return Err(outcome),
    };
    let version = ask.version;
    // CONNECT is what most ask for; the others are in boxes, so that it does not carry them along.
    if ask.command == Command::UdpAssociate {
        return Err(match udp::open(session, &talk, &ask) {
            Ok(opened) => Box::pin(udp::run(session, &mut talk, &ask, opened)).await,
            Err(outcome) => {
                say_goodbye(session, &mut talk, &answer(version, Reply::of(outcome.reason), None)).await;
                outcome
            }
        });
    }
    let served = session.generation().snapshot.plan.socks.commands;
    let reached = match ask.command {
        Command::Connect if served.connect => connect(session, &mut talk, ask).await,
        Command::Bind if served.bind => Box::pin(bind::bind(session, &mut talk, ask)).await,
        Command::Connect | Command::Bind | Command::UdpAssociate => {
            Err(Outcome::failed(Reason::SocksCommand, Blame::Client))
        }
    };
    match reached {
        Ok(reached) => talk.settle().await.map(|()| reached),
        Err(outcome) => {
            say_goodbye(session, &mut talk, &answer(version, Reply::of(outcome.reason), None)).await;
            Err(outcome)
        }
    }
}

/// The answer to a request.
fn answer(version: Version, reply: Reply, bound: Option<SocketAddr>) -> Vec<u8> {
    match version {
        Version::V5 => {
            let mut out = Vec::new();
            socks5::encode_reply(reply, bound, &mut out);
            out
        }
        Version::V4 => {
            let granted = reply == Reply::Succeeded;
            socks4::encode_reply(if granted { socks4::Reply::Granted } else { socks4::Reply::Rejected }, bound).into()
        }
    }
}

async fn say_goodbye(session: &Session, talk: &mut Talk<'_>, last_words: &[u8]) {
    let _ = session.shard().ring().timeout(FAREWELL, talk.part(last_words)).await;
}

async fn connect(session: &Session, talk: &mut Talk<'_>, ask: Ask) -> Result<Reached, Outcome> {
    let proxy = session.generation().snapshot.plan.socks.upstream_proxy.as_ref();
    let (mut inlet, bound) = match proxy {
        Some(proxy) => talk.attended(Box::pin(chain::connect(session, &ask, proxy))).await??,
        None => {
            let socket = talk.attended(dial(session, &ask)).await??;
            let bound = local(&socket);
            (Inlet::new(socket, First::Wait), bound)
        }
    };
    let preface = welcome(session, talk, &answer(ask.version, Reply::Succeeded, bound)).await?;
    // Whoever speaks first may have done so already.
    inlet.catch_up().await;
    Ok(Reached { inlet, place: None, tls: None, up: Queue::new(session.shard().ring().pool()), down: preface })
}

/// Dials what was asked for; every address is judged before it is dialled.
async fn dial(session: &Session, ask: &Ask) -> Result<Socket, Outcome> {
    let allowed = target::resolve(session, ask).await?;
    session.set_stage(Stage::Connect);
    let ring = session.shard().ring();
    let before = ring.now();
    let Dialled { socket, remote } = allowed.dial(session).await?;
    if let Some(remote) = remote {
        allowed.confirm(session, remote)?;
        session.connected_to(remote, ring.now().saturating_sub(before));
    }
    Ok(socket)
}

/// Where a connection of arus comes from.
fn local(socket: &Socket) -> Option<SocketAddr> {
    socket.options().local_addr().ok()?.as_socket()
}

/// Tells the client that it has what it wanted. Where it can, the answer goes along with the first bytes of the other side.
async fn welcome(session: &Session, talk: &mut Talk<'_>, answer: &[u8]) -> Result<Queue, Outcome> {
    let mut preface = Queue::new(session.shard().ring().pool());
    if talk.is_sealed() || !preface.extend(answer) {
        talk.say(answer).await?;
    }
    Ok(preface)
}

/// The address that clients are told to come to, for sockets that are made for them.
fn public_address(session: &Session, talk: &Talk<'_>) -> Option<SocketAddr> {
    let of_client = local(&talk.inlet.socket)?;
    let advertised = session.generation().snapshot.plan.socks.advertise;
    Some(advertised.map_or(of_client, |ip| SocketAddr::new(ip, of_client.port())))
}

fn refused(reason: Reason) -> Outcome {
    Outcome { state: State::Rejected, reason, blame: Some(Blame::Policy) }
}
