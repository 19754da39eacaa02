//! One look at a relay: what it holds, and what the kernel says of both its connections. What to make of two of them is
//! the business of `verdict`.

use std::time::Duration;

use crate::net::TcpInfo;
use crate::types::Dropped;

/// A relay at one moment. Of a session that does not relay yet nothing is known but the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sight {
    /// On the clock of the shard's ring.
    pub at: Duration,
    /// `None` for a unix socket, or one that is gone.
    pub client: Option<TcpInfo>,
    pub upstream: Option<TcpInfo>,
    pub up: Inside,
    pub down: Inside,
    /// Where it is a UDP association, of which nothing else is known.
    pub association: Option<Association>,
}

/// What a UDP association has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Association {
    /// That the client has sent to; one that was forgotten meanwhile counts again.
    pub targets: u32,
    /// Passed on, up and down.
    pub datagrams: [u64; 2],
    /// By reason.
    pub dropped: [u64; Dropped::ALL.len()],
    /// When something was last passed on, up and down.
    pub passed_on: [Option<Duration>; 2],
}

/// What one direction holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inside {
    /// Bytes in arus's memory, or in its pipe, that no send has taken yet.
    pub held: u64,
    /// Bytes of a send that the kernel has not finished: its buffer is full.
    pub sending: u64,
    /// What they wait for, where that is arus itself.
    pub holdup: Option<Holdup>,
    /// The sender has said that no more comes.
    pub has_ended: bool,
}

/// What makes bytes wait inside arus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holdup {
    /// A plugin wants to see more before it passes these on.
    Plugin,
    /// There is no buffer free.
    Buffers,
    /// A rate limit.
    Pace,
}
