//! A client's connection, plain or TLS, blocking or not; its users do not see the difference.
//!
//! A TLS connection shakes hands as its first bytes are read. After a step it may hold bytes that no event will tell of:
//! plaintext that was not asked for yet ([`Socket::has_more`]), or records that did not fit into the socket
//! ([`Socket::wants_write`]).

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};

use super::socks::{Dialogue, Terms};
use super::terms::SERVER_NAME;
use crate::net;
use crate::wire::CHUNK;

thread_local! {
    /// What comes from sockets goes through here: rustls itself would read 4 KiB at a time.
    static ARRIVED: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// Where connections go, and whether they speak TLS or SOCKS there.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) socks: Option<Arc<Terms>>,
}

impl Target {
    /// A connected, blocking socket; a TLS handshake or a dialogue is still to come.
    pub(crate) fn dial(&self, patience: Duration) -> Result<Socket> {
        self.over(net::dial(self.address, patience).context("connect")?)
    }

    /// The same behind the dialogue, if there is one.
    pub(crate) fn dial_through(&self, patience: Duration) -> Result<Socket> {
        let mut socket = self.dial(patience)?;
        if let Some(mut dialogue) = self.dialogue() {
            dialogue.step(&mut socket).context("SOCKS")?.context("the proxy was silent")?;
        }
        Ok(socket)
    }

    /// What a new connection has to say before anything else.
    pub(crate) fn dialogue(&self) -> Option<Dialogue> {
        self.socks.clone().map(Dialogue::new)
    }

    /// A non-blocking socket on its way; it becomes writable when it is there.
    pub(crate) fn dial_later(&self) -> Result<Socket> {
        self.over(net::dial_later(self.address).context("connect")?)
    }

    fn over(&self, stream: TcpStream) -> Result<Socket> {
        let Some(config) = &self.tls else {
            return Ok(Socket { stream, tls: None });
        };
        let name = ServerName::try_from(SERVER_NAME)?;
        let mut tls = ClientConnection::new(Arc::clone(config), name)?;
        tls.set_buffer_limit(Some(CHUNK));
        Ok(Socket { stream, tls: Some(Box::new(Tls { tls, rest: Vec::new(), taken: 0, has_more: false })) })
    }
}

pub(crate) struct Socket {
    pub(crate) stream: TcpStream,
    tls: Option<Box<Tls>>,
}

struct Tls {
    tls: ClientConnection,
    /// Read from the socket; rustls has taken the first `taken` bytes of it.
    rest: Vec<u8>,
    taken: usize,
    /// There may be plaintext that nobody has read.
    has_more: bool,
}

impl Socket {
    /// Whether reading again may give something without another event.
    pub(crate) fn has_more(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_more)
    }

    /// Whether something waits for room in the socket; [`Write::flush`] tries again.
    pub(crate) fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.tls.wants_write())
    }

    /// Whether its handshake was shortened by a ticket.
    pub(crate) fn is_resumed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.tls.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    pub(crate) fn close(&self) {
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.stream.read(buffer),
            Some(tls) => tls.read(&mut self.stream, buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.stream.write(bytes);
        };
        tls.flush(&mut self.stream)?;
        let written = tls.tls.writer().write(bytes)?;
        match tls.flush(&mut self.stream) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(written),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => Ok(()),
            Some(tls) => tls.flush(&mut self.stream),
        }
    }
}

impl Tls {
    fn flush(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(stream)?;
        }
        Ok(())
    }

    /// Fills the buffer with what there is; reads from the socket only while it is empty.
    fn read(&mut self, stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            filled += match self.tls.reader().read(&mut buffer[filled..]) {
                Ok(0) if filled < buffer.len() => {
                    // close_notify; what was read before it goes first.
                    self.has_more = filled > 0;
                    return Ok(filled);
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                // A FIN without close_notify.
                Err(error) if filled == 0 => return Err(error),
                Err(_) => 0,
            };
            self.has_more = filled == buffer.len();
            if self.has_more {
                return Ok(filled);
            }
            if self.taken < self.rest.len() {
                self.taken += self.tls.read_tls(&mut &self.rest[self.taken..])?;
                self.open()?;
                self.answer(stream)?;
            } else if filled > 0 {
                return Ok(filled);
            } else {
                self.receive(stream)?;
            }
        }
    }

    /// Takes in what the socket has, until some of it has become plaintext.
    fn receive(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        ARRIVED.with_borrow_mut(|arrived| {
            let read = stream.read(arrived)?;
            let mut rest = &arrived[..read];
            if rest.is_empty() {
                self.tls.read_tls(&mut rest)?;
                return self.open();
            }
            while !rest.is_empty() {
                self.tls.read_tls(&mut rest)?;
                let state = self.tls.process_new_packets().map_err(invalid)?;
                if state.plaintext_bytes_to_read() > 0 {
                    self.rest.clear();
                    self.rest.extend_from_slice(rest);
                    self.taken = 0;
                    break;
                }
            }
            Ok(())
        })?;
        self.answer(stream)
    }

    fn open(&mut self) -> io::Result<()> {
        self.tls.process_new_packets().map(|_| ()).map_err(invalid)
    }

    /// Sends what the handshake wants to say now.
    fn answer(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        match self.flush(stream) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
