//! Operations with one completion: connect, send, poll, read. Each is a future; dropping it cancels the operation,
//! whose slot keeps descriptor and memory until the kernel is done.

use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use io_uring::{opcode, squeue, types};
use socket2::SockAddr;

use super::chain::Chain;
use super::core::Core;
use super::descriptor::Descriptor;
use super::slots::{Operation, Owned, Single, Token, register};

/// Buffers of one vectored send. The kernel copies up to 8 iovecs without an allocation; 32 buffers of 16 KiB are what
/// one direction may have queued, twice.
pub(super) const SEND_BUFFERS: usize = 32;

/// The message header of a vectored send and the vector it points to.
pub(super) struct Vector {
    header: libc::msghdr,
    pieces: [libc::iovec; SEND_BUFFERS],
}

impl Vector {
    pub(super) fn new() -> Box<Self> {
        // SAFETY: a msghdr of zeros is an empty message.
        let header = unsafe { std::mem::zeroed::<libc::msghdr>() };
        let piece = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Box::new(Self { header, pieces: [piece; SEND_BUFFERS] })
    }

    /// Points the vector at memory; returns what the kernel wants to see.
    fn fill(&mut self, pieces: impl Iterator<Item = (*mut u8, usize)>) -> *const libc::msghdr {
        let mut count = 0;
        for (slot, (base, len)) in self.pieces.iter_mut().zip(pieces) {
            *slot = libc::iovec { iov_base: base.cast(), iov_len: len };
            count += 1;
        }
        self.header.msg_iov = self.pieces.as_mut_ptr();
        self.header.msg_iovlen = count;
        &raw const self.header
    }
}

/// An operation in flight, or completed and not yet looked at.
pub(super) struct InFlight {
    core: Rc<Core>,
    token: Token,
    done: bool,
}

impl InFlight {
    /// Starts an operation. `entry` builds it from what the slot will own, which does not move in memory any more.
    ///
    /// # Safety
    /// The entry names no memory but the pool's and what lies behind the boxes of `owned`, and no descriptor but
    /// `descriptor`.
    unsafe fn start(core: &Rc<Core>, descriptor: &Descriptor, owned: Owned, entry: squeue::Entry) -> Self {
        // SAFETY: passed on to the caller.
        unsafe { Self::start_with(core, descriptor, owned, Token::NONE, entry) }
    }

    /// As [`InFlight::start`], with a receive of the same task as partner.
    ///
    /// # Safety
    /// As [`InFlight::start`].
    unsafe fn start_with(
        core: &Rc<Core>,
        descriptor: &Descriptor,
        owned: Owned,
        partner: Token,
        entry: squeue::Entry,
    ) -> Self {
        let token = core.slots.borrow_mut().insert(Operation::Single(Single {
            waker: None,
            result: None,
            orphan: false,
            partner,
            owned,
            _descriptor: Rc::clone(descriptor),
        }));
        // SAFETY: the slot owns memory and descriptor; the rest is the caller's promise.
        unsafe { core.push(entry, token) };
        Self { core: Rc::clone(core), token, done: false }
    }

    /// The result, once, with what the slot owned; `None` while the kernel is at it.
    pub(super) fn take(&mut self) -> Option<(i32, Owned)> {
        let mut slots = self.core.slots.borrow_mut();
        let result = slots.single(self.token).result?;
        self.done = true;
        match slots.remove(self.token) {
            Operation::Single(single) => Some((result, single.owned)),
            _ => unreachable!("the slot held a single operation a moment ago"),
        }
    }

    /// Whether it is a send, and all was sent.
    pub(super) fn is_sent(&self) -> bool {
        let mut slots = self.core.slots.borrow_mut();
        let single = slots.single(self.token);
        single.result.is_some() && matches!(single.owned, Owned::Nothing)
    }

    /// Wakes the task at the completion. Without it a send that is sent in full wakes nobody.
    pub(super) fn wake(&mut self, context: &Context<'_>) {
        register(&mut self.core.slots.borrow_mut().single(self.token).waker, context);
    }

