//! The relay: pairs of sockets, each direction a queue of received pieces and one send under way.
//!
//! Completions of one turn are all taken before anything is sent, so that everything that came for
//! a direction leaves as one send.

use std::collections::VecDeque;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, IntoRawFd};

use anyhow::{Context, Result};
use slab::Slab;
use socket2::{Domain, Socket, Type};

use super::pool::Piece;
use super::ring::{Completion, Op, PIECES_PER_SEND, Ring, Tag};

const CLIENT: usize = 0;
const BACKEND: usize = 1;

/// A client's socket and the backend's.
struct Pair {
    sides: [Side; 2],
    /// Submissions whose last completion is still to come.
    under_way: u32,
    is_connected: bool,
    has_failed: bool,
}

/// One socket, and the direction that starts at it.
struct Side {
    socket: TcpStream,
    /// What was received here and not yet sent to the other side; the first `sending` are on the way.
    queue: VecDeque<Piece>,
    sending: usize,
    is_receiving: bool,
    is_stopping: bool,
    has_ended: bool,
    /// The other side was told of the end.
    has_passed_end: bool,
}

pub(super) struct Relay {
    ring: Ring,
    pairs: Slab<Pair>,
    /// Directions that have something to do at the end of this turn.
    touched: Vec<Tag>,
    /// Directions whose receive ended because no buffer was left.
    starved: Vec<Tag>,
    queue_limit: usize,
}

impl Relay {
    pub(super) fn new(ring: Ring, queue_limit: usize) -> Self {
        let pairs = Slab::with_capacity(1_024);
        Self { ring, pairs, touched: Vec::new(), starved: Vec::new(), queue_limit }
    }

    pub(super) fn serve(&mut self, listener: &TcpListener) -> Result<()> {
        let mut completions = Vec::with_capacity(1_024);
        self.ring.accept(listener.as_raw_fd())?;
        loop {
            self.ring.turn(&mut completions).context("io_uring")?;
            for completion in completions.drain(..) {
                match completion.op {
                    Op::Accept => self.accepted(&completion, listener)?,
                    Op::Connect => self.connected(&completion)?,
                    Op::Receive => self.received(&completion)?,
                    Op::Send => self.sent(&completion)?,
                    Op::Unasked => {}
                }
            }
            if self.ring.pool.has_enough() {
                self.touched.append(&mut self.starved);
            }
            // In order: who waits longest for a buffer is the first to try again.
            let mut touched = std::mem::take(&mut self.touched);
            for tag in touched.drain(..) {
                self.advance(tag)?;
            }
            self.touched = touched;
        }
    }

