//! Datagrams through UDP associations: 64 bytes there and back, a fixed number under way in each.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::socket::{Socket, Target};
use super::socks::{self, Dialogue, Terms};
use super::tally::Tally;
use super::{Load, PATIENCE};
use crate::net::{Interest, Poll};
use crate::wire::{self, ECHO};

/// Datagrams taken from one association before the others get their turn.
const TURN: usize = 64;

pub(crate) struct Datagrams {
    target: Target,
    terms: Arc<Terms>,
    destination: SocketAddr,
    count: usize,
    in_flight: usize,
    poll: Poll,
    associations: Vec<Association>,
    tally: Tally,
}

struct Association {
    /// The association ends with it.
    _control: Socket,
    socket: UdpSocket,
    /// The header that the proxy wants before each datagram, then room for the echo.
    wire: Vec<u8>,
    header: usize,
    seq: u64,
    /// Numbers and times of what is under way, oldest first.
    under_way: VecDeque<(u64, Instant)>,
}

impl Datagrams {
    /// `terms` ask for an association, whose datagrams go to `destination`.
    pub(crate) fn new(
        target: Target,
        terms: Arc<Terms>,
        destination: SocketAddr,
        count: usize,
        in_flight: usize,
    ) -> Result<Self> {
        let (poll, associations, tally) = (Poll::new()?, Vec::with_capacity(count), Tally::new());
        Ok(Self { target, terms, destination, count, in_flight, poll, associations, tally })
    }

    fn open(&mut self) -> Result<()> {
        let mut control = self.target.dial(PATIENCE)?;
        let told = Dialogue::new(Arc::clone(&self.terms)).step(&mut control).context("association")?;
        let mut relay = told.context("the proxy was silent")?;
        if relay.ip().is_unspecified() {
            relay.set_ip(self.target.address.ip());
        }
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(relay).with_context(|| relay.to_string())?;
        socket.set_nonblocking(true)?;
        self.poll.add(&socket, self.associations.len(), Interest::Read)?;
        let mut wire = vec![0; 3];
        socks::put_address(&mut wire, self.destination);
        let header = wire.len();
        wire.resize(header + ECHO, 0);
        let under_way = VecDeque::with_capacity(self.in_flight);
        self.associations.push(Association { _control: control, socket, wire, header, seq: 0, under_way });
        Ok(())
    }

    fn run_until(&mut self, until: Instant) -> Result<()> {
        for association in &mut self.associations {
            for _ in 0..self.in_flight {
                association.send()?;
            }
        }
        while self.associations.iter().any(|association| !association.under_way.is_empty()) {
            let now = Instant::now();
            // Few are under way, which fit into every buffer between: none may be lost on this machine.
            ensure!(now < until + PATIENCE, "datagrams that never came back");
            let events = self.poll.wait(Some(until + PATIENCE - now))?;
            for event in 0..events {
                let association = &mut self.associations[self.poll.token(event)];
                association.go_on(until, &mut self.tally)?;
            }
        }
        Ok(())
    }
}

impl Association {
    fn send(&mut self) -> io::Result<()> {
        self.seq += 1;
        self.wire[self.header..].copy_from_slice(&wire::echo(self.seq, false));
        let sent = self.socket.send(&self.wire)?;
        if sent != self.wire.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.under_way.push_back((self.seq, Instant::now()));
        Ok(())
    }

    /// Takes what has come back; each brings the next.
    fn go_on(&mut self, until: Instant, tally: &mut Tally) -> Result<()> {
        let mut answer = [0; 512];
        for _ in 0..TURN {
            let got = match self.socket.recv(&mut answer) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("a datagram"),
            };
            // The answer's header has the address of the backend, where the other had it too.
            ensure!(got == self.header + ECHO, "a datagram of {got} bytes");
            ensure!(answer[..self.header] == self.wire[..self.header], "a datagram from somebody else");
            let seq = wire::echo_seq(&answer[self.header..got]).context("a datagram that was not sent")?;
            // The network may change their order, and some proxies do.
            let at = self.under_way.iter().position(|&(under_way, _)| under_way == seq);
            let (_, started) = at.and_then(|at| self.under_way.remove(at)).context("a datagram that came twice")?;
            let now = Instant::now();
            tally.request(now - started);
            if now < until {
                self.send()?;
            }
        }
        Ok(())
    }
}

impl Load for Datagrams {
    fn prepare(&mut self, warmup: Duration) -> Result<()> {
        for _ in 0..self.count {
            self.open()?;
        }
        self.run_until(Instant::now() + warmup)?;
        self.tally = Tally::new();
        Ok(())
    }

    fn measure(&mut self, until: Instant) -> Result<Tally> {
        self.run_until(until)?;
        Ok(std::mem::replace(&mut self.tally, Tally::new()))
    }
}
