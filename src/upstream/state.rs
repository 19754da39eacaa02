//! What is known of upstreams and backends while arus runs: shared by all shards and the control threads, kept over
//! reloads for as long as a backend stays in the configuration.
//!
//! Everything here is an atomic that is touched once or twice per connection, never per byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use crossbeam::utils::CachePadded;

use crate::config::plan::Address;
use crate::policy::budget::Budget;
use crate::types::Name;

/// Identity of a backend for the life of the process, also over reloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(pub u32);

/// Health as the checks see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// Up until shown otherwise; also the state of a backend that nobody checks.
    Up = 0,
    Down = 1,
}

/// State of one upstream.
#[derive(Debug)]
pub struct UpstreamState {
    pub name: Name,
    /// In the order of the plan's backends.
    pub backends: Vec<Arc<BackendState>>,
    /// Next place in the round-robin sequence.
    pub turn: CachePadded<AtomicU64>,
    /// Connections that wait for a full backend; its limit is the queue's size.
    pub waiting: Arc<Budget>,
}

/// State of one backend.
#[derive(Debug)]
pub struct BackendState {
    pub id: BackendId,
    pub upstream: Name,
    pub address: Address,
    /// `max_connections_per_backend`, and the connections of all shards that use this backend.
    pub connections: Arc<Budget>,
    /// Written by the health checks.
    health: AtomicU8,
    /// Put out of use by an operator.
    drained: AtomicBool,
    /// Failed connects in a row.
    failures: AtomicU32,
    /// On the clock of [`crate::stats::clock_ms`]; 0: not ejected.
    ejected_until_ms: AtomicU64,
    pub ejections: AtomicU64,
    /// When it last became what it is, on the clock of [`crate::stats::clock_ms`]; 0: at the start.
    changed_ms: AtomicU64,
    /// Written by the health checks, read by control.
    pub last_check: ArcSwapOption<LastCheck>,
    /// Indexed by shard; each has that shard as its one writer.
    pub counters: Box<[CachePadded<BackendCounters>]>,
}

/// What came of a health check.
#[derive(Debug, Clone)]
pub struct LastCheck {
    pub at: SystemTime,
    pub took: Duration,
    /// Why it failed.
    pub failure: Option<String>,
}

/// Written by one shard, read by the stats thread.
#[derive(Debug, Default)]
pub struct BackendCounters {
    pub connects: AtomicU64,
    pub connect_failures: AtomicU64,
    pub bytes_up: AtomicU64,
    pub bytes_down: AtomicU64,
}

impl BackendState {
    #[must_use]
    pub fn new(id: BackendId, upstream: Name, address: Address, max_connections: u32, shards: u16) -> Self {
        Self {
            id,
            upstream,
            address,
            connections: Arc::new(Budget::new(max_connections)),
            health: AtomicU8::new(Health::Up as u8),
            drained: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            ejected_until_ms: AtomicU64::new(0),
            ejections: AtomicU64::new(0),
            changed_ms: AtomicU64::new(0),
            last_check: ArcSwapOption::empty(),
            counters: (0..shards).map(|_| CachePadded::default()).collect(),
        }
    }

    #[must_use]
    pub fn health(&self) -> Health {
        if self.health.load(Ordering::Relaxed) == Health::Up as u8 { Health::Up } else { Health::Down }
    }

    /// Returns whether this changed anything.
    pub fn set_health(&self, health: Health) -> bool {
        self.health.swap(health as u8, Ordering::Relaxed) != health as u8
    }

    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    pub fn set_drained(&self, drained: bool) {
        self.drained.store(drained, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_ejected(&self, now_ms: u64) -> bool {
        now_ms < self.ejected_until_ms.load(Ordering::Relaxed)
    }

    /// Notes that it has just become something else.
    pub fn note_change(&self, now_ms: u64) {
        self.changed_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Since when it is what it is, on the same clock; `None`: since the start.
    #[must_use]
    pub fn changed_ms(&self, now_ms: u64) -> Option<u64> {
        let changed = self.changed_ms.load(Ordering::Relaxed);
        // An ejection ends by itself.
        let ended = Some(self.ejected_until_ms.load(Ordering::Relaxed)).filter(|until| *until <= now_ms).unwrap_or(0);
        Some(changed.max(ended)).filter(|since| *since > 0)
    }

    /// Whether new connections may go here.
    #[must_use]
    pub fn is_usable(&self, now_ms: u64) -> bool {
        self.health() == Health::Up && !self.is_drained() && !self.is_ejected(now_ms)
    }

    /// Ends an ejection before its time.
    pub fn readmit(&self) {
        self.ejected_until_ms.store(0, Ordering::Relaxed);
    }

    pub fn connect_succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a failed connect; returns whether it ejected the backend until `now_ms + eject_ms`.
    pub fn connect_failed(&self, now_ms: u64, outlier: Option<crate::config::plan::Outlier>) -> bool {
        // Of connects that were begun before it was ejected, nothing new is learnt.
        if self.is_ejected(now_ms) {
            return false;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(outlier) = outlier else { return false };
        if failures < outlier.failures {
            return false;
        }
        self.failures.store(0, Ordering::Relaxed);
        let until = now_ms + outlier.eject.as_millis() as u64;
        self.ejected_until_ms.store(until, Ordering::Relaxed);
        self.note_change(now_ms);
        self.ejections.fetch_add(1, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::plan::Outlier;

    #[test]
    fn knows_since_when_it_is_what_it_is() {
        let address = Address::Host { host: "db".into(), port: 1 };
        let state = BackendState::new(BackendId(0), "app".into(), address, 1, 1);
        assert_eq!(state.changed_ms(5_000), None, "since the start");
        let outlier = Some(Outlier { failures: 1, eject: Duration::from_secs(2) });
        assert!(state.connect_failed(5_000, outlier));
        assert!(!state.connect_failed(6_000, outlier), "it is ejected already");
        assert_eq!((state.is_ejected(6_000), state.changed_ms(6_000)), (true, Some(5_000)));
        assert_eq!((state.is_ejected(9_000), state.changed_ms(9_000)), (false, Some(7_000)), "it came back by itself");
        state.note_change(8_000);
        assert_eq!(state.changed_ms(9_000), Some(8_000));
    }
}
