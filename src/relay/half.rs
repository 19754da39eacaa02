//! One direction of a relay: a state machine that receives from one socket and sends to the other.

use std::io;
use std::task::{Context, Poll};

use super::detour::Detour;
use super::splice::{Splice, Step};
use crate::limits::{QUEUED_BYTES_PER_DIRECTION, QUEUED_BYTES_UNDER_PRESSURE};
use crate::ring::{Ask, Chain, Receive, Received, Ring, SEND_BUFFERS, Send, Socket};

/// A direction may hold one part in so many of the buffers that lie idle, within its bounds: the fewer and larger the
/// moves, the fewer times the peers are woken, and those buffers are there anyway.
const SHARE_OF_IDLE: usize = 8;
/// And never more than one part in so many of those that can still be had by growth: as slow readers become many, each
/// may hold less, and there is always something left for the others.
const SHARE_OF_AVAILABLE: usize = 16;
/// Buffers that a direction asks for to begin with. An ask doubles when it is used up at once, and shrinks again.
const LEAST_ASK: u16 = 2;
const LARGEST_ASK: u16 = SEND_BUFFERS as u16;
/// Sends after which a socket counts as busy.
const BUSY: u8 = 32;
/// Buffers of a large piece.
const BULK_PIECE: usize = 4;
/// Buffers that came in large pieces without a small one between, after which a direction counts as bulk: 8 MiB, so that
/// short answers never pay for a pipe.
const BULK: u64 = 512;

/// Another way than through the shard's buffers.
enum Aside {
    /// While the direction is bulk.
    Splice(Box<Splice>),
    /// While the shard has no buffer left.
    Detour(Detour),
}

impl Aside {
    fn is_pending(&self) -> bool {
        match self {
            Self::Splice(splice) => splice.is_pending(),
            Self::Detour(detour) => detour.is_pending(),
        }
    }
}

/// One direction.
pub(super) struct Half {
    ring: Ring,
    from: Receive,
    queue: Chain,
    sending: Option<Send>,
    flow: Flow,
    fin_passed: bool,
    /// Buffers to ask for at once: few for small messages.
    ask: u16,
    /// Buffers that came in large pieces, without a small one between them.
    bulk: u64,
    /// Sends so far, up to as many as a byte counts.
    sends: u8,
    /// There is something to receive and no buffer for it.
    lacks_buffer: bool,
    /// While the direction does not go through the shard's buffers.
    aside: Option<Aside>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Open,
    /// `from` has sent FIN; the rest of the queue is on its way.
    Ending,
    /// `from` has failed (RST); the rest of the queue is on its way.
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
    /// Bytes that were handed to the kernel for the other side, less those that it gave back.
    pub(super) count: i64,
}

impl Half {
    pub(super) fn new(ring: &Ring, from: Receive) -> Self {
        Self {
            ring: ring.clone(),
            from,
            queue: Chain::default(),
            sending: None,
            flow: Flow::Open,
            fin_passed: false,
            ask: LEAST_ASK,
            bulk: 0,
            sends: 0,
            lacks_buffer: false,
            aside: None,
        }
    }

    pub(super) fn flow(&self) -> Flow {
        self.flow
    }

    /// Whether bytes are queued or in flight.
    pub(super) fn is_pending(&self) -> bool {
        self.is_sending() || !self.queue.is_empty()
    }

    /// Whether bytes wait for `to` to take them.
    pub(super) fn is_sending(&self) -> bool {
        self.sending.is_some() || self.aside.as_ref().is_some_and(Aside::is_pending)
    }

    /// Whether the end of what `to` sends may be a reset that only this direction was told of: it has something to send.
    pub(super) fn casts_doubt(&self) -> bool {
        let sends = self.sending.as_ref().is_some_and(|send| !send.is_sent());
        sends || !self.queue.is_empty() || self.aside.is_some() || self.flow == Flow::Refused
    }

