//! Sources that fail to log in too often: counted in a sliding window, banned for a while, in a bounded table.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::config::plan::Failures;
use crate::policy::banned::Source;

/// Sources that are remembered. When there are more, those that failed longest ago are forgotten first, and those that
/// are banned last.
const SOURCES: usize = 16 * 1024;

#[derive(Debug)]
struct Record {
    /// Failures that may still count, oldest first.
    failed: Vec<Instant>,
    banned_until: Option<Instant>,
}

impl Record {
    fn is_banned(&self, now: Instant) -> bool {
        self.banned_until.is_some_and(|until| now < until)
    }

    /// What is forgotten first is smallest.
    fn worth(&self, now: Instant) -> (bool, Option<Instant>) {
        (self.is_banned(now), self.failed.last().copied())
    }
}

#[derive(Debug)]
pub(super) struct Bans {
    records: HashMap<Source, Record>,
    most: usize,
}

impl Default for Bans {
    fn default() -> Self {
        Self { records: HashMap::new(), most: SOURCES }
    }
}

impl Bans {
    pub(super) fn is_banned(&self, source: Source, now: Instant) -> bool {
        self.records.get(&source).is_some_and(|record| record.is_banned(now))
    }

    /// Counts a failure; tells whether it was the one too many.
    pub(super) fn fail(&mut self, source: Source, failures: Failures, now: Instant) -> bool {
        let Failures { limit, window, ban } = failures;
        if limit == 0 {
            return false;
        }
        if self.records.len() >= self.most && !self.records.contains_key(&source) {
            self.make_room(window, now);
        }
        let record = self.records.entry(source).or_insert(Record { failed: Vec::new(), banned_until: None });
        record.failed.retain(|at| now.saturating_duration_since(*at) < window);
        record.failed.push(now);
        if record.is_banned(now) || record.failed.len() < limit as usize {
            return false;
        }
        // Checks that were under way when it began may still fail, and do not lengthen it.
        record.failed.clear();
        record.banned_until = now.checked_add(ban);
        true
    }

    fn make_room(&mut self, window: Duration, now: Instant) {
        self.records.retain(|_, record| {
            record.is_banned(now) || record.failed.last().is_some_and(|at| now.saturating_duration_since(*at) < window)
        });
        while self.records.len() >= self.most {
            let least = self.records.iter().min_by_key(|(_, record)| record.worth(now)).map(|(source, _)| *source);
            let Some(source) = least else { return };
            self.records.remove(&source);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const FAILURES: Failures = Failures { limit: 3, window: Duration::from_secs(60), ban: Duration::from_secs(300) };

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    fn numbered(number: u32) -> Source {
        Source::of(std::net::Ipv4Addr::from_bits(number).into())
    }

    #[test]
    fn a_window_slides_and_a_ban_ends() {
        let (mut bans, begin) = (Bans::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let peer = source("192.0.2.1");
        assert!(!bans.fail(peer, FAILURES, at(0)));
        assert!(!bans.fail(peer, FAILURES, at(50)));
        assert!(!bans.fail(peer, FAILURES, at(61)), "the first has left the window");
        assert!(bans.fail(peer, FAILURES, at(62)));
        assert!(bans.is_banned(peer, at(62)) && bans.is_banned(peer, at(361)));
        assert!(!bans.is_banned(peer, at(362)));
        assert!(!bans.is_banned(source("192.0.2.2"), at(62)), "another source");
        assert!(!bans.fail(peer, FAILURES, at(363)), "and counts from nothing");
    }

    #[test]
    fn failures_during_a_ban_do_not_lengthen_it() {
        let (mut bans, now) = (Bans::default(), Instant::now());
        let peer = source("192.0.2.1");
        let banned: Vec<bool> = (0..10).map(|_| bans.fail(peer, FAILURES, now)).collect();
        assert_eq!(banned.iter().filter(|banned| **banned).count(), 1);
        assert!(!bans.is_banned(peer, now + FAILURES.ban));
    }

    #[test]
    fn ipv6_counts_by_its_network_and_ipv4_by_its_address() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }

    #[test]
    fn limit_0_bans_nobody() {
        let mut bans = Bans::default();
        let never = Failures { limit: 0, ..FAILURES };
        assert!((0..1000).all(|_| !bans.fail(source("192.0.2.1"), never, Instant::now())));
        assert!(bans.records.is_empty());
    }

    #[test]
    fn a_full_table_forgets_the_harmless_first() {
        let mut bans = Bans { most: 10, ..Bans::default() };
        let begin = Instant::now();
        let banned = source("192.0.2.1");
        assert!((0..3).any(|_| bans.fail(banned, FAILURES, begin)));
        for i in 0..100u32 {
            bans.fail(numbered(i), FAILURES, begin + Duration::from_millis(u64::from(i)));
            assert!(bans.records.len() <= 10);
        }
        let now = begin + Duration::from_secs(1);
        assert!(bans.is_banned(banned, now) && bans.records.contains_key(&numbered(99)));
        assert!(!bans.records.contains_key(&numbered(0)));
    }
}
