//! What the bytes of one direction go through between receiving and sending: out of TLS, through plugins, into TLS.

use super::Direction;
use crate::plugin::{self, Line};
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
    /// It has done much at a stretch, and has more to do; others come first.
    Again,
    /// Nothing more will come out.
    Ended,
    /// From now on everything goes through as it is; what came in has come out.
    Detached,
    /// Nothing more will come out, and the connection is to be closed.
    Close,
    /// It cannot go on.
    Broken(Reason, Blame),
}

/// The stages of one direction; at least one is there.
pub struct Transform {
    open: Option<Opener>,
    /// Opened, and not yet through the plugins.
    opened: Queue,
    /// Nothing more will be opened.
    open_end: Option<OpenEnd>,
    line: Option<Line>,
    /// Through the plugins, and not yet sealed.
    lined: Queue,
    /// Nothing more will come out of the plugins.
    line_end: Option<LineEnd>,
    seal: Option<Sealer>,
    /// Who sends in this direction.
    from: Blame,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OpenEnd {
    Clean,
    Broken(Reason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineEnd {
    Clean,
    /// A plugin closes the connection.
    Closed,
}

impl Transform {
    /// `None` where there is nothing to do.
    #[must_use]
    pub fn new(
        direction: Direction,
        pool: &Buffers,
        open: Option<Opener>,
        line: Option<Line>,
        seal: Option<Sealer>,
    ) -> Option<Box<Self>> {
        let from = match direction {
            Direction::Up => Blame::Client,
            Direction::Down => Blame::Upstream,
        };
        let is_needed = open.is_some() || line.is_some() || seal.is_some();
        let (opened, lined) = (Queue::new(pool), Queue::new(pool));
        is_needed.then(|| Box::new(Self { open, opened, open_end: None, line, lined, line_end: None, seal, from }))
    }

    /// What was opened before the relay began.
    #[must_use]
    pub fn beginning_with(mut self: Box<Self>, opened: Queue) -> Box<Self> {
        self.opened = opened;
        self
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
        let lining = match self.pass_line(pool, outbox, room) {
            Ok(turn) => turn,
            Err((reason, blame)) => return Turn::Broken(reason, blame),
        };
        let sealing = match &mut self.seal {
            None if self.line_end.is_some() => tls::Turn::Ended,
            None => tls::Turn::Wants,
            Some(seal) => seal.run(pool, self.lined.chain_mut(), self.line_end.is_some(), outbox, room),
        };
        match (sealing, self.line_end) {
            (tls::Turn::Broken(reason), _) => Turn::Broken(reason, Blame::Proxy),
            (tls::Turn::Ended, Some(LineEnd::Closed)) => Turn::Close,
            (tls::Turn::Ended, _) => Turn::Ended,
            (tls::Turn::Full, _) => Turn::Full,
            (tls::Turn::NoBuffer, _) => Turn::NoBuffer,
            (tls::Turn::Wants, _) => self.next(opening, lining),
        }
    }

    /// What is next when everything that came out of the plugins was taken.
    fn next(&self, opening: Turn, lining: Turn) -> Turn {
        match (lining, self.open_end) {
            // What came before has gone on.
            (Turn::Wants, Some(OpenEnd::Broken(reason))) => Turn::Broken(reason, self.from),
            (Turn::Wants, _) if self.open.is_none() && self.line.is_none() && self.seal.is_none() => Turn::Detached,
            (Turn::Wants, _) => opening,
            (lining, _) => lining,
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
            self.open_end = ended.then_some(OpenEnd::Clean);
            return Turn::Wants;
        };
        let room = room.saturating_sub(self.opened.len());
        match open.run(pool, inbox, ended, self.opened.chain_mut(), room) {
            tls::Turn::Wants => Turn::Wants,
            tls::Turn::Full => Turn::Full,
            tls::Turn::NoBuffer => Turn::NoBuffer,
            tls::Turn::Ended => {
                self.open_end = Some(OpenEnd::Clean);
                Turn::Wants
            }
            tls::Turn::Broken(reason) => {
                self.open_end = Some(OpenEnd::Broken(reason));
                Turn::Wants
            }
        }
    }

    /// The second stage: from what is opened to what is to be sealed, or to `outbox` where nothing is.
    fn pass_line(&mut self, pool: &Buffers, outbox: &mut Chain, room: usize) -> Result<Turn, (Reason, Blame)> {
        let ended = self.open_end == Some(OpenEnd::Clean);
        if self.line_end.is_some() {
            pool.release(self.opened.take());
            return Ok(Turn::Wants);
        }
        let Self { opened, line, lined, seal, .. } = self;
        let out = if seal.is_some() { lined.chain_mut() } else { outbox };
        let turn = match line {
            Some(line) => line.run(opened.chain_mut(), ended, out, room),
            None => plugin::Turn::Detached,
        };
        Ok(match turn {
            plugin::Turn::Wants => Turn::Wants,
            plugin::Turn::Full => Turn::Full,
            plugin::Turn::NoBuffer => Turn::NoBuffer,
            plugin::Turn::Again => Turn::Again,
            plugin::Turn::Ended => {
                self.line_end = Some(LineEnd::Clean);
                Turn::Wants
            }
            plugin::Turn::Close => {
                self.line_end = Some(LineEnd::Closed);
                Turn::Wants
            }
            plugin::Turn::Detached => {
                pool.append(out, opened.take());
                self.line = None;
                self.line_end = ended.then_some(LineEnd::Clean);
                Turn::Wants
            }
            plugin::Turn::Reset => return Err((Reason::PluginReset, Blame::Policy)),
            plugin::Turn::Fault(_) => return Err((Reason::PluginFault, Blame::Proxy)),
        })
    }

    /// Appends what the other side is to be told at a clean end; false when there is no buffer for it.
    pub(super) fn finish(&mut self, pool: &Buffers, outbox: &mut Chain) -> bool {
        pool.release(self.opened.take());
        pool.release(self.lined.take());
        self.seal.as_mut().is_none_or(|seal| seal.finish(pool, outbox))
    }

    /// Buffers that wait between its stages.
    pub(super) fn held(&self) -> usize {
        self.opened.count() + self.lined.count()
    }

    /// Bytes that wait between its stages, and those of them that plugins hold back.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let held_back = self.line.as_ref().map_or(0, Line::held_back);
        (self.opened.len() + self.lined.len() + held_back, held_back)
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
