//! The backend: one epoll loop that answers every ask of the bench protocol, and sends every datagram back.
//!
//! It shares its core with the load generator, so it does as little as it can: one read and one
//! write per request, nothing allocated after a connection is accepted.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use slab::Slab;

use crate::net::{self, Interest, Poll};
use crate::wire::{self, Answer, Ask, CHUNK, Pattern};

/// Asks that may wait while one is being served.
const INBOX: usize = 4 * wire::ASK;
/// A paced stream sends this much at a time.
const PACED_CHUNK: u64 = 64 * 1024;
/// A paced stream that fell behind by more forgets the past instead of bursting.
const PACE_MEMORY: Duration = Duration::from_millis(20);
/// The tokens of the listener and the socket for datagrams; connections have their slab key.
const LISTENER: usize = usize::MAX;
const DATAGRAMS: usize = usize::MAX - 1;

#[derive(Args)]
pub(crate) struct BackendArgs {
    /// Loopback address to serve; port 0 takes a free one. The bound address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Stay on this CPU
    #[arg(long)]
    cpu: Option<usize>,
    /// Every connection begins with a PROXY header, version 2; it is swallowed
    #[arg(long)]
    proxy_header: bool,
}

pub(crate) fn run(args: &BackendArgs) -> Result<()> {
    if let Some(cpu) = args.cpu {
        net::pin(cpu)?;
    }
    net::raise_descriptor_limit()?;
    net::precise_timeouts()?;
    let listener = net::listen(args.listen)?;
    let address = listener.local_addr()?;
    let mut backend = Backend::new(listener, args.proxy_header)?;
    crate::say_listening(address)?;
    backend.serve()
}

/// What a connection is busy with.
enum Work {
    Asks,
    Send { offset: u64, left: u64, pace: u64, due: Option<Instant>, blocked: bool },
    Swallow { left: u64, total: u64 },
}

/// What a step leaves behind.
enum Next {
    Stay,
    Close,
}

struct Connection {
    stream: TcpStream,
    work: Work,
    interest: Interest,
    inbox: [u8; INBOX],
    filled: usize,
    /// A PROXY header is still to come.
    is_before_header: bool,
    /// Where the next paced stream of this connection goes on.
    paced_until: Option<Instant>,
}

struct Backend {
    listener: TcpListener,
    datagrams: UdpSocket,
    takes_header: bool,
    poll: Poll,
    connections: Slab<Connection>,
    /// Connections whose paced stream waits for its time.
    paced: Vec<usize>,
    answer: Answer,
    pattern: Pattern,
    scratch: Box<[u8]>,
}

impl Backend {
    fn new(listener: TcpListener, takes_header: bool) -> Result<Self> {
        let poll = Poll::new()?;
        poll.add(&listener, LISTENER, Interest::Read)?;
        let datagrams = UdpSocket::bind(listener.local_addr()?).context("no datagrams on the same port")?;
        datagrams.set_nonblocking(true)?;
        poll.add(&datagrams, DATAGRAMS, Interest::Read)?;
        Ok(Self {
            listener,
            datagrams,
            takes_header,
            poll,
            connections: Slab::with_capacity(8_192),
            paced: Vec::new(),
            answer: Answer::new(),
            pattern: Pattern::new(),
            scratch: vec![0; CHUNK].into_boxed_slice(),
        })
    }

    fn serve(&mut self) -> Result<()> {
        loop {
            let events = self.poll.wait(self.until_next_due()).context("epoll")?;
            for index in 0..events {
                match self.poll.token(index) {
                    LISTENER => self.accept()?,
                    DATAGRAMS => self.send_back(),
                    key => self.step(key),
                }
            }
            self.send_what_is_due();
        }
    }

    /// Datagrams go back as they came; one that cannot is lost, as datagrams may be.
    fn send_back(&mut self) {
        while let Ok((len, from)) = self.datagrams.recv_from(&mut self.scratch) {
            let _ = self.datagrams.send_to(&self.scratch[..len], from);
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    let entry = self.connections.vacant_entry();
                    self.poll.add(&stream, entry.key(), Interest::Read)?;
                    entry.insert(Connection {
                        stream,
                        work: Work::Asks,
                        interest: Interest::Read,
                        inbox: [0; INBOX],
                        filled: 0,
                        is_before_header: self.takes_header,
                        paced_until: None,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error).context("accept"),
            }
        }
    }

    /// Goes on with a connection; closes it when it has ended or failed.
    fn step(&mut self, key: usize) {
        let Self { poll, connections, paced, answer, pattern, scratch, .. } = self;
        let Some(connection) = connections.get_mut(key) else {
            return;
        };
        let next = connection.step(answer, pattern, scratch);
        if !matches!(next, Ok(Next::Stay)) {
            paced.retain(|&waiting| waiting != key);
            connections.remove(key);
            return;
        }
        if connection.due().is_some() && !paced.contains(&key) {
            paced.push(key);
        }
        let interest = connection.wanted_interest();
        if interest != connection.interest {
            // A socket that cannot be watched any more is closed by its peer's next event.
            connection.interest = interest;
            let _ = poll.set(&connection.stream, key, interest);
        }
    }

