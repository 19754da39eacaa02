//! Relaying: bytes between a client and an upstream, both ways, until both have ended or a deadline has passed.
//!
//! Each direction is a [`half::Half`]. FIN is passed on after everything before it and the other direction goes on; RST
//! is passed on as RST after what came before it. A side that does not read holds a bounded number of buffers.

mod aside;
pub mod association;
mod cut;
mod detour;
mod fill;
mod half;
mod pace;
pub mod sight;
mod splice;
#[cfg(test)]
mod tests;
mod transform;
pub mod verdict;

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::policy::pace::Pace;
use crate::ring::{Inlet, Queue, Ring, Socket, Timer};
use crate::types::{Blame, Reason};
pub use cut::Cut;
pub use half::Way;
use half::{Flow, Half, Progress, Trouble};
use sight::Sight;
pub use transform::Transform;

/// How long what came before a reset may take to be delivered.
const RESET_GRACE: Duration = Duration::from_millis(500);
/// Between two looks at whether it has been.
const RESET_LOOK: Duration = Duration::from_millis(10);

/// Between two looks at whether a side that has sent its FIN was reset since.
const LOOK_FOR_RESET: Duration = Duration::from_secs(1);
/// How long a side that was told goodbye may go on sending before it is cut off.
const LINGER: Duration = Duration::from_secs(1);

/// Up is from the client to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

/// What a relay goes by.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// No byte in either direction.
    pub idle: Duration,
    /// No byte, after one side has sent FIN.
    pub half_closed: Duration,
}

/// How a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub reason: Reason,
    /// `None` for a clean end.
    pub blame: Option<Blame>,
}

/// The two sides, and what is on the way between them.
pub struct Line {
    pub client: Inlet,
    pub upstream: Inlet,
    pub up: Way,
    pub down: Way,
    pub terms: Terms,
    /// A plugin wants no such connection: both sides are told goodbye at once.
    pub is_refused: bool,
    /// How fast bytes may go, both ways together.
    pub pace: Option<Rc<Pace>>,
}

impl Line {
    /// Bytes go through as they are.
    #[must_use]
    pub fn plain(ring: &Ring, client: Inlet, upstream: Inlet, terms: Terms) -> Self {
        let way = || Way { preface: Queue::new(ring.pool()), transform: None };
        Self { client, upstream, up: way(), down: way(), terms, is_refused: false, pace: None }
    }
}

/// Relays until the end. `count` is told of all bytes of payload as they are sent on, and of those that were not after
/// all. The sockets are closed when the future is gone; here it is decided whether with FIN or RST.
pub async fn run(ring: &Ring, line: Box<Line>, cut: &Cut, count: impl Fn(Direction, i64)) -> Tally {
    // In a box, as a future keeps room for its arguments as long as it lives.
    let Line { client: Inlet { socket: client, receive, ahead }, upstream, up, down, terms, is_refused, pace } = *line;
    let up = Half::new(receive, ahead, up, pace.clone());
    let Inlet { socket: upstream, receive, ahead } = upstream;
    let mut relay = Relay {
        up,
        down: Half::new(receive, ahead, down, pace),
        client,
        upstream,
        fault: None,
        has_answered: false,
        has_answered_since_fin: false,
        closing: false,
        deadline: Deadline::new(ring, terms),
    };
    if is_refused {
        relay.begin_close(ring);
    }
    let (reason, blame) = poll_fn(|context| relay.poll(ring, cut, &count, context)).await;
    if cut.why().is_some() {
        relay.client.reset_on_close();
        relay.upstream.reset_on_close();
    } else if relay.closing && relay.fault.is_none() {
        Box::pin(relay.linger(ring)).await;
    } else {
        // In boxes, as the way out is larger than what goes on before it, and most connections are not on it.
        Box::pin(relay.close(ring)).await;
    }
    let Relay { up, down, client, upstream, .. } = &mut relay;
    for (direction, unsent) in [(Direction::Up, up.abandon(upstream)), (Direction::Down, down.abandon(client))] {
        if unsent != 0 {
            count(direction, unsent);
        }
    }
    Tally { reason, blame }
}

struct Relay {
    up: Half,
    down: Half,
    client: Socket,
    upstream: Socket,
    /// The first failure of a side.
    fault: Option<(Reason, Option<Blame>)>,
    /// Payload has gone to the client.
    has_answered: bool,
    /// And after the client's end was passed on.
    has_answered_since_fin: bool,
    /// A plugin has closed the connection; what is queued is still sent.
    closing: bool,
    deadline: Deadline,
}

