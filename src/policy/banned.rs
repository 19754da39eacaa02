//! Which sources may be banned, for shards that remember a login: control writes, shards read, nobody waits.
//!
//! Several sources share a word, so a shard that finds one set asks control, which knows. A ban is never overlooked.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whoever has an IPv6 address has its whole /64.
const IPV6_NETWORK: u128 = !(u64::MAX as u128);
/// With a thousand bans at once, a quarter of the others asks control, as if nothing were remembered.
const WORDS: usize = 4096;

/// What counts as one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(u128);

impl Source {
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u128::from(address.to_ipv6_mapped())),
            IpAddr::V6(address) => Self(u128::from(address) & IPV6_NETWORK),
        }
    }
}

/// When the last ban of each word ends, on the clock of `stats::clock_ms`, which both sides read.
static UNTIL: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
/// Keyed, so that nobody can choose addresses that share a word with somebody else's.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

fn word(source: Source) -> &'static AtomicU64 {
    &UNTIL[HASHER.hash_one(source) as usize % WORDS]
}

/// Notes a ban.
pub fn note(source: Source, until_ms: u64) {
    word(source).fetch_max(until_ms, Ordering::Relaxed);
}

/// Whether `source` may be banned; if not, it is not.
#[must_use]
pub fn may_be(source: Source, now_ms: impl FnOnce() -> u64) -> bool {
    match word(source).load(Ordering::Relaxed) {
        0 => false,
        until_ms => now_ms() <= until_ms,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_is_seen_for_as_long_as_it_lasts() {
        let source = |text: &str| Source::of(text.parse().unwrap());
        let banned = source("2001:db8:77::1");
        note(banned, 5000);
        assert!(may_be(banned, || 5000) && may_be(source("2001:db8:77::2"), || 0) && !may_be(banned, || 5001));
        // A shorter one does not end a longer one.
        note(banned, 1);
        assert!(may_be(banned, || 5000));
        let free = (0..100u8).filter(|last| !may_be(source(&format!("198.51.100.{last}")), || 0)).count();
        assert!(free > 90, "{free}");
    }
}
