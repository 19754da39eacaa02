//! Receiving: a stream of filled buffers from one socket, armed once for as much as the taker has room for.

use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use io_uring::{opcode, squeue, types};

use super::Features;
use super::buffers::Chain;
use super::core::Core;
use super::slots::{Descriptor, Operation, ReceiveState, Token, register};

/// Bytes that one readiness of a socket may bring before others have their turn.
const BYTES_PER_TRIGGER: u32 = 128 * 1024;

/// What [`Receive::poll`] brings.
#[derive(Debug)]
pub enum Received {
    /// In order, at least one byte; the taker gives the buffers back.
    Data(Chain),
    /// The peer has sent FIN.
    End,
    /// The connection is broken.
    Failed(io::Error),
}

/// The receiving side of a socket. Holds no buffer while nothing arrives.
pub struct Receive {
    core: Rc<Core>,
    token: Token,
}

impl Receive {
    pub(super) fn new(core: &Rc<Core>, descriptor: &Descriptor) -> Self {
        let token = core.slots.borrow_mut().insert(Operation::Receive(ReceiveState {
            waker: None,
            descriptor: Rc::clone(descriptor),
            chain: Chain::default(),
            credit: 0,
            armed: false,
            pausing: false,
            starved: false,
            orphan: false,
            ended: None,
        }));
        Self { core: Rc::clone(core), token }
    }

    /// What has arrived. Where nothing has, `room` more bytes are asked for, unless an earlier asking still stands;
    /// with a room of 0 nothing is asked for. What was asked for is a bound on what arrives where the kernel can cap
    /// receives (6.17); else the taker calls [`Receive::pause`] when it has enough.
    pub fn poll(&mut self, context: &Context<'_>, room: usize) -> Poll<Received> {
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
        register(&mut receive.waker, context);
        if !receive.armed && !receive.starved && room > 0 {
            receive.credit = room as u32;
            drop(slots);
            self.core.arm_receive(self.token);
        }
        Poll::Pending
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

/// The receive for `credit` bytes, as the kernel can do it best.
pub(super) fn entry(features: Features, fd: RawFd, group: u16, credit: u32, buffer_size: u32) -> squeue::Entry {
    let fd = types::Fd(fd);
    let per_trigger = credit.min(BYTES_PER_TRIGGER.max(buffer_size));
    match (features.multishot_recv, features.bundles) {
        (true, true) if features.receive_caps => {
            cap(opcode::RecvMultiBundle::new(fd, group).build(), per_trigger, Some(credit))
        }
        (true, false) if features.receive_caps => {
            cap(opcode::RecvMulti::new(fd, group).build(), buffer_size.min(credit), Some(credit))
        }
        (true, true) => opcode::RecvMultiBundle::new(fd, group).build(),
        (true, false) => opcode::RecvMulti::new(fd, group).build(),
        (false, true) => cap(opcode::RecvBundle::new(fd, group).build(), per_trigger, None),
        (false, false) => opcode::Recv::new(fd, std::ptr::null_mut(), buffer_size.min(credit))
            .buf_group(group)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT),
    }
}

/// Sets the fields of a receive that the io-uring crate has no words for: `len` (bytes per trigger; kernel 6.16 for
/// multishot) and `optlen` (bytes in all; kernel 6.17).
fn cap(mut entry: squeue::Entry, per_trigger: u32, total: Option<u32>) -> squeue::Entry {
    const LEN: usize = 24;
    const OPTLEN: usize = 44;
    const _: () = assert!(size_of::<squeue::Entry>() == 64 && align_of::<squeue::Entry>() >= 4);
    let base = (&raw mut entry).cast::<u8>();
    // SAFETY: an entry is the kernel's struct io_uring_sqe (repr(C), 64 bytes), in which `len` is the u32 at 24.
    unsafe { base.add(LEN).cast::<u32>().write(per_trigger) };
    if let Some(total) = total {
        // SAFETY: likewise, `optlen` is the u32 at 44 (in a union with `file_index`, which a receive does not use).
        unsafe { base.add(OPTLEN).cast::<u32>().write(total) };
    }
    entry
}
