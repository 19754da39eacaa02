//! Sending datagrams: each is a letter with its address, on its way for as long as the kernel takes to copy it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{opcode, types};
use socket2::SockAddr;

use super::chain::Chain;
use super::core::Core;
use super::descriptor::Descriptor;
use super::slots::{Operation, Slots, Token, register};

/// Bytes that can go before a payload: SOCKS5's header with an IPv6 address has 22.
pub(super) const HEAD: usize = 24;
/// Letters that are kept for the next sends.
const SPARE: usize = 256;

/// A datagram on its way out, with all that the kernel reads of it.
pub(super) struct Letter {
    header: libc::msghdr,
    pieces: [libc::iovec; 2],
    address: SockAddr,
    head: [u8; HEAD],
    /// The payload, in a buffer for datagrams, or else in `own`.
    chain: Chain,
    own: Box<[u8]>,
}

/// A letter's operation. Nobody awaits it: its completion frees the slot and notes what failed.
pub(super) struct Posted {
    letter: Box<Letter>,
    payload: u32,
    tally: Rc<Tally>,
    /// Kept open while the operation is in flight.
    _descriptor: Descriptor,
}

/// A datagram that was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// As sendmsg(2): EAGAIN where the socket has no room.
    pub errno: i32,
    /// Bytes behind the head.
    pub payload: usize,
}

/// What becomes of a socket's sends.
#[derive(Default)]
pub(super) struct Tally {
    on_their_way: Cell<u32>,
    failures: RefCell<Vec<Failure>>,
    waker: RefCell<Option<Waker>>,
    /// Somebody waits until none is on its way.
    is_awaited: Cell<bool>,
}

impl Tally {
    pub(super) fn failure(&self, context: &Context<'_>) -> Option<Failure> {
        register(&mut self.waker.borrow_mut(), context);
        self.failures.borrow_mut().pop()
    }

    pub(super) fn poll_settled(&self, context: &Context<'_>) -> Poll<()> {
        if self.on_their_way.get() == 0 {
            return Poll::Ready(());
        }
        self.is_awaited.set(true);
        register(&mut self.waker.borrow_mut(), context);
        Poll::Pending
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Letter {
    fn new() -> Box<Self> {
        // SAFETY: a msghdr of zeros is an empty message.
        let header = unsafe { std::mem::zeroed::<libc::msghdr>() };
        let piece = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let address = SocketAddr::from(([0; 4], 0)).into();
        Box::new(Self {
            header,
            pieces: [piece; 2],
            address,
            head: [0; HEAD],
            chain: Chain::default(),
            own: Box::default(),
        })
    }

    /// Points the header at address, head and payload; returns what the kernel wants to see.
    fn seal(&mut self, head: usize, payload: Option<(*mut u8, usize)>) -> *const libc::msghdr {
        let mut count = 0;
        let head = (head > 0).then_some((self.head.as_mut_ptr(), head));
        for (slot, (base, len)) in self.pieces.iter_mut().zip(head.into_iter().chain(payload)) {
            *slot = libc::iovec { iov_base: base.cast(), iov_len: len };
            count += 1;
        }
        self.header.msg_name = self.address.as_ptr().cast_mut().cast();
        self.header.msg_namelen = self.address.len();
        self.header.msg_iov = self.pieces.as_mut_ptr();
        self.header.msg_iovlen = count;
        &raw const self.header
    }
}

impl Core {
    /// Sends `head` and then a payload, which is in `chain` (one buffer for datagrams, or none) or `own`.
    pub(super) fn post(
        &self,
        descriptor: &Descriptor,
        tally: &Rc<Tally>,
        head: &[u8],
        chain: Chain,
        own: Box<[u8]>,
        to: SocketAddr,
    ) {
        debug_assert!(head.len() <= HEAD && chain.count() <= 1);
        let (spare, piece) = {
            let mut mail = self.mail.borrow_mut();
            let Some(mail) = &mut *mail else { return };
            (mail.letters.pop(), mail.buffers.borrow().pieces(&chain).next())
        };
        let mut letter = spare.unwrap_or_else(Letter::new);
        letter.address = to.into();
        let len = head.len().min(HEAD);
        letter.head[..len].copy_from_slice(&head[..len]);
        letter.chain = chain;
        letter.own = own;
        let own = (!letter.own.is_empty()).then_some((letter.own.as_mut_ptr(), letter.own.len()));
        let payload = piece.or(own);
        let header = letter.seal(len, payload);
        let payload = payload.map_or(0, |(_, len)| len as u32);
        // A datagram that would have to wait is dropped, as on any router: who relays must hold no queue of them.
        let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32;
        let entry = descriptor.aim(opcode::SendMsg::new(types::Fd(descriptor.target()), header).flags(flags).build());
        tally.on_their_way.set(tally.on_their_way.get() + 1);
        let token = self.slots.borrow_mut().insert(Operation::Letter(Posted {
            letter,
            payload,
            tally: Rc::clone(tally),
            _descriptor: Rc::clone(descriptor),
        }));
        // SAFETY: header, pieces, address, head and bytes of its own lie in the letter's box, or behind it, which the
        // slot owns; a buffer is the pool's, kept by the letter's chain.
        unsafe { self.push(entry, token) };
    }

    /// What the completion of a letter does.
    pub(super) fn complete_letter(&self, slots: &mut Slots, token: Token, result: i32) {
        let Operation::Letter(Posted { mut letter, payload, tally, _descriptor }) = slots.remove(token) else { return };
        tally.on_their_way.set(tally.on_their_way.get() - 1);
        if result < 0 {
            tally.failures.borrow_mut().push(Failure { errno: -result, payload: payload as usize });
            tally.wake();
        } else if tally.on_their_way.get() == 0 && tally.is_awaited.take() {
            tally.wake();
        }
        if let Some(mail) = &mut *self.mail.borrow_mut() {
            mail.buffers.release(std::mem::take(&mut letter.chain));
            letter.own = Box::default();
            if mail.letters.len() < SPARE {
                mail.letters.push(letter);
            }
        }
    }
}
