//! One direction of a relay: a state machine that receives from one socket and sends to the other.

use std::io;
use std::task::{Context, Poll};

use crate::limits::QUEUED_BYTES_PER_DIRECTION;
use crate::ring::{Chain, Receive, Received, Ring, SEND_BUFFERS, Send, Socket};

/// A direction receives while it holds less than one part in so many of the buffers that can still be had by growth: as
/// slow readers become many, each may hold less, and there is always something left for the others.
const SHARE_OF_AVAILABLE: usize = 16;
/// Beyond that it may use one part in so many of the buffers that lie idle: the fewer and larger the moves, the fewer
/// times the peers are woken, and those buffers are there anyway.
const SHARE_OF_IDLE: usize = 8;

/// One direction.
pub(super) struct Half {
    from: Receive,
    queue: Chain,
    sending: Option<Send>,
    flow: Flow,
    fin_passed: bool,
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
    /// Bytes that the kernel took for the other side.
    pub(super) sent: usize,
}

impl Half {
    pub(super) fn new(from: Receive) -> Self {
        Self { from, queue: Chain::default(), sending: None, flow: Flow::Open, fin_passed: false }
    }

    pub(super) fn flow(&self) -> Flow {
        self.flow
    }

    /// Whether bytes are queued or in flight.
    pub(super) fn is_pending(&self) -> bool {
        self.sending.is_some() || !self.queue.is_empty()
    }

    pub(super) fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// True once, when a FIN is to be passed on.
    pub(super) fn take_fin(&mut self) -> bool {
        self.flow == Flow::Ended && !std::mem::replace(&mut self.fin_passed, true)
    }

    /// Moves what can be moved now. The error of a failed receive or send is given once, with the flow set.
    pub(super) fn poll(&mut self, ring: &Ring, to: &Socket, context: &Context<'_>) -> (Progress, Option<io::Error>) {
        let mut progress = Progress::default();
        let mut failed = None;
        while !self.flow.is_over() {
            if let Some(send) = &mut self.sending
                && let Poll::Ready(result) = send.poll(context, to, &mut self.queue)
            {
                self.sending = None;
                match result {
                    Ok(sent) => progress.sent += sent,
                    Err(error) => {
                        self.flow = Flow::Refused;
                        self.from.pause();
                        ring.release(std::mem::take(&mut self.queue));
                        failed = Some(error);
                        break;
                    }
                }
            }
            if let Err(error) = self.receive(ring, context, &mut progress) {
                failed = Some(error);
            }
            if self.sending.is_none() && !self.queue.is_empty() {
                self.sending = Some(to.send(&mut self.queue));
                // Once more, to be woken by the send.
                continue;
            }
            match self.flow {
                _ if self.is_pending() => {}
                Flow::Ending => self.flow = Flow::Ended,
                Flow::Breaking => self.flow = Flow::Broken,
                _ => {}
            }
            break;
        }
        (progress, failed)
    }

    fn receive(&mut self, ring: &Ring, context: &Context<'_>, progress: &mut Progress) -> Result<(), io::Error> {
        while self.flow == Flow::Open {
            let room = self.room(ring);
            match self.from.poll(context, room) {
                Poll::Pending => {
                    if room == 0 && self.is_full(ring) {
                        self.from.pause();
                    }
                    break;
                }
                Poll::Ready(Received::Data(chain)) => {
                    progress.received = true;
                    ring.append(&mut self.queue, chain);
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

    /// Buffers that this direction may hold now.
    fn limit(ring: &Ring) -> usize {
        let most = (QUEUED_BYTES_PER_DIRECTION / ring.buffer_size()).max(2);
        let fair = (ring.buffers_available() / SHARE_OF_AVAILABLE).clamp(1, most);
        fair.max((ring.buffers_idle() / SHARE_OF_IDLE).min(2 * SEND_BUFFERS))
    }

    fn held(&self) -> usize {
        self.queue.count() + self.sending.as_ref().map_or(0, Send::buffers)
    }

    /// Bytes to ask for: none while more than half of what may be held is held, so that asking is worth its cost.
    fn room(&self, ring: &Ring) -> usize {
        let (limit, held) = (Self::limit(ring), self.held());
        if held * 2 > limit { 0 } else { (limit - held) * ring.buffer_size() }
    }

    fn is_full(&self, ring: &Ring) -> bool {
        self.held() >= Self::limit(ring)
    }
}
