//! What the bytes of one direction go through between receiving and sending: out of TLS, into TLS.

use super::Direction;
use crate::ring::{Buffers, Chain, Queue};
use crate::tls::{self, Opener, Sealer};
use crate::types::{Blame, Reason};

/// What [`Transform::run`] has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has taken what came, or waits for more of it.
    Wants,
    /// As much has come out as there was room for, and there is more.
    Full,
    /// There is no private buffer for what comes out.
    NoBuffer,
    /// Nothing more will come out.
    Ended,
    /// It cannot go on.
    Broken(Reason, Blame),
}

/// The stages of one direction.
pub struct Transform {
    open: Option<Opener>,
    /// Opened, and not yet further.
    opened: Queue,
    /// Nothing more will be opened.
    open_end: Option<End>,
    seal: Option<Sealer>,
    /// Who sends in this direction.
    from: Blame,
}

/// How a stage has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Clean,
    Broken(Reason),
}

impl Transform {
    /// `None` where there is nothing to do.
    #[must_use]
    pub fn new(direction: Direction, pool: &Buffers, open: Option<Opener>, seal: Option<Sealer>) -> Option<Box<Self>> {
        let from = match direction {
            Direction::Up => Blame::Client,
            Direction::Down => Blame::Upstream,
        };
        let is_needed = open.is_some() || seal.is_some();
        is_needed.then(|| Box::new(Self { open, opened: Queue::new(pool), open_end: None, seal, from }))
    }

    /// Takes from `inbox`, and appends what comes of it to `outbox`: about `room` bytes at most. `ended` says that
    /// nothing comes after what is in the inbox.
    pub(super) fn run(
        &mut self,
        pool: &Buffers,
        inbox: &mut Chain,
        ended: bool,
        outbox: &mut Chain,
        room: usize,
    ) -> Turn {
        let opening = self.open(pool, inbox, ended, room);
        let opened_all = self.open_end == Some(End::Clean);
        let turn = match &mut self.seal {
            Some(seal) => seal.run(pool, self.opened.chain_mut(), opened_all, outbox, room),
            None => {
                pool.append(outbox, self.opened.take());
                if opened_all { tls::Turn::Ended } else { tls::Turn::Wants }
            }
        };
        match (turn, self.open_end) {
            (tls::Turn::Broken(reason), _) => Turn::Broken(reason, Blame::Proxy),
            (tls::Turn::Ended, _) => Turn::Ended,
            (tls::Turn::Full, _) => Turn::Full,
            (tls::Turn::NoBuffer, _) => Turn::NoBuffer,
            // What came before has gone on.
            (tls::Turn::Wants, Some(End::Broken(reason))) => Turn::Broken(reason, self.from),
            (tls::Turn::Wants, _) => opening,
        }
    }

    /// The first stage: from `inbox` to what is opened.
    fn open(&mut self, pool: &Buffers, inbox: &mut Chain, ended: bool, room: usize) -> Turn {
        if self.open_end.is_some() {
            pool.release(std::mem::take(inbox));
            return Turn::Wants;
        }
        let Some(open) = &mut self.open else {
            self.opened.append(std::mem::take(inbox));
            self.open_end = ended.then_some(End::Clean);
            return Turn::Wants;
        };
        let room = room.saturating_sub(self.opened.len());
        match open.run(pool, inbox, ended, self.opened.chain_mut(), room) {
            tls::Turn::Wants => Turn::Wants,
            tls::Turn::Full => Turn::Full,
            tls::Turn::NoBuffer => Turn::NoBuffer,
            tls::Turn::Ended => {
                self.open_end = Some(End::Clean);
                Turn::Wants
            }
            tls::Turn::Broken(reason) => {
                self.open_end = Some(End::Broken(reason));
                Turn::Wants
            }
        }
    }

    /// Appends what the other side is to be told at a clean end; false when there is no buffer for it.
    pub(super) fn finish(&mut self, pool: &Buffers, outbox: &mut Chain) -> bool {
        pool.release(self.opened.take());
        self.seal.as_mut().is_none_or(|seal| seal.finish(pool, outbox))
    }

    /// Whether it has something to say without anything having come.
    pub(super) fn owes(&self) -> bool {
        self.seal.as_ref().is_some_and(Sealer::owes)
    }

    /// Whether what is sent is not the payload itself, so that it is counted by [`Transform::take_payload`].
    pub(super) fn counts_payload(&self) -> bool {
        self.seal.is_some()
    }

    /// Bytes of payload that went out since the last call.
    pub(super) fn take_payload(&mut self) -> i64 {
        self.seal.as_mut().map_or(0, |seal| seal.take_payload() as i64)
    }
}
