//! One direction of a relay: a state machine that receives from one socket and sends to the other, through a transform
//! where there is one.

mod ask;
mod look;
mod rate;
mod work;

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::aside::{Aside, Step};
use super::pace::Gate;
use super::transform::Transform;
use crate::policy::pace::Pace;
use crate::ring::{Ask, Queue, Receive, Received, Ring, Send, Socket};
use crate::types::{Blame, Reason};
use ask::{LEAST_ASK, limit, what_to_ask};
use work::Work;

/// Sends after which a socket counts as busy.
const BUSY: u8 = 32;
/// Buffers that came in large pieces without a small one between, after which a direction counts as bulk: 8 MiB, so that
/// short answers never pay for a pipe.
const BULK: u32 = 512;

/// What a direction begins with.
pub struct Way {
    /// Goes out before everything else, as it is, and is not payload.
    pub preface: Queue,
    pub transform: Option<Box<Transform>>,
}

/// One direction.
pub(super) struct Half {
    from: Receive,
    transform: Option<Box<Transform>>,
    work: Work,
    /// What has come and is not through the transform yet.
    inbox: Queue,
    queue: Queue,
    /// Bytes at the front of the queue that are not payload.
    preface: usize,
    /// And of the send in flight.
    preface_sending: usize,
    sending: Option<Send>,
    flow: Flow,
    fin_passed: bool,
    /// Buffers to ask for at once: few for small messages.
    ask: u16,
    /// Buffers that came in large pieces, without a small one between them.
    bulk: u32,
    /// Sends so far, up to as many as a byte counts.
    sends: u8,
    /// There is something to receive and no buffer for it.
    lacks_buffer: bool,
    /// While the direction does not go through the shard's buffers.
    aside: Option<Aside>,
    gate: Option<Gate>,
    /// Rates are limited now.
    is_paced: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Open,
    /// `from` has sent FIN; the rest of what came is on its way.
    Ending,
    /// `from` has failed (RST); the rest of what came is on its way.
    Breaking,
    /// Everything that came was passed on; `from` had sent FIN.
    Ended,
    /// Everything that came was passed on; `from` had failed.
    Broken,
    /// `to` takes no more.
    Refused,
}

impl Flow {
    /// Whether nothing more will be sent in this direction.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Ended | Self::Broken | Self::Refused)
    }
}

/// What a [`Half::poll`] has done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) received: bool,
    /// Bytes of payload that were handed to the kernel for the other side, less those that it gave back.
    pub(super) count: i64,
    /// A plugin wants the connection closed, after what is queued.
    pub(super) close: bool,
}

/// How the other direction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Back {
    /// It has something to send to `from`: what looks like the end of the stream may be a reset that only it was told of.
    casts_doubt: bool,
    /// Everything was passed on, and `from` knows that no more will come.
    has_finished: bool,
}

/// Why a direction goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) reason: Reason,
    /// `None`: the side that the flow tells.
    pub(super) blame: Option<Blame>,
}

impl From<io::Error> for Trouble {
    fn from(_: io::Error) -> Self {
        Self { reason: Reason::Reset, blame: None }
    }
}

impl Half {
    /// `ahead` was received from `from` before.
    pub(super) fn new(from: Receive, ahead: Queue, way: Way, pace: Option<Rc<Pace>>) -> Self {
        let Way { preface, transform } = way;
        let (preface_len, mut queue, mut inbox) = (preface.len(), preface, ahead);
        if transform.is_none() {
            queue.join(inbox.take());
        }
        Self {
            from,
            transform,
            work: Work::Wants,
            inbox,
            queue,
            preface: preface_len,
            preface_sending: 0,
            sending: None,
            flow: Flow::Open,
            fin_passed: false,
            ask: LEAST_ASK,
            bulk: 0,
            sends: 0,
            lacks_buffer: false,
            aside: None,
            gate: pace.map(Gate::new),
            is_paced: false,
        }
    }

    pub(super) fn flow(&self) -> Flow {
        self.flow
    }

    /// Whether bytes are queued or in flight.
    pub(super) fn is_pending(&self) -> bool {
        self.is_sending() || !self.queue.is_empty() || matches!(self.work, Work::Full | Work::NoBuffer(_))
    }

    /// Whether bytes wait for `to` to take them.
    pub(super) fn is_sending(&self) -> bool {
        self.sending.is_some() || self.aside.as_ref().is_some_and(Aside::is_pending)
    }

    /// What the other direction has to know of this one.
    pub(super) fn back(&self) -> Back {
        let sends = self.sending.as_ref().is_some_and(|send| !send.is_sent());
        let casts_doubt = sends || !self.queue.is_empty() || self.aside.is_some() || self.flow == Flow::Refused;
        Back { casts_doubt, has_finished: self.has_finished() }
    }

    /// Whether everything that came was passed on, and the other side knows that no more will come.
    pub(super) fn has_finished(&self) -> bool {
        self.flow == Flow::Ended && self.fin_passed
    }

