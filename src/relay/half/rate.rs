//! The part of a direction that has to do with its rates.

use std::task::Context;

use super::Half;
use crate::relay::pace::Gate;
use crate::ring::Ring;

impl Half {
    /// Whether rates let so many bytes go now; else the task is woken when it should ask again.
    pub(super) fn may_send(&mut self, ring: &Ring, bytes: usize, context: &Context<'_>) -> bool {
        match &mut self.gate {
            Some(gate) if self.is_paced => gate.admits(ring, bytes, context),
            _ => true,
        }
    }

    /// So many of them have gone.
    pub(super) fn note_sent(&mut self, bytes: usize) {
        if let Some(gate) = self.gate.as_mut().filter(|_| self.is_paced) {
            gate.sent(bytes);
        }
    }

    /// Whether rates are limited and so much is queued as goes at a time.
    pub(super) fn has_a_piece(&self) -> bool {
        let gate = self.gate.as_ref().filter(|_| self.is_paced);
        gate.is_some_and(|gate| self.queue.len() >= gate.piece() as usize)
    }

    /// Where rates are limited, what may be received at a time: nothing while something waits to be sent.
    pub(super) fn paced_piece(&self) -> Option<u32> {
        let gate = self.gate.as_ref().filter(|_| self.is_paced)?;
        Some(if self.queue.is_empty() { Gate::piece(gate) } else { 0 })
    }
}
