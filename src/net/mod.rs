//! Sockets: options, listeners, and the few system calls that have no safe wrapper.
#![allow(unsafe_code)] // eventfd(2) and getsockopt(2) structures; listed in tests/tidy.rs

mod interfaces;
pub mod listen;
mod tcp_info;

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

pub use interfaces::own_addresses;
pub use tcp_info::{TcpInfo, tcp_info};

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

/// How far a connection's bytes have got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivery {
    /// Bytes that the peer has acknowledged since the connection began.
    pub acknowledged: u64,
    /// Bytes in the send queue: not sent, or sent and not acknowledged.
    pub waiting: u32,
}

/// Asks the kernel for the [`Delivery`] of a socket; zeros where it cannot tell.
#[must_use]
pub fn delivery(socket: BorrowedFd<'_>) -> Delivery {
    let mut waiting: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (here under its tty name) writes one c_int, which lives over the call.
    unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut waiting) };
    // struct tcp_info (linux/tcp.h): `tcpi_bytes_acked` is the u64 at 120. The libc crate's struct ends before it.
    const BYTES_ACKED: usize = 120;
    let mut info = [0u8; BYTES_ACKED + 8];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `info`, and the written length to `len`.
    unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    };
    let mut acknowledged = [0u8; 8];
    acknowledged.copy_from_slice(&info[BYTES_ACKED..]);
    Delivery { acknowledged: u64::from_ne_bytes(acknowledged), waiting: waiting.max(0) as u32 }
}

/// Whether a TCP connection is over in both directions: by a reset, unless this side has sent FIN. False for a unix
/// socket.
#[must_use]
pub fn is_closed(socket: BorrowedFd<'_>) -> bool {
    // struct tcp_info (linux/tcp.h) begins with `tcpi_state`; TCP_CLOSE is 7 (net/tcp_states.h).
    const TCP_CLOSE: u8 = 7;
    let mut state = 0u8;
    let mut len: libc::socklen_t = 1;
    // SAFETY: the kernel writes at most `len` bytes, the size of `state`, and the written length to `len`.
    unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut state).cast(), &raw mut len)
    };
    state == TCP_CLOSE
}

/// Whether the routing table has a way to an address. Connecting a UDP socket asks it and sends nothing.
#[must_use]
pub fn is_routed(address: IpAddr) -> bool {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    UdpSocket::bind(any).is_ok_and(|socket| socket.connect((address, 9)).is_ok())
}

/// Leaves the choice of the local port to connect(2) (IP_BIND_ADDRESS_NO_PORT, ip(7)).
///
/// # Errors
/// As setsockopt(2).
pub fn set_bind_address_no_port(socket: &socket2::Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is one c_int that lives over the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The soft RLIMIT_NOFILE.
#[must_use]
pub fn rlimit_nofile() -> Option<u32> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit, which lives over the call.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    (result == 0).then(|| u32::try_from(limit.rlim_cur).unwrap_or(u32::MAX))
}

/// CPU time that the calling thread has used (CLOCK_THREAD_CPUTIME_ID).
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which lives over the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