    /// True once, when a FIN is to be passed on.
    pub(super) fn take_fin(&mut self) -> bool {
        self.flow == Flow::Ended && !std::mem::replace(&mut self.fin_passed, true)
    }

    /// Moves what can be moved now; `back` tells how the other direction stands. Why a receive or send has failed is given
    /// once, with the flow set.
    pub(super) fn poll(
        &mut self,
        ring: &Ring,
        from: &Socket,
        to: &Socket,
        back: Back,
        context: &mut Context<'_>,
    ) -> (Progress, Option<Trouble>) {
        let mut progress = Progress::default();
        if self.flow.is_over() {
            return (progress, None);
        }
        self.is_paced = self.gate.as_ref().is_some_and(Gate::is_limited);
        if let Err(error) = self.finish_send(to, &mut progress) {
            self.flow = Flow::Refused;
            self.from.pause();
            ring.release(self.queue.take());
            ring.release(self.inbox.take());
            return (progress, Some(error.into()));
        }
        if self.is_aside(ring, from, to, context) {
            let trouble = self.poll_aside(from, to, context, &mut progress);
            // What went aside for want of a buffer still has to go through the transform.
            if trouble.is_some() || self.transform.is_none() || self.aside.is_some() {
                return (progress, trouble);
            }
        }
        let trouble = self.poll_copy(ring, from, to, back, context, &mut progress);
        // It has only now turned out that there is no buffer.
        if trouble.is_none() && self.lacks_buffer && self.is_aside(ring, from, to, context) {
            let trouble = self.poll_aside(from, to, context, &mut progress);
            return (progress, trouble);
        }
        (progress, trouble)
    }

    /// Whether the direction goes another way than through the shard's buffers; it begins with that at a moment when
    /// nothing is queued, in flight or asked for.
    fn is_aside(&mut self, ring: &Ring, from: &Socket, to: &Socket, context: &Context<'_>) -> bool {
        if self.aside.is_none() && self.rests() && !self.is_pending() && self.from.is_at_rest() {
            if self.is_bulk() && from.can_splice() && to.can_splice() {
                self.aside = ring.pipe().map(Aside::splice);
            }
            // Not to be tried again for every piece where there is no pipe.
            self.bulk = 0;
            if self.aside.is_none() && self.lacks_buffer && self.may_send(ring, 0, context) {
                self.note_sent(0);
                self.lacks_buffer = false;
                self.aside = Some(Aside::detour(ring, from, self.transform.is_some()));
            }
        }
        self.aside.is_some()
    }

    fn poll_aside(
        &mut self,
        from: &Socket,
        to: &Socket,
        context: &mut Context<'_>,
        progress: &mut Progress,
    ) -> Option<Trouble> {
        let before = progress.count;
        let step = match self.aside.as_mut()? {
            // A limit that has come meanwhile.
            Aside::Splice(splice) if self.is_paced && !splice.is_pending() => Step::Small,
            aside => aside.poll(from, to, &mut self.inbox, context, progress),
        };
        if let Some(gate) = self.gate.as_ref().filter(|_| self.is_paced) {
            gate.charge(progress.count - before);
        }
        let (flow, error) = match step {
            // Who waits for `to` would not learn that `from` has gone.
            Step::Waits if self.from.has_failed() => {
                (Flow::Broken, Some(io::Error::from_raw_os_error(libc::ECONNRESET)))
            }
            Step::Waits => return None,
            Step::Small => (Flow::Open, None),
            Step::Ended => (Flow::Ended, None),
            Step::Broken(error) => (Flow::Broken, Some(error)),
            Step::Refused(error) => (Flow::Refused, Some(error)),
        };
        self.aside = None;
        self.flow = match flow {
            Flow::Ended if self.transform.is_some() => Flow::Ending,
            Flow::Broken if self.transform.is_some() => Flow::Breaking,
            flow => flow,
        };
        if flow == Flow::Open {
            // Copying goes on where this ended.
            self.ask = LEAST_ASK;
            context.waker().wake_by_ref();
        }
        error.map(Into::into)
    }

    fn poll_copy(
        &mut self,
        ring: &Ring,
        from: &Socket,
        to: &Socket,
        back: Back,
        context: &Context<'_>,
        progress: &mut Progress,
    ) -> Option<Trouble> {
        let failed = self.receive(ring, from, back, context, progress).err();
        let trouble = self.transform(ring, back, context, progress).or(failed.map(Into::into));
        if self.sending.is_none() && !self.queue.is_empty() && self.may_send(ring, self.queue.len(), context) {
            self.sends = self.sends.saturating_add(1);
            if self.sends == BUSY {
                to.pin();
            }
            let is_last = self.flow == Flow::Ending && (self.transform.is_none() || matches!(self.work, Work::Done));
            let send = to.send(self.queue.chain_mut(), &self.from, is_last);
            self.note_sent(send.bytes());
            progress.count += self.count_sending(send.bytes());
            self.sending = Some(send);
        }
        let idle = self.queue.is_empty();
        let through = matches!(self.work, Work::Wants | Work::Done);
        match (&mut self.sending, self.flow) {
            // The next thing to happen is that more is received: the end of a send that succeeds need wake nobody.
            (Some(_), Flow::Open) if idle && through && self.from.is_armed() => {}
            (Some(send), _) => send.wake(context),
            // The gate wakes.
            (None, _) if !idle => {}
            (None, Flow::Ending) if self.transform.is_none() || matches!(self.work, Work::Done) => {
                self.flow = Flow::Ended;
            }
            (None, Flow::Breaking) if through => self.flow = Flow::Broken,
            (None, _) => {}
        }
        trouble
    }

