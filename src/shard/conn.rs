//! The life of a connection, told once.

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{Ordering, fence};
use std::task::Poll;

use futures_lite::FutureExt;
use smallvec::SmallVec;

use super::session::{Outcome, Session};
use crate::config::plan;
use crate::policy::permit::Permit;
use crate::relay;
use crate::ring::{First, Inlet, Socket};
use crate::stats;
use crate::types::{Blame, Reason, Stage, State, UpstreamIndex};
use crate::upstream::balance::{Asker, Choice};
use crate::upstream::dial::{self, DialError, dial};
use crate::upstream::queue::{Grant, Place};

/// Serves one connection to its end, whatever that is. A panic ends this connection only.
pub(super) async fn serve(session: Session, permit: Permit, client: Socket) {
    if let Ok(outcome) = AssertUnwindSafe(live(&session, permit, client)).catch_unwind().await {
        session.end(outcome);
    }
}

async fn live(session: &Session, permit: Permit, client: Socket) -> Outcome {
    // In a box of its own, so that its memory is gone while bytes flow.
    let established = Box::pin(or_cut(session, establish(session, &permit))).await;
    let (upstream, place) = match established {
        Ok(established) => established,
        Err(outcome) => return outcome,
    };
    let connected = session.shard().ring().now();
    let timeouts = session.listener().timeouts;
    let terms = relay::Terms { idle: timeouts.idle, half_closed: timeouts.half_closed };
    let count = |direction, bytes| {
        session.count(direction, bytes);
        panic_if_asked(session);
    };
    let ring = session.shard().ring();
    let line = relay::Line::plain(ring, Inlet::new(client, First::Try), Inlet::new(upstream, First::Wait));
    let tally = relay::run(ring, line, terms, &session.live().cut, count).await;
    if let Some(first_byte) = tally.first_byte {
        session.first_byte(first_byte.saturating_sub(connected));
    }
    // The backend's place is free when its connection is closed, not before: the relay has done so.
    drop(place);
    let state = if tally.blame.is_none() { State::Closed } else { State::Failed };
    Outcome { state, reason: tally.reason, blame: tally.blame }
}

/// Gets a backend's connection for the session: routes, waits for a place where the configuration says so, dials, and
/// turns to another backend where one fails.
async fn establish(session: &Session, permit: &Permit) -> Result<(Socket, Place), Outcome> {
    let Some(upstream) = route(session) else {
        return Err(Outcome { state: State::Rejected, reason: Reason::NoRoute, blame: Some(Blame::Policy) });
    };
    let plan = &session.generation().snapshot.plan.upstreams[usize::from(upstream.0)];
    let mut tried: SmallVec<[u16; 8]> = SmallVec::new();
    let mut last = None;
    while tried.len() <= plan.retries as usize {
        session.set_stage(Stage::Connect);
        let place = match place(session, upstream, &tried).await {
            Ok(place) => place,
            // The failure that made this a retry says more than that nobody is left.
            Err(outcome) => return Err(last.unwrap_or(outcome)),
        };
        tried.push(place.index());
        session.set_stage(Stage::Connect);
        let before = session.shard().ring().now();
        match dial_backend(session, permit, plan, &place).await {
            Ok(socket) => {
                place.backend().connect_succeeded();
                session.connected(&place, session.shard().ring().now().saturating_sub(before));
                return Ok((socket, place));
            }
            Err(error) => {
                session.shard().connect_failed(place.backend(), plan.outlier, error);
                last = Some(Outcome::failed(error.reason, error.blame));
                if error.blame == Blame::Proxy {
                    break;
                }
            }
        }
    }
    Err(last.unwrap_or(Outcome::failed(Reason::NoBackend, Blame::Upstream)))
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

fn route(session: &Session) -> Option<UpstreamIndex> {
    session.listener().route(session.source(), None, std::iter::empty()).upstream()
}

/// Takes a connection of a backend, waiting in the queue where there is one.
async fn place(session: &Session, upstream: UpstreamIndex, tried: &[u16]) -> Result<Place, Outcome> {
    let shard = session.shard();
    let generation = session.generation();
    let state = &generation.snapshot.upstreams[usize::from(upstream.0)];
    let queue = generation.snapshot.plan.upstreams[usize::from(upstream.0)].queue;
    let choose = || {
        let asker = Asker { source: session.source(), tried, random: shard.random(), now_ms: stats::clock_ms() };
        generation.pickers[usize::from(upstream.0)].choose(state, &asker)
    };
    match choose() {
        Choice::Backend(index) => return Ok(shard.queues().place(state, index)),
        Choice::None => return Err(Outcome::failed(Reason::NoBackend, Blame::Upstream)),
        Choice::Full => {}
    }
    let refused = |reason| Outcome { state: State::Rejected, reason, blame: Some(Blame::Policy) };
    let queue = queue.ok_or(refused(Reason::BackendFull))?;
    session.set_stage(Stage::Queue);
    let _waiting = state.waiting.lease().ok_or(refused(Reason::QueueFull))?;
    // A place that another shard gave back in between was told to nobody.
    fence(Ordering::SeqCst);
    if let Choice::Backend(index) = choose() {
        return Ok(shard.queues().place(state, index));
    }
    let wait = async {
        let mut again = false;
        loop {
            match shard.queues().wait(state, again).await {
                Grant::Backend(index) => return Ok(shard.queues().place(state, index)),
                Grant::Again => match choose() {
                    Choice::Backend(index) => {
                        shard.queues().try_next(state);
                        return Ok(shard.queues().place(state, index));
                    }
                    Choice::None => return Err(Outcome::failed(Reason::NoBackend, Blame::Upstream)),
                    Choice::Full => again = true,
                },
            }
        }
    };
    shard.ring().timeout(queue.timeout, wait).await.unwrap_or(Err(refused(Reason::QueueTimeout)))
}

async fn dial_backend(
    session: &Session,
    permit: &Permit,
    plan: &plan::Upstream,
    place: &Place,
) -> Result<Socket, DialError> {
    let shard = session.shard();
    if let Some(socket) = shard.stocks().take(place.backend().id) {
        return Ok(socket);
    }
    let terms = dial::Terms { timeout: session.listener().timeouts.connect, source_address: plan.source_address };
    let targets = shard.targets(place.backend());
    dial(shard.ring(), permit, &targets, terms).await
}

/// Ends early when the session is cut.
async fn or_cut<T>(session: &Session, future: impl Future<Output = Result<T, Outcome>>) -> Result<T, Outcome> {
    let mut future = pin!(future);
    poll_fn(|context| {
        if let Poll::Ready((reason, blame)) = session.live().cut.poll(context) {
            return Poll::Ready(Err(Outcome::failed(reason, blame)));
        }
        future.as_mut().poll(context)
    })
    .await
}
