//! The io_uring of one shard: a small network driver in which every operation is a future or a stream.
//!
//! Each shard has its own [`Ring`], used by that shard's thread alone, and one task that drives it ([`Ring::drive`]).
//! An operation's slot owns descriptor, buffers and addresses until the operation's final completion, so that dropping
//! a future is always sound: it cancels, and the slot is freed when the kernel is done with it.
//!
//! shutdown(2) is a plain system call here, as io_uring would hand it to a worker thread (IORING_OP_SHUTDOWN forces
//! that); so is close(2), which happens when the last operation lets go of its descriptor.
#![allow(unsafe_code)] // the one place of io_uring; listed in tests/tidy.rs

mod accept;
mod buffer;
mod buffers;
mod chain;
mod core;
mod datagram;
mod descriptor;
mod driver;
mod inlet;
mod letter;
mod mapping;
mod missed;
mod operation;
mod pipe;
mod probe;
mod receive;
mod slice;
mod slots;
mod socket;
mod tend;
#[cfg(test)]
pub(crate) mod tests;
mod timeout;
mod timer;

pub use accept::{Accept, Appetite};
pub use buffer::{Buffer, Buffers, Counts, Queue};
pub use buffers::PRIVATE_BUFFER;
pub use chain::Chain;
pub use datagram::{Datagram, DatagramSocket};
pub use driver::Pacing;
pub use inlet::Inlet;
pub use letter::Failure;
pub use operation::{Completion, OwnBuffer};
pub use pipe::Pipe;
pub use probe::{Unusable, probe};
pub use receive::{Ask, First, Receive, Received};
pub use slice::ask_for_short_slices;
pub use socket::{Send, Socket};
pub use timeout::Timeout;

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use self::core::Core;
use self::descriptor::{Descriptor, File};

/// Most buffers that one vectored send takes.
pub const SEND_BUFFERS: usize = operation::SEND_BUFFERS;

/// What of io_uring this kernel can do, found out by [`probe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Receives into the shared buffer ring that stay armed (kernel 6.0).
    pub multishot_recv: bool,
    /// One receive fills several buffers (kernel 6.10, and the order bug of 6.13.11-6.14.8 absent).
    pub bundles: bool,
    /// A multishot receive can be capped per trigger and in total (kernel 6.17).
    pub receive_caps: bool,
    /// Bulk may go through pipes; every kernel can.
    pub splice: bool,
}

/// Sizes of a ring.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes of a receive buffer.
    pub buffer_size: u32,
    /// Buffers to begin with, and the step of growth; a power of two.
    pub buffers: u32,
    /// Buffers at most; a power of two up to 32,768.
    pub max_buffers: u32,
    /// Entries of the completion queue.
    pub completions: u32,
}

/// A shard's ring. Cheap to clone; all clones are the same ring.
#[derive(Clone)]
pub struct Ring(Rc<Core>);

impl Ring {
    /// Makes the ring of the calling thread.
    ///
    /// # Errors
    /// As io_uring_setup(2), io_uring_register(2) and mmap(2).
    pub fn new(options: &Options, features: Features) -> io::Result<Self> {
        Core::new(options, features).map(Self)
    }

    /// Takes a connected or connecting socket into the ring.
    #[must_use]
    pub fn socket(&self, fd: OwnedFd) -> Socket {
        Socket::new(&self.0, fd, false)
    }

    /// Takes a unix socket into the ring. Its receives do not stay armed: from kernel 6.17 on, a multishot receive goes
    /// by how many bytes are queued, which for a unix socket does not tell of a FIN; one that comes right behind bytes
    /// is never reported.
    #[must_use]
    pub fn unix_socket(&self, fd: OwnedFd) -> Socket {
        Socket::new(&self.0, fd, true)
    }

    /// Takes a UDP socket into the ring. The first one makes the shard's buffers for datagrams.
    ///
    /// # Errors
    /// As mmap(2) and io_uring_register(2), for want of memory.
    pub fn datagram_socket(&self, fd: OwnedFd) -> io::Result<DatagramSocket> {
        DatagramSocket::new(&self.0, fd)
    }

