//! `splice`: a relay of epoll and splice(2), the stand-in for Go's `io.Copy` and its like.
//!
//! Bytes go from socket to pipe to socket without being copied by the relay. Pipes are of 1 MiB and
//! shared: a direction holds one only while it has bytes in it.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use clap::Args;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use slab::Slab;

use crate::net::{self, Interest, Poll};

const PIPE: usize = 1 << 20;
/// Trips from socket to socket before another direction has its turn.
const TRIPS: usize = 8;
const LISTENER: usize = usize::MAX;
/// A socket alone in non-blocking mode, or the flag alone, would block: both are needed.
const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

#[derive(Args)]
pub(crate) struct SpliceArgs {
    /// Loopback address to listen on; port 0 takes a free one. The bound address is printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where every connection is relayed to
    #[arg(long)]
    upstream: SocketAddr,
}

pub(crate) fn run(args: &SpliceArgs) -> Result<()> {
    net::ensure_loopback(args.upstream)?;
    net::raise_descriptor_limit()?;
    let listener = net::listen(args.listen)?;
    let poll = Poll::new()?;
    poll.add(&listener, LISTENER, Interest::Read)?;
    crate::say_listening(listener.local_addr()?)?;
    let mut relay =
        Relay { poll, upstream: args.upstream, pairs: Slab::new(), pipes: Vec::new(), unfinished: Vec::new() };
    relay.serve(&listener)
}

struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// One way, from one socket of a pair to the other.
#[derive(Default)]
struct Direction {
    pipe: Option<Pipe>,
    held: usize,
    has_ended: bool,
    is_done: bool,
}

struct Pair {
    sockets: [TcpStream; 2],
    directions: [Direction; 2],
}

struct Relay {
    poll: Poll,
    upstream: SocketAddr,
    pairs: Slab<Pair>,
    /// Empty pipes.
    pipes: Vec<Pipe>,
    /// Pairs that had to let others go first; sockets tell of a change only once.
    unfinished: Vec<usize>,
}

impl Relay {
    fn serve(&mut self, listener: &TcpListener) -> Result<()> {
        loop {
            let timeout = (!self.unfinished.is_empty()).then_some(std::time::Duration::ZERO);
            let events = self.poll.wait(timeout).context("epoll")?;
            let unfinished = std::mem::take(&mut self.unfinished);
            for event in 0..events {
                match self.poll.token(event) {
                    LISTENER => self.accept(listener)?,
                    key => self.step(key),
                }
            }
            unfinished.into_iter().for_each(|key| self.step(key));
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        loop {
            let client = match listener.accept() {
                Ok((client, _)) => client,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("accept"),
            };
            client.set_nonblocking(true)?;
            let backend = net::dial_later(self.upstream).context("connect")?;
            let entry = self.pairs.vacant_entry();
            self.poll.add(&client, entry.key(), Interest::Edges)?;
            self.poll.add(&backend, entry.key(), Interest::Edges)?;
            entry.insert(Pair { sockets: [client, backend], directions: Default::default() });
        }
    }

    /// Moves what can be moved both ways; drops the pair when it has ended or failed.
    fn step(&mut self, key: usize) {
        let Some(pair) = self.pairs.get_mut(key) else {
            return;
        };
        let [client, backend] = &pair.sockets;
        let [up, down] = &mut pair.directions;
        let moved = up
            .pump(client, backend, &mut self.pipes)
            .and_then(|up| Ok(up | down.pump(backend, client, &mut self.pipes)?));
        match moved {
            Ok(_) if up.is_done && down.is_done => drop(self.pairs.remove(key)),
            Ok(true) => self.unfinished.push(key),
            Ok(false) => {}
            // Its pipes may hold bytes; they go with it.
            Err(_) => drop(self.pairs.remove(key)),
        }
    }
}

impl Direction {
    /// Moves bytes until one of the sockets is not ready, the end is passed on, or enough is moved;
    /// true if there may be more.
    fn pump(&mut self, from: &TcpStream, to: &TcpStream, pipes: &mut Vec<Pipe>) -> io::Result<bool> {
        if self.is_done {
            return Ok(false);
        }
        let pipe = match self.pipe.take().or_else(|| pipes.pop()) {
            Some(pipe) => pipe,
            None => Pipe::new()?,
        };
        let moved = self.pump_through(&pipe, from, to);
        if self.held == 0 {
            pipes.push(pipe);
        } else {
            self.pipe = Some(pipe);
        }
        moved
    }

    fn pump_through(&mut self, pipe: &Pipe, from: &TcpStream, to: &TcpStream) -> io::Result<bool> {
        for _ in 0..TRIPS {
            let was_empty = self.held == 0;
            let mut is_dry = false;
            if !self.has_ended {
                match would_block(splice(from, None, &pipe.writer, None, PIPE, FLAGS))? {
                    Some(0) => self.has_ended = true,
                    Some(taken) => self.held += taken,
                    // With bytes in the pipe it may be the pipe that is full.
                    None => is_dry = was_empty,
                }
            }
            while self.held > 0 {
                match would_block(splice(&pipe.reader, None, to, None, self.held, FLAGS))? {
                    Some(given) => self.held -= given,
                    None => return Ok(false),
                }
            }
            if self.has_ended {
                self.is_done = true;
                to.shutdown(Shutdown::Write)?;
                return Ok(false);
            }
            if is_dry {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&writer, PIPE)?;
        Ok(Self { reader, writer })
    }
}

fn would_block(moved: rustix::io::Result<usize>) -> io::Result<Option<usize>> {
    match moved {
        Ok(bytes) => Ok(Some(bytes)),
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
