//! TLS on the shard's own buffers: rustls makes the handshake; the records after it are opened and sealed here, where the
//! bytes lie, with the AEADs that rustls' provider uses too.
//!
//! A connection is split into its two directions, as a relay is: an [`Opener`] and a [`Sealer`]. What one has to tell the
//! other goes through `control`. What a handshake needs (`terms`, `certificates`, `tickets`) is loaded and replaced by the
//! control plane; a shard only reads it, and never waits for a lock.

pub mod certificates;
mod control;
mod handshake;
mod keys;
pub mod names;
mod open;
mod seal;
pub mod terms;
pub mod tickets;

pub use handshake::{Facts, Gate, HandshakeError, Session, accept, connect};
pub use open::Opener;
pub use seal::Sealer;

use crate::types::Reason;

/// Bytes of a record's header.
const HEADER: usize = 5;
/// Bytes of an AEAD's tag; the same for all ciphers in use.
const TAG: usize = 16;

const KIND_CHANGE_CIPHER: u8 = 20;
const KIND_ALERT: u8 = 21;
const KIND_HANDSHAKE: u8 = 22;
const KIND_DATA: u8 = 23;

/// What a direction's `run` has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It has taken what came, or waits for more of it.
    Wants,
    /// As much has come out as there was room for, and there is more.
    Full,
    /// There is no private buffer for what comes out.
    NoBuffer,
    /// Nothing more will come out.
    Ended,
    /// It cannot go on.
    Broken(Reason),
}

/// Descriptions of fatal alerts (RFC 8446 section 6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Alert {
    UnexpectedMessage = 10,
    BadRecordMac = 20,
    RecordOverflow = 22,
    IllegalParameter = 47,
    DecodeError = 50,
    InternalError = 80,
    /// Not one to send: the other side has sent one.
    Received = 255,
}

/// Why a connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flaw(Alert);
