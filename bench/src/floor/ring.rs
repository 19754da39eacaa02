//! The ring: typed submissions in, typed completions out.

// Submissions carry pointers; each says why they stay valid.
#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use io_uring::squeue::{self, Flags};
use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode};
use socket2::SockAddr;

use super::pool::{BUFFER, GROUP, Piece, Pool};

const SUBMISSIONS: usize = 512;
const COMPLETIONS: u32 = 8_192;
/// Buffers that one vectored send may take.
pub(super) const PIECES_PER_SEND: usize = 64;

// From linux/io_uring.h; the crate keeps them to itself.
const RECVSEND_POLL_FIRST: u16 = 1 << 0;
const RECV_MULTISHOT: u16 = 1 << 1;
const RECVSEND_BUNDLE: u16 = 1 << 4;

/// What a completion is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    Accept,
    Connect,
    Receive,
    Send,
    Unasked,
}

/// A side of a pair of connections.
#[derive(Clone, Copy)]
pub(super) struct Tag {
    pub(super) key: usize,
    pub(super) side: usize,
}

pub(super) struct Completion {
    pub(super) op: Op,
    pub(super) tag: Tag,
    pub(super) result: i32,
    /// The same submission will complete again.
    pub(super) has_more: bool,
    pub(super) first_buffer: Option<u16>,
}

impl Completion {
    /// The socket that an accept brought.
    pub(super) fn accepted(&self) -> io::Result<OwnedFd> {
        if self.op != Op::Accept || self.result < 0 {
            return Err(io::Error::from_raw_os_error(self.result.saturating_neg()));
        }
        // SAFETY: a fresh descriptor, and completions are taken once.
        Ok(unsafe { OwnedFd::from_raw_fd(self.result) })
    }
}

pub(super) struct Ring {
    uring: IoUring,
    pub(super) pool: Pool,
    gulp: u32,
    upstream: Box<SockAddr>,
    /// Vectors of the sends not yet submitted; the kernel copies them as it takes the submission.
    headers: Box<[libc::msghdr]>,
    vectors: Box<[[libc::iovec; PIECES_PER_SEND]]>,
    used_vectors: usize,
}

