//! What a UDP association has done so far, kept for whoever looks at its session.

use std::cell::Cell;
use std::time::Duration;

use crate::relay::Direction;
use crate::relay::sight::{Association, Sight};
use crate::types::Dropped;

/// Written by the association's task.
#[derive(Debug, Default)]
pub(super) struct Seen {
    targets: Cell<u32>,
    dropped: [Cell<u64>; Dropped::ALL.len()],
    /// By direction: when, on the ring's clock.
    passed_on: [Cell<Option<Duration>>; 2],
}

impl Seen {
    pub(super) fn target(&self) {
        self.targets.set(self.targets.get().saturating_add(1));
    }

    pub(super) fn passed_on(&self, direction: Direction, now: Duration) {
        self.passed_on[direction as usize].set(Some(now));
    }

    pub(super) fn dropped(&self, why: Dropped) {
        let count = &self.dropped[why as usize];
        count.set(count.get() + 1);
    }

    /// `datagrams`: passed on, up and down.
    pub(super) fn sight(&self, at: Duration, datagrams: [u64; 2]) -> Sight {
        let association = Association {
            targets: self.targets.get(),
            datagrams,
            dropped: std::array::from_fn(|index| self.dropped[index].get()),
            passed_on: std::array::from_fn(|index| self.passed_on[index].get()),
        };
        Sight { at, association: Some(association), ..Sight::default() }
    }
}
