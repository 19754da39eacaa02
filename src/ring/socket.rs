//! A socket of the ring, and what can be done with it.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef};

use super::Ring;
use super::accept::Accept;
use super::buffer::Buffers;
use super::chain::Chain;
use super::core::Core;
use super::descriptor::{Descriptor, File};
use super::operation::{self, Completion, InFlight, OwnBuffer, SEND_BUFFERS};
use super::pipe::set_nonblocking;
use super::receive::{First, Receive};
use crate::net::{Delivery, TcpInfo};

/// A socket. Closed when it and all its operations are gone.
#[derive(Clone)]
pub struct Socket {
    core: Rc<Core>,
    descriptor: Descriptor,
    /// Receives are armed anew each time.
    single_shot: bool,
}

impl Socket {
    pub(super) fn new(core: &Rc<Core>, fd: OwnedFd, single_shot: bool) -> Self {
        Self { core: Rc::clone(core), descriptor: File::new(core, fd), single_shot }
    }

    pub(super) fn ring(&self) -> Ring {
        Ring(Rc::clone(&self.core))
    }

    /// The buffers of the socket's ring.
    pub(super) fn pool(&self) -> Buffers {
        Buffers::clone(&self.core.pool)
    }

    /// For socket options.
    #[must_use]
    pub fn options(&self) -> SockRef<'_> {
        SockRef::from(&*self.descriptor)
    }

    #[must_use]
    pub fn accept(&self) -> Accept {
        Accept::new(&self.core, &self.descriptor)
    }

    /// # Errors
    /// (of the future) as connect(2).
    pub fn connect(&self, address: &SockAddr) -> Completion {
        Completion(operation::start_connect(&self.core, &self.descriptor, address))
    }

    #[must_use]
    pub fn receive(&self, first: First) -> Receive {
        Receive::new(&self.core, &self.descriptor, first, self.single_shot)
    }

    /// Waits until poll(2) would report one of `events`, a mask of `POLL*`; gives what it reports.
    pub fn readiness(&self, events: i16) -> Completion {
        Completion(operation::start_poll(&self.core, &self.descriptor, events))
    }

    /// Sends bytes that are not the pool's; gives how many.
    pub fn send_bytes(&self, bytes: Box<[u8]>) -> Completion {
        let len = bytes.len();
        Completion(operation::start_send_bytes(&self.core, &self.descriptor, bytes, len))
    }

    /// Sends the first `len` of `bytes`, and gives them back.
    #[must_use]
    pub fn send_from(&self, bytes: Box<[u8]>, len: usize) -> OwnBuffer {
        OwnBuffer::new(operation::start_send_bytes(&self.core, &self.descriptor, bytes, len), len)
    }

    /// Receives into memory that is not the pool's, and gives it back.
    #[must_use]
    pub fn receive_into(&self, bytes: Box<[u8]>) -> OwnBuffer {
        let len = bytes.len();
        OwnBuffer::new(operation::start_receive_bytes(&self.core, &self.descriptor, bytes), len)
    }

    /// Begins to send the front of `queue`, up to [`SEND_BUFFERS`] buffers in one operation; the rest stays in the
    /// queue. Where the send fails and nobody waits for it, the task that polls `partner` is woken. Before the end, which
    /// the caller makes as soon as the send is done, TCP holds back a last segment that is not full, so that FIN goes along
    /// with it.
    #[must_use]
    pub fn send(&self, queue: &mut Chain, partner: &Receive, before_end: bool) -> Send {
        let chain = self.core.pool.borrow_mut().split(queue, SEND_BUFFERS);
        let (buffers, len) = (chain.count() as u16, chain.len() as u32);
        let flags = if before_end && queue.is_empty() { libc::MSG_MORE } else { 0 };
        let in_flight = operation::start_send(&self.core, &self.descriptor, chain, partner.token(), flags);
        Send { in_flight, buffers, len }
    }

    /// Whether splice(2) can move bytes between this socket and a pipe without copying: TCP.
    #[must_use]
    pub fn can_splice(&self) -> bool {
        self.options().domain().is_ok_and(|domain| domain != Domain::UNIX)
    }

    /// Makes a system call with O_NONBLOCK set on the socket. No operation is submitted meanwhile.
    pub(super) fn without_blocking<T>(&self, call: impl FnOnce(RawFd) -> io::Result<T>) -> io::Result<T> {
        let fd = self.descriptor.as_raw_fd();
        set_nonblocking(fd, true)?;
        let result = call(fd);
        set_nonblocking(fd, false)?;
        result
    }

    /// Sends FIN; receiving goes on. A peer that is gone already is no error.
    pub fn shutdown_write(&self) {
        self.descriptor.finished.set(true);
        let _ = self.options().shutdown(Shutdown::Write);
    }

    /// Whether what looked like the end of the stream was a reset: that is reported to one operation only, which may have
    /// been a send (one that stopped half way tells nobody), and then a receive sees an end like that of a FIN. TCP knows:
    /// a connection whose one side alone has sent FIN is not closed.
    #[must_use]
    pub fn was_reset(&self) -> bool {
        !self.descriptor.finished.get() && crate::net::is_closed(self.descriptor.as_fd())
    }

    /// Bytes of this connection that the peer has acknowledged (TCP_INFO), and bytes that wait for it (SIOCOUTQ). For a
    /// unix socket the first is 0.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        crate::net::delivery(self.descriptor.as_fd())
    }

    /// What the kernel knows of the connection; `None` for a unix socket.
    #[must_use]
    pub fn tcp_info(&self) -> Option<TcpInfo> {
        crate::net::tcp_info(self.descriptor.as_fd())
    }

    /// Spares the operations on this socket some of their cost; for one that has shown to be busy.
    pub fn pin(&self) {
        self.descriptor.pin();
    }

    /// Makes the close of this socket a reset (RST) instead of a FIN; what was not sent is dropped.
    pub fn reset_on_close(&self) {
        let _ = self.options().set_linger(Some(Duration::ZERO));
    }
}

/// A send in flight. Its buffers count as queued until it is done.
pub struct Send {
    in_flight: InFlight,
    buffers: u16,
    len: u32,
}

impl Send {
    /// Buffers on their way.
    #[must_use]
    pub fn buffers(&self) -> usize {
        usize::from(self.buffers)
    }

    /// Bytes on their way.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.len as usize
    }

    /// Whether all of it was sent.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.in_flight.is_sent()
    }

    /// How many bytes were sent; `None` while the kernel is at it, and then the task is woken only if it failed or where
    /// [`Send::wake`] asks for it. What was not sent (a signal came, or the peer failed half way) goes back to the front
    /// of `queue`; buffers that are done with go back to the pool.
    pub fn finish(&mut self, socket: &Socket, queue: &mut Chain) -> Option<io::Result<usize>> {
        let (result, owned) = self.in_flight.take()?;
        let mut chain = operation::sent(&socket.core, owned);
        if chain.is_empty() {
            return Some(Ok(self.bytes()));
        }
        let mut pool = socket.core.pool.borrow_mut();
        Some(match operation::to_result(result) {
            Ok(sent) => {
                pool.advance(&mut chain, sent as usize);
                let rest = std::mem::replace(queue, chain);
                pool.append(queue, rest);
                Ok(sent as usize)
            }
            Err(error) => {
                pool.release(chain);
                Err(error)
            }
        })
    }

    /// Wakes the task when the send is done.
    pub fn wake(&mut self, context: &Context<'_>) {
        self.in_flight.wake(context);
    }
}
