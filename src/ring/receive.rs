//! Receiving: a stream of filled buffers from one socket, armed once for as much as the taker has room for.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll};

use io_uring::{opcode, squeue, types};

use super::Features;
use super::chain::Chain;
use super::core::Core;
use super::descriptor::Descriptor;
use super::slots::{Operation, ReceiveState, Token, register};

/// What [`Receive::poll`] brings.
#[derive(Debug)]
pub enum Received {
    /// In order, at least one byte; the taker gives the buffers back.
    Data(Chain),
    /// The peer has sent FIN.
    End,
    /// There is something, but the shard has no buffer for it and may make no more.
    NoBuffer,
    /// The connection is broken.
    Failed(io::Error),
}

/// How much to receive, in bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Until the taker asks again; 0 asks for nothing.
    pub total: u32,
    /// By one readiness of the socket. The kernel lays out as many buffers for each, so little is cheap.
    pub at_once: u32,
}

/// What an armed receive does first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// Tries: there is probably something.
    Try,
    /// Waits until the socket is readable. What is there already is received as well, but after everything else that
    /// was submitted along: in a stream, more has come by then, and fewer and larger moves wake the peers less often.
    Wait,
}

/// The receiving side of a socket. Holds no buffer while nothing arrives.
pub struct Receive {
    core: Rc<Core>,
    token: Token,
}

impl Receive {
    pub(super) fn new(core: &Rc<Core>, descriptor: &Descriptor, first: First, single_shot: bool) -> Self {
        let token = core.slots.borrow_mut().insert(Operation::Receive(ReceiveState {
            waker: None,
            descriptor: Rc::clone(descriptor),
            chain: Chain::default(),
            ask: Ask::default(),
            first,
            single_shot,
            armed: false,
            pausing: false,
            starved: false,
            hopeless: false,
            orphan: false,
            in_doubt: false,
            is_fresh: false,
            looks_at_reset: 0,
            ended: None,
        }));
        Self { core: Rc::clone(core), token }
    }

    /// What has arrived. Where nothing has and no earlier asking stands, `ask` says how much to ask for. That is a bound on
    /// what arrives where the kernel can cap receives (6.17); else the taker calls [`Receive::pause`] when it has enough.
    pub fn poll(&mut self, context: &Context<'_>, ask: impl FnOnce() -> Ask) -> Poll<Received> {
        self.core.note_activity();
        let mut slots = self.core.slots.borrow_mut();
        let receive = slots.receive(self.token);
        if !receive.chain.is_empty() {
            return Poll::Ready(Received::Data(std::mem::take(&mut receive.chain)));
        }
        match receive.ended {
            Some(0) => return Poll::Ready(Received::End),
            Some(error) => return Poll::Ready(Received::Failed(io::Error::from_raw_os_error(-error))),
            None => {}
        }
        if std::mem::take(&mut receive.hopeless) {
            return Poll::Ready(Received::NoBuffer);
        }
        register(&mut receive.waker, context);
        if !receive.armed && !receive.starved {
            receive.ask = ask();
            if receive.ask.total > 0 {
                drop(slots);
                self.core.arm_receive(self.token);
            } else {
                self.core.doubts.note(self.token, receive, self.core.now());
            }
        }
        Poll::Pending
    }

    /// Asks ahead of the first [`Receive::poll`], without waking anybody when something arrives.
    pub fn begin(&mut self, ask: Ask) {
        let mut slots = self.core.slots.borrow_mut();
        let receive = slots.receive(self.token);
        if !receive.armed && !receive.starved && receive.chain.is_empty() && receive.ended.is_none() {
            receive.ask = ask;
            receive.waker = None;
            drop(slots);
            self.core.arm_receive(self.token);
        }
    }

    pub(super) fn token(&self) -> Token {
        self.token
    }

    /// Whether an asking stands: data will come by itself, and wake the task.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        let mut slots = self.core.slots.borrow_mut();
        let receive = slots.receive(self.token);
        receive.armed && !receive.pausing
    }

    /// Whether the connection turned out to be broken while nothing was asked for.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.core.slots.borrow_mut().receive(self.token).ended.is_some_and(|ended| ended < 0)
    }

    /// Whether nothing was asked for, has arrived or has ended: the next byte is still in the socket.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        let mut slots = self.core.slots.borrow_mut();
        let receive = slots.receive(self.token);
        !receive.armed && !receive.starved && receive.chain.is_empty() && receive.ended.is_none()
    }

    /// Stops receiving until the next [`Receive::poll`] asks again. What is on its way still arrives.
    pub fn pause(&mut self) {
        let mut slots = self.core.slots.borrow_mut();
        let receive = slots.receive(self.token);
        if receive.armed && !receive.pausing {
            receive.pausing = true;
            drop(slots);
            self.core.cancel(self.token);
        }
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        let mut slots = self.core.slots.borrow_mut();
        let receive = slots.receive(self.token);
        let chain = std::mem::take(&mut receive.chain);
        self.core.release(chain);
        if receive.armed {
            receive.orphan = true;
            receive.waker = None;
            if !std::mem::replace(&mut receive.pausing, true) {
                drop(slots);
                self.core.cancel(self.token);
            }
        } else {
            slots.remove(self.token);
        }
    }
}

