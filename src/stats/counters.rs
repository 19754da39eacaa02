//! The counters. Each has one writer, the shard; readers sum over shards and may be a little behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use rustls::{HandshakeKind, ProtocolVersion};

use super::datagrams::Datagrams;
use crate::policy::budget::Budget;
use crate::policy::identity::Attempt;
use crate::policy::rate::Rate;
use crate::policy::source::SourceTable;
use crate::types::{Blame, Name, Reason, Stage};

/// Adds to a counter of which the caller is the one writer: a plain load and store, no locked instruction.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

/// As [`add`], backwards.
pub fn sub(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
}

/// One shard's own counters.
#[derive(Debug, Default)]
pub struct ShardStats {
    /// Sessions that are open now.
    pub active: AtomicU64,
    pub accepted: AtomicU64,
    /// Sessions that failed, and connections that were refused.
    pub failed: AtomicU64,
    pub rejected: AtomicU64,
    pub bytes_up: AtomicU64,
    pub bytes_down: AtomicU64,
    /// Nanoseconds of CPU that the shard's thread has used, since start.
    pub busy_ns: AtomicU64,
    /// Nanoseconds that it has not, since start.
    pub idle_ns: AtomicU64,
    /// Turns of the driver.
    pub turns: AtomicU64,
    /// In a turn, rather than asleep: a shard that stays in the same one is stuck.
    pub is_in_turn: AtomicBool,
    /// Completions reaped.
    pub completions: AtomicU64,
    /// Operations in flight.
    pub operations: AtomicU64,
    pub cq_overflows: AtomicU64,
    /// Receives that found no buffer.
    pub enobufs: AtomicU64,
    pub buffers_free: AtomicU64,
    pub buffers_total: AtomicU64,
    /// Most buffers ever in use at once.
    pub buffers_watermark: AtomicU64,
    /// Accepts that failed for want of descriptors or memory.
    pub accept_errors: AtomicU64,
    pub panics: AtomicU64,
    /// Summaries that the recorder could not take.
    pub summaries_dropped: AtomicU64,
    /// Logins that the shard remembered and control was not asked about, by [`Attempt`].
    pub logins_recalled: [AtomicU64; Attempt::ALL.len()],
}

/// What came of a TLS handshake with a client, by version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    Tls12,
    Tls13,
    Tls12Resumed,
    Tls13Resumed,
    Failed,
}

impl Handshake {
    pub const ALL: [Self; 5] = [Self::Tls12, Self::Tls13, Self::Tls12Resumed, Self::Tls13Resumed, Self::Failed];

    #[must_use]
    pub fn of(version: ProtocolVersion, kind: HandshakeKind) -> Self {
        match (version, kind) {
            (ProtocolVersion::TLSv1_3, HandshakeKind::Resumed) => Self::Tls13Resumed,
            (ProtocolVersion::TLSv1_3, _) => Self::Tls13,
            (_, HandshakeKind::Resumed) => Self::Tls12Resumed,
            _ => Self::Tls12,
        }
    }

    /// Version and result.
    #[must_use]
    pub const fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Tls12 => ("1.2", "full"),
            Self::Tls13 => ("1.3", "full"),
            Self::Tls12Resumed => ("1.2", "resumed"),
            Self::Tls13Resumed => ("1.3", "resumed"),
            Self::Failed => ("", "failed"),
        }
    }
}

/// What is known of one listener while arus runs; kept over reloads by its name.
#[derive(Debug)]
pub struct ListenerState {
    pub name: Name,
    pub connections: Arc<Budget>,
    pub rate: Rate,
    /// Connections per source; made at the first configuration that limits them.
    pub sources: Arc<SourceTable>,
    /// 0: no limit.
    pub per_source: AtomicU32,
    /// Indexed by shard.
    pub counters: Box<[CachePadded<ListenerCounters>]>,
}

/// Written by one shard.
#[derive(Debug)]
pub struct ListenerCounters {
    pub active: AtomicU64,
    pub accepted: AtomicU64,
    pub closed: AtomicU64,
    pub bytes_up: AtomicU64,
    pub bytes_down: AtomicU64,
    /// Of UDP associations.
    pub datagrams: Datagrams,
    /// Handshakes with clients, by [`Handshake`].
    pub handshakes: [AtomicU64; Handshake::ALL.len()],
    /// Refused by a limit or rule, by [`Reason`].
    pub rejected: [AtomicU64; Reason::ALL.len()],
    /// Failed, by [`Stage`] and [`Blame`].
    pub failed: [[AtomicU64; Blame::ALL.len()]; Stage::ALL.len()],
}

impl Default for ListenerCounters {
    fn default() -> Self {
        Self {
            active: AtomicU64::default(),
            accepted: AtomicU64::default(),
            closed: AtomicU64::default(),
            bytes_up: AtomicU64::default(),
            bytes_down: AtomicU64::default(),
            datagrams: Datagrams::default(),
            handshakes: std::array::from_fn(|_| AtomicU64::default()),
            rejected: std::array::from_fn(|_| AtomicU64::default()),
            failed: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::default())),
        }
    }
}
