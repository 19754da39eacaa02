//! Datagrams: a socket that receives with the sender's address and sends to any.
//!
//! They come into buffers of their own, each large enough for any datagram, so that none is ever cut: a second buffer
//! group, made with the shard's first datagram socket. Its pages exist only where something was received, so that small
//! datagrams cost a page each while they are here, and an idle socket costs no buffer at all.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{cqueue, opcode, squeue, types};
use socket2::{Domain, SockRef};

use super::buffer::{Buffer, Buffers};
use super::buffers::Pool;
use super::chain::Chain;
use super::core::Core;
use super::descriptor::{Descriptor, File};
use super::letter::{Failure, Letter, Tally};
use super::slots::{Operation, Slots, Token, register};

/// Buffer group of datagrams.
const GROUP: u16 = 1;
/// Bytes of a buffer: the largest payload (65,527 over IPv6) behind what the kernel says of it, in whole pages.
const BUFFER: u32 = 68 * 1024;
/// Buffers to begin with, and the step of growth.
const STEP: u32 = 64;
/// Most buffers of a shard; datagrams beyond wait in their sockets.
const BUFFERS: u32 = 256;
/// A socket that has sent so often is busy.
const BUSY: u32 = 32;
/// Bytes of the kernel's `struct io_uring_recvmsg_out`.
const OUT: usize = 16;
/// Bytes kept for the sender's address.
const NAME: usize = size_of::<libc::sockaddr_in6>();

const _: () = assert!(OUT + NAME + 65_527 <= BUFFER as usize);

/// What a shard has for datagrams, from its first datagram socket on.
pub(super) struct Mail {
    pub(super) buffers: Buffers,
    /// Receives that found no buffer, oldest first.
    starved: VecDeque<Token>,
    /// Spare memory of sends, each where the kernel was told it is.
    #[expect(clippy::vec_box, reason = "a letter in flight must not move")]
    pub(super) letters: Vec<Box<Letter>>,
    /// Something was received since free buffers gave their memory back.
    is_touched: bool,
}

/// A receiving socket's operation.
pub(super) struct Intake {
    waker: Option<Waker>,
    descriptor: Descriptor,
    /// Read by the kernel at arming; where receives do not stay armed, written too.
    header: Box<Header>,
    /// What has come, a datagram in each buffer.
    arrived: Chain,
    /// Without multishot: the length of the datagram that has come.
    single: Option<usize>,
    armed: bool,
    starved: bool,
    orphan: bool,
    /// A negative errno, to be told once.
    error: Option<i32>,
}

struct Header {
    message: libc::msghdr,
    name: [u8; NAME],
}

impl Header {
    fn new() -> Box<Self> {
        // SAFETY: a msghdr of zeros is an empty message.
        let message = unsafe { std::mem::zeroed::<libc::msghdr>() };
        Box::new(Self { message, name: [0; NAME] })
    }

    /// Asks for an address and nothing else beside the payload, for which the kernel takes a buffer.
    fn prepare(&mut self) -> *mut libc::msghdr {
        self.message.msg_name = self.name.as_mut_ptr().cast();
        self.message.msg_namelen = NAME as libc::socklen_t;
        self.message.msg_flags = 0;
        &raw mut self.message
    }
}

/// A datagram that has come.
pub struct Datagram {
    pub from: SocketAddr,
    /// `None` for an empty one.
    pub(super) buffer: Option<Buffer>,
    /// Part of it is missing.
    pub is_truncated: bool,
}

impl Datagram {
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], Buffer::filled)
    }

    /// Drops `len` bytes from the front, at most all.
    pub fn advance(&mut self, len: usize) {
        if let Some(buffer) = &mut self.buffer {
            buffer.advance(len);
        }
    }
}

/// A datagram socket. Closed when it is dropped: nothing waits in it.
pub struct DatagramSocket {
    core: Rc<Core>,
    descriptor: Descriptor,
    intake: Token,
    tally: Rc<Tally>,
    is_ipv6: bool,
    /// Up to [`BUSY`].
    sends: Cell<u32>,
}

