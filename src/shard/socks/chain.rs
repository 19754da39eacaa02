//! CONNECT by way of another SOCKS proxy, which resolves names itself.

use std::net::SocketAddr;

use super::dialogue::Ask;
use super::talk::message;
use super::target::{self, Host};
use crate::codec::Progress;
use crate::codec::socks5::{Command, Credentials, Destination, Method, Reply, client};
use crate::config::plan::{Address, UpstreamProxy};
use crate::limits;
use crate::ring::{First, Inlet};
use crate::shard::session::{Outcome, Session};
use crate::types::{Blame, Reason, Stage};
use crate::upstream::dial::{self, DialError, Dialled, Targets};

/// Has the proxy connect to what was asked for; gives the connection through it, and where it says that it comes from.
pub(super) async fn connect(
    session: &Session,
    ask: &Ask,
    proxy: &UpstreamProxy,
) -> Result<(Inlet, Option<SocketAddr>), Outcome> {
    // The other proxy resolves the name: what it finds is for it to judge.
    let permit = target::judge(session, ask)?;
    let targets = match &proxy.address {
        Address::Endpoint(endpoint) => Targets::Endpoint(endpoint.clone()),
        Address::Host { host, port } => {
            let addresses = target::addresses(session, host.as_ref().into()).await?;
            Targets::Addresses(addresses.iter().map(|ip| SocketAddr::new(*ip, *port)).collect())
        }
    };
    session.set_stage(Stage::Connect);
    let ring = session.shard().ring();
    let before = ring.now();
    let timeouts = &session.listener().timeouts;
    let terms = dial::Terms { timeout: timeouts.connect, source_address: None };
    let failed = |error: DialError| Outcome::failed(error.reason, error.blame);
    let Dialled { socket, remote } = dial::dial(ring, &permit, &targets, terms).await.map_err(failed)?;
    let mut inlet = Inlet::new(socket, First::Wait);
    let slow = Outcome::failed(Reason::ConnectTimeout, Blame::Upstream);
    let bound = ring.timeout(timeouts.negotiate, negotiate(&mut inlet, ask, proxy)).await.unwrap_or(Err(slow))?;
    if let Some(remote) = remote {
        session.connected_to(remote, ring.now().saturating_sub(before));
    }
    Ok((inlet, bound))
}

async fn negotiate(inlet: &mut Inlet, ask: &Ask, proxy: &UpstreamProxy) -> Result<Option<SocketAddr>, Outcome> {
    let credentials = proxy.credentials.as_ref();
    say(inlet, client::encode_greeting(credentials.is_some())).await?;
    match (hear(inlet, client::parse_choice).await?, credentials) {
        (Some(Method::None), _) => {}
        (Some(Method::Password), Some(credentials)) => {
            let (user, password) = (credentials.user.as_bytes(), credentials.password.as_bytes());
            let message = client::encode_credentials(&Credentials { user, password }).ok_or(REFUSED)?;
            say(inlet, message).await?;
            if !hear(inlet, client::parse_verdict).await? {
                return Err(REFUSED);
            }
        }
        (Some(Method::Password), None) | (None, _) => return Err(REFUSED),
    }
    let destination = match &ask.host {
        Host::Ip(ip) => Destination::Ip(SocketAddr::new(*ip, ask.port)),
        Host::Name(name) => Destination::Name(name.as_bytes(), ask.port),
        Host::Malformed(_) => return Err(Outcome::failed(Reason::Unresolved, Blame::Client)),
    };
    say(inlet, client::encode_request(Command::Connect, &destination).ok_or(REFUSED)?).await?;
    let answer = hear(inlet, client::parse_answer).await?;
    match answer.reply {
        Reply::Succeeded => Ok(answer.bound),
        reply => Err(Outcome::failed(reply.reason(), Blame::Upstream)),
    }
}

const REFUSED: Outcome = Outcome::failed(Reason::UpstreamProxy, Blame::Upstream);

async fn say(inlet: &Inlet, message: Vec<u8>) -> Result<(), Outcome> {
    let sent = inlet.socket.send_bytes(message.into()).await;
    sent.map(drop).map_err(|_| REFUSED)
}

/// Hears one message of the proxy; what follows it is left for the relay.
async fn hear<T>(inlet: &mut Inlet, parse: impl Fn(&[u8]) -> Progress<T>) -> Result<T, Outcome> {
    loop {
        if let Some(heard) = message(&mut inlet.ahead, &parse) {
            return heard.map_err(|_| REFUSED);
        }
        if !matches!(inlet.more(limits::SOCKS_MESSAGE_BYTES as u32).await, Ok(true)) {
            return Err(REFUSED);
        }
    }
}
