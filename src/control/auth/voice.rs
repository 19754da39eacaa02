//! One line per decision; of failures so many as somebody could read.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::counters::{Attempt, Outcome};

/// Lines of failures in a second.
const LINES: u32 = 10;
/// Characters of a user's name that a line shows.
const SHOWN: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Voice(Mutex<Second>);

#[derive(Debug, Default)]
struct Second {
    begun: Option<Instant>,
    lines: u32,
    unsaid: u64,
}

impl Voice {
    pub(super) fn say(&self, attempt: Attempt, outcome: Outcome, source: Option<IpAddr>, user: &[u8]) {
        let method = attempt.label();
        let source = source.map_or_else(|| "-".to_owned(), |source| source.to_string());
        let user = shown(user);
        match outcome {
            Outcome::Ok => tracing::info!(method, source, user, "authenticated"),
            Outcome::Refused | Outcome::Banned | Outcome::Unavailable => {
                let Some(unsaid) = self.may_say(Instant::now()) else { return };
                tracing::warn!(method, source, user, result = outcome.label(), unsaid, "not authenticated");
            }
        }
    }

    /// With how many were left out since the last that was said.
    fn may_say(&self, now: Instant) -> Option<u64> {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if second.begun.is_none_or(|begun| now.saturating_duration_since(begun) >= Duration::from_secs(1)) {
            (second.begun, second.lines) = (Some(now), 0);
        }
        second.lines += 1;
        if second.lines > LINES {
            second.unsaid += 1;
            return None;
        }
        Some(std::mem::take(&mut second.unsaid))
    }
}

/// A name that a stranger chose, for a log.
fn shown(user: &[u8]) -> String {
    String::from_utf8_lossy(user).chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_said_up_to_a_bound_and_the_rest_is_counted() {
        let (voice, now) = (Voice::default(), Instant::now());
        let said = (0..1000).filter(|_| voice.may_say(now).is_some()).count();
        assert_eq!(said, LINES as usize);
        assert_eq!(voice.may_say(now + Duration::from_secs(1)), Some(990));
    }

    #[test]
    fn names_cannot_forge_lines() {
        assert_eq!(shown(b"a\nb\x1b[31m"), "a\\nb\\u{1b}[31m");
        assert!(shown(&[b'x'; 255]).len() == SHOWN && !shown(b"\xff\xfe").is_empty());
    }
}
