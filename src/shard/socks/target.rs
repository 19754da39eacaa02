//! Where a client may go: its host and every address of it are judged, and those that pass are dialled.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::dialogue::Ask;
use crate::codec::socks5::Destination;
use crate::policy::host;
use crate::policy::permit::Permit;
use crate::ring::Socket;
use crate::shard::command::{Answer, Errand};
use crate::shard::session::{Outcome, Session};
use crate::stats::latency::Measure;
use crate::types::{Blame, Endpoint, Name, Reason, Stage};
use crate::upstream::dial::{self, Targets};

/// The host that a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Ip(IpAddr),
    /// In its one form.
    Name(Name),
    /// No host has such a name; as it came.
    Malformed(Box<[u8]>),
}

impl Host {
    pub(super) fn of(destination: &Destination<'_>) -> Self {
        match destination {
            Destination::Ip(address) => Self::Ip(host::canonical(address.ip())),
            Destination::Name(name, _) => match host::Host::parse(name) {
                Ok(host::Host::Ip(ip)) => Self::Ip(ip),
                Ok(host::Host::Name(name)) => Self::Name(name.as_ref().into()),
                Err(_) => Self::Malformed((*name).into()),
            },
        }
    }

    /// As people read it.
    pub(super) fn shown(&self, port: u16) -> Arc<str> {
        match self {
            Self::Ip(ip) => SocketAddr::new(*ip, port).to_string().into(),
            Self::Name(name) => format!("{name}:{port}").into(),
            Self::Malformed(bytes) => format!("{}:{port}", bytes.escape_ascii()).into(),
        }
    }
}

/// Addresses that policy lets this client go to.
pub(super) struct Allowed {
    permit: Permit,
    targets: Targets,
}

impl Allowed {
    /// Whether somebody from there is who was asked for; an unspecified address stands for anybody.
    pub(super) fn expects(&self, ip: IpAddr) -> bool {
        let is_asked = |asked: IpAddr| asked.is_unspecified() || asked == ip;
        match &self.targets {
            Targets::Endpoint(Endpoint::Ip(address)) => is_asked(address.ip()),
            Targets::Endpoint(Endpoint::Unix(_)) => false,
            Targets::Addresses(addresses) => addresses.iter().any(|address| is_asked(address.ip())),
        }
    }

    pub(super) async fn dial(&self, session: &Session) -> Result<Socket, Outcome> {
        let terms = dial::Terms { timeout: session.listener().timeouts.connect, source_address: None };
        let dialled = dial::dial(session.shard().ring(), &self.permit, &self.targets, terms).await;
        dialled.map_err(|error| Outcome::failed(error.reason, error.blame))
    }
}

/// Judges what was asked for and finds its addresses.
pub(super) async fn resolve(session: &Session, ask: &Ask) -> Result<Allowed, Outcome> {
    session.set_stage(Stage::Route);
    let permit = Permit::for_source(&[], None).map_err(super::refused)?;
    let targets = match &ask.host {
        Host::Ip(ip) => Targets::Endpoint(Endpoint::Ip(SocketAddr::new(*ip, ask.port))),
        Host::Name(name) => {
            let addresses = addresses(session, name).await?;
            Targets::Addresses(addresses.iter().map(|ip| SocketAddr::new(*ip, ask.port)).collect())
        }
        Host::Malformed(_) => return Err(Outcome::failed(Reason::Unresolved, Blame::Client)),
    };
    Ok(Allowed { permit, targets })
}

/// Judges what was asked for by what it is called alone, where somebody else resolves it.
pub(super) fn judge_name(_session: &Session, ask: &Ask) -> Result<Permit, Outcome> {
    match &ask.host {
        Host::Ip(_) | Host::Name(_) => Permit::for_source(&[], None).map_err(super::refused),
        Host::Malformed(_) => Err(Outcome::failed(Reason::Unresolved, Blame::Client)),
    }
}

/// Has the addresses of a name looked up.
pub(super) async fn addresses(session: &Session, name: &Name) -> Result<Arc<[IpAddr]>, Outcome> {
    session.set_stage(Stage::Resolve);
    let ring = session.shard().ring();
    let before = ring.now();
    let limit = session.listener().timeouts.connect;
    let asked = session.shard().ask(Errand::Resolve(Name::clone(name)));
    let Some(Some(Answer::Addresses(addresses))) = ring.timeout(limit, asked).await else {
        return Err(Outcome::failed(Reason::Unresolved, Blame::Proxy));
    };
    session.measure(Measure::Resolve, ring.now().saturating_sub(before));
    match addresses.is_empty() {
        true => Err(Outcome::failed(Reason::Unresolved, Blame::Upstream)),
        false => Ok(addresses),
    }
}