    /// Whether everything that came was passed on, and the other side knows that no more will come.
    pub(super) fn has_finished(&self) -> bool {
        self.flow == Flow::Ended && self.fin_passed
    }

    /// True once, when a FIN is to be passed on.
    pub(super) fn take_fin(&mut self) -> bool {
        self.flow == Flow::Ended && !std::mem::replace(&mut self.fin_passed, true)
    }

    /// Moves what can be moved now. `doubtful` says that an end of what `from` sends may be a reset. The error of a failed receive or send is given once, with the flow set.
    pub(super) fn poll(
        &mut self,
        ring: &Ring,
        from: &Socket,
        to: &Socket,
        doubtful: bool,
        context: &mut Context<'_>,
    ) -> (Progress, Option<io::Error>) {
        let mut progress = Progress::default();
        if self.flow.is_over() {
            return (progress, None);
        }
        if let Err(error) = self.finish_send(to, &mut progress) {
            self.flow = Flow::Refused;
            self.from.pause();
            ring.release(std::mem::take(&mut self.queue));
            return (progress, Some(error));
        }
        if self.is_aside(ring, from, to) {
            let failed = self.poll_aside(from, to, context, &mut progress);
            return (progress, failed);
        }
        let failed = self.poll_copy(ring, from, to, doubtful, context, &mut progress);
        // It has only now turned out that there is no buffer.
        match failed.is_none() && self.lacks_buffer && self.is_aside(ring, from, to) {
            true => {
                let failed = self.poll_aside(from, to, context, &mut progress);
                (progress, failed)
            }
            false => (progress, failed),
        }
    }

