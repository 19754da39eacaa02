//! New connections all the time: connect, exchange 64 bytes, close; a fixed number in flight.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::socket::{Socket, Target};
use super::socks::Dialogue;
use super::tally::Tally;
use super::{Closer, Load, PATIENCE};
use crate::net::{Interest, Poll};
use crate::wire::{self, ECHO};

pub(crate) struct Churn {
    target: Target,
    in_flight: usize,
    closer: Closer,
    /// Whether handshakes are measured that a ticket shortens, and no others.
    resumes: bool,
    is_measuring: bool,
    poll: Poll,
    visits: Vec<Option<Visit>>,
    tally: Tally,
    seq: u64,
}

/// One connection, from its dial to its end.
struct Visit {
    stream: Socket,
    /// What goes before, until it is through.
    dialogue: Option<Dialogue>,
    started: Instant,
    said: [u8; ECHO],
    has_said: bool,
    heard: [u8; ECHO + 1],
    got: usize,
}

impl Churn {
    pub(crate) fn new(target: Target, in_flight: usize, closer: Closer, resumes: bool) -> Result<Self> {
        let visits = std::iter::repeat_with(|| None).take(in_flight).collect();
        let poll = Poll::new()?;
        Ok(Self { target, in_flight, closer, resumes, is_measuring: false, poll, visits, tally: Tally::new(), seq: 0 })
    }

    fn run_until(&mut self, until: Instant) -> Result<()> {
        for index in 0..self.in_flight {
            self.begin(index)?;
        }
        while self.visits.iter().any(Option::is_some) {
            let now = Instant::now();
            ensure!(now < until + PATIENCE, "connections that never ended");
            let events = self.poll.wait(Some(until + PATIENCE - now))?;
            for event in 0..events {
                let index = self.poll.token(event);
                let (readable, writable) = self.poll.readiness(event);
                let Some(visit) = &mut self.visits[index] else {
                    continue;
                };
                match visit.step(readable, writable, self.closer) {
                    Ok(false) => continue,
                    Ok(true) if self.is_measuring && self.resumes != visit.stream.is_resumed() => {
                        self.tally.fail("a full handshake, or one with a ticket, where the other was wanted");
                    }
                    Ok(true) => self.tally.request(visit.started.elapsed()),
                    Err(error) => self.tally.fail(error.to_string()),
                }
                self.visits[index] = None;
                if Instant::now() < until {
                    self.begin(index)?;
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, index: usize) -> Result<()> {
        self.seq += 1;
        let started = Instant::now();
        let stream = self.target.dial_later()?;
        self.poll.add(&stream, index, Interest::Edges)?;
        self.visits[index] = Some(Visit {
            stream,
            dialogue: self.target.dialogue(),
            started,
            said: wire::echo(self.seq, self.closer == Closer::Backend),
            has_said: false,
            heard: [0; ECHO + 1],
            got: 0,
        });
        Ok(())
    }
}

impl Visit {
    /// Goes on; true once the visit has ended as it should.
    fn step(&mut self, readable: bool, writable: bool, closer: Closer) -> io::Result<bool> {
        if (writable || self.dialogue.is_some()) && !self.has_said {
            if let Some(error) = self.stream.stream.take_error()? {
                return Err(error);
            }
            if let Some(dialogue) = &mut self.dialogue {
                if dialogue.step(&mut self.stream)?.is_none() {
                    return Ok(false);
                }
                self.dialogue = None;
            }
            self.has_said = self.stream.write(&self.said)? == ECHO;
        }
        if writable && self.stream.wants_write() {
            match self.stream.flush() {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        if !readable {
            return Ok(false);
        }
        loop {
            // One byte more than the echo has, so that a byte too many shows.
            match self.stream.read(&mut self.heard[self.got..]) {
                Ok(0) if self.got == ECHO => return Ok(true),
                // A TLS proxy that forgets close_notify has done its work all the same.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && self.got == ECHO => return Ok(true),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.got += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            if self.got > ECHO || self.heard[..self.got] != self.said[..self.got] {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not what was said"));
            }
            if self.got == ECHO && closer == Closer::Client {
                return Ok(true);
            }
        }
    }
}

impl Load for Churn {
    fn prepare(&mut self, warmup: Duration) -> Result<()> {
        self.run_until(Instant::now() + warmup)?;
        let warm = std::mem::replace(&mut self.tally, Tally::new());
        ensure!(warm.errors == 0, "{}", warm.first_error.unwrap_or_default());
        Ok(())
    }

    fn measure(&mut self, until: Instant) -> Result<Tally> {
        self.is_measuring = true;
        self.run_until(until)?;
        Ok(std::mem::replace(&mut self.tally, Tally::new()))
    }
}
