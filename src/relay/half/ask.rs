//! How much a direction asks its receive for.

use super::Half;
use crate::limits::{QUEUED_BYTES_PER_DIRECTION, QUEUED_BYTES_UNDER_PRESSURE};
use crate::ring::{Ask, Ring, SEND_BUFFERS};

/// A direction may hold one part in so many of the buffers that lie idle, within its bounds: the fewer and larger the
/// moves, the fewer times the peers are woken, and those buffers are there anyway.
const SHARE_OF_IDLE: usize = 8;
/// And never more than one part in so many of those that can still be had by growth: as slow readers become many, each
/// may hold less, and there is always something left for the others.
const SHARE_OF_AVAILABLE: usize = 16;
/// Buffers that a direction asks for to begin with. An ask doubles when it is used up at once, and shrinks again.
pub(super) const LEAST_ASK: u16 = 2;
const LARGEST_ASK: u16 = SEND_BUFFERS as u16;
/// Buffers of a large piece.
const BULK_PIECE: usize = 4;

impl Half {
    pub(super) fn adapt(&mut self, received: usize) {
        let ask = usize::from(self.ask);
        self.bulk = if received >= BULK_PIECE { self.bulk.saturating_add(received as u32) } else { 0 };
        if received * 2 >= ask && received > 1 {
            self.ask = (self.ask * 2).min(LARGEST_ASK);
        } else if received * 8 <= ask {
            self.ask = (self.ask / 2).max(LEAST_ASK);
        }
    }
}

/// Buffers that a direction may hold now.
pub(super) fn limit(ring: &Ring) -> usize {
    let buffers = |bytes: usize| (bytes / ring.buffer_size()).max(2);
    let (least, most) = (buffers(QUEUED_BYTES_UNDER_PRESSURE), buffers(QUEUED_BYTES_PER_DIRECTION));
    let wanted = match ring.has_grown() {
        true => least,
        false => (ring.buffers_idle() / SHARE_OF_IDLE).clamp(least, most),
    };
    wanted.min(ring.buffers_available() / SHARE_OF_AVAILABLE).max(1)
}

/// What to ask for, `ask` buffers at once: nothing while more than half of what may be held is held, so that asking is
/// worth its cost.
pub(super) fn what_to_ask(ring: &Ring, held: usize, ask: usize) -> Ask {
    let limit = limit(ring);
    if held * 2 > limit {
        return Ask::default();
    }
    let size = ring.buffer_size();
    Ask { total: ((limit - held) * size) as u32, at_once: (ask * size) as u32 }
}