impl Ring {
    pub(super) fn new(buffers: u16, gulp: u32, upstream: SocketAddr) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS as u32)?;
        uring.submitter().register_ring_fd()?;
        let pool = Pool::register(&uring, buffers)?;
        // SAFETY: all zeroes is a valid msghdr: null pointers with zero lengths.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        let vector = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Ok(Self {
            uring,
            pool,
            gulp,
            upstream: Box::new(upstream.into()),
            headers: vec![header; SUBMISSIONS].into_boxed_slice(),
            vectors: vec![[vector; PIECES_PER_SEND]; SUBMISSIONS].into_boxed_slice(),
            used_vectors: 0,
        })
    }

    pub(super) fn accept(&mut self, listener: RawFd) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC).build();
        self.push(entry, Op::Accept, Tag { key: 0, side: 0 })
    }

    pub(super) fn connect(&mut self, tag: Tag, socket: RawFd) -> io::Result<()> {
        // The address is boxed: it stays where it is as long as the ring.
        let (address, len) = (self.upstream.as_ptr().cast(), self.upstream.len());
        self.push(opcode::Connect::new(Fd(socket), address, len).build(), Op::Connect, tag)
    }

    /// Receives until told otherwise. `later` spares the attempt on a socket that has nothing yet.
    pub(super) fn receive(&mut self, tag: Tag, socket: RawFd, later: bool) -> io::Result<()> {
        let poll_first = if later { RECVSEND_POLL_FIRST } else { 0 };
        let entry = opcode::Recv::new(Fd(socket), std::ptr::null_mut(), self.gulp)
            .ioprio(RECV_MULTISHOT | RECVSEND_BUNDLE | poll_first)
            .buf_group(GROUP)
            .build()
            .flags(Flags::BUFFER_SELECT);
        self.push(entry, Op::Receive, tag)
    }

    pub(super) fn stop_receiving(&mut self, tag: Tag) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(user_data(Op::Receive, tag)).build();
        self.push(entry.flags(Flags::SKIP_SUCCESS), Op::Unasked, tag)
    }

    /// Sends all of `pieces`, which must stay untouched until the completion.
    pub(super) fn send(
        &mut self,
        tag: Tag,
        socket: RawFd,
        pieces: impl ExactSizeIterator<Item = Piece>,
    ) -> io::Result<()> {
        const FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        if self.used_vectors == SUBMISSIONS {
            self.submit()?;
        }
        let count = pieces.len();
        let vector = &mut self.vectors[self.used_vectors];
        for (slot, piece) in vector.iter_mut().zip(pieces) {
            slot.iov_base = self.pool.address(piece.buffer).cast();
            slot.iov_len = usize::from(piece.len);
        }
        if count == 1 {
            let (base, len) = (vector[0].iov_base, vector[0].iov_len);
            let entry = opcode::Send::new(Fd(socket), base.cast(), len as u32).flags(FLAGS).build();
            return self.push(entry, Op::Send, tag);
        }
        let header = &mut self.headers[self.used_vectors];
        header.msg_iov = vector.as_mut_ptr();
        header.msg_iovlen = count;
        let entry = opcode::SendMsg::new(Fd(socket), header).flags(FLAGS as u32).build();
        self.used_vectors += 1;
        self.push(entry, Op::Send, tag)
    }

    /// Closes without telling; whoever asks for it has no operation left on the socket.
    pub(super) fn close(&mut self, socket: RawFd) -> io::Result<()> {
        let entry = opcode::Close::new(Fd(socket)).build().flags(Flags::SKIP_SUCCESS);
        self.push(entry, Op::Unasked, Tag { key: 0, side: 0 })
    }

    /// Submits what there is, waits for at least one completion, takes all there are.
    pub(super) fn turn(&mut self, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.pool.publish();
        match self.uring.submit_and_wait(1) {
            Ok(_) => self.used_vectors = 0,
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error),
        }
        completions.extend(self.uring.completion().map(|entry| {
            let (op, tag) = parse_user_data(entry.user_data());
            Completion {
                op,
                tag,
                result: entry.result(),
                has_more: cqueue::more(entry.flags()),
                first_buffer: cqueue::buffer_select(entry.flags()),
            }
        }));
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        self.uring.submit()?;
        self.used_vectors = 0;
        Ok(())
    }

    fn push(&mut self, entry: squeue::Entry, op: Op, tag: Tag) -> io::Result<()> {
        let entry = entry.user_data(user_data(op, tag));
        // SAFETY: what an entry points to lives until the kernel has taken it: the upstream address
        // is boxed, headers and vectors are reused only after a submit. Pool buffers live for ever
        // and are given back only after the send's completion.
        if unsafe { self.uring.submission().push(&entry) }.is_err() {
            // Full. Vectors filled for this entry are behind `used_vectors` only after this push.
            self.uring.submit()?;
            // SAFETY: as above.
            unsafe { self.uring.submission().push(&entry) }
                .map_err(|_| io::Error::other("the submission queue stays full"))?;
        }
        Ok(())
    }
}

fn user_data(op: Op, tag: Tag) -> u64 {
    op as u64 | (tag.side as u64) << 8 | (tag.key as u64) << 16
}

fn parse_user_data(user_data: u64) -> (Op, Tag) {
    const OPS: [Op; 4] = [Op::Accept, Op::Connect, Op::Receive, Op::Send];
    let op = OPS.get((user_data & 0xff) as usize).copied().unwrap_or(Op::Unasked);
    (op, Tag { key: (user_data >> 16) as usize, side: (user_data >> 8 & 1) as usize })
}

// A bundle never has more bytes than its pieces' lengths can say.
const _: () = assert!(BUFFER <= u16::MAX as usize);
