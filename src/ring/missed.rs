//! Ends of streams that the kernel does not report.
//!
//! A multishot receive may miss a RST or FIN that comes while it takes bytes: wake-ups that come together count as one,
//! and what is queued behind them tells of bytes only (seen with kernel 6.18, TCP resets and FINs of unix sockets). It
//! then waits for ever. So a receive that brought bytes and stays armed is in doubt until its socket was looked at
//! once more, [`LOOK_AFTER`] to twice that after its last bytes: one poll(2) for all of them. By the time that a
//! completion is seen, the kernel waits again and misses nothing that comes from then on; a socket that was looked at
//! once is beyond doubt until its next bytes.
//!
//! A receive that is held back, as its taker has no room, is looked at in the same way for as long as it is: nothing else
//! would tell of a RST.

use std::cell::{Cell, RefCell};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::core::Core;
use super::slots::{Operation, ReceiveState, Token};

/// Half the longest time for which a missed end goes unnoticed.
const LOOK_AFTER: Duration = Duration::from_millis(100);

/// Looks at a reset connection that is held back before it is given up. What came before the reset still lies in the
/// socket, and a slow reader that takes something meanwhile gets it.
const PATIENCE: u8 = 10;

/// The receives in doubt.
#[derive(Default)]
pub(super) struct Doubts {
    receives: RefCell<Vec<Token>>,
    look_at: Cell<Duration>,
}

impl Doubts {
    /// Notes that `receive` brought bytes and stays armed, or is held back.
    pub(super) fn note(&self, token: Token, receive: &mut ReceiveState, now: Duration) {
        if std::mem::replace(&mut receive.in_doubt, true) {
            receive.is_fresh = true;
            return;
        }
        let mut receives = self.receives.borrow_mut();
        if receives.is_empty() {
            self.look_at.set(now + LOOK_AFTER);
        }
        receives.push(token);
    }

    /// When to look, while there are some.
    pub(super) fn look_at(&self) -> Option<Duration> {
        (!self.receives.borrow().is_empty()).then_some(self.look_at.get())
    }
}

impl Core {
    /// Looks at the receives in doubt when it is time, and wakes those whose stream has ended.
    pub(super) fn look_for_missed_ends(&self) {
        if self.doubts.look_at().is_none_or(|look_at| look_at.as_millis() > self.now().as_millis()) {
            return;
        }
        let mut tokens = self.doubts.receives.take();
        let mut polls = Vec::with_capacity(tokens.len());
        let mut slots = self.slots.borrow_mut();
        let mut fresh = Vec::new();
        tokens.retain(|token| {
            let Some(Operation::Receive(receive)) = slots.get(*token) else { return false };
            receive.in_doubt = false;
            if std::mem::take(&mut receive.is_fresh) {
                receive.looks_at_reset = 0;
                fresh.push(*token);
                return false;
            }
            let events = match receive.armed {
                true => libc::POLLRDHUP,
                // Errors are reported without being asked for.
                false => 0,
            };
            let stays = !receive.pausing && !receive.starved && !receive.orphan && receive.ended.is_none();
            if stays {
                polls.push(libc::pollfd { fd: receive.descriptor.as_raw_fd(), events, revents: 0 });
            }
            stays
        });
        // SAFETY: `polls` is an array of so many pollfd, which lives over the call; the call does not wait.
        unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, 0) };
        // More has come since: those that are busy cost no look, and have theirs when they fall silent.
        for token in fresh {
            self.doubts.note(token, slots.receive(token), self.now());
        }
        let mut ended = Vec::new();
        for (token, poll) in tokens.into_iter().zip(&polls) {
            debug_assert!(poll.revents & libc::POLLNVAL == 0);
            let receive = slots.receive(token);
            if receive.armed && poll.revents != 0 {
                // Armed anew, it looks at the socket first.
                receive.pausing = true;
                ended.push(token);
            } else if !receive.armed && poll.revents & libc::POLLERR != 0 && receive.looks_at_reset < PATIENCE {
                receive.looks_at_reset += 1;
                self.doubts.note(token, receive, self.now());
            } else if !receive.armed && poll.revents & libc::POLLERR != 0 {
                receive.ended = Some(-libc::ECONNRESET);
                if let Some(waker) = &receive.waker {
                    self.note_activity();
                    waker.wake_by_ref();
                }
            } else if !receive.armed {
                self.doubts.note(token, receive, self.now());
            }
        }
        drop(slots);
        ended.into_iter().for_each(|token| self.cancel(token));
    }
}
