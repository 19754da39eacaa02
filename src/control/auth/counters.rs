//! How attempts to log in have ended: `arus_auth_attempts_total{method,result}`.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::identity::Verdict;

/// What was attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    Password,
    Pam,
    /// The client's address, before its dialogue.
    Address,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    Refused,
    Banned,
    Unavailable,
}

impl Attempt {
    pub const ALL: [Self; 3] = [Self::Password, Self::Pam, Self::Address];

    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Pam => "pam",
            Self::Address => "address",
        }
    }
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

    /// Every pair with its labels, for the exposition.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        Attempt::ALL.into_iter().flat_map(move |attempt| {
            let row = move |outcome: Outcome| (attempt.label(), outcome.label(), self.get(attempt, outcome));
            Outcome::ALL.into_iter().map(row)
        })
    }
}