impl DatagramSocket {
    pub(super) fn new(core: &Rc<Core>, fd: OwnedFd) -> io::Result<Self> {
        core.open_mail()?;
        let descriptor = File::new(core, fd);
        let is_ipv6 = SockRef::from(&*descriptor).domain()? == Domain::IPV6;
        let intake = core.slots.borrow_mut().insert(Operation::Intake(Box::new(Intake {
            waker: None,
            descriptor: Rc::clone(&descriptor),
            header: Header::new(),
            arrived: Chain::default(),
            single: None,
            armed: false,
            starved: false,
            orphan: false,
            error: None,
        })));
        Ok(Self { core: Rc::clone(core), descriptor, intake, tally: Rc::default(), is_ipv6, sends: Cell::new(0) })
    }

    /// For socket options.
    #[must_use]
    pub fn options(&self) -> SockRef<'_> {
        SockRef::from(&*self.descriptor)
    }

    /// The next datagram. An error is reported once; receiving goes on with the next poll.
    pub fn poll_receive(&mut self, context: &Context<'_>) -> Poll<io::Result<Datagram>> {
        self.core.note_activity();
        let Some(buffers) = self.core.mail.borrow().as_ref().map(|mail| mail.buffers.clone()) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let mut slots = self.core.slots.borrow_mut();
        let intake = slots.intake(self.intake);
        while let Some(datagram) = intake.take(&buffers, self.core.features.multishot_recv) {
            // One whose sender has no address of ours cannot be: the socket is of an IP family.
            if let Some(datagram) = datagram {
                return Poll::Ready(Ok(datagram));
            }
        }
        if let Some(error) = intake.error.take() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(-error)));
        }
        register(&mut intake.waker, context);
        if !intake.armed && !intake.starved {
            drop(slots);
            self.core.arm_intake(self.intake);
        }
        Poll::Pending
    }

    /// Sends `head` and behind it the payload of `datagram` to `to`. It is on its way at once or not at all: where the
    /// socket has no room, or the network refuses it, [`DatagramSocket::failure`] tells.
    pub fn send(&self, head: &[u8], datagram: Datagram, to: SocketAddr) {
        self.note_send();
        let mut chain = Chain::default();
        if let Some(buffer) = datagram.buffer {
            let buffers = self.core.mail.borrow().as_ref().map(|mail| mail.buffers.clone());
            if let Some(buffers) = buffers {
                buffers.push(&mut chain, buffer);
            }
        }
        self.core.post(&self.descriptor, &self.tally, head, chain, Box::default(), self.as_named_here(to));
    }

    /// As [`DatagramSocket::send`], with a payload that is not in a buffer of the ring's.
    pub fn send_bytes(&self, head: &[u8], payload: Box<[u8]>, to: SocketAddr) {
        self.core.post(&self.descriptor, &self.tally, head, Chain::default(), payload, self.as_named_here(to));
    }

    /// Spares the sends of a socket that has shown to be busy some of their cost.
    fn note_send(&self) {
        let sends = self.sends.get() + 1;
        if sends < BUSY {
            self.sends.set(sends);
        } else if sends == BUSY {
            self.sends.set(BUSY);
            self.descriptor.pin();
        }
    }

    /// An IPv6 socket knows IPv4 addresses as mapped ones.
    fn as_named_here(&self, to: SocketAddr) -> SocketAddr {
        match to {
            SocketAddr::V4(to) if self.is_ipv6 => (to.ip().to_ipv6_mapped(), to.port()).into(),
            to => to,
        }
    }

    /// What became of a send that failed; the task is woken when there is one.
    pub fn failure(&self, context: &Context<'_>) -> Option<Failure> {
        self.tally.failure(context)
    }

    /// Ready when no send is on its way any more: what failed is known.
    pub fn poll_settled(&self, context: &Context<'_>) -> Poll<()> {
        self.core.note_activity();
        self.tally.poll_settled(context)
    }
}