impl Core {
    /// Arms a receive for what was asked.
    pub(super) fn arm_receive(&self, token: Token) {
        let mut slots = self.slots.borrow_mut();
        let receive = slots.receive(token);
        receive.armed = true;
        let fd = receive.descriptor.as_raw_fd();
        let ask = receive.ask;
        let first = std::mem::replace(&mut receive.first, First::Wait);
        let features =
            Features { multishot_recv: self.features.multishot_recv && !receive.single_shot, ..self.features };
        drop(slots);
        let pool = self.pool.borrow();
        let entry = entry(features, fd, pool.group(), ask, pool.buffer_size(), first);
        drop(pool);
        // SAFETY: the slot owns the descriptor; the memory is the pool's.
        unsafe { self.push(entry, token) };
    }

    /// Lets receives that found no buffer try again, one for each buffer that is there now. Where there is none and the
    /// pool may not grow, all are told.
    pub(super) fn feed_starved(&self) {
        let mut starved = self.starved.borrow_mut();
        if starved.is_empty() {
            return;
        }
        let (free, exhausted) = {
            let pool = self.pool.borrow();
            (pool.counts().free as usize, pool.is_exhausted())
        };
        let count = if exhausted { starved.len() } else { starved.len().min(free) };
        let fed: Vec<Token> = starved.drain(..count).collect();
        drop(starved);
        for token in fed {
            let mut slots = self.slots.borrow_mut();
            let Some(Operation::Receive(receive)) = slots.get(token) else { continue };
            receive.starved = false;
            if receive.armed || receive.orphan {
                continue;
            }
            if exhausted {
                receive.hopeless = true;
                if let Some(waker) = &receive.waker {
                    self.note_activity();
                    waker.wake_by_ref();
                }
            } else {
                drop(slots);
                self.arm_receive(token);
            }
        }
    }
}

/// The receive for what was asked, as the kernel can do it best.
pub(super) fn entry(
    features: Features,
    fd: RawFd,
    group: u16,
    ask: Ask,
    buffer_size: u32,
    first: First,
) -> squeue::Entry {
    let entry = opcode::Recv::new(types::Fd(fd), std::ptr::null_mut(), 0)
        .buf_group(group)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT);
    let Features { multishot_recv: multishot, bundles, receive_caps, splice: _ } = features;
    let mut how = if first == First::Wait { IORING_RECVSEND_POLL_FIRST } else { 0 };
    how |= if multishot { IORING_RECV_MULTISHOT } else { 0 };
    how |= if bundles { IORING_RECVSEND_BUNDLE } else { 0 };
    let at_once = if bundles { ask.at_once } else { ask.at_once.min(buffer_size) }.min(ask.total);
    match (multishot, receive_caps) {
        (true, true) => set(entry, how, at_once, ask.total),
        // Before kernel 6.16 a multishot receive takes no length.
        (true, false) => set(entry, how, 0, 0),
        (false, _) => set(entry, how, at_once, 0),
    }
}

// Flags in `ioprio` of a receive (linux/io_uring.h).
const IORING_RECVSEND_POLL_FIRST: u16 = 1 << 0;
const IORING_RECV_MULTISHOT: u16 = 1 << 1;
const IORING_RECVSEND_BUNDLE: u16 = 1 << 4;

/// Sets the fields of a receive that the io-uring crate has no words for in this combination: flags, `len` (bytes per
/// trigger; kernel 6.16 for multishot) and `optlen` (bytes in all; kernel 6.17).
fn set(mut entry: squeue::Entry, flags: u16, len: u32, total: u32) -> squeue::Entry {
    // Offsets in the kernel's struct io_uring_sqe; `optlen` is in a union with `file_index`, which a receive leaves 0.
    const IOPRIO: usize = 2;
    const LEN: usize = 24;
    const OPTLEN: usize = 44;
    const _: () = assert!(size_of::<squeue::Entry>() == 64 && align_of::<squeue::Entry>() >= 4);
    let base = (&raw mut entry).cast::<u8>();
    // SAFETY: an entry is the kernel's struct io_uring_sqe (repr(C), 64 bytes, aligned): a u16 lies there.
    unsafe { base.wrapping_add(IOPRIO).cast::<u16>().write(flags) };
    // SAFETY: likewise a u32.
    unsafe { base.wrapping_add(LEN).cast::<u32>().write(len) };
    // SAFETY: likewise a u32.
    unsafe { base.wrapping_add(OPTLEN).cast::<u32>().write(total) };
    entry
}
