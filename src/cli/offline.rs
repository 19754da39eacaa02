//! Bytes from stdin through one plugin to stdout, by the code that serves live traffic.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{FcntlArg, fcntl};

use crate::plugin::{Facts, Fault, Instance, Line, Opened, Refusal, Streams, Turn};
use crate::ring::{Buffer, Buffers, Chain};
use crate::types::{Client, Generation, SessionId};

/// Bytes of a piece that is not cut.
const PIECE: usize = 16 * 1024;
/// Pieces that are read at once, and what may wait to be written: within a CPU's cache.
const PIECES: usize = 8;
const ROOM: usize = PIECES * PIECE;
const PIPE_BYTES: i32 = 1024 * 1024;

/// Where the plugin sees the stream cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Every(usize),
    /// Pieces of random sizes, mostly small, the same for the same seed.
    Random(u64),
}

impl Cut {
    /// The size of the next piece.
    fn next(&mut self) -> usize {
        match self {
            Self::Every(len) => (*len).min(PIECE),
            Self::Random(state) => {
                // SplitMix64 (Steele, Lea, Flood 2014).
                *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                let bits = mixed % (u64::from(PIECE.ilog2()) + 1);
                1 + ((mixed >> 8) as usize & ((1 << bits) - 1))
            }
        }
    }
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Ended,
    /// The plugin does not want to see this direction.
    NotInterested,
    /// So many bytes came before the plugin detached.
    Detached(u64),
    Closed,
    Reset,
    Fault(Fault),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the stream has ended"),
            Self::NotInterested => f.write_str("the plugin does not want to see this direction"),
            Self::Detached(bytes) => write!(f, "the plugin has detached after it was given {bytes} bytes"),
            Self::Closed => f.write_str("the plugin has closed the connection"),
            Self::Reset => f.write_str("the plugin has reset the connection"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

struct Pump {
    buffers: Buffers,
    input: File,
    output: File,
    inbox: Chain,
    outbox: Chain,
    given: u64,
}

/// Runs the stream through `opened`.
///
/// # Errors
/// When stdin cannot be read or stdout cannot be written.
pub(super) fn pump(opened: Opened, is_up: bool, cut: Option<Cut>) -> io::Result<Outcome> {
    let file = |fd: BorrowedFd<'_>| {
        // Where it is a pipe, a larger one means fewer switches to who is at its other end.
        let _ = fcntl(fd, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        fd.try_clone_to_owned().map(File::from)
    };
    let mut pump = Pump {
        buffers: Buffers::detached(PIECES as u16 * 8)?,
        input: file(io::stdin().as_fd())?,
        output: file(io::stdout().as_fd())?,
        inbox: Chain::default(),
        outbox: Chain::default(),
        given: 0,
    };
    let facts = Facts {
        session: SessionId(0),
        generation: Generation(1),
        client: Client::Unix,
        source: Client::Unix,
        listener: "offline",
        target: None,
        upstream: None,
        backend: None,
        sni: None,
        alpn: None,
        user: None,
    };
    let sees = if is_up { opened.process().library.sees_up() } else { opened.process().library.sees_down() };
    let lines = match Streams::open(&pump.buffers, &[Instance::new(opened)], &facts) {
        Ok(lines) => lines,
        Err(Refusal::Close) => return Ok(Outcome::Closed),
        Err(Refusal::Reset) => return Ok(Outcome::Reset),
        Err(Refusal::Fault(fault)) => return Ok(Outcome::Fault(fault)),
    };
    let Some((up, down)) = lines.filter(|_| sees) else {
        io::copy(&mut pump.input, &mut pump.output)?;
        return Ok(Outcome::NotInterested);
    };
    // The other direction stays as it is until this one has ended.
    let (mut line, _other) = if is_up { (up, down) } else { (down, up) };
    let outcome = pump.run(&mut line, cut);
    pump.buffers.release(std::mem::take(&mut pump.inbox));
    pump.buffers.release(std::mem::take(&mut pump.outbox));
    outcome
}

impl Pump {
    fn run(&mut self, line: &mut Line, mut cut: Option<Cut>) -> io::Result<Outcome> {
        let mut end = false;
        loop {
            let turn = line.run(&mut self.inbox, end, &mut self.outbox, ROOM);
            if turn == Turn::Reset {
                return Ok(Outcome::Reset);
            }
            let was_empty = self.outbox.is_empty();
            self.write()?;
            match turn {
                Turn::Wants => {
                    end = match &mut cut {
                        None => self.read()?,
                        Some(cut) => self.read_piece(cut.next())?,
                    };
                }
                Turn::NoBuffer if was_empty => return Err(io::Error::from(io::ErrorKind::OutOfMemory)),
                Turn::Full | Turn::Again | Turn::NoBuffer => {}
                Turn::Ended => return Ok(Outcome::Ended),
                Turn::Detached => {
                    let given = self.given;
                    std::mem::swap(&mut self.inbox, &mut self.outbox);
                    self.write()?;
                    io::copy(&mut self.input, &mut self.output)?;
                    return Ok(Outcome::Detached(given));
                }
                Turn::Close => return Ok(Outcome::Closed),
                Turn::Reset => return Ok(Outcome::Reset),
                Turn::Fault(fault) => return Ok(Outcome::Fault(fault)),
            }
        }
    }

    fn take(&self) -> io::Result<Buffer> {
        self.buffers.take().ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Reads as much as there is, into several buffers; says whether that was the end.
    fn read(&mut self) -> io::Result<bool> {
        let mut buffers: Vec<Buffer> = (0..PIECES).map(|_| self.take()).collect::<io::Result<_>>()?;
        let mut slices: Vec<_> =
            buffers.iter_mut().map(|buffer| IoSliceMut::new(&mut buffer.spare()[..PIECE])).collect();
        let mut left = retry(|| self.input.read_vectored(&mut slices))?;
        let is_end = left == 0;
        self.given += left as u64;
        for mut buffer in buffers {
            let len = left.min(PIECE);
            buffer.commit(len);
            left -= len;
            self.buffers.push(&mut self.inbox, buffer);
        }
        Ok(is_end)
    }

    /// Reads a piece of exactly `len` bytes, but for the last.
    fn read_piece(&mut self, len: usize) -> io::Result<bool> {
        let mut buffer = self.take()?;
        while buffer.filled().len() < len {
            let wanted = len - buffer.filled().len();
            let read = retry(|| self.input.read(&mut buffer.spare()[..wanted]))?;
            if read == 0 {
                break;
            }
            buffer.commit(read);
        }
        let is_end = buffer.filled().len() < len;
        self.given += buffer.filled().len() as u64;
        self.buffers.push(&mut self.inbox, buffer);
        Ok(is_end)
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            let mut buffers = Vec::with_capacity(PIECES * 2);
            while buffers.len() < PIECES * 2
                && let Some(buffer) = self.buffers.pop(&mut self.outbox)
            {
                buffers.push(buffer);
            }
            let slices: Vec<_> = buffers.iter().map(|buffer| IoSlice::new(buffer.filled())).collect();
            let mut written = retry(|| self.output.write_vectored(&slices))?;
            let mut rest = Chain::default();
            for mut buffer in buffers {
                let len = written.min(buffer.filled().len());
                buffer.advance(len);
                written -= len;
                self.buffers.push(&mut rest, buffer);
            }
            self.buffers.append(&mut rest, std::mem::take(&mut self.outbox));
            self.outbox = rest;
        }
        Ok(())
    }
}

fn retry(mut attempt: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_cuts_are_small_and_large_and_the_same_for_a_seed() {
        let sizes = |seed| (0..2000).scan(Cut::Random(seed), |cut, _| Some(cut.next())).collect::<Vec<_>>();
        assert_eq!(sizes(7), sizes(7));
        assert_ne!(sizes(7), sizes(8));
        let sizes = sizes(7);
        assert!(sizes.iter().all(|size| (1..=PIECE).contains(size)));
        assert!(sizes.contains(&1) && sizes.iter().any(|size| *size > PIECE / 2));
        assert_eq!(Cut::Every(usize::MAX).next(), PIECE);
    }
}