impl Drop for DatagramSocket {
    fn drop(&mut self) {
        let mut slots = self.core.slots.borrow_mut();
        let intake = slots.intake(self.intake);
        let arrived = std::mem::take(&mut intake.arrived);
        if let Some(mail) = &*self.core.mail.borrow() {
            mail.buffers.release(arrived);
        }
        if intake.armed {
            intake.orphan = true;
            intake.waker = None;
            drop(slots);
            self.core.cancel(self.intake);
        } else {
            slots.remove(self.intake);
        }
    }
}

impl Intake {
    /// The next datagram that has come; `Some(None)` for one from nowhere.
    fn take(&mut self, buffers: &Buffers, multishot: bool) -> Option<Option<Datagram>> {
        if !multishot {
            let len = self.single.take()?;
            let mut buffer = buffers.pop(&mut self.arrived);
            if let Some(buffer) = &mut buffer {
                buffer.truncate(len);
            }
            let named = (self.header.message.msg_namelen as usize).min(NAME);
            let is_truncated = self.header.message.msg_flags & libc::MSG_TRUNC != 0;
            let buffer = buffer.filter(|buffer| !buffer.filled().is_empty());
            return Some(address(&self.header.name[..named]).map(|from| Datagram { from, buffer, is_truncated }));
        }
        let mut buffer = buffers.pop(&mut self.arrived)?;
        // What the kernel says, then the address, then the payload. Numbers from the kernel, checked all the same.
        let word = |bytes: &[u8], at: usize| {
            bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
        };
        let filled = buffer.filled();
        let (named, flags) = (word(filled, 0) as usize, word(filled, 12) as i32);
        let from = filled.get(OUT..OUT + named.min(NAME)).and_then(address);
        buffer.advance(OUT + NAME);
        let is_truncated = flags & libc::MSG_TRUNC != 0;
        let buffer = Some(buffer).filter(|buffer| !buffer.filled().is_empty());
        Some(from.map(|from| Datagram { from, buffer, is_truncated }))
    }
}

/// Reads a `sockaddr_in` or `sockaddr_in6`. An IPv4 address that is mapped into IPv6 is an IPv4 address.
fn address(name: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(name.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(name.get(2..4)?.try_into().ok()?);
    match family {
        libc::AF_INET => {
            let ip: [u8; 4] = name.get(4..8)?.try_into().ok()?;
            Some((Ipv4Addr::from(ip), port).into())
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(name.get(8..24)?).ok()?);
            let scope = u32::from_ne_bytes(name.get(24..28)?.try_into().ok()?);
            Some(match ip.to_ipv4_mapped() {
                Some(ip) => (ip, port).into(),
                None => SocketAddrV6::new(ip, port, 0, scope).into(),
            })
        }
        _ => None,
    }
}

impl Core {
    /// Makes the buffers for datagrams, once.
    fn open_mail(&self) -> io::Result<()> {
        let mut mail = self.mail.borrow_mut();
        if mail.is_some() {
            return Ok(());
        }
        let mut pool = Pool::received_only(BUFFER, STEP, BUFFERS, GROUP)?;
        // SAFETY: the ring's memory belongs to `pool`, which goes into `self` and stays for as long as the kernel may
        // look at it (`Drop` of the core).
        unsafe { self.provide(&pool) }?;
        pool.grow();
        *mail = Some(Mail {
            buffers: Buffers::new(pool),
            starved: VecDeque::new(),
            letters: Vec::new(),
            is_touched: false,
        });
        Ok(())
    }