    fn until_next_due(&self) -> Option<Duration> {
        let due = self.paced.iter().filter_map(|&key| self.connections.get(key)?.due()).min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    fn send_what_is_due(&mut self) {
        if self.paced.is_empty() {
            return;
        }
        let now = Instant::now();
        for key in std::mem::take(&mut self.paced) {
            match self.connections[key].due() {
                Some(due) if due <= now => self.step(key),
                Some(_) => self.paced.push(key),
                None => {}
            }
        }
    }
}

impl Connection {
    /// Goes on with what the connection is busy with, then with the asks that waited meanwhile.
    fn step(&mut self, answer: &mut Answer, pattern: &Pattern, scratch: &mut [u8]) -> io::Result<Next> {
        let next = match self.work {
            Work::Asks => self.read_asks(),
            Work::Send { .. } => self.send(pattern),
            Work::Swallow { .. } => self.swallow(scratch),
        };
        match next {
            Ok(Next::Stay) => self.serve_asks(answer),
            Ok(Next::Close) => Ok(Next::Close),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Next::Stay),
            Err(error) => Err(error),
        }
    }

    fn read_asks(&mut self) -> io::Result<Next> {
        match self.stream.read(&mut self.inbox[self.filled..])? {
            0 => Ok(Next::Close),
            read => {
                self.filled += read;
                Ok(Next::Stay)
            }
        }
    }

    /// Serves whole asks from the inbox until one takes the connection over.
    fn serve_asks(&mut self, answer: &mut Answer) -> io::Result<Next> {
        let mut taken = 0;
        if self.is_before_header {
            match wire::proxy_header_len(&self.inbox[..self.filled]) {
                Some(len) if len <= self.filled => taken = len,
                Some(len) if len <= INBOX => return Ok(Next::Stay),
                _ => return Ok(Next::Close),
            }
            self.is_before_header = false;
        }
        while taken < self.filled && matches!(self.work, Work::Asks) {
            let wire = &self.inbox[taken..self.filled];
            let Some(len) = Ask::wire_len(wire[0]) else {
                return Ok(Next::Close);
            };
            if wire.len() < len {
                break;
            }
            taken += len;
            match Ask::parse(wire) {
                Some(Ask::Request { seq }) => write_whole(&mut self.stream, answer.with_seq(seq))?,
                Some(Ask::Down { bytes, pace }) => self.start_sending(bytes, pace),
                Some(Ask::Up { bytes }) => {
                    // The head of the upload may have come with its ask.
                    let early = bytes.min((self.filled - taken) as u64);
                    taken += early as usize;
                    self.work = Work::Swallow { left: bytes - early, total: bytes };
                    self.send_receipt_when_done()?;
                }
                Some(Ask::Echo { backend_closes }) => {
                    write_whole(&mut self.stream, &wire[..len])?;
                    if backend_closes {
                        return Ok(Next::Close);
                    }
                }
                None => return Ok(Next::Close),
            }
        }
        self.inbox.copy_within(taken..self.filled, 0);
        self.filled -= taken;
        Ok(Next::Stay)
    }

    fn start_sending(&mut self, bytes: u64, pace: u64) {
        let due = (pace > 0).then(|| {
            let now = Instant::now();
            self.paced_until.filter(|&until| until + PACE_MEMORY > now).unwrap_or(now)
        });
        self.work = Work::Send { offset: 0, left: bytes, pace, due, blocked: false };
    }

    /// Sends one chunk, so that no stream keeps the others waiting.
    fn send(&mut self, pattern: &Pattern) -> io::Result<Next> {
        let Work::Send { offset, left, pace, due, blocked } = &mut self.work else {
            return Ok(Next::Stay);
        };
        let want = if *pace > 0 { (*left).min(PACED_CHUNK) } else { *left };
        let sent = self.stream.write(pattern.at(*offset, want));
        *blocked = sent.is_err();
        let sent = sent? as u64;
        *offset += sent;
        *left -= sent;
        if let Some(due) = due {
            let now = Instant::now();
            let earliest = now.checked_sub(PACE_MEMORY).unwrap_or(now);
            *due = earliest.max(*due) + Duration::from_nanos(sent * 1_000_000_000 / *pace);
            self.paced_until = Some(*due);
        }
        if *left == 0 {
            self.work = Work::Asks;
        }
        Ok(Next::Stay)
    }

    fn swallow(&mut self, scratch: &mut [u8]) -> io::Result<Next> {
        let Work::Swallow { left, .. } = &mut self.work else {
            return Ok(Next::Stay);
        };
        let want = (*left).min(scratch.len() as u64) as usize;
        match self.stream.read(&mut scratch[..want])? {
            0 => return Ok(Next::Close),
            read => *left -= read as u64,
        }
        self.send_receipt_when_done()?;
        Ok(Next::Stay)
    }

    fn send_receipt_when_done(&mut self) -> io::Result<()> {
        if let Work::Swallow { left: 0, total } = self.work {
            self.work = Work::Asks;
            write_whole(&mut self.stream, &wire::receipt(total))?;
        }
        Ok(())
    }

    /// When this connection wants its turn without an event.
    fn due(&self) -> Option<Instant> {
        match self.work {
            Work::Send { due, blocked: false, .. } => due,
            _ => None,
        }
    }

    fn wanted_interest(&self) -> Interest {
        match self.work {
            Work::Asks | Work::Swallow { .. } => Interest::Read,
            Work::Send { due: Some(_), blocked: false, .. } => Interest::Nothing,
            Work::Send { .. } => Interest::Write,
        }
    }
}

/// Small answers always fit an empty send buffer; a client that does not read loses its connection.
fn write_whole(stream: &mut TcpStream, wire: &[u8]) -> io::Result<()> {
    match stream.write(wire)? {
        sent if sent == wire.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}
