//! The life of a connection, told once.

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use futures_lite::FutureExt;

use super::greet::{Greeted, greet};
use super::reach::{Reached, destination, reach};
use super::session::{Outcome, Session};
use super::socks;
use crate::plugin::{self, Refusal};
use crate::policy::permit::Permit;
use crate::relay::sight::Sight;
use crate::relay::{self, Direction, Line, Transform, Way};
use crate::ring::Socket;
use crate::types::{Blame, Reason, Service, State};
use crate::upstream::queue::Place;

/// A connection as it arrives. In a box, as a future keeps room for its arguments as long as it lives.
pub(super) struct Arrival {
    /// `None` where only a PROXY header tells who the client is.
    pub(super) permit: Option<Permit>,
    pub(super) client: Socket,
}

/// Serves one connection to its end, whatever that is. A panic ends this connection only.
pub(super) async fn serve(session: Session, arrival: Box<Arrival>) {
    if let Ok(outcome) = AssertUnwindSafe(live(&session, arrival)).catch_unwind().await {
        session.end(outcome);
    }
}

async fn live(session: &Session, arrival: Box<Arrival>) -> Outcome {
    // In a box of its own, so that its memory is gone while bytes flow.
    let established = or_cut(session, Box::pin(establish(session, arrival))).await;
    let (line, place) = match established {
        Ok(established) => established,
        Err(outcome) => return outcome,
    };
    let ring = session.shard().ring();
    let connected = ring.now();
    let count = |direction, bytes| {
        if direction == Direction::Down && session.awaits_first_byte() {
            session.first_byte(ring.now().saturating_sub(connected));
        }
        session.count(direction, bytes);
        panic_if_asked(session);
    };
    let tally = relay::run(ring, line, &session.live().cut, count).await;
    // The backend's place is free when its connection is closed, not before: the relay has done so.
    drop(place);
    let state = if tally.blame.is_none() { State::Closed } else { State::Failed };
    Outcome { state, reason: tally.reason, blame: tally.blame }
}

/// From the first byte of the client to a line of both sides: hears who it is and what it wants, gets it a backend, and
/// opens the plugins between them.
async fn establish(session: &Session, arrival: Box<Arrival>) -> Result<(Box<Line>, Option<Place>), Outcome> {
    let Arrival { permit, client } = *arrival;
    let mut greeted = greet(session, client, permit).await?;
    let reached = match session.listener().service {
        Service::Tcp => reach(session, &mut greeted).await?,
        Service::Socks5 => Box::pin(socks::reach(session, &mut greeted)).await?,
    };
    let Opened { lines, is_refused } = open_plugins(session, &greeted, &reached)?;
    let (line_up, line_down) = lines.unzip();
    let pool = session.shard().ring().pool();
    let Greeted { inlet: client, tls: inside, opened, .. } = greeted;
    let Reached { inlet: upstream, place, tls: outside, up: preface_up, down: preface_down } = reached;
    let (open_up, seal_down) = inside.map(|tls| (tls.opener, tls.sealer)).unzip();
    let (open_down, seal_up) = outside.map(|tls| (tls.opener, tls.sealer)).unzip();
    let up = Transform::new(Direction::Up, pool, open_up, line_up, seal_up).map(|up| up.beginning_with(opened));
    let down = Transform::new(Direction::Down, pool, open_down, line_down, seal_down);
    let up = Way { preface: preface_up, transform: up };
    let down = Way { preface: preface_down, transform: down };
    let timeouts = &session.listener().timeouts;
    let terms = relay::Terms { idle: timeouts.idle, half_closed: timeouts.half_closed };
    let pace = Some(Rc::new(session.pace()));
    Ok((Box::new(Line { client, upstream, up, down, terms, is_refused, pace }), place))
}

/// What plugins say to a connection.
#[derive(Default)]
struct Opened {
    /// Both directions; `None` where nobody wants to see the connection.
    lines: Option<(plugin::Line, plugin::Line)>,
    /// It is to be closed, without another byte.
    is_refused: bool,
}

fn open_plugins(session: &Session, greeted: &Greeted, reached: &Reached) -> Result<Opened, Outcome> {
    let generation = session.generation();
    let instances = &generation.plugins[session.listener_index()];
    if instances.is_empty() {
        return Ok(Opened::default());
    }
    let live = session.live();
    let backend = reached.place.as_ref().map(Place::backend);
    let destination = greeted.destination.or_else(|| destination(&greeted.inlet.socket));
    let asked = live.target();
    let user = live.user();
    let tls = live.tls();
    let alpn = tls.as_ref().and_then(|tls| tls.alpn.as_deref());
    let sni = tls.as_ref().and_then(|tls| tls.sni.as_deref());
    let facts = plugin::Facts {
        session: live.id,
        generation: generation.snapshot.generation,
        client: live.client,
        source: live.source(),
        listener: &session.listener().name,
        target: match &asked {
            Some(asked) => Some(asked as _),
            None => destination.as_ref().map(|destination| destination as _),
        },
        upstream: backend.map(|backend| &backend.upstream as _),
        backend: backend.map(|backend| &backend.address as _),
        sni: sni.as_ref().map(|sni| sni as _),
        alpn: alpn.as_ref().map(|alpn| alpn as _),
        user: user.as_ref().map(|user| user as _),
    };
    let sides = [&greeted.inlet.socket, &reached.inlet.socket];
    let outcome = match plugin::Streams::open(session.shard().ring().pool(), instances, &facts) {
        Ok(lines) => return Ok(Opened { lines, is_refused: false }),
        Err(Refusal::Close) => return Ok(Opened { lines: None, is_refused: true }),
        Err(Refusal::Reset) => Outcome::failed(Reason::PluginReset, Blame::Policy),
        Err(Refusal::Fault(_)) => Outcome::failed(Reason::PluginFault, Blame::Proxy),
    };
    sides.into_iter().for_each(Socket::reset_on_close);
    Err(outcome)
}

/// For the test of what a panic costs: in debug builds, sessions from the address ARUS_TEST_PANIC panic as they relay.
fn panic_if_asked(session: &Session) {
    #[cfg(debug_assertions)]
    {
        static ASKED: std::sync::OnceLock<Option<std::net::IpAddr>> = std::sync::OnceLock::new();
        let asked = ASKED.get_or_init(|| std::env::var("ARUS_TEST_PANIC").ok()?.parse().ok());
        assert!(asked.is_none() || *asked != session.source(), "asked to panic");
    }
    #[cfg(not(debug_assertions))]
    let _ = session;
}

/// Ends early when the session is cut.
async fn or_cut<T>(
    session: &Session,
    mut future: Pin<Box<impl Future<Output = Result<T, Outcome>>>>,
) -> Result<T, Outcome> {
    poll_fn(|context| {
        if let Poll::Ready((reason, blame)) = session.live().cut.poll(context) {
            return Poll::Ready(Err(Outcome::failed(reason, blame)));
        }
        // There is nothing to be seen yet; the stage says enough.
        session.live().cut.answer(Sight::default);
        future.as_mut().poll(context)
    })
    .await
}

#[cfg(test)]
#[path = "conn_tests.rs"]
mod tests;
