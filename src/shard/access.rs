//! What `[acl]` says of a session: when it asks, and again when the rules change.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use super::Shard;
use super::session::{Live, Outcome, Session};
use crate::policy::acl::{Acl, Ask, Decision};
use crate::policy::host::Host;
use crate::policy::identity::Identity;
use crate::policy::permit::Permit;
use crate::relay::association::Place;
use crate::types::{Blame, Name, Protocol, Reason, State};

/// What a session has asked for; kept, so that it can be judged again.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// With the groups that it had when it logged in. `None`: nobody had to prove anything.
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) target: Target,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    /// Another proxy finds the addresses of the name; nothing is known of them here.
    pub(super) is_chained: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Target {
    Ip(IpAddr),
    Name(Name),
}

impl Target {
    fn host(&self) -> Host<'_> {
        match self {
            Self::Ip(ip) => Host::Ip(*ip),
            Self::Name(name) => Host::Name(Cow::Borrowed(name)),
        }
    }
}

fn decide(acl: &Acl, live: &Live, listener: &str, asked: &Asked, host: Host<'_>) -> Decision {
    let identity = asked.identity.as_deref();
    acl.decide(&Ask {
        user: identity.map(|identity| &*identity.user),
        groups: identity.map_or(&[], |identity| &identity.groups),
        source: live.source().ip(),
        host,
        port: asked.port,
        protocol: asked.protocol,
        listener,
    })
}

/// The rules in force now, by which [`authorise`] judges.
pub(super) fn rules(session: &Session) -> Arc<Acl> {
    session.shard().acl().unwrap_or_else(|| Arc::clone(&session.generation().snapshot.acl))
}

/// Judges what the session asks for by the rules that are in force now, which are not always those it began with: by what
/// it is called alone where `addresses` is `None`, else by each address too. Gives the addresses that may be gone to.
pub(super) fn authorise(
    session: &Session,
    asked: &Asked,
    addresses: Option<&[IpAddr]>,
) -> Result<(Permit, Vec<IpAddr>), Outcome> {
    let acl = rules(session);
    let judge = |host| decide(&acl, session.live(), &session.listener().name, asked, host);
    let of_name = judge(asked.target.host());
    let mut good = Vec::new();
    let mut decided = of_name;
    let mut refused = None;
    for address in addresses.unwrap_or_default() {
        let decision = of_name.and_address(judge(Host::Ip(*address)));
        if decision.is_allowed() {
            if good.is_empty() {
                decided = decision;
            }
            good.push(*address);
        } else {
            refused = refused.or(Some(decision));
        }
    }
    if good.is_empty() {
        decided = refused.unwrap_or(decided);
    }
    acl.count(&decided);
    session.set_rule(acl.label(&decided));
    let permit = Permit::of(&decided).map_err(|reason| Outcome {
        state: State::Rejected,
        reason,
        blame: Some(Blame::Policy),
    })?;
    Ok((permit, good))
}

/// Judges a session again that has got to `remote`, where others than the rules it was judged by are in force now: until
/// then a reload knew no address of the name that it asked for.
pub(super) fn confirm(session: &Session, judged: &Arc<Acl>, remote: IpAddr) -> Result<(), Outcome> {
    let acl = rules(session);
    let Some(asked) = session.live().asked().filter(|_| !Arc::ptr_eq(&acl, judged)) else { return Ok(()) };
    let judge = |host| decide(&acl, session.live(), &session.listener().name, &asked, host);
    let mut decision = judge(asked.target.host());
    if let Target::Name(_) = asked.target {
        decision = decision.and_address(judge(Host::Ip(remote)));
    }
    session.set_rule(acl.label(&decision));
    match decision.is_allowed() {
        true => Ok(()),
        false => Err(Outcome::failed(Reason::AclUpdated, Blame::Policy)),
    }
}

/// Whether a rule blocks what the session asks for, whatever its addresses are.
pub(super) fn is_blocked_by_name(session: &Session, asked: &Asked) -> bool {
    session.shard().acl().is_some_and(|acl| {
        let decision = decide(&acl, session.live(), &session.listener().name, asked, asked.target.host());
        !decision.is_allowed() && acl.rule(&decision).is_some()
    })
}

/// Whether a datagram may go there, by the rules in force. A name alone is refused only where a rule blocks it: else its
/// addresses decide with it.
pub(super) fn may_send(session: &Session, identity: Option<&Identity>, place: &Place<'_>) -> bool {
    let Some(acl) = session.shard().acl() else { return false };
    let judge = |host| {
        acl.decide(&Ask {
            user: identity.map(|identity| &*identity.user),
            groups: identity.map_or(&[], |identity| &identity.groups),
            source: session.source(),
            host,
            port: place.port,
            protocol: Protocol::Udp,
            listener: &session.listener().name,
        })
    };
    let of_name = place.name.map(|name| judge(Host::Name(Cow::Borrowed(name))));
    let decision = match (of_name, place.ip.map(|ip| judge(Host::Ip(ip)))) {
        (Some(name), Some(address)) => name.and_address(address),
        (Some(name), None) if acl.rule(&name).is_none() => return true,
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => return false,
    };
    acl.count(&decision);
    if decision.is_allowed() {
        session.set_rule(acl.label(&decision));
    }
    decision.is_allowed()
}

impl Shard {
    /// The rules in force.
    pub(super) fn acl(&self) -> Option<Arc<Acl>> {
        self.current.borrow().as_ref().map(|current| Arc::clone(&current.snapshot.acl))
    }

    /// After a change of the configuration: cuts the sessions that its rules block, where it says so.
    pub(super) fn reevaluate(&self) {
        self.ring.note_activity();
        let current = self.current.borrow().clone();
        let Some(snapshot) = current.as_ref().map(|current| &current.snapshot) else { return };
        if !snapshot.plan.acl.reevaluate {
            return;
        }
        let acl = &snapshot.acl;
        for (_, live) in self.sessions.borrow().iter() {
            let Some(asked) = live.asked() else { continue };
            let listener = &live.generation.snapshot.plan.listeners[usize::from(live.listener.0)].name;
            let judge = |host| decide(acl, live, listener, &asked, host);
            let mut decision = judge(asked.target.host());
            if let Target::Name(_) = asked.target
                && !asked.is_chained
            {
                match live.remote() {
                    Some(remote) => decision = decision.and_address(judge(Host::Ip(remote.ip()))),
                    // Its addresses are judged when they are known.
                    None if acl.rule(&decision).is_none() => continue,
                    None => {}
                }
            }
            if !decision.is_allowed() {
                live.set_rule(acl.label(&decision));
                live.cut.cut(Reason::AclUpdated, Blame::Policy);
            }
        }
    }
}