    fn accepted(&mut self, completion: &Completion, listener: &TcpListener) -> Result<()> {
        let client = completion.accepted().context("accept")?;
        if !completion.has_more {
            self.ring.accept(listener.as_raw_fd())?;
        }
        // TCP_NODELAY is inherited from the listener; the backend's socket needs its own.
        let backend = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None)?;
        backend.set_tcp_nodelay(true)?;
        let socket = backend.as_raw_fd();
        let sides = [Side::new(client.into()), Side::new(backend.into())];
        let key = self.pairs.insert(Pair { sides, under_way: 1, is_connected: false, has_failed: false });
        Ok(self.ring.connect(Tag { key, side: BACKEND }, socket)?)
    }

    fn connected(&mut self, completion: &Completion) -> Result<()> {
        let key = completion.tag.key;
        let pair = &mut self.pairs[key];
        pair.under_way -= 1;
        pair.is_connected = completion.result >= 0;
        if !pair.is_connected {
            return self.fail(key);
        }
        self.receive(Tag { key, side: CLIENT }, false)?;
        self.receive(Tag { key, side: BACKEND }, true)
    }

    fn receive(&mut self, tag: Tag, later: bool) -> Result<()> {
        let pair = &mut self.pairs[tag.key];
        let side = &mut pair.sides[tag.side];
        side.is_receiving = true;
        side.is_stopping = false;
        pair.under_way += 1;
        Ok(self.ring.receive(tag, side.socket.as_raw_fd(), later)?)
    }

    fn received(&mut self, completion: &Completion) -> Result<()> {
        let tag = completion.tag;
        let pair = &mut self.pairs[tag.key];
        let side = &mut pair.sides[tag.side];
        if let (Some(first), Ok(bytes)) = (completion.first_buffer, usize::try_from(completion.result)) {
            side.queue.extend(self.ring.pool.take(first, bytes));
        }
        if !completion.has_more {
            side.is_receiving = false;
            pair.under_way -= 1;
            match -completion.result {
                0 => side.has_ended = true,
                libc::ENOBUFS => self.starved.push(tag),
                error if error > 0 && error != libc::ECANCELED => return self.fail(tag.key),
                _ => {}
            }
        }
        self.touched.push(tag);
        Ok(())
    }

    fn sent(&mut self, completion: &Completion) -> Result<()> {
        let tag = completion.tag;
        let pair = &mut self.pairs[tag.key];
        pair.under_way -= 1;
        let side = &mut pair.sides[tag.side];
        let mut bytes = 0;
        for piece in side.queue.drain(..side.sending) {
            bytes += i32::from(piece.len);
            self.ring.pool.give_back(piece.buffer);
        }
        side.sending = 0;
        if completion.result != bytes {
            return self.fail(tag.key);
        }
        self.touched.push(tag);
        Ok(())
    }

    /// Whatever a direction can do now: send, receive again or not, pass its end on.
    fn advance(&mut self, tag: Tag) -> Result<()> {
        // The pair may have gone in this very turn, and another come in its place.
        let Some(pair) = self.pairs.get_mut(tag.key) else {
            return Ok(());
        };
        if !pair.is_connected {
            return Ok(());
        }
        if pair.has_failed {
            return self.close_if_idle(tag.key);
        }
        let other = pair.sides[1 - tag.side].socket.as_raw_fd();
        let side = &mut pair.sides[tag.side];
        if side.sending == 0 && !side.queue.is_empty() {
            side.sending = side.queue.len().min(PIECES_PER_SEND);
            pair.under_way += 1;
            self.ring.send(tag, other, side.queue.iter().copied().take(side.sending))?;
        }
        let is_full = side.queue.len() >= self.queue_limit;
        if side.is_receiving {
            if is_full && !side.is_stopping {
                side.is_stopping = true;
                self.ring.stop_receiving(tag)?;
            }
            return Ok(());
        }
        if !side.has_ended {
            if !is_full && !self.is_starved(tag) {
                self.receive(tag, false)?;
            }
            return Ok(());
        }
        if side.queue.is_empty() && !side.has_passed_end {
            side.has_passed_end = true;
            let [client, backend] = &pair.sides;
            if !(client.has_passed_end && backend.has_passed_end) {
                // Fails only when the other side is gone, which its own completions tell.
                let _ = pair.sides[1 - tag.side].socket.shutdown(Shutdown::Write);
            }
        }
        self.close_if_idle(tag.key)
    }

    fn is_starved(&self, tag: Tag) -> bool {
        self.starved.iter().any(|starved| starved.key == tag.key && starved.side == tag.side)
    }

    /// Ends both directions; the pair goes once its submissions have completed.
    fn fail(&mut self, key: usize) -> Result<()> {
        let pair = &mut self.pairs[key];
        pair.has_failed = true;
        for side in &pair.sides {
            // Not connected any more is what is wanted.
            let _ = side.socket.shutdown(Shutdown::Both);
        }
        self.close_if_idle(key)
    }

    fn close_if_idle(&mut self, key: usize) -> Result<()> {
        let pair = &self.pairs[key];
        let is_over = pair.has_failed || pair.sides.iter().all(|side| side.has_passed_end);
        if !is_over || pair.under_way > 0 {
            return Ok(());
        }
        self.starved.retain(|tag| tag.key != key);
        for side in self.pairs.remove(key).sides {
            side.queue.iter().for_each(|piece| self.ring.pool.give_back(piece.buffer));
            self.ring.close(side.socket.into_raw_fd())?;
        }
        Ok(())
    }
}

impl Side {
    fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            queue: VecDeque::new(),
            sending: 0,
            is_receiving: false,
            is_stopping: false,
            has_ended: false,
            has_passed_end: false,
        }
    }
}
