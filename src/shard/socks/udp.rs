//! UDP ASSOCIATE: datagrams between the client and whom it names, for as long as its TCP connection lasts (RFC 1928
//! sections 4 and 7). The datagrams themselves are the business of `relay::association`.

use std::cell::Cell;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use super::dialogue::Ask;
use super::talk::Talk;
use super::target;
use super::{FAREWELL, Reply, answer, local, refused};
use crate::policy::host::{self, Host};
use crate::policy::identity::Identity;
use crate::policy::pace::Pace;
use crate::policy::source::SourceLease;
use crate::policy::users::clock;
use crate::relay::Direction;
use crate::relay::association::{Association, Named, Place, Terms};
use crate::shard::access;
use crate::shard::command::{Answer, Errand};
use crate::shard::seen::Seen;
use crate::shard::session::{Outcome, Session};
use crate::stats::counters::{add, sub};
use crate::types::{Blame, Dropped, Reason, Stage, State};
use crate::upstream::dial::DialError;

/// An association that may begin.
pub(super) struct Opened {
    association: Association,
    /// Where the client sends to.
    bound: SocketAddr,
    lease: SourceLease,
    identity: Option<Arc<Identity>>,
}

/// Opens what an association needs before its client is told that it has one.
pub(super) fn open(session: &Session, talk: &Talk<'_>, ask: &Ask) -> Result<Opened, Outcome> {
    let snapshot = &session.generation().snapshot;
    let socks = &snapshot.plan.socks;
    let not_here = Outcome::failed(Reason::SocksCommand, Blame::Client);
    // A client of a unix socket has no address that datagrams could come from.
    let (true, Some(client), Some(here)) = (socks.commands.udp, session.source(), local(&talk.inlet.socket)) else {
        return Err(not_here);
    };
    let user = ask.identity.as_ref().map(|identity| &*identity.user);
    let who = (user, user.is_none().then_some(client));
    let limit = socks.udp_max_associations_per_user;
    let lease = snapshot.associations.lease_of(who, limit).ok_or(refused(Reason::UserMaxAssociations))?;
    // A client that says which address it will send from may mean that of its own network; it is known by the one it
    // came from. The port is its own affair.
    let port = Some(ask.port).filter(|port| *port != 0);
    let opened = Association::open(session.shard().ring(), here, client, port, socks.udp_idle);
    let (association, bound) = opened.map_err(|error| Outcome::failed(DialError::from(error).reason, Blame::Proxy))?;
    let bound = SocketAddr::new(socks.advertise.unwrap_or(bound.ip()), bound.port());
    Ok(Opened { association, bound, lease, identity: ask.identity.clone() })
}

/// Tells the client where to send, and serves it to the end.
pub(super) async fn run(session: &Session, talk: &mut Talk<'_>, ask: &Ask, opened: Opened) -> Outcome {
    let Opened { association, bound, lease: _lease, identity } = opened;
    session.becomes_association();
    session.set_stage(Stage::Relay);
    if let Err(outcome) = talk.say(&answer(ask.version, Reply::Succeeded, Some(bound))).await {
        return outcome;
    }
    let _open = Open::new(session);
    let seen = session.live().seen();
    let terms = Ruled { session, identity, pace: session.pace(), has_target: Cell::new(false), seen };
    let tally = association.run(talk.inlet, &terms, &session.live().cut).await;
    if tally.reason == Reason::IdleTimeout {
        // Both of its sockets are closed by now; the client hears of it by the end of its connection.
        let _ = session.shard().ring().timeout(FAREWELL, talk.part(&[])).await;
    }
    let state = if tally.blame.is_none() { State::Closed } else { State::Failed };
    Outcome { state, reason: tally.reason, blame: tally.blame }
}

/// Counts an association as open.
struct Open<'s>(&'s Session);

impl<'s> Open<'s> {
    fn new(session: &'s Session) -> Self {
        add(&session.datagrams().associations, 1);
        Self(session)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        sub(&self.0.datagrams().associations, 1);
    }
}

/// What one client may do, by the rules in force.
struct Ruled<'s> {
    session: &'s Session,
    identity: Option<Arc<Identity>>,
    pace: Pace,
    has_target: Cell<bool>,
    seen: &'s Seen,
}

impl Terms for Ruled<'_> {
    // One allocation for each look-up, which is many times as dear.
    type Lookup = Pin<Box<dyn Future<Output = Vec<IpAddr>>>>;

    fn name<'a>(&self, host: &'a [u8]) -> Option<Named<'a>> {
        match Host::parse(host).ok()? {
            Host::Ip(ip) => Some(Named::Ip(ip)),
            Host::Name(name) => Some(Named::Name(name)),
        }
    }

    fn allows(&self, place: &Place<'_>) -> bool {
        access::may_send(self.session, self.identity.as_deref(), place)
    }

    fn edition(&self) -> u64 {
        // Whatever a live session does anew, the rules in force decide.
        self.session.shard().current.borrow().as_ref().map_or(0, |current| current.snapshot.generation.0)
    }

    fn look_up(&self, name: &str) -> Self::Lookup {
        let shard = std::rc::Rc::clone(self.session.shard());
        let limit = self.session.listener().timeouts.connect;
        let errand = Errand::Resolve { source: self.session.source(), host: target::whole(name) };
        Box::pin(async move {
            match shard.ring().timeout(limit, shard.ask(errand)).await {
                Some(Some(Answer::Addresses(addresses))) => addresses.iter().copied().map(host::canonical).collect(),
                _ => Vec::new(),
            }
        })
    }

    fn paces(&self, _direction: Direction, bytes: usize) -> bool {
        !self.pace.is_limited() || self.pace.try_take(bytes as u64, clock())
    }

    fn sends_to(&self, place: &Place<'_>) {
        self.seen.target();
        // Where it went first stands for where it went.
        if !self.has_target.replace(true) {
            let target = match (place.name, place.ip) {
                (None, Some(ip)) => SocketAddr::new(ip, place.port).to_string(),
                (name, _) => format!("{}:{}", name.unwrap_or_default(), place.port),
            };
            self.session.set_target(target.into());
        }
    }

    fn count(&self, direction: Direction, datagrams: i64, bytes: i64) {
        if datagrams > 0 {
            self.seen.passed_on(direction, self.session.shard().ring().now());
        }
        self.session.count_datagrams(direction, datagrams, bytes);
    }

    fn dropped(&self, why: Dropped) {
        self.seen.dropped(why);
        self.session.datagrams().drop_one(why);
    }
}
