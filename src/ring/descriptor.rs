//! Descriptors that operations share, and their pins: entries in the ring's own file table, which spare each operation the
//! look-up of the descriptor and two atomic counts that other threads' operations share.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};

use io_uring::{IoUring, squeue};

use super::core::Core;

/// Sockets of one shard that can be pinned at once; those beyond are named by their descriptors.
const PINS: u32 = 4096;

/// A descriptor; closed when its owner and the last of its operations have let go.
pub(super) type Descriptor = Rc<File>;

#[derive(Debug)]
pub(super) struct File {
    fd: OwnedFd,
    pin: Cell<Option<u32>>,
    /// A FIN was sent.
    pub(super) finished: Cell<bool>,
    core: Weak<Core>,
}

/// The ring's file table.
#[derive(Debug, Default)]
pub(super) struct Pins {
    free: RefCell<Vec<u32>>,
}

impl Pins {
    /// No pins where the kernel does not let us have the table (before 5.19, or for want of memory).
    pub(super) fn new(uring: &IoUring) -> Self {
        let free = match uring.submitter().register_files_sparse(PINS) {
            Ok(()) => (0..PINS).rev().collect(),
            Err(_) => Vec::new(),
        };
        Self { free: RefCell::new(free) }
    }
}

impl File {
    pub(super) fn new(core: &Rc<Core>, fd: OwnedFd) -> Descriptor {
        Rc::new(Self { fd, pin: Cell::new(None), finished: Cell::new(false), core: Rc::downgrade(core) })
    }

    /// Pins the descriptor, where there is room. Two system calls in a socket's life, so worth it for one that is busy.
    pub(super) fn pin(&self) {
        let Some(core) = self.core.upgrade() else { return };
        if self.pin.get().is_some() {
            return;
        }
        let Some(index) = core.pins.free.borrow_mut().pop() else { return };
        match core.update_file_table(index, self.fd.as_raw_fd()) {
            Ok(()) => self.pin.set(Some(index)),
            Err(_) => core.pins.free.borrow_mut().push(index),
        }
    }

    /// What an entry is built with, and completed with by [`File::aim`].
    pub(super) fn target(&self) -> RawFd {
        self.pin.get().map_or(self.fd.as_raw_fd(), |index| index as RawFd)
    }

    /// Makes an entry that was built with [`File::target`] mean this descriptor.
    pub(super) fn aim(&self, entry: squeue::Entry) -> squeue::Entry {
        match self.pin.get() {
            Some(_) => entry.flags(squeue::Flags::FIXED_FILE),
            None => entry,
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // A pinned socket would stay open, and its peer without a FIN, after close(2).
        if let (Some(index), Some(core)) = (self.pin.get(), self.core.upgrade())
            && core.update_file_table(index, -1).is_ok()
        {
            core.pins.free.borrow_mut().push(index);
        }
    }
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