    pub(super) fn poll(&mut self, context: &Context<'_>) -> Poll<(i32, Owned)> {
        self.core.note_activity();
        match self.take() {
            Some(output) => Poll::Ready(output),
            None => {
                self.wake(context);
                Poll::Pending
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut slots = self.core.slots.borrow_mut();
        let single = slots.single(self.token);
        if single.result.is_none() {
            single.orphan = true;
            single.waker = None;
            drop(slots);
            self.core.cancel(self.token);
        } else if let Operation::Single(single) = slots.remove(self.token) {
            drop(slots);
            self.core.reclaim(single.owned);
        }
    }
}

/// Sends a chain of buffers, all of it unless the peer fails. `flags` are more than those of every send.
pub(super) fn start_send(
    core: &Rc<Core>,
    descriptor: &Descriptor,
    chain: Chain,
    partner: Token,
    flags: libc::c_int,
) -> InFlight {
    let fd = types::Fd(descriptor.target());
    let flags = flags | libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
    debug_assert!(chain.count() <= SEND_BUFFERS && !chain.is_empty());
    let pool = core.pool.borrow();
    if chain.count() == 1 {
        let (base, len) = pool.pieces(&chain).next().unwrap_or((std::ptr::null_mut(), 0));
        drop(pool);
        let entry = descriptor.aim(opcode::Send::new(fd, base, len as u32).flags(flags).build());
        // SAFETY: the buffer is the pool's, and `chain` keeps it from being provided again.
        return unsafe { InFlight::start_with(core, descriptor, Owned::Buffer(chain), partner, entry) };
    }
    let mut vector = core.vectors.borrow_mut().pop().unwrap_or_else(Vector::new);
    let header = vector.fill(pool.pieces(&chain));
    drop(pool);
    let entry = descriptor.aim(opcode::SendMsg::new(fd, header).flags(flags as u32).build());
    // SAFETY: header and vector lie in the box that the slot owns; the buffers are the pool's, kept by `chain`.
    unsafe { InFlight::start_with(core, descriptor, Owned::Vector(chain, vector), partner, entry) }
}

/// Takes back what [`start_send`] was given and what was not given back at its completion.
pub(super) fn sent(core: &Core, owned: Owned) -> Chain {
    match owned {
        Owned::Nothing => Chain::default(),
        Owned::Buffer(chain) => chain,
        Owned::Vector(chain, vector) => {
            core.spare(vector);
            chain
        }
        _ => unreachable!("a send owns a chain"),
    }
}

/// Sends the first `len` of `bytes`, all of them unless the peer fails.
pub(super) fn start_send_bytes(core: &Rc<Core>, descriptor: &Descriptor, bytes: Box<[u8]>, len: usize) -> InFlight {
    let fd = types::Fd(descriptor.as_raw_fd());
    let len = len.min(bytes.len()) as u32;
    let entry = opcode::Send::new(fd, bytes.as_ptr(), len).flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL).build();
    // SAFETY: the bytes lie in the box that the slot owns.
    unsafe { InFlight::start(core, descriptor, Owned::Bytes(bytes), entry) }
}

/// Receives into memory that is not the pool's.
pub(super) fn start_receive_bytes(core: &Rc<Core>, descriptor: &Descriptor, mut bytes: Box<[u8]>) -> InFlight {
    let fd = types::Fd(descriptor.as_raw_fd());
    let entry = opcode::Recv::new(fd, bytes.as_mut_ptr(), bytes.len() as u32).build();
    // SAFETY: the bytes lie in the box that the slot owns.
    unsafe { InFlight::start(core, descriptor, Owned::Bytes(bytes), entry) }
}

pub(super) fn start_connect(core: &Rc<Core>, descriptor: &Descriptor, address: &SockAddr) -> InFlight {
    let address = Box::new(address.clone());
    let entry = opcode::Connect::new(types::Fd(descriptor.as_raw_fd()), address.as_ptr().cast(), address.len()).build();
    // SAFETY: the address lies in the box that the slot owns.
    unsafe { InFlight::start(core, descriptor, Owned::Address { _address: address }, entry) }
}

/// Waits until poll(2) would report one of `events`, a mask of `POLL*`.
pub(super) fn start_poll(core: &Rc<Core>, descriptor: &Descriptor, events: i16) -> InFlight {
    let entry = opcode::PollAdd::new(types::Fd(descriptor.as_raw_fd()), u32::from(events as u16)).build();
    // SAFETY: a poll names no memory.
    unsafe { InFlight::start(core, descriptor, Owned::Nothing, entry) }
}

/// Reads the counter of an eventfd, and so waits until it is not 0.
pub(super) fn start_read_word(core: &Rc<Core>, descriptor: &Descriptor) -> InFlight {
    let mut word = Box::new(0u64);
    let entry =
        opcode::Read::new(types::Fd(descriptor.as_raw_fd()), (&raw mut *word).cast(), size_of::<u64>() as u32).build();
    // SAFETY: the word lies in the box that the slot owns.
    unsafe { InFlight::start(core, descriptor, Owned::Word { _word: word }, entry) }
}

/// An operation whose result is a number, as a future.
pub struct Completion(pub(super) InFlight);

impl Future for Completion {
    type Output = io::Result<u32>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(context).map(|(result, _)| to_result(result))
    }
}

/// An operation on memory that is not the pool's.
pub struct OwnBuffer {
    in_flight: InFlight,
    wanted: usize,
}

impl OwnBuffer {
    pub(super) fn new(in_flight: InFlight, wanted: usize) -> Self {
        Self { in_flight, wanted }
    }

    /// Bytes that the operation was asked to move.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// How many bytes were moved, and the memory; once.
    pub fn poll(&mut self, context: &Context<'_>) -> Poll<(io::Result<u32>, Box<[u8]>)> {
        self.in_flight.poll(context).map(|(result, owned)| match owned {
            Owned::Bytes(bytes) => (to_result(result), bytes),
            _ => unreachable!("the operation owns bytes"),
        })
    }
}

pub(super) fn to_result(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}