    /// The clock of this turn: time since the ring was made. Cheap; up to a turn old.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.0.now()
    }

    /// What [`Ring::now`] counts from.
    #[must_use]
    pub fn epoch(&self) -> Instant {
        self.0.epoch()
    }

    /// A timer that is ready once `after` has passed.
    #[must_use]
    pub fn timer(&self, after: Duration) -> Timer {
        let key = self.0.wheel.borrow_mut().insert(self.tick_after(after));
        Timer { ring: self.clone(), key }
    }

    pub async fn sleep(&self, duration: Duration) {
        let mut timer = self.timer(duration);
        poll_fn(|context| timer.poll(context)).await;
    }

    /// Waits for `future` no longer than `limit`; `None` when the time is over, and the future is dropped.
    pub fn timeout<F: Future>(&self, limit: Duration, future: F) -> Timeout<F> {
        Timeout::new(self.timer(limit), future)
    }

    /// Takes an eventfd into the ring.
    #[must_use]
    pub fn doorbell(&self, eventfd: OwnedFd) -> Doorbell {
        Doorbell { core: Rc::clone(&self.0), eventfd: File::new(&self.0, eventfd) }
    }

    /// A pipe to splice through, where there is one left.
    #[must_use]
    pub fn pipe(&self) -> Option<Pipe> {
        self.0.features.splice.then(|| Pipe::take(&self.0)).flatten()
    }

    /// Tells the driver that a task was woken by something else than the ring, so that it does not sleep now.
    /// Everything that wakes a task of this shard calls it.
    pub fn note_activity(&self) {
        self.0.note_activity();
    }

    /// Gives buffers back.
    pub fn release(&self, chain: Chain) {
        self.0.release(chain);
    }

    /// Moves `other` behind `chain`.
    pub fn append(&self, chain: &mut Chain, other: Chain) {
        self.0.pool.borrow_mut().append(chain, other);
    }

    /// The shard's buffers, for whoever works on bytes.
    #[must_use]
    pub fn pool(&self) -> &Buffers {
        &self.0.pool
    }

    /// Buffers that may still be had, free and by growth.
    #[must_use]
    pub fn buffers_available(&self) -> usize {
        self.0.pool.borrow().available()
    }

    /// Buffers that are free now.
    #[must_use]
    pub fn buffers_idle(&self) -> usize {
        self.0.pool.borrow().counts().free as usize
    }

    /// Whether the pool is larger than it began.
    #[must_use]
    pub fn has_grown(&self) -> bool {
        self.0.pool.borrow().has_grown()
    }

    /// Bytes of one buffer.
    #[must_use]
    pub fn buffer_size(&self) -> usize {
        self.0.pool.borrow().buffer_size() as usize
    }

    #[must_use]
    pub fn buffers(&self) -> Counts {
        self.0.pool.borrow().counts()
    }

    /// Operations that the kernel has.
    #[must_use]
    pub fn operations(&self) -> u32 {
        self.0.in_flight()
    }

    #[must_use]
    pub fn features(&self) -> Features {
        self.0.features
    }

    /// The wheel's tick at which `after` has surely passed. A tick is a millisecond since the epoch.
    fn tick_after(&self, after: Duration) -> u64 {
        let deadline = self.0.now().saturating_add(after);
        u64::try_from(deadline.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX / 2)
    }
}

/// An eventfd by which other threads wake the shard.
pub struct Doorbell {
    core: Rc<Core>,
    eventfd: Descriptor,
}

impl Doorbell {
    /// Waits until another thread has added to the eventfd, and takes its count.
    ///
    /// # Errors
    /// As read(2).
    pub async fn rung(&self) -> io::Result<()> {
        Completion(operation::start_read_word(&self.core, &self.eventfd)).await.map(drop)
    }
}

/// A timer in the shard's wheel.
pub struct Timer {
    ring: Ring,
    key: timer::Key,
}

impl Timer {
    pub fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        self.ring.0.wheel.borrow_mut().poll(&self.key, context)
    }

    /// Sets it anew, to `after` from now.
    pub fn reset(&mut self, after: Duration) {
        let tick = self.ring.tick_after(after);
        self.ring.0.wheel.borrow_mut().reset(&self.key, tick);
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.ring.0.wheel.borrow_mut().remove(&self.key);
    }
}
