//! Pipes for moving bytes from socket to socket without copying them (splice(2)).
//!
//! IORING_OP_SPLICE always goes to a worker thread, so these are plain, non-blocking system calls, made after the ring has
//! said that a socket is ready. splice(2) heeds only O_NONBLOCK of the socket itself, which operations of the ring must
//! not meet (they would fail instead of waiting): it is set for the call alone, on the one thread that uses the socket.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use super::core::Core;
use super::socket::Socket;

/// Bytes that a pipe holds: what an unprivileged process may ask for (fs.pipe-max-size), in pages of 4 KiB.
const PIPE_BYTES: usize = 1024 * 1024;
/// Pipes of one shard, each with two descriptors; streams beyond that are copied.
const PIPES: usize = 64;

/// The pipes of one shard.
#[derive(Default)]
pub(super) struct Pipes {
    spare: Vec<Ends>,
    lent: usize,
    /// No pipe could be made or enlarged; not tried again.
    refused: bool,
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe on loan. Given back when dropped, closed when it is not empty.
pub struct Pipe {
    core: Rc<Core>,
    ends: Option<Ends>,
    len: usize,
}

impl Pipe {
    /// `None` when all are in use, or none can be made.
    pub(super) fn take(core: &Rc<Core>) -> Option<Self> {
        let mut pipes = core.pipes.borrow_mut();
        if pipes.lent >= PIPES || pipes.refused {
            return None;
        }
        let ends = match pipes.spare.pop() {
            Some(ends) => ends,
            None => match Ends::new() {
                Ok(ends) => ends,
                Err(error) => {
                    // EPERM: fs.pipe-user-pages-soft. Descriptors may come back; that limit stays.
                    pipes.refused = error.raw_os_error() == Some(libc::EPERM);
                    return None;
                }
            },
        };
        pipes.lent += 1;
        drop(pipes);
        Some(Self { core: Rc::clone(core), ends: Some(ends), len: 0 })
    }

    /// Bytes in the pipe.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Moves what has arrived into the pipe, which is empty; gives the bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` where nothing has arrived; else as splice(2).
    pub fn fill(&mut self, from: &Socket) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Ok(0) };
        let moved = from.without_blocking(|fd| splice(fd, ends.write.as_raw_fd(), PIPE_BYTES))?;
        self.len += moved;
        Ok(moved)
    }

    /// Moves as much out of the pipe as the socket takes; gives the bytes.
    ///
    /// # Errors
    /// `WouldBlock` where it takes nothing now; else as splice(2).
    pub fn empty(&mut self, to: &Socket) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Ok(0) };
        let len = self.len;
        let moved = to.without_blocking(|fd| splice(ends.read.as_raw_fd(), fd, len))?;
        self.len -= moved.min(len);
        Ok(moved)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut pipes = self.core.pipes.borrow_mut();
        pipes.lent -= 1;
        if self.len == 0 {
            pipes.spare.extend(self.ends.take());
        }
    }
}

impl Ends {
    fn new() -> io::Result<Self> {
        let mut fds = [0; 2];
        // SAFETY: the kernel writes two descriptors to `fds`.
        if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let read = unsafe { OwnedFd::from_raw_fd(fds[0]) };
        // SAFETY: likewise.
        let write = unsafe { OwnedFd::from_raw_fd(fds[1]) };
        // SAFETY: F_SETPIPE_SZ takes a number.
        if unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_BYTES as libc::c_int) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { read, write })
    }
}

fn splice(from: libc::c_int, to: libc::c_int, len: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    // SAFETY: no offsets are given, so splice takes no pointers.
    let moved = unsafe { libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), len, flags) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

/// Sets or clears O_NONBLOCK.
pub(super) fn set_nonblocking(fd: libc::c_int, on: bool) -> io::Result<()> {
    // A connected socket has no other status flag that arus sets.
    let flags = libc::O_RDWR | if on { libc::O_NONBLOCK } else { 0 };
    // SAFETY: F_SETFL takes a number.
    if unsafe { libc::fcntl(fd, libc::F_SETFL, flags) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
