//! Many connections that exchange one request each and then stay open.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::socket::{Socket, Target};
use super::tally::Tally;
use super::{Load, PATIENCE};
use crate::wire::{ANSWER, Answer, Ask};

pub(crate) struct Idle {
    target: Target,
    connections: usize,
    before: usize,
    held: Vec<Socket>,
}

impl Idle {
    pub(crate) fn new(target: Target, connections: usize, before: usize) -> Self {
        Self { target, connections, before, held: Vec::with_capacity(connections + before) }
    }

    fn open(&mut self) -> Result<Duration> {
        let started = Instant::now();
        let mut stream = self.target.dial_through(PATIENCE)?;
        exchange(&mut stream, self.held.len() as u64)?;
        self.held.push(stream);
        Ok(started.elapsed())
    }
}

impl Load for Idle {
    fn prepare(&mut self, _warmup: Duration) -> Result<()> {
        for _ in 0..self.before {
            self.open()?;
        }
        Ok(())
    }

    fn measure(&mut self, _until: Instant) -> Result<Tally> {
        let mut tally = Tally::new();
        for _ in 0..self.connections {
            match self.open() {
                Ok(took) => tally.request(took),
                Err(error) => {
                    tally.fail(format!("{error:#}"));
                    break;
                }
            }
        }
        Ok(tally)
    }
}

/// One request and its answer on a blocking socket.
pub(crate) fn exchange(stream: &mut Socket, seq: u64) -> Result<()> {
    stream.write_all(&Ask::Request { seq }.encode()).context("request")?;
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer).context("answer")?;
    ensure!(Answer::is_valid(&answer, seq), "the answer is not the backend's");
    Ok(())
}
