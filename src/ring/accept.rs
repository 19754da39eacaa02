//! Accepting: a stream of connections from one listening socket.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll};

use io_uring::{opcode, types};

use super::core::Core;
use super::descriptor::Descriptor;
use super::slots::{AcceptState, Operation, Token, register};

/// The accept queue of a listening socket, armed once (multishot accept, kernel 5.19) for as long as it is polled.
pub struct Accept {
    core: Rc<Core>,
    token: Token,
}

impl Accept {
    pub(super) fn new(core: &Rc<Core>, descriptor: &Descriptor) -> Self {
        let token = core.slots.borrow_mut().insert(Operation::Accept(AcceptState {
            waker: None,
            descriptor: Rc::clone(descriptor),
            accepted: Default::default(),
            armed: false,
            orphan: false,
            error: None,
        }));
        Self { core: Rc::clone(core), token }
    }

    /// The next connection. An error (EMFILE, ENFILE, ENOMEM, ECONNABORTED ...) is reported once; accepting goes on
    /// with the next poll, which the caller delays where the error calls for it.
    pub fn poll(&mut self, context: &Context<'_>, appetite: Appetite) -> Poll<io::Result<OwnedFd>> {
        self.core.note_activity();
        let mut slots = self.core.slots.borrow_mut();
        let accept = slots.accept(self.token);
        if let Some(connection) = accept.accepted.pop_front() {
            return Poll::Ready(Ok(connection));
        }
        if let Some(error) = accept.error.take() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(-error)));
        }
        register(&mut accept.waker, context);
        if !accept.armed {
            accept.armed = true;
            let fd = types::Fd(accept.descriptor.as_raw_fd());
            drop(slots);
            let entry = match appetite {
                Appetite::Many => opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build(),
                Appetite::One => opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
                    .flags(libc::SOCK_CLOEXEC)
                    .build(),
            };
            // SAFETY: the slot owns the descriptor; an accept without an address names no memory.
            unsafe { self.core.push(entry, self.token) };
        }
        Poll::Pending
    }

    /// Stops accepting until the next [`Accept::poll`]; connections wait in the socket's queue meanwhile. What is
    /// accepted already stays to be polled or taken.
    pub fn pause(&mut self) {
        if self.core.slots.borrow_mut().accept(self.token).armed {
            self.core.cancel(self.token);
        }
    }

    /// A connection that is accepted already.
    pub fn take(&mut self) -> Option<OwnedFd> {
        self.core.slots.borrow_mut().accept(self.token).accepted.pop_front()
    }

    /// Ready when the kernel accepts no more for this stream, after [`Accept::pause`].
    pub fn poll_paused(&mut self, context: &Context<'_>) -> Poll<()> {
        self.core.note_activity();
        let mut slots = self.core.slots.borrow_mut();
        let accept = slots.accept(self.token);
        if !accept.armed {
            return Poll::Ready(());
        }
        register(&mut accept.waker, context);
        Poll::Pending
    }
}

/// How many connections to accept at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appetite {
    /// All that wait in the queue, and those that come (multishot).
    Many,
    /// One, so that descriptors for what was accepted before are not used up.
    One,
}

impl Drop for Accept {
    fn drop(&mut self) {
        let mut slots = self.core.slots.borrow_mut();
        let accept = slots.accept(self.token);
        if accept.armed {
            accept.orphan = true;
            accept.waker = None;
            accept.accepted.clear();
            drop(slots);
            self.core.cancel(self.token);
        } else {
            slots.remove(self.token);
        }
    }
}
