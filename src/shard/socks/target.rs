//! Where a client may go: its host and every address of it are judged, and those that pass are dialled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::dialogue::Ask;
use crate::codec::socks5::Destination;
use crate::net;
use crate::policy::acl::Acl;
use crate::policy::host;
use crate::policy::permit::Permit;
use crate::shard::access::{self, Asked, Target};
use crate::shard::command::{Answer, Errand};
use crate::shard::session::{Outcome, Session};
use crate::stats::latency::Measure;
use crate::types::{Blame, Name, Protocol, Reason, Stage};
use crate::upstream::dial::{self, Dialled, Targets};

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
    /// By these rules.
    judged: Arc<Acl>,
    addresses: Arc<[SocketAddr]>,
}

impl Allowed {
    /// Connects to the first of them that answers.
    pub(super) async fn dial(&self, session: &Session) -> Result<Dialled, Outcome> {
        let terms = dial::Terms { timeout: session.listener().timeouts.connect, source_address: None };
        let targets = Targets::Addresses(Arc::clone(&self.addresses));
        let dialled = dial::dial(session.shard().ring(), &self.permit, &targets, terms).await;
        dialled.map_err(|error| {
            let has_route = || self.addresses.iter().any(|address| net::is_routed(address.ip()));
            // Of no route here, and of a host that somebody else cannot reach, the kernel may say the same.
            let reason = match error.reason {
                Reason::Unreachable if !has_route() => Reason::NetworkUnreachable,
                reason => reason,
            };
            Outcome::failed(reason, error.blame)
        })
    }

    /// Whether policy still lets this client go to whom it has been connected to.
    pub(super) fn confirm(&self, session: &Session, remote: SocketAddr) -> Result<(), Outcome> {
        access::confirm(session, &self.judged, remote.ip())
    }

    /// Whether a connection from there is the one that BIND waits for.
    pub(super) fn expects(&self, peer: IpAddr) -> bool {
        self.addresses.iter().any(|address| address.ip() == peer)
    }
}

/// Judges what was asked for and finds its addresses, each of which is judged too: what is given is what may be dialled.
pub(super) async fn resolve(session: &Session, ask: &Ask) -> Result<Allowed, Outcome> {
    session.set_stage(Stage::Route);
    let asked = asked(session, ask, false)?;
    let name = match &asked.target {
        Target::Name(name) => name,
        Target::Ip(ip) => {
            let (permit, _) = access::authorise(session, &asked, None)?;
            return Ok(Allowed {
                permit,
                judged: access::rules(session),
                addresses: Arc::new([SocketAddr::new(*ip, ask.port)]),
            });
        }
    };
    // Nobody needs to be asked about a name that is blocked as such.
    if access::is_blocked_by_name(session, &asked) {
        let (permit, _) = access::authorise(session, &asked, None)?;
        return Ok(Allowed { permit, judged: access::rules(session), addresses: Arc::new([]) });
    }
    let resolved: Vec<IpAddr> =
        addresses(session, whole(name)).await?.iter().map(|ip| reachable(host::canonical(*ip))).collect();
    let (permit, allowed) = access::authorise(session, &asked, Some(&resolved))?;
    let addresses = allowed.into_iter().map(|ip| SocketAddr::new(ip, ask.port)).collect();
    Ok(Allowed { permit, judged: access::rules(session), addresses })
}

/// Judges what was asked for by what it is called alone, where another proxy resolves it.
pub(super) fn judge(session: &Session, ask: &Ask) -> Result<Permit, Outcome> {
    access::authorise(session, &asked(session, ask, true)?, None).map(|(permit, _)| permit)
}

/// Notes with the session what is judged.
fn asked(session: &Session, ask: &Ask, is_chained: bool) -> Result<Asked, Outcome> {
    let target = match &ask.host {
        Host::Ip(ip) => Target::Ip(reachable(*ip)),
        Host::Name(name) => Target::Name(Name::clone(name)),
        Host::Malformed(_) => return Err(Outcome::failed(Reason::Unresolved, Blame::Client)),
    };
    let (identity, port) = (ask.identity.clone(), ask.port);
    let asked = Asked { identity, target, port, protocol: Protocol::Tcp, is_chained };
    session.set_asked(asked.clone());
    Ok(asked)
}

/// The system takes the unspecified address for its own loopback: so it is judged, and so it is dialled.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// A client's name as it is looked up: what the system would put behind it, no rule has seen. RFC 1928 section 5 has it
/// whole as well.
pub(super) fn whole(name: &str) -> Name {
    [name, "."].concat().into()
}

/// Has the addresses of a name looked up.
pub(super) async fn addresses(session: &Session, name: Name) -> Result<Arc<[IpAddr]>, Outcome> {
    session.set_stage(Stage::Resolve);
    let ring = session.shard().ring();
    let before = ring.now();
    let limit = session.listener().timeouts.connect;
    let asked = session.shard().ask(Errand::Resolve { source: session.source(), host: name });
    let addresses = match ring.timeout(limit, asked).await {
        Some(Some(Answer::Addresses(addresses))) => addresses,
        // Nobody has said in time.
        None => return Err(Outcome::failed(Reason::Unresolved, Blame::Upstream)),
        Some(_) => return Err(Outcome::failed(Reason::Unresolved, Blame::Proxy)),
    };
    session.measure(Measure::Resolve, ring.now().saturating_sub(before));
    if addresses.is_empty() { Err(Outcome::failed(Reason::Unresolved, Blame::Upstream)) } else { Ok(addresses) }
}
