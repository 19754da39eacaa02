//! One direction of a relay when its shard has no receive buffer left and may make no more: one piece at a time goes
//! through memory of its own, so that readers who stall, and hold all the buffers, stop nobody else.

use std::io;
use std::task::{Context, Poll};

use super::aside::Step;
use super::half::Progress;
use super::splice::is_temporary;
use crate::ring::{Completion, OwnBuffer, Socket};

/// Bytes of the memory, which exists only while a piece is on its way.
const PIECE: usize = 16 * 1024;

/// A piece on its way.
pub(super) enum Detour {
    /// Waits until something has arrived: an idle direction needs no memory.
    Waiting(Completion),
    Receiving(OwnBuffer),
    Sending(OwnBuffer),
}

impl Detour {
    pub(super) fn new(from: &Socket) -> Self {
        Self::Waiting(from.readiness(libc::POLLIN | libc::POLLRDHUP))
    }

    /// Whether a piece is in the memory.
    pub(super) fn is_pending(&self) -> bool {
        matches!(self, Self::Sending(_))
    }

    /// Moves one piece. `Small` means that it is through, and the shard's buffers can be tried again.
    pub(super) fn poll(
        &mut self,
        from: &Socket,
        to: &Socket,
        context: &mut Context<'_>,
        progress: &mut Progress,
    ) -> Step {
        use std::future::Future;
        use std::pin::Pin;
        loop {
            *self = match self {
                Self::Waiting(ready) => match Pin::new(ready).poll(context) {
                    Poll::Pending => return Step::Waits,
                    Poll::Ready(_) => Self::Receiving(from.receive_into(vec![0; PIECE].into())),
                },
                Self::Receiving(receive) => match receive.poll(context) {
                    Poll::Pending => return Step::Waits,
                    Poll::Ready((Ok(0), _)) if from.was_reset() => return Step::Broken(reset()),
                    Poll::Ready((Ok(0), _)) => return Step::Ended,
                    Poll::Ready((Ok(received), bytes)) => {
                        progress.received = true;
                        Self::Sending(to.send_from(bytes, received as usize))
                    }
                    Poll::Ready((Err(error), _)) if is_temporary(&error) => return Step::Small,
                    Poll::Ready((Err(error), _)) => return Step::Broken(error),
                },
                Self::Sending(send) => match send.poll(context) {
                    Poll::Pending => return Step::Waits,
                    // MSG_WAITALL: less than all means that the peer has gone.
                    Poll::Ready((Ok(sent), _)) => {
                        progress.count += i64::from(sent);
                        return if sent as usize == send.wanted() { Step::Small } else { Step::Refused(short()) };
                    }
                    Poll::Ready((Err(error), _)) => return Step::Refused(error),
                },
            };
        }
    }
}

fn reset() -> io::Error {
    io::Error::from_raw_os_error(libc::ECONNRESET)
}

fn short() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}
