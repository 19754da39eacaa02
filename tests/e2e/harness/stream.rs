//! A blocking stream socket, TCP or unix, with deadlines, that sends and checks streams of [`super::bytes`].

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{DEADLINE, bytes, eventually};

/// Where somebody listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    Ip(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    pub(crate) fn parse(text: &str) -> Self {
        match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Ip(text.parse().unwrap_or_else(|_| panic!("not an address: {text}"))),
        }
    }

    pub(crate) fn ip(&self) -> SocketAddr {
        match self {
            Self::Ip(address) => *address,
            Self::Unix(path) => panic!("unix:{} is not an IP address", path.display()),
        }
    }

    fn sock_addr(&self) -> SockAddr {
        match self {
            Self::Ip(address) => (*address).into(),
            Self::Unix(path) => SockAddr::unix(path).unwrap(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Reset,
}

pub(crate) struct Stream(pub(crate) Socket);

impl Stream {
    pub(crate) fn new(socket: Socket) -> Self {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        let _ = socket.set_tcp_nodelay(true); // not on a unix socket
        Self(socket)
    }

    pub(crate) fn connect(address: &Address) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    pub(crate) fn try_connect(address: &Address) -> io::Result<Self> {
        Self::try_connect_with(address, |_| Ok(()))
    }

    /// From a source address of one's own, as 127.0.0.2.
    pub(crate) fn connect_from(source: IpAddr, address: &Address) -> Self {
        let bound = |socket: &Socket| socket.bind(&SocketAddr::new(source, 0).into());
        Self::try_connect_with(address, bound).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    /// With options set before the connect, such as small buffers.
    pub(crate) fn try_connect_with(
        address: &Address,
        prepare: impl FnOnce(&Socket) -> io::Result<()>,
    ) -> io::Result<Self> {
        let address = address.sock_addr();
        let domain = if address.is_unix() { Domain::UNIX } else { address.domain() };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        prepare(&socket)?;
        socket.connect_timeout(&address, DEADLINE)?;
        Ok(Self::new(socket))
    }

    /// This end's address, as arus' log shows its client.
    pub(crate) fn local(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().expect("a TCP socket")
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) {
        self.try_write_all(bytes).unwrap_or_else(|error| panic!("send of {} bytes: {error}", bytes.len()));
    }

    pub(crate) fn try_write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        (&self.0).write_all(bytes)
    }

    /// Sends `len` bytes of stream `seed`.
    pub(crate) fn send(&mut self, seed: u64, offset: u64, len: u64) {
        self.send_cut(seed, offset, len, || 256 * 1024);
    }

    /// Sends in pieces of the sizes that `cut` gives.
    pub(crate) fn send_cut(&mut self, seed: u64, offset: u64, len: u64, mut cut: impl FnMut() -> u64) {
        let mut sent = 0;
        while sent < len {
            let piece = cut().clamp(1, len - sent);
            self.write_all(&bytes::pattern(seed, offset + sent, piece as usize));
            sent += piece;
        }
    }

    /// Sends bytes of stream `seed` until it fails or `limit` is reached; gives how many.
    pub(crate) fn send_until_error(&mut self, seed: u64, limit: u64) -> u64 {
        let mut sent = 0;
        while sent < limit {
            match (&self.0).write(&bytes::pattern(seed, sent, 64 * 1024)) {
                Ok(count) => sent += count as u64,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        sent
    }

    pub(crate) fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&self.0).read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    pub(crate) fn read_exactly(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        (&self.0).read_exact(&mut bytes).unwrap_or_else(|error| panic!("read of {len} bytes: {error}"));
        bytes
    }

    /// Reads exactly `len` bytes of stream `seed`.
    pub(crate) fn expect(&mut self, seed: u64, offset: u64, len: u64) {
        self.expect_cut(seed, offset, len, || 256 * 1024);
    }

    /// Reads with buffers of the sizes that `cut` gives.
    pub(crate) fn expect_cut(&mut self, seed: u64, offset: u64, len: u64, mut cut: impl FnMut() -> u64) {
        let mut buffer = Vec::new();
        let mut seen = 0;
        while seen < len {
            buffer.resize(cut().clamp(1, len - seen) as usize, 0);
            match self.read_some(&mut buffer) {
                Ok(0) => panic!("stream {seed}: FIN after {seen} of {len} bytes"),
                Ok(count) => {
                    bytes::check(seed, offset + seen, &buffer[..count]);
                    seen += count as u64;
                }
                Err(error) => panic!("stream {seed}: {error} after {seen} of {len} bytes"),
            }
        }
    }

    /// Reads stream `seed` to its end; gives how many bytes came, all of them right, and how it ended.
    pub(crate) fn drain(&mut self, seed: u64, offset: u64) -> (u64, End) {
        let mut buffer = vec![0; 256 * 1024];
        let mut seen = 0;
        loop {
            match self.read_some(&mut buffer) {
                Ok(0) => return (seen, End::Fin),
                Ok(count) => {
                    bytes::check(seed, offset + seen, &buffer[..count]);
                    seen += count as u64;
                }
                Err(error) => return (seen, ended(&error, seen)),
            }
        }
    }

    /// Reads to the end without looking at the bytes.
    pub(crate) fn discard(&mut self) -> (u64, End) {
        let mut buffer = vec![0; 256 * 1024];
        let mut seen = 0;
        loop {
            match self.read_some(&mut buffer) {
                Ok(0) => return (seen, End::Fin),
                Ok(count) => seen += count as u64,
                Err(error) => return (seen, ended(&error, seen)),
            }
        }
    }

    /// Waits for the end; no byte may come before it.
    pub(crate) fn end(&mut self) -> End {
        let (seen, end) = self.discard();
        assert_eq!(seen, 0, "bytes came where the end was expected");
        end
    }

    /// Sends FIN.
    pub(crate) fn finish(&self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    /// Waits until the peer's kernel has everything that was sent.
    pub(crate) fn wait_acknowledged(&self) {
        eventually("what was sent is acknowledged", || (self.unacknowledged() == 0).then_some(()));
    }

    /// Bytes that the peer's kernel has not got yet.
    pub(crate) fn unacknowledged(&self) -> i32 {
        use std::os::fd::AsRawFd;
        let mut waiting = 0;
        // SAFETY: SIOCOUTQ (here under its tty name) writes one c_int, which lives over the call.
        #[allow(unsafe_code)]
        let result = unsafe { nix::libc::ioctl(self.0.as_raw_fd(), nix::libc::TIOCOUTQ, &raw mut waiting) };
        assert_eq!(result, 0);
        waiting
    }

    /// Closes with RST.
    pub(crate) fn reset(self) {
        self.0.set_linger(Some(Duration::ZERO)).unwrap();
    }

    pub(crate) fn try_clone(&self) -> Self {
        Self(self.0.try_clone().unwrap())
    }
}

fn ended(error: &io::Error, seen: u64) -> End {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => End::Reset,
        kind => panic!("neither FIN nor RST after {seen} bytes: {error} ({kind:?})"),
    }
}

/// Waits until the peer has sent FIN or RST, without reading.
pub(crate) fn wait_for_hang_up(socket: std::os::fd::BorrowedFd<'_>) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let deadline = std::time::Instant::now() + 2 * DEADLINE;
    while std::time::Instant::now() < deadline {
        let mut fds = [PollFd::new(socket, PollFlags::from_bits_retain(nix::libc::POLLRDHUP))];
        if poll(&mut fds, PollTimeout::from(1000u16)).is_ok_and(|ready| ready > 0) {
            return;
        }
    }
}
