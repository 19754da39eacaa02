//! How attempts to log in have ended: `arus_auth_attempts_total{method,result}`.

use std::sync::atomic::{AtomicU64, Ordering};

pub use crate::policy::identity::Attempt;
use crate::policy::identity::Verdict;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    Refused,
    Banned,
    Unavailable,
}

impl Outcome {
    pub const ALL: [Self; 4] = [Self::Ok, Self::Refused, Self::Banned, Self::Unavailable];

    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Banned => "banned",
            Self::Unavailable => "unavailable",
        }
    }

    #[must_use]
    pub const fn of(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Accepted(_) => Self::Ok,
            Verdict::Refused => Self::Refused,
            Verdict::Banned => Self::Banned,
            Verdict::Unavailable => Self::Unavailable,
        }
    }
}

/// Attempts since the start.
#[derive(Debug, Default)]
pub struct Counters([[AtomicU64; Outcome::ALL.len()]; Attempt::ALL.len()]);

impl Counters {
    pub(super) fn count(&self, attempt: Attempt, outcome: Outcome) {
        self.0[attempt as usize][outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn get(&self, attempt: Attempt, outcome: Outcome) -> u64 {
        self.0[attempt as usize][outcome as usize].load(Ordering::Relaxed)
    }

    /// Every pair with its labels, for the exposition. `recalled`: those that shards let in without asking.
    pub fn all(&self, recalled: [u64; Attempt::ALL.len()]) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        Attempt::ALL.into_iter().flat_map(move |attempt| {
            let row = move |outcome: Outcome| {
                let more = if outcome == Outcome::Ok { recalled[attempt as usize] } else { 0 };
                (attempt.label(), outcome.label(), self.get(attempt, outcome) + more)
            };
            Outcome::ALL.into_iter().map(row)
        })
    }
}
