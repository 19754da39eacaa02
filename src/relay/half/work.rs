//! The part of a direction that has to do with its transform: giving it work, and ending with what it has to say.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use super::ask::limit;
use super::{Back, Flow, Half, Progress, Trouble};
use crate::relay::transform::Turn;
use crate::ring::{Ring, Send, Socket, Timer};
use crate::types::{Blame, Reason};

/// A transform that found no private buffer tries again after so long.
const NO_BUFFER_PAUSE: Duration = Duration::from_millis(5);

/// How long the last words may take.
const FAREWELL: Duration = Duration::from_millis(200);

/// What the transform is at. Without one it is always `Wants`.
pub(super) enum Work {
    /// It has taken what came.
    Wants,
    /// There is more to come of what it has, when some of the queue has gone.
    Full,
    /// Likewise, when there are private buffers again.
    NoBuffer(Box<Timer>),
    /// Nothing more comes out of it.
    Done,
}

impl Half {
    /// Lets the transform work on what has come, as far as there is room for what comes of it.
    pub(super) fn transform(
        &mut self,
        ring: &Ring,
        back: Back,
        context: &Context<'_>,
        progress: &mut Progress,
    ) -> Option<Trouble> {
        let transform = self.transform.as_mut()?;
        if let Work::NoBuffer(pause) = &mut self.work
            && pause.poll(context).is_pending()
        {
            return None;
        }
        let held = self.queue.count() + self.sending.as_ref().map_or(0, Send::buffers);
        let room = limit(ring).saturating_sub(held) * ring.buffer_size();
        if matches!(self.work, Work::Done) {
            ring.release(self.inbox.take());
            return None;
        }
        if room == 0 {
            self.work = Work::Full;
            return None;
        }
        let ended = self.flow == Flow::Ending;
        let turn = transform.run(ring.pool(), self.inbox.chain_mut(), ended, self.queue.chain_mut(), room);
        progress.count += transform.take_payload();
        self.work = match turn {
            Turn::Wants => Work::Wants,
            Turn::Full => Work::Full,
            Turn::NoBuffer => {
                let mut pause = Box::new(ring.timer(NO_BUFFER_PAUSE));
                let _ = pause.poll(context);
                Work::NoBuffer(pause)
            }
            Turn::Again => {
                context.waker().wake_by_ref();
                ring.note_activity();
                Work::Full
            }
            Turn::Detached => {
                // From here on this is a plain direction.
                self.transform = None;
                let rest = self.inbox.take();
                self.queue.append(rest);
                Work::Wants
            }
            Turn::Ended | Turn::Close => {
                progress.close = turn == Turn::Close;
                self.stop(Flow::Ending);
                Work::Done
            }
            // A client that has had everything and was told so may go without another word.
            Turn::Broken(Reason::TlsTruncated, Blame::Client) if back.has_finished => {
                self.stop(Flow::Ending);
                Work::Done
            }
            Turn::Broken(reason, blame) => {
                self.stop(Flow::Breaking);
                self.work = Work::Done;
                return Some(Trouble { reason, blame: Some(blame) });
            }
        };
        None
    }

    /// Whether it has something to send though nothing has come.
    pub(in crate::relay) fn owes(&self) -> bool {
        let waits = matches!(self.work, Work::Wants) && self.aside.is_none() && !self.flow.is_over();
        waits && self.transform.as_ref().is_some_and(|transform| transform.owes())
    }

    /// Before a close that follows no end of the stream: what TLS has to say then. True once it was sent.
    pub(in crate::relay) async fn farewell(&mut self, ring: &Ring, to: &Socket, is_clean: bool) -> bool {
        if self.is_pending() || self.flow.is_over() {
            return false;
        }
        let Some(transform) = &mut self.transform else { return false };
        // An alert is owed to whoever broke the protocol; after any other failure there is nothing to be said.
        let has_something_to_say = is_clean || transform.owes();
        if !has_something_to_say
            || !transform.counts_payload()
            || !transform.finish(ring.pool(), self.queue.chain_mut())
        {
            return false;
        }
        if self.queue.is_empty() {
            return true;
        }
        let mut send = to.send(self.queue.chain_mut(), &self.from, false);
        let sent = poll_fn(|context| match send.finish(to, self.queue.chain_mut()) {
            Some(result) => Poll::Ready(result.is_ok()),
            None => {
                send.wake(context);
                Poll::Pending
            }
        });
        ring.timeout(FAREWELL, sent).await.unwrap_or(false)
    }

    /// Nothing more is received; what is queued is still sent.
    fn stop(&mut self, flow: Flow) {
        self.from.pause();
        self.flow = flow;
    }

    /// Ends the direction after what is queued: a plugin wants the connection closed.
    pub(in crate::relay) fn finish(&mut self, ring: &Ring) {
        if self.flow.is_over() || matches!(self.work, Work::Done) {
            return;
        }
        self.aside = None;
        self.stop(Flow::Ending);
        ring.release(self.inbox.take());
        if let Some(transform) = &mut self.transform {
            let _ = transform.finish(ring.pool(), self.queue.chain_mut());
        }
        self.work = Work::Done;
    }
}
