//! One direction of a relay while it is bulk: bytes go from socket to pipe to socket, and nobody copies them.
//!
//! Only streams that have shown to be bulk come here (`half`): for small messages a splice costs more than a copy. A stream
//! whose pieces become small goes back.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::aside::Step;
use super::half::Progress;
use crate::ring::{Completion, Pipe, Socket};

/// A move of fewer bytes is a small one.
const SMALL: usize = 32 * 1024;
/// After so many small moves in a row the direction is copied again.
const SMALL_MOVES: u8 = 16;

/// The state of a spliced direction.
pub(super) struct Splice {
    pipe: Pipe,
    waiting: Option<Completion>,
    small_moves: u8,
}

impl Splice {
    pub(super) fn new(pipe: Pipe) -> Self {
        Self { pipe, waiting: None, small_moves: 0 }
    }

    /// Whether bytes are in the pipe.
    pub(super) fn is_pending(&self) -> bool {
        !self.pipe.is_empty()
    }

    /// Bytes in the pipe.
    pub(super) fn waiting(&self) -> usize {
        self.pipe.len()
    }

    /// Moves one pipe of bytes at most, then waits for its next turn by way of the ring, so that others have theirs.
    pub(super) fn poll(
        &mut self,
        from: &Socket,
        to: &Socket,
        context: &mut Context<'_>,
        progress: &mut Progress,
    ) -> Step {
        let mut filled = false;
        loop {
            if let Some(waiting) = &mut self.waiting {
                match Pin::new(waiting).poll(context) {
                    Poll::Pending => return Step::Waits,
                    // What a failed poll has to say the next splice says as well.
                    Poll::Ready(_) => self.waiting = None,
                }
            }
            if !self.pipe.is_empty() {
                match self.pipe.empty(to) {
                    Ok(moved) => progress.count += moved as i64,
                    Err(error) if is_temporary(&error) => {
                        self.waiting = Some(to.readiness(libc::POLLOUT));
                    }
                    Err(error) => return Step::Refused(error),
                }
                continue;
            }
            if filled {
                self.waiting = Some(from.readiness(libc::POLLIN | libc::POLLRDHUP));
                continue;
            }
            if self.small_moves >= SMALL_MOVES {
                return Step::Small;
            }
            match self.pipe.fill(from) {
                Ok(0) if from.was_reset() => return Step::Broken(io::Error::from_raw_os_error(libc::ECONNRESET)),
                Ok(0) => return Step::Ended,
                Ok(moved) => {
                    filled = true;
                    progress.received = true;
                    self.small_moves = if moved < SMALL { self.small_moves + 1 } else { 0 };
                }
                Err(error) if is_temporary(&error) => filled = true,
                Err(error) => return Step::Broken(error),
            }
        }
    }
}

pub(super) fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