    /// Whether the direction goes another way than through the shard's buffers; it begins with that at a moment when
    /// nothing is queued, in flight or asked for.
    fn is_aside(&mut self, ring: &Ring, from: &Socket, to: &Socket) -> bool {
        if self.aside.is_none() && (self.is_bulk() || self.lacks_buffer) && !self.is_pending() && self.from.is_at_rest()
        {
            if self.is_bulk() && from.can_splice() && to.can_splice() {
                self.aside = ring.pipe().map(|pipe| Aside::Splice(Box::new(Splice::new(pipe))));
            }
            // Not to be tried again for every piece where there is no pipe.
            self.bulk = 0;
            if std::mem::take(&mut self.lacks_buffer) && self.aside.is_none() {
                self.aside = Some(Aside::Detour(Detour::new(from)));
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
    ) -> Option<io::Error> {
        let step = match self.aside.as_mut()? {
            Aside::Splice(splice) => splice.poll(from, to, context, progress),
            Aside::Detour(detour) => detour.poll(from, to, context, progress),
        };
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
        self.flow = flow;
        if flow == Flow::Open {
            // Copying goes on where this ended.
            self.ask = LEAST_ASK;
            context.waker().wake_by_ref();
        }
        error
    }

    fn poll_copy(
        &mut self,
        ring: &Ring,
        from: &Socket,
        to: &Socket,
        doubtful: bool,
        context: &Context<'_>,
        progress: &mut Progress,
    ) -> Option<io::Error> {
        let failed = self.receive(ring, from, doubtful, context, progress).err();
        if self.sending.is_none() && !self.queue.is_empty() {
            self.sends = self.sends.saturating_add(1);
            if self.sends == BUSY {
                to.pin();
            }
            let send = to.send(&mut self.queue, &self.from);
            progress.count += send.bytes() as i64;
            self.sending = Some(send);
        }
        let idle = self.queue.is_empty();
        match (&mut self.sending, self.flow) {
            // The next thing to happen is that more is received: the end of a send that succeeds need wake nobody.
            (Some(_), Flow::Open) if idle && self.from.is_armed() => {}
            (Some(send), _) => send.wake(context),
            (None, Flow::Ending) => self.flow = Flow::Ended,
            (None, Flow::Breaking) => self.flow = Flow::Broken,
            (None, _) => {}
        }
        failed
    }

    fn finish_send(&mut self, to: &Socket, progress: &mut Progress) -> Result<(), io::Error> {
        let Some(send) = &mut self.sending else { return Ok(()) };
        let len = send.bytes();
        let Some(result) = send.finish(to, &mut self.queue) else { return Ok(()) };
        self.sending = None;
        progress.count -= (len - *result.as_ref().unwrap_or(&0)) as i64;
        result.map(drop)
    }

    /// Gives up what is in flight; gives the bytes that were counted and not sent, as a negative count.
    pub(super) fn abandon(&mut self, to: &Socket) -> i64 {
        let Some(mut send) = self.sending.take() else { return 0 };
        let sent = match send.finish(to, &mut self.queue) {
            Some(Ok(sent)) => sent,
            Some(Err(_)) | None => 0,
        };
        sent as i64 - send.bytes() as i64
    }

    fn receive(
        &mut self,
        ring: &Ring,
        from: &Socket,
        doubtful: bool,
        context: &Context<'_>,
        progress: &mut Progress,
    ) -> Result<(), io::Error> {
        while self.flow == Flow::Open {
            let (held, ask) = (self.held(), usize::from(self.ask));
            // A direction that is to be spliced comes to rest first.
            let rests = self.is_bulk() || self.lacks_buffer;
            match self.from.poll(context, || if rests { Ask::default() } else { what_to_ask(ring, held, ask) }) {
                Poll::Pending => break,
                Poll::Ready(Received::Data(chain)) => {
                    progress.received = true;
                    self.adapt(chain.count());
                    ring.append(&mut self.queue, chain);
                    // Where the kernel cannot cap a receive, or many small messages came, this is what stops it.
                    if self.held() >= limit(ring) || self.is_bulk() {
                        self.from.pause();
                    }
                }
                Poll::Ready(Received::NoBuffer) => self.lacks_buffer = true,
                Poll::Ready(Received::End) if doubtful && from.was_reset() => {
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

    fn is_bulk(&self) -> bool {
        self.bulk >= BULK
    }

    fn adapt(&mut self, received: usize) {
        let ask = usize::from(self.ask);
        self.bulk = if received >= BULK_PIECE { self.bulk + received as u64 } else { 0 };
        if received * 2 >= ask && received > 1 {
            self.ask = (self.ask * 2).min(LARGEST_ASK);
        } else if received * 8 <= ask {
            self.ask = (self.ask / 2).max(LEAST_ASK);
        }
    }

    fn held(&self) -> usize {
        self.queue.count() + self.sending.as_ref().map_or(0, Send::buffers)
    }
}

/// Whatever ended the relay: what is queued and not on its way goes back to the pool.
impl Drop for Half {
    fn drop(&mut self) {
        self.ring.release(std::mem::take(&mut self.queue));
    }
}

/// Buffers that a direction may hold now.
fn limit(ring: &Ring) -> usize {
    let buffers = |bytes: usize| (bytes / ring.buffer_size()).max(2);
    let (least, most) = (buffers(QUEUED_BYTES_UNDER_PRESSURE), buffers(QUEUED_BYTES_PER_DIRECTION));
    let wanted = match ring.has_grown() {
        true => least,
        false => (ring.buffers_idle() / SHARE_OF_IDLE).clamp(least, most),
    };
    wanted.min(ring.buffers_available() / SHARE_OF_AVAILABLE).max(1)
}

/// What to ask for, `ask` buffers at once: nothing while more than half of what may be held is held, so that asking is
/// worth its cost.
fn what_to_ask(ring: &Ring, held: usize, ask: usize) -> Ask {
    let limit = limit(ring);
    if held * 2 > limit {
        return Ask::default();
    }
    let size = ring.buffer_size();
    Ask { total: ((limit - held) * size) as u32, at_once: (ask * size) as u32 }
}
