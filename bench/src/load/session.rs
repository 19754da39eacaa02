//! One connection under load: requests, a download or an upload, as a small state machine.
//!
//! A session does not know the event loop: it is told that its socket is ready and says what it
//! waits for next. Everything that arrives is checked.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::Instant;

use super::socket::Socket;
use super::tally::Tally;
use crate::net::Interest;
use crate::wire::{self, ANSWER, ASK, Answer, Ask, CHUNK, Pattern, RECEIPT};

/// Bulk streams are asked for in blocks, so that they can end without being cut.
const BLOCK: u64 = 8 * 1024 * 1024;
/// Blocks under way on a stream: the next is there before the last has ended.
const BLOCKS_IN_FLIGHT: u32 = 2;

/// What all sessions of a thread share.
pub(crate) struct Tools {
    pub(crate) tally: Tally,
    pub(crate) pattern: Pattern,
    pub(crate) scratch: Box<[u8]>,
    /// Nothing new is started from here on.
    pub(crate) until: Instant,
}

impl Tools {
    pub(crate) fn new() -> Self {
        Self {
            tally: Tally::new(),
            pattern: Pattern::new(),
            scratch: vec![0; CHUNK].into_boxed_slice(),
            until: Instant::now(),
        }
    }
}

pub(crate) struct Session {
    pub(crate) stream: Socket,
    work: Work,
}

enum Work {
    Requests(Requests),
    Download(Download),
    Upload(Upload),
}

struct Requests {
    /// Closed loop: an answer brings the next request. Open loop: the schedule does.
    closed_loop: bool,
    seq: u64,
    /// When the request under way was due.
    due: Option<Instant>,
    /// When the requests behind it were due.
    behind: VecDeque<Instant>,
    /// An answer that came in pieces, so far.
    pieces: Vec<u8>,
}

struct Download {
    pace: u64,
    in_flight: u32,
    offset: u64,
}

struct Upload {
    in_flight: u32,
    /// Of the block being sent: its ask, then its bytes.
    ask: [u8; ASK],
    ask_sent: usize,
    offset: u64,
    receipt: [u8; RECEIPT],
    got: usize,
}

impl Session {
    pub(crate) fn requests(stream: Socket, closed_loop: bool) -> Self {
        let work =
            Work::Requests(Requests { closed_loop, seq: 0, due: None, behind: VecDeque::new(), pieces: Vec::new() });
        Self { stream, work }
    }

    pub(crate) fn download(stream: Socket, pace: u64) -> Self {
        Self { stream, work: Work::Download(Download { pace, in_flight: 0, offset: 0 }) }
    }

    pub(crate) fn upload(stream: Socket) -> Self {
        let ask = Ask::Up { bytes: BLOCK }.encode();
        let upload = Upload { in_flight: 0, ask, ask_sent: ASK, offset: BLOCK, receipt: [0; RECEIPT], got: 0 };
        Self { stream, work: Work::Upload(upload) }
    }

    /// Starts what this session does by itself.
    pub(crate) fn start(&mut self, now: Instant) -> io::Result<()> {
        match &mut self.work {
            Work::Requests(requests) if requests.closed_loop => requests.send(&mut self.stream, now),
            Work::Requests(_) => Ok(()),
            Work::Download(download) => download.ask(&mut self.stream),
            Work::Upload(upload) => {
                upload.begin_block();
                Ok(())
            }
        }
    }

    /// Open loop: a request was due at `due`; it waits when another is under way.
    pub(crate) fn request_due(&mut self, due: Instant) -> io::Result<()> {
        match &mut self.work {
            Work::Requests(requests) if requests.due.is_none() => requests.send(&mut self.stream, due),
            Work::Requests(requests) => {
                requests.behind.push_back(due);
                Ok(())
            }
            Work::Download(_) | Work::Upload(_) => Ok(()),
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        match &self.work {
            Work::Requests(requests) => requests.due.is_some(),
            Work::Download(download) => download.in_flight > 0,
            Work::Upload(upload) => upload.in_flight > 0,
        }
    }

    pub(crate) fn interest(&self) -> Interest {
        match &self.work {
            Work::Upload(upload) if upload.has_bytes_to_send() => Interest::Write,
            _ if self.stream.wants_write() => Interest::Write,
            _ => Interest::Read,
        }
    }

    /// Goes on after the socket became ready, as far as it can without another event.
    pub(crate) fn go_on(&mut self, tools: &mut Tools) -> io::Result<()> {
        match self.stream.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            flushed => flushed?,
        }
        self.step(tools)?;
        while self.stream.has_more() {
            self.step(tools)?;
        }
        Ok(())
    }