    fn arm_intake(&self, token: Token) {
        let mut slots = self.slots.borrow_mut();
        let intake = slots.intake(token);
        intake.armed = true;
        let header = intake.header.prepare();
        let fd = types::Fd(intake.descriptor.as_raw_fd());
        drop(slots);
        let entry = if self.features.multishot_recv {
            opcode::RecvMsgMulti::new(fd, header, GROUP).build()
        } else {
            opcode::RecvMsg::new(fd, header).buf_group(GROUP).build().flags(squeue::Flags::BUFFER_SELECT)
        };
        // SAFETY: header and name lie in the box that the slot owns, as does the descriptor; the rest is the pool's.
        unsafe { self.push(entry, token) };
    }

    /// What a completion does to an intake.
    pub(super) fn complete_intake(&self, slots: &mut Slots, token: Token, completion: &cqueue::Entry) {
        let (result, flags) = (completion.result(), completion.flags());
        let last = !cqueue::more(flags);
        let multishot = self.features.multishot_recv;
        let intake = slots.intake(token);
        let mut mail = self.mail.borrow_mut();
        let Some(mail) = &mut *mail else { return };
        if let (0.., Some(first)) = (result, cqueue::buffer_select(flags)) {
            let mut pool = mail.buffers.borrow_mut();
            mail.is_touched = true;
            let received = pool.taken(first, result.max(1) as u32);
            pool.append(&mut intake.arrived, received);
        }
        if result >= 0 && !multishot {
            intake.single = Some(result as usize);
        }
        if last {
            intake.armed = false;
            match -result {
                // A result of 0 or more without F_MORE: an empty datagram, or the CQ was full.
                ..=0 | libc::ECANCELED => {}
                libc::ENOBUFS => {
                    self.counters.enobufs.set(self.counters.enobufs.get() + 1);
                    if !intake.orphan {
                        intake.starved = true;
                        mail.starved.push_back(token);
                    }
                }
                _ => intake.error = Some(result),
            }
        }
        if intake.orphan {
            mail.buffers.release(std::mem::take(&mut intake.arrived));
            if last {
                slots.remove(token);
            }
        } else if let Some(waker) = &intake.waker {
            waker.wake_by_ref();
        }
    }

    /// Lets receives of datagrams that found no buffer try again, one for each buffer that is there now.
    pub(super) fn feed_intakes(&self) {
        let fed: Vec<Token> = {
            let mut mail = self.mail.borrow_mut();
            let Some(mail) = &mut *mail else { return };
            if mail.starved.is_empty() {
                return;
            }
            let free = mail.buffers.borrow().counts().free as usize;
            let count = mail.starved.len().min(free);
            mail.starved.drain(..count).collect()
        };
        for token in fed {
            let mut slots = self.slots.borrow_mut();
            let Some(Operation::Intake(intake)) = slots.get(token) else { continue };
            intake.starved = false;
            if !intake.armed && !intake.orphan {
                drop(slots);
                self.arm_intake(token);
            }
        }
    }

    /// Keeps the buffers for datagrams as many as are needed.
    pub(super) fn tend_mail(&self) {
        if let Some(mail) = &*self.mail.borrow() {
            let mut pool = mail.buffers.borrow_mut();
            if pool.is_low() || (pool.counts().free == 0 && !mail.starved.is_empty()) {
                pool.grow();
            }
        }
        self.feed_intakes();
    }

    pub(super) fn shrink_mail(&self) {
        if let Some(mail) = &*self.mail.borrow() {
            mail.buffers.borrow_mut().shrink();
        }
    }

    /// Gives the memory of free buffers back, where it is known which ones are free: see [`Core::trim_pool`].
    pub(super) fn trim_mail(&self) {
        if let Some(mail) = &mut *self.mail.borrow_mut()
            && std::mem::take(&mut mail.is_touched)
        {
            mail.buffers.borrow_mut().trim_beyond(0);
        }
    }

    /// Whether receives of datagrams wait for a buffer although some are free.
    pub(super) fn can_feed_intakes(&self) -> bool {
        let mail = self.mail.borrow();
        mail.as_ref().is_some_and(|mail| !mail.starved.is_empty() && mail.buffers.borrow().counts().free > 0)
    }
}

#[cfg(test)]
mod tests;