    /// Receives what still comes and throws it away; ready when no more will come.
    pub(super) fn discard(&mut self, ring: &Ring, context: &Context<'_>) -> Poll<()> {
        let piece = ring.buffer_size() as u32;
        loop {
            match self.from.poll(context, || Ask { total: 4 * piece, at_once: piece }) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Received::Data(chain)) => ring.release(chain),
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    }

    fn finish_send(&mut self, to: &Socket, progress: &mut Progress) -> Result<(), io::Error> {
        let Some(send) = &mut self.sending else { return Ok(()) };
        let len = send.bytes();
        let Some(result) = send.finish(to, self.queue.chain_mut()) else { return Ok(()) };
        self.sending = None;
        progress.count -= self.count_unsent(len, *result.as_ref().unwrap_or(&0));
        result.map(drop)
    }

    /// Payload among the next `len` bytes that are given to the kernel.
    fn count_sending(&mut self, len: usize) -> i64 {
        self.preface_sending = self.preface.min(len);
        self.preface -= self.preface_sending;
        if self.counts_payload() { 0 } else { (len - self.preface_sending) as i64 }
    }

    /// Payload among those bytes that were not sent, when `sent` of `len` were.
    fn count_unsent(&mut self, len: usize, sent: usize) -> i64 {
        let preface_unsent = self.preface_sending.saturating_sub(sent);
        self.preface += preface_unsent;
        if self.counts_payload() { 0 } else { (len - sent - preface_unsent) as i64 }
    }

    /// Whether the transform counts the payload: what is sent is something else then.
    fn counts_payload(&self) -> bool {
        self.transform.as_ref().is_some_and(|transform| transform.counts_payload())
    }

    /// Gives up what is in flight; gives the bytes that were counted and not sent, as a negative count.
    pub(super) fn abandon(&mut self, to: &Socket) -> i64 {
        let Some(mut send) = self.sending.take() else { return 0 };
        let len = send.bytes();
        let sent = match send.finish(to, self.queue.chain_mut()) {
            Some(Ok(sent)) => sent,
            Some(Err(_)) | None => 0,
        };
        -self.count_unsent(len, sent)
    }

    fn receive(
        &mut self,
        ring: &Ring,
        from: &Socket,
        back: Back,
        context: &Context<'_>,
        progress: &mut Progress,
    ) -> Result<(), io::Error> {
        while self.flow == Flow::Open {
            let (held, ask) = (self.held(), usize::from(self.ask));
            let (rests, piece) = (self.rests(), self.paced_piece());
            let ask = || match piece {
                _ if rests => Ask::default(),
                Some(piece) => Ask { total: piece, at_once: piece.min((ask * ring.buffer_size()) as u32) },
                None => what_to_ask(ring, held, ask),
            };
            match self.from.poll(context, ask) {
                Poll::Pending => break,
                Poll::Ready(Received::Data(chain)) => {
                    progress.received = true;
                    self.adapt(chain.count());
                    match self.transform {
                        Some(_) => {
                            self.inbox.append(chain);
                            self.inbox.compact();
                        }
                        None => self.queue.append(chain),
                    }
                    // Where the kernel cannot cap a receive, or many small messages came, this is what stops it.
                    if self.held() >= limit(ring) || self.is_bulk() || self.has_a_piece() {
                        self.from.pause();
                    }
                }
                Poll::Ready(Received::NoBuffer) => self.lacks_buffer = true,
                Poll::Ready(Received::End) if back.casts_doubt && from.was_reset() => {
                    self.flow = Flow::Breaking;
                    return Err(io::Error::from_raw_os_error(libc::ECONNRESET));
                }
                Poll::Ready(Received::End) => self.flow = Flow::Ending,
                Poll::Ready(Received::Failed(error)) => {
                    self.flow = Flow::Breaking;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// A direction that is to go aside comes to rest first.
    fn rests(&self) -> bool {
        self.is_bulk() || self.lacks_buffer
    }

    fn is_bulk(&self) -> bool {
        self.bulk >= BULK && self.transform.is_none() && !self.is_paced
    }

    /// Buffers with what is on its way. What the transform waits to have more of does not count: it is bounded, and to
    /// receive no more would be the end.
    fn held(&self) -> usize {
        let inside = || self.transform.as_ref().map_or(0, |transform| transform.held());
        let waits = matches!(self.work, Work::Full | Work::NoBuffer(_));
        let inbox = if waits { self.inbox.count() + inside() } else { 0 };
        inbox + self.queue.count() + self.sending.as_ref().map_or(0, Send::buffers)
    }
}
