//! Sockets: options, listeners, and the few system calls that have no safe wrapper.
#![allow(unsafe_code)] // eventfd(2) and getsockopt(2) structures; listed in tests/tidy.rs

pub mod listen;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// An eventfd(2), counting from 0, that blocks nobody.
///
/// # Errors
/// As eventfd(2): EMFILE, ENFILE, ENOMEM.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: eventfd takes no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds 1 to an eventfd. Cannot block; a counter at its maximum wakes the reader all the same.
pub fn ring_doorbell(eventfd: BorrowedFd<'_>) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: `one` is 8 readable bytes, and the descriptor is borrowed for the call.
    let _ = unsafe { libc::write(eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Lets connections begin with data in the SYN (RFC 7413); `queue` such connections may wait.
///
/// # Errors
/// As setsockopt(2).
pub fn set_fast_open(socket: &socket2::Socket, queue: u32) -> io::Result<()> {
    let queue = libc::c_int::try_from(queue).unwrap_or(libc::c_int::MAX);
    // SAFETY: the option's value is one c_int that lives over the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            (&raw const queue).cast(),
            size_of_val(&queue) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
