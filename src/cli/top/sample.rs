//! The last reading and the past of the throughput.

use std::collections::VecDeque;

use crate::control::admin::status::Status;

/// Readings of which the throughput is kept: more than any terminal has columns.
const HISTORY: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Samples {
    pub(super) status: Option<Status>,
    /// Bytes per second, oldest first.
    pub(super) up: VecDeque<u64>,
    pub(super) down: VecDeque<u64>,
}

impl Samples {
    pub(super) fn take(&mut self, status: Status) {
        remember(&mut self.up, status.totals.flow.bytes_up_per_second);
        remember(&mut self.down, status.totals.flow.bytes_down_per_second);
        self.status = Some(status);
    }
}

fn remember(past: &mut VecDeque<u64>, rate: f64) {
    if past.len() == HISTORY {
        past.pop_front();
    }
    past.push_back(rate as u64);
}
