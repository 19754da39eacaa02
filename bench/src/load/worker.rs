//! The event loop of a load thread: many sessions, and the schedule of the open loop.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::session::{Session, Tools};
use super::socket::{Socket, Target};
use super::tally::Tally;
use super::{Load, PATIENCE, idle};
use crate::net::{Interest, Poll};

pub(crate) struct Worker {
    target: Target,
    poll: Poll,
    slots: Vec<Slot>,
    tools: Tools,
    /// How many sessions of each kind are to be opened; request sessions come first.
    requests: usize,
    downloads: usize,
    uploads: usize,
    pace: u64,
    schedule: Option<Schedule>,
}

struct Slot {
    session: Session,
    interest: Interest,
    failed: bool,
}

/// The open loop: when the next request is due, whatever became of those before.
struct Schedule {
    interval: Duration,
    due: Instant,
    turn: usize,
}

impl Worker {
    pub(crate) fn new(target: Target) -> Result<Self> {
        Ok(Self {
            target,
            poll: Poll::new()?,
            slots: Vec::new(),
            tools: Tools::new(),
            requests: 0,
            downloads: 0,
            uploads: 0,
            pace: 0,
            schedule: None,
        })
    }

    pub(crate) fn requests(mut self, connections: usize, rate: Option<f64>) -> Self {
        self.requests = connections;
        self.schedule = rate.map(|rate| Schedule {
            interval: Duration::from_secs_f64(1.0 / rate.max(0.001)),
            due: Instant::now(),
            turn: 0,
        });
        self
    }

    pub(crate) fn downloads(mut self, streams: usize, pace: Option<u64>) -> Self {
        self.downloads = streams;
        self.pace = pace.unwrap_or(0);
        self
    }

    pub(crate) fn uploads(mut self, streams: usize) -> Self {
        self.uploads = streams;
        self
    }

    fn open(&mut self, make: impl Fn(Socket) -> Session) -> Result<()> {
        let mut stream = self.target.dial_through(PATIENCE)?;
        // Every connection has been all the way to the backend before anything is measured.
        idle::exchange(&mut stream, u64::MAX)?;
        stream.stream.set_nonblocking(true)?;
        self.poll.add(&stream, self.slots.len(), Interest::Read)?;
        let session = make(stream);
        self.slots.push(Slot { session, interest: Interest::Read, failed: false });
        Ok(())
    }

    /// Runs all sessions until `until`, then lets everything under way end.
    fn run_until(&mut self, until: Instant) -> Result<()> {
        self.tools.until = until;
        let now = Instant::now();
        if let Some(schedule) = &mut self.schedule {
            schedule.due = now;
        }
        for index in 0..self.slots.len() {
            let started = self.slots[index].session.start(now);
            self.settle(index, started);
        }
        loop {
            let now = Instant::now();
            if now < until {
                self.send_what_is_due(now);
            } else if self.is_quiet() {
                return Ok(());
            } else if now > until + PATIENCE {
                self.give_up();
                return Ok(());
            }
            let events = self.poll.wait(Some(self.wait_no_longer_than(now, until)))?;
            for event in 0..events {
                let index = self.poll.token(event);
                let slot = &mut self.slots[index];
                if slot.failed {
                    continue;
                }
                let stepped = slot.session.go_on(&mut self.tools);
                self.settle(index, stepped);
            }
        }
    }

    fn send_what_is_due(&mut self, now: Instant) {
        let Some(mut schedule) = self.schedule.take() else {
            return;
        };
        while schedule.due <= now {
            let index = schedule.turn % self.requests.max(1);
            if let Some(slot) = self.slots.get_mut(index) {
                let sent = slot.session.request_due(schedule.due);
                self.settle(index, sent);
            }
            schedule.turn += 1;
            schedule.due += schedule.interval;
        }
        self.schedule = Some(schedule);
    }

    fn wait_no_longer_than(&self, now: Instant, until: Instant) -> Duration {
        let end = if now < until { until } else { until + PATIENCE };
        let due = match &self.schedule {
            Some(schedule) if now < until => schedule.due.min(end),
            _ => end,
        };
        due.saturating_duration_since(now)
    }

    /// Registers what a session waits for now, or that it has failed.
    fn settle(&mut self, index: usize, stepped: std::io::Result<()>) {
        let slot = &mut self.slots[index];
        let interest = slot.session.interest();
        let outcome = match stepped {
            Ok(()) if interest == slot.interest => return,
            Ok(()) => self.poll.set(&slot.session.stream, index, interest),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => slot.interest = interest,
            Err(error) => {
                slot.failed = true;
                self.tools.tally.fail(error.to_string());
                // Ends the events of a dead session; it may not be registered any more.
                let _ = self.poll.set(&slot.session.stream, index, Interest::Nothing);
                slot.session.stream.close();
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.slots.iter().all(|slot| slot.failed || !slot.session.is_busy())
    }

    fn give_up(&mut self) {
        for slot in &mut self.slots {
            if !slot.failed && slot.session.is_busy() {
                slot.failed = true;
                self.tools.tally.fail("no answer within the time");
            }
        }
    }
}

impl Load for Worker {
    fn prepare(&mut self, warmup: Duration) -> Result<()> {
        let closed_loop = self.schedule.is_none();
        let pace = self.pace;
        for _ in 0..self.requests {
            self.open(|stream| Session::requests(stream, closed_loop))?;
        }
        for _ in 0..self.downloads {
            self.open(|stream| Session::download(stream, pace))?;
        }
        for _ in 0..self.uploads {
            self.open(Session::upload)?;
        }
        self.run_until(Instant::now() + warmup)?;
        let warm = std::mem::replace(&mut self.tools.tally, Tally::new());
        ensure!(warm.errors == 0, "{}", warm.first_error.unwrap_or_default());
        Ok(())
    }

    fn measure(&mut self, until: Instant) -> Result<Tally> {
        self.run_until(until)?;
        Ok(std::mem::replace(&mut self.tools.tally, Tally::new()))
    }
}
