//! The logins of browsers: a random cookie each, of which only the digest is kept.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::secret::{self, digest_of};
use crate::config::plan::{PasswordHash, TokenDigest};
use crate::types::Name;

/// At once; beyond it the one that was idle longest ends.
const LOGINS: usize = 1000;
/// A login that nobody uses ends after this,
const IDLE: Duration = Duration::from_secs(3600);
/// and any after this.
pub(super) const LONGEST: Duration = Duration::from_secs(12 * 3600);

/// What was shown at the login, and must still count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proof {
    User(Name, PasswordHash),
    Token(TokenDigest),
}

#[derive(Debug, Clone)]
pub(super) struct Login {
    pub(super) proof: Proof,
    pub(super) csrf: Box<str>,
    begun: Instant,
    used: Instant,
}

impl Login {
    fn is_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) < IDLE && now.saturating_duration_since(self.begun) < LONGEST
    }
}

#[derive(Debug, Default)]
pub(super) struct Logins(Mutex<HashMap<TokenDigest, Login>>);

/// For the browser.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) cookie: String,
    pub(super) csrf: String,
}

impl Logins {
    /// `None`: the system has no randomness to give.
    pub(super) fn begin(&self, proof: Proof, now: Instant) -> Option<Ticket> {
        let ticket = Ticket { cookie: secret::random()?, csrf: secret::random()? };
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= LOGINS {
            table.retain(|_, login| login.is_alive(now));
        }
        if table.len() >= LOGINS {
            let idlest = table.iter().min_by_key(|(_, login)| login.used).map(|(digest, _)| digest.clone());
            idlest.and_then(|digest| table.remove(&digest));
        }
        let login = Login { proof, csrf: ticket.csrf.as_str().into(), begun: now, used: now };
        table.insert(digest_of(&ticket.cookie), login);
        Some(ticket)
    }

    pub(super) fn find(&self, cookie: &TokenDigest, now: Instant) -> Option<Login> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let login = table.get_mut(cookie)?;
        if !login.is_alive(now) {
            table.remove(cookie);
            return None;
        }
        login.used = now;
        Some(login.clone())
    }

    pub(super) fn end(&self, cookie: &TokenDigest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(cookie);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn logins_end_by_themselves_and_are_bounded() {
        let (logins, now) = (Logins::default(), Instant::now());
        let begin = |now| digest_of(&logins.begin(Proof::Token(digest_of("t")), now).unwrap().cookie);
        let first = begin(now);
        assert!(logins.find(&first, now + IDLE / 2).is_some());
        assert!(logins.find(&first, now + IDLE).is_some(), "it was used in between");
        assert!(logins.find(&first, now + 2 * IDLE).is_none());
        let second = begin(now);
        for step in 1..24 {
            assert!(logins.find(&second, now + step * IDLE / 2).is_some());
        }
        assert!(logins.find(&second, now + LONGEST).is_none(), "however often it is used");
        let third = begin(now);
        for _ in 0..LOGINS {
            begin(now + Duration::from_secs(1));
        }
        assert!(logins.0.lock().unwrap().len() <= LOGINS && logins.find(&third, now).is_none());
        let last = begin(now);
        logins.end(&last);
        assert!(logins.find(&last, now).is_none());
    }
}
