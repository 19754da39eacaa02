//! One direction with a transform when its shard has no receive buffer left and may make no more: one piece at a time is
//! received into memory of its own and goes to the transform in private buffers.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::aside::Step;
use super::half::Progress;
use super::splice::is_temporary;
use crate::ring::{Completion, OwnBuffer, Queue, Ring, Socket, Timer};

/// Bytes of the memory, which exists only while a piece is on its way.
const PIECE: usize = 16 * 1024;
/// Between two looks at whether there are private buffers.
const PAUSE: Duration = Duration::from_millis(5);

pub(super) struct Fill {
    ring: Ring,
    state: State,
}

enum State {
    /// Waits until something has arrived: an idle direction needs no memory.
    Waiting(Completion),
    Receiving(OwnBuffer),
    /// The piece has come and there is no private buffer for it.
    Holding(Box<[u8]>, usize, Timer),
}

impl Fill {
    pub(super) fn new(ring: &Ring, from: &Socket) -> Self {
        Self { ring: ring.clone(), state: State::Waiting(from.readiness(libc::POLLIN | libc::POLLRDHUP)) }
    }

    /// Receives one piece. `Small` means that it is in the inbox.
    pub(super) fn poll(
        &mut self,
        from: &Socket,
        inbox: &mut Queue,
        context: &mut Context<'_>,
        progress: &mut Progress,
    ) -> Step {
        loop {
            self.state = match &mut self.state {
                State::Waiting(ready) => match Pin::new(ready).poll(context) {
                    Poll::Pending => return Step::Waits,
                    Poll::Ready(_) => State::Receiving(from.receive_into(vec![0; PIECE].into())),
                },
                State::Receiving(receive) => match receive.poll(context) {
                    Poll::Pending => return Step::Waits,
                    Poll::Ready((Ok(0), _)) if from.was_reset() => {
                        return Step::Broken(io::Error::from_raw_os_error(libc::ECONNRESET));
                    }
                    Poll::Ready((Ok(0), _)) => return Step::Ended,
                    Poll::Ready((Ok(received), bytes)) => {
                        progress.received = true;
                        State::Holding(bytes, received as usize, self.ring.timer(Duration::ZERO))
                    }
                    Poll::Ready((Err(error), _)) if is_temporary(&error) => return Step::Small,
                    Poll::Ready((Err(error), _)) => return Step::Broken(error),
                },
                State::Holding(bytes, len, pause) => {
                    if inbox.extend(&bytes[..*len]) {
                        return Step::Small;
                    }
                    if pause.poll(context).is_pending() {
                        return Step::Waits;
                    }
                    pause.reset(PAUSE);
                    continue;
                }
            };
        }
    }
}
