//! What a direction says of itself when somebody asks.

use super::{Flow, Half, Work};
use crate::relay::aside::Aside;
use crate::relay::pace::Gate;
use crate::relay::sight::{Holdup, Inside};

impl Half {
    pub(in crate::relay) fn look(&self) -> Inside {
        let (between, held_back) = self.transform.as_ref().map_or((0, 0), |transform| transform.waiting());
        let aside = self.aside.as_ref().map_or(0, Aside::waiting);
        let sending = self.sending.as_ref().filter(|send| !send.is_sent()).map_or(0, |send| send.bytes());
        let holdup = if matches!(self.work, Work::NoBuffer(_)) || self.lacks_buffer {
            Some(Holdup::Buffers)
        } else if held_back > 0 && matches!(self.work, Work::Wants) {
            Some(Holdup::Plugin)
        } else if self.gate.as_ref().is_some_and(Gate::waits) {
            Some(Holdup::Pace)
        } else {
            None
        };
        Inside {
            held: (self.inbox.len() + self.queue.len() + between + aside) as u64,
            sending: sending as u64,
            holdup,
            has_ended: self.flow != Flow::Open,
        }
    }
}
