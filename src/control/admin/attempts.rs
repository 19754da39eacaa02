//! How often an address may fail to prove who it is.
//!
//! Each address has some attempts, and gets them back one by one. An attempt is taken before it is known whether it
//! fails, and given back if it does not, so that many at once count as many.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Addresses that are remembered. When there are more, those whose attempts are nearly back go first.
const SOURCES: usize = 4096;

#[derive(Debug)]
pub(super) struct Attempts {
    /// In a row.
    most: u32,
    /// Until one is given back.
    pause: Duration,
    /// When an address would have all its attempts back.
    whole_at: Mutex<HashMap<IpAddr, Instant>>,
}

/// No attempt is left; there will be one after this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany(pub(super) Duration);

impl Attempts {
    pub(super) fn new(most: u32, pause: Duration) -> Self {
        Self { most, pause, whole_at: Mutex::default() }
    }

    /// # Errors
    /// None is left.
    pub(super) fn take(&self, source: IpAddr, now: Instant) -> Result<(), TooMany> {
        let source = network(source);
        let mut table = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= SOURCES && !table.contains_key(&source) {
            make_room(&mut table, now);
        }
        let whole_at = table.entry(source).or_insert(now);
        let after = (*whole_at).max(now) + self.pause;
        let wait = (after - now).saturating_sub(self.pause * self.most);
        if !wait.is_zero() {
            return Err(TooMany(wait));
        }
        *whole_at = after;
        Ok(())
    }

    /// It did not fail.
    pub(super) fn give_back(&self, source: IpAddr) {
        let mut table = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(whole_at) = table.get_mut(&network(source)) {
            *whole_at -= self.pause;
        }
    }
}

fn make_room(table: &mut HashMap<IpAddr, Instant>, now: Instant) {
    table.retain(|_, whole_at| *whole_at > now);
    if table.len() >= SOURCES {
        let mut ends: Vec<Instant> = table.values().copied().collect();
        let (_, middle, _) = ends.select_nth_unstable(SOURCES / 8);
        let middle = *middle;
        table.retain(|_, whole_at| *whole_at > middle);
    }
}

/// Whoever has one IPv6 address mostly has a network of 64 bits.
pub(super) fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & (u128::MAX << 64))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);

    #[test]
    fn attempts_run_out_and_come_back_one_by_one() {
        let (attempts, now) = (Attempts::new(3, PAUSE), Instant::now());
        let source = IpAddr::from([192, 0, 2, 1]);
        for _ in 0..3 {
            assert_eq!(attempts.take(source, now), Ok(()));
        }
        assert_eq!(attempts.take(source, now), Err(TooMany(PAUSE)));
        assert_eq!(attempts.take(IpAddr::from([192, 0, 2, 2]), now), Ok(()), "another source");
        assert_eq!(attempts.take(source, now + PAUSE / 2), Err(TooMany(PAUSE / 2)));
        assert_eq!(attempts.take(source, now + PAUSE), Ok(()));
        assert_eq!(attempts.take(source, now + PAUSE), Err(TooMany(PAUSE)));
        attempts.give_back(source);
        assert_eq!(attempts.take(source, now + PAUSE), Ok(()));
        let network = |host: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, host]);
        for host in 0..3 {
            assert_eq!(attempts.take(network(host), now), Ok(()));
        }
        assert!(attempts.take(network(9), now).is_err(), "one network");
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_least_first() {
        let (attempts, now) = (Attempts::new(3, PAUSE), Instant::now());
        let worst = IpAddr::from([198, 51, 100, 1]);
        while attempts.take(worst, now).is_ok() {}
        for n in 0..20_000_u32 {
            let _ = attempts
                .take(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), now + Duration::from_millis(n.into()) / 100);
        }
        assert!(attempts.whole_at.lock().unwrap_or_else(PoisonError::into_inner).len() <= SOURCES);
        assert!(attempts.take(worst, now).is_err(), "it still has none");
    }
}