impl Relay {
    fn poll(
        &mut self,
        ring: &Ring,
        cut: &Cut,
        count: &impl Fn(Direction, i64),
        context: &mut Context<'_>,
    ) -> Poll<(Reason, Option<Blame>)> {
        if let Poll::Ready((reason, blame)) = cut.poll(context) {
            return Poll::Ready((reason, Some(blame)));
        }
        cut.answer(|| self.look(ring));
        let Self { up, down, client, upstream, .. } = self;
        let (went_up, up_trouble) = up.poll(ring, client, upstream, down.back(), context);
        let (went_down, down_trouble) = down.poll(ring, upstream, client, up.back(), context);
        for (direction, went) in [(Direction::Up, went_up), (Direction::Down, went_down)] {
            if went.count != 0 {
                count(direction, went.count);
                self.has_answered |= direction == Direction::Down;
                self.has_answered_since_fin |= direction == Direction::Down && self.up.has_finished();
            }
        }
        if let Some(trouble) = up_trouble {
            self.note_trouble(Direction::Up, trouble);
        }
        if let Some(trouble) = down_trouble {
            self.note_trouble(Direction::Down, trouble);
        }
        self.note_close(ring, went_up, went_down, context);
        if self.up.owes() || self.down.owes() {
            context.waker().wake_by_ref();
            ring.note_activity();
        }
        if self.is_over() {
            return Poll::Ready(match self.fault {
                Some(fault) => fault,
                None if self.closing => (Reason::PluginClosed, None),
                None => (Reason::Done, None),
            });
        }
        if [self.up.flow(), self.down.flow()].into_iter().any(|flow| matches!(flow, Flow::Ending | Flow::Ended)) {
            self.deadline.begin_looking();
        }
        self.pass_on_fin();
        if went_up.received || went_down.received {
            self.deadline.moved(ring);
        }
        self.poll_deadline(ring, context)
    }

    fn look(&self, ring: &Ring) -> Sight {
        let (client, upstream) = (self.client.tcp_info(), self.upstream.tcp_info());
        Sight { at: ring.now(), client, upstream, up: self.up.look(), down: self.down.look(), association: None }
    }

    /// Where a plugin closes the connection, both directions end with what is queued.
    fn note_close(&mut self, ring: &Ring, up: Progress, down: Progress, context: &Context<'_>) {
        if !self.closing && (up.close || down.close) {
            self.begin_close(ring);
            // What was finished here has yet to be looked at.
            context.waker().wake_by_ref();
            ring.note_activity();
        }
    }

    /// Both directions end with what is queued.
    fn begin_close(&mut self, ring: &Ring) {
        self.closing = true;
        self.up.finish(ring);
        self.down.finish(ring);
        self.deadline.begin_half_closed();
    }

    fn note_trouble(&mut self, direction: Direction, trouble: Trouble) {
        let (flow, from, to, receiver) = match direction {
            Direction::Up => (self.up.flow(), Blame::Client, Blame::Upstream, &self.upstream),
            Direction::Down => (self.down.flow(), Blame::Upstream, Blame::Client, &self.client),
        };
        let blame = trouble.blame.unwrap_or(if flow == Flow::Refused { to } else { from });
        // Many clients that have had their answer go without close_notify (curl with HTTP/2 does), and many backends whose
        // client has said goodbye (nginx does). That is taken for what it looks like, and nobody is to blame; still the
        // other side gets no FIN that nobody has vouched for.
        let is_used_to = match direction {
            Direction::Up => self.has_answered,
            Direction::Down => self.up.has_finished() && !self.has_answered_since_fin,
        };
        let is_habit = trouble.reason == Reason::TlsTruncated && is_used_to;
        self.fault.get_or_insert((trouble.reason, (!is_habit).then_some(blame)));
        // Who takes no more because it has gone, sends no more either: what came from it goes on its way, but the other
        // side may well not read that before somebody takes what it writes.
        if flow == Flow::Breaking || (flow == Flow::Refused && receiver.was_reset()) {
            self.deadline.begin_breaking();
        }
    }

    /// Both directions are over, or one is whose failure leaves the other nobody to talk to.
    fn is_over(&self) -> bool {
        let (up, down) = (self.up.flow(), self.down.flow());
        up == Flow::Broken || down == Flow::Broken || (up.is_over() && down.is_over())
    }

    fn pass_on_fin(&mut self) {
        for (half, to) in [(&mut self.up, &self.upstream), (&mut self.down, &self.client)] {
            if half.take_fin() {
                to.shutdown_write();
                self.deadline.begin_half_closed();
            }
        }
    }

    fn poll_deadline(&mut self, ring: &Ring, context: &Context<'_>) -> Poll<(Reason, Option<Blame>)> {
        while self.deadline.timer.poll(context).is_ready() {
            // A send of many buffers to a slow reader completes late; what the reader acknowledged shows that it lives.
            let mut acknowledged = 0;
            for (half, to) in [(&self.up, &self.upstream), (&self.down, &self.client)] {
                if half.is_sending() {
                    acknowledged += to.delivery().acknowledged;
                }
            }
            if let Some(blame) = self.reset_after_fin() {
                let fault = *self.fault.get_or_insert((Reason::Reset, Some(blame)));
                self.client.reset_on_close();
                self.upstream.reset_on_close();
                return Poll::Ready(fault);
            }
            if self.deadline.has_passed(ring, acknowledged) {
                let slow = self.slow_side();
                return Poll::Ready(match (self.fault, self.deadline.phase) {
                    (Some(fault), _) => fault,
                    (None, Phase::HalfClosed) => (Reason::HalfClosedTimeout, Some(slow)),
                    (None, Phase::Open | Phase::Breaking) => (Reason::IdleTimeout, Some(slow)),
                });
            }
        }
        Poll::Pending
    }

