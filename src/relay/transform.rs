//! What the bytes of one direction go through between receiving and sending: out of TLS, through plugins, into TLS.

use crate::ring::{Buffers, Chain};
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
    /// From now on everything goes through as it is.
    Detached,
    /// Nothing more will come out, and the connection is to be closed.
    Close,
    /// It cannot go on.
    Broken(Reason, Blame),
}

/// The stages of one direction.
#[derive(Default)]
pub struct Transform {
    payload: i64,
}

impl Transform {
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
        let _ = (pool, room);
        pool.append(outbox, std::mem::take(inbox));
        if ended { Turn::Ended } else { Turn::Wants }
    }

    /// Appends what the other side is to be told at a clean end.
    pub(super) fn finish(&mut self, _pool: &Buffers, _outbox: &mut Chain) {}

    /// Whether what is sent is not the payload itself, so that it is counted by [`Transform::take_payload`].
    pub(super) fn counts_payload(&self) -> bool {
        false
    }

    /// Bytes of payload that went out since the last call.
    pub(super) fn take_payload(&mut self) -> i64 {
        std::mem::take(&mut self.payload)
    }
}
