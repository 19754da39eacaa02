//! TCP_INFO: what the kernel knows of one connection. Read only when somebody asks: a system call or three.
#![allow(unsafe_code)] // getsockopt(2) and ioctl(2) structures; listed in tests/tidy.rs

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// One TCP connection as the kernel sees it, from our side. Counts and times are since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpInfo {
    /// Smoothed round trip.
    pub rtt: Duration,
    pub rtt_variation: Duration,
    /// Segments sent again.
    pub retransmits: u32,
    /// Time-outs in a row without an answer.
    pub backoff: u8,
    /// Probes of a closed window that were not answered yet.
    pub probes: u8,
    /// Segments that the peer has not acknowledged.
    pub unacked: u32,
    /// Bytes that were not sent yet.
    pub not_sent: u32,
    /// Bytes in the send queue: not sent, or sent and not acknowledged.
    pub waiting: u32,
    /// Bytes that came and that arus has not read.
    pub unread: u32,
    /// Time with something to send.
    pub busy: Duration,
    /// Part of it in which the peer's window was full.
    pub rwnd_limited: Duration,
    /// Part of it in which our send buffer was.
    pub sndbuf_limited: Duration,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    /// Since we last sent data, and since data last came.
    pub last_sent: Duration,
    pub last_received: Duration,
    /// Our receive window's room for growth.
    pub receive_space: u32,
    /// What the peer has room for; `None` where the kernel does not tell (before 6.2).
    pub peer_window: Option<u32>,
    /// Segments in flight that congestion control allows.
    pub congestion_window: u32,
    /// Bytes per second that arrive there, by the last measurement.
    pub delivery_rate: u64,
}

/// struct tcp_info (linux/tcp.h) only grows, and its fields stay where they are; the libc crate's ends before most of these.
mod at {
    pub(super) const STATE: usize = 0;
    pub(super) const PROBES: usize = 3;
    pub(super) const BACKOFF: usize = 4;
    pub(super) const UNACKED: usize = 24;
    pub(super) const LAST_DATA_SENT: usize = 44;
    pub(super) const LAST_DATA_RECV: usize = 52;
    pub(super) const RTT: usize = 68;
    pub(super) const RTTVAR: usize = 72;
    pub(super) const SND_CWND: usize = 80;
    pub(super) const RCV_SPACE: usize = 96;
    pub(super) const TOTAL_RETRANS: usize = 100;
    pub(super) const BYTES_ACKED: usize = 120;
    pub(super) const BYTES_RECEIVED: usize = 128;
    pub(super) const NOTSENT_BYTES: usize = 144;
    pub(super) const DELIVERY_RATE: usize = 160;
    pub(super) const BUSY_TIME: usize = 168;
    pub(super) const RWND_LIMITED: usize = 176;
    pub(super) const SNDBUF_LIMITED: usize = 184;
    pub(super) const SND_WND: usize = 228;
    pub(super) const END: usize = 232;
}

/// Asks the kernel; `None` for what is no TCP connection, or not yet one.
#[must_use]
pub fn tcp_info(socket: BorrowedFd<'_>) -> Option<TcpInfo> {
    const TCP_CLOSE: u8 = 7;
    let mut info = [0u8; at::END];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `info`, and the written length to `len`.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    };
    let len = len as usize;
    // A kernel that tells less than this is older than any that arus runs on.
    if result < 0 || len < at::SNDBUF_LIMITED + 8 || info[at::STATE] == TCP_CLOSE {
        return None;
    }
    let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|index| info[at + index]));
    let long = |at: usize| u64::from_ne_bytes(std::array::from_fn(|index| info[at + index]));
    let micros = |at: usize| Duration::from_micros(word(at).into());
    let millis = |at: usize| Duration::from_millis(word(at).into());
    Some(TcpInfo {
        rtt: micros(at::RTT),
        rtt_variation: micros(at::RTTVAR),
        retransmits: word(at::TOTAL_RETRANS),
        backoff: info[at::BACKOFF],
        probes: info[at::PROBES],
        unacked: word(at::UNACKED),
        not_sent: word(at::NOTSENT_BYTES),
        waiting: queued(socket, libc::TIOCOUTQ),
        unread: queued(socket, libc::FIONREAD),
        busy: Duration::from_micros(long(at::BUSY_TIME)),
        rwnd_limited: Duration::from_micros(long(at::RWND_LIMITED)),
        sndbuf_limited: Duration::from_micros(long(at::SNDBUF_LIMITED)),
        bytes_acked: long(at::BYTES_ACKED),
        bytes_received: long(at::BYTES_RECEIVED),
        last_sent: millis(at::LAST_DATA_SENT),
        last_received: millis(at::LAST_DATA_RECV),
        receive_space: word(at::RCV_SPACE),
        peer_window: (len >= at::END).then(|| word(at::SND_WND)),
        congestion_window: word(at::SND_CWND),
        delivery_rate: long(at::DELIVERY_RATE),
    })
}

/// SIOCOUTQ or SIOCINQ, under their tty names.
fn queued(socket: BorrowedFd<'_>, request: libc::Ioctl) -> u32 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: both requests write one c_int, which lives over the call.
    unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut bytes) };
    bytes.max(0) as u32
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Fills the socket until it takes no more; gives how much it took.
    fn fill(stream: &mut TcpStream) -> usize {
        stream.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(count) = stream.write(&[7; 65536]) {
            sent += count;
        }
        sent
    }

    #[test]
    fn tells_what_waits_and_for_whom() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        theirs.write_all(b"hello").unwrap();
        ours.peek(&mut [0; 5]).unwrap();
        let info = tcp_info(ours.as_fd()).unwrap();
        assert_eq!((info.unread, info.waiting, info.bytes_received), (5, 0, 5));
        assert!(info.rtt > Duration::ZERO && info.rtt < Duration::from_secs(10));

        let sent = fill(&mut ours);
        // Until what can be sent has been, and the kernel's clock has moved.
        let stalled = || tcp_info(ours.as_fd()).filter(|info| info.unacked == 0 && info.rwnd_limited > Duration::ZERO);
        let info = loop {
            if let Some(info) = stalled() {
                break info;
            }
            std::thread::yield_now();
        };
        assert_eq!(info.bytes_acked + u64::from(info.waiting), sent as u64 + 1, "and the SYN: {info:?}");
        assert!(info.not_sent == info.waiting && info.busy >= info.rwnd_limited, "{info:?}");
        let before = info.rwnd_limited;
        let mut rest = vec![0; sent];
        theirs.read_exact(&mut rest[..sent]).unwrap();
        while tcp_info(ours.as_fd()).unwrap().waiting > 0 {
            std::thread::yield_now();
        }
        let info = tcp_info(ours.as_fd()).unwrap();
        assert!(info.rwnd_limited >= before && info.bytes_acked == sent as u64 + 1, "{info:?}");
    }

    #[test]
    fn other_sockets_have_none() {
        let (unix, _other) = UnixStream::pair().unwrap();
        assert_eq!(tcp_info(unix.as_fd()), None);
        let idle = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        assert_eq!(tcp_info(idle.as_fd()), None);
    }
}