    /// Who has reset the connection after its FIN. No receive is armed for it then, so nobody else would say so.
    fn reset_after_fin(&self) -> Option<Blame> {
        let sides = [(&self.up, &self.client, Blame::Client), (&self.down, &self.upstream, Blame::Upstream)];
        sides.into_iter().find_map(|(half, socket, blame)| {
            let has_sent_fin = matches!(half.flow(), Flow::Ending | Flow::Ended);
            (has_sent_fin && socket.was_reset()).then_some(blame)
        })
    }

    /// Who kept the relay waiting: whoever does not read what is queued for it, else the client, who may speak anytime.
    fn slow_side(&self) -> Blame {
        match (self.up.is_pending(), self.down.is_pending()) {
            (true, false) => Blame::Upstream,
            _ if self.up.flow() == Flow::Ended => Blame::Upstream,
            _ => Blame::Client,
        }
    }

    /// Decides how each side learns of the end: a clean FIN only where everything was delivered.
    async fn close(&mut self, ring: &Ring) {
        for (half, to) in [(&mut self.up, &self.upstream), (&mut self.down, &self.client)] {
            let was_told = half.farewell(ring, to, self.fault.is_none()).await;
            match half.flow() {
                // By TLS, which says more than FIN or RST.
                _ if was_told => {}
                Flow::Ended if self.fault.is_none() || half.has_finished() => {}
                // A reset is reported to one operation only. Where that was the send of the other direction, the receive
                // saw an end like that of a FIN, and is no proof of one.
                Flow::Ended | Flow::Broken => {
                    // The reset must not overtake what came before it.
                    let mut waited = Duration::ZERO;
                    while waited < RESET_GRACE && to.delivery().waiting > 0 {
                        ring.sleep(RESET_LOOK).await;
                        waited += RESET_LOOK;
                    }
                    to.reset_on_close();
                }
                Flow::Open if !half.is_pending() && self.fault.is_none() => {}
                Flow::Open | Flow::Ending | Flow::Breaking | Flow::Refused => to.reset_on_close(),
            }
        }
    }
}

impl Relay {
    /// Ends a connection that a plugin has closed: everything was given to the kernel, both sides have a FIN. To close
    /// with bytes unread would be a reset, which takes what was sent from those who have not read it yet.
    async fn linger(&mut self, ring: &Ring) {
        let all_ended = poll_fn(|context| {
            let (up, down) = (self.up.discard(ring, context), self.down.discard(ring, context));
            if up.is_ready() && down.is_ready() { Poll::Ready(()) } else { Poll::Pending }
        });
        let _ = ring.timeout(LINGER, all_ended).await;
    }
}

/// The deadline of a relay: looked at lazily, so that traffic costs it nothing but noting the time.
struct Deadline {
    timer: Timer,
    terms: Terms,
    phase: Phase,
    /// A side has sent its FIN: whether it is reset after that has to be looked at.
    looks_for_reset: bool,
    last_move: Duration,
    acknowledged: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    HalfClosed,
    /// One side was reset; what came before goes on its way to the other.
    Breaking,
}

impl Deadline {
    fn new(ring: &Ring, terms: Terms) -> Self {
        let timer = ring.timer(terms.idle);
        Self { timer, terms, phase: Phase::Open, looks_for_reset: false, last_move: ring.now(), acknowledged: 0 }
    }

    fn limit(&self) -> Duration {
        match self.phase {
            Phase::Open => self.terms.idle,
            Phase::HalfClosed => self.terms.half_closed.min(self.terms.idle),
            Phase::Breaking => RESET_GRACE,
        }
    }

    fn moved(&mut self, ring: &Ring) {
        self.last_move = ring.now();
    }

    fn begin_looking(&mut self) {
        if !std::mem::replace(&mut self.looks_for_reset, true) {
            self.timer.reset(LOOK_FOR_RESET.min(self.limit()));
        }
    }

    fn begin_half_closed(&mut self) {
        if self.phase == Phase::Open {
            self.begin(Phase::HalfClosed);
        }
    }

    fn begin_breaking(&mut self) {
        self.begin(Phase::Breaking);
    }

    fn begin(&mut self, phase: Phase) {
        self.phase = phase;
        self.look_after(self.limit());
    }

    /// Called when the timer has fired: whether the limit is really over, or the timer was set anew. `acknowledged`
    /// counts what slow readers took; a change since the last look counts as a move.
    fn has_passed(&mut self, ring: &Ring, acknowledged: u64) -> bool {
        if self.phase != Phase::Breaking && acknowledged != std::mem::replace(&mut self.acknowledged, acknowledged) {
            self.moved(ring);
        }
        let rest = (self.last_move + self.limit()).saturating_sub(ring.now());
        if rest.is_zero() {
            return true;
        }
        self.look_after(rest);
        false
    }

    fn look_after(&mut self, rest: Duration) {
        self.timer.reset(if self.looks_for_reset { rest.min(LOOK_FOR_RESET) } else { rest });
    }
}