    fn step(&mut self, tools: &mut Tools) -> io::Result<()> {
        let stepped = match &mut self.work {
            Work::Requests(requests) => requests.step(&mut self.stream, tools),
            Work::Download(download) => download.step(&mut self.stream, tools),
            Work::Upload(upload) => upload.step(&mut self.stream, tools),
        };
        match stepped {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            stepped => stepped,
        }
    }
}

impl Requests {
    fn send(&mut self, stream: &mut Socket, due: Instant) -> io::Result<()> {
        self.seq += 1;
        self.due = Some(due);
        write_whole(stream, &Ask::Request { seq: self.seq }.encode())
    }

    fn step(&mut self, stream: &mut Socket, tools: &mut Tools) -> io::Result<()> {
        let read = read_some(stream, &mut tools.scratch)?;
        let Some(due) = self.due else {
            return Err(bad("bytes that nobody asked for"));
        };
        let valid = if self.pieces.is_empty() && read == ANSWER {
            Answer::is_valid(&tools.scratch[..read], self.seq)
        } else {
            self.pieces.extend_from_slice(&tools.scratch[..read]);
            if self.pieces.len() < ANSWER {
                return Ok(());
            }
            let valid = Answer::is_valid(&self.pieces, self.seq);
            self.pieces.clear();
            valid
        };
        if !valid {
            return Err(bad("an answer that is not the backend's"));
        }
        let now = Instant::now();
        tools.tally.request(now.saturating_duration_since(due));
        self.due = None;
        match self.behind.pop_front() {
            Some(due) => self.send(stream, due),
            None if self.closed_loop && now < tools.until => self.send(stream, now),
            None => Ok(()),
        }
    }
}

impl Download {
    fn ask(&mut self, stream: &mut Socket) -> io::Result<()> {
        while self.in_flight < BLOCKS_IN_FLIGHT {
            write_whole(stream, &Ask::Down { bytes: BLOCK, pace: self.pace }.encode())?;
            self.in_flight += 1;
        }
        Ok(())
    }

    fn step(&mut self, stream: &mut Socket, tools: &mut Tools) -> io::Result<()> {
        let want = (BLOCK - self.offset).min(CHUNK as u64) as usize;
        let read = read_some(stream, &mut tools.scratch[..want])?;
        if !tools.pattern.holds(self.offset, &tools.scratch[..read]) {
            return Err(bad("a download that is not the backend's"));
        }
        tools.tally.bytes += read as u64;
        self.offset += read as u64;
        if self.offset == BLOCK {
            self.offset = 0;
            self.in_flight -= 1;
            if Instant::now() < tools.until {
                return self.ask(stream);
            }
        }
        Ok(())
    }
}

impl Upload {
    fn begin_block(&mut self) {
        self.ask_sent = 0;
        self.offset = 0;
        self.in_flight += 1;
    }

    fn has_bytes_to_send(&self) -> bool {
        self.ask_sent < ASK || self.offset < BLOCK
    }

    fn step(&mut self, stream: &mut Socket, tools: &mut Tools) -> io::Result<()> {
        if !self.has_bytes_to_send() {
            return self.take_receipt(stream, tools);
        }
        if self.ask_sent < ASK {
            self.ask_sent += stream.write(&self.ask[self.ask_sent..])?;
        } else {
            self.offset += stream.write(tools.pattern.at(self.offset, BLOCK - self.offset))? as u64;
        }
        self.begin_block_if_due(tools);
        Ok(())
    }

    fn take_receipt(&mut self, stream: &mut Socket, tools: &mut Tools) -> io::Result<()> {
        self.got += read_some(stream, &mut self.receipt[self.got..])?;
        if self.got < RECEIPT {
            return Ok(());
        }
        if self.receipt != wire::receipt(BLOCK) {
            return Err(bad("a receipt that is not the backend's"));
        }
        self.got = 0;
        self.in_flight -= 1;
        tools.tally.bytes += BLOCK;
        self.begin_block_if_due(tools);
        Ok(())
    }

    fn begin_block_if_due(&mut self, tools: &Tools) {
        let may = !self.has_bytes_to_send() && self.in_flight < BLOCKS_IN_FLIGHT;
        if may && Instant::now() < tools.until {
            self.begin_block();
        }
    }
}

fn read_some(stream: &mut Socket, buffer: &mut [u8]) -> io::Result<usize> {
    match stream.read(buffer)? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the proxy closed the connection")),
        read => Ok(read),
    }
}

/// Asks are small and few on a connection: they always fit its send buffer.
fn write_whole(stream: &mut Socket, wire: &[u8]) -> io::Result<()> {
    match stream.write(wire)? {
        sent if sent == wire.len() => Ok(()),
        _ => Err(bad("an ask was cut")),
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
