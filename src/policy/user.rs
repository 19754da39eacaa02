//! A user while it has sessions, and for a while after: what it may, what it uses. Shared by all shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::bucket::{Bucket, Rate};
use super::party::Party;
use super::terms::{Limits, Quota};
use crate::types::{Name, Reason};

/// In place of a count of sessions: the user is being forgotten, and a new state must be made.
const FORGOTTEN: u32 = u32::MAX;

/// The limits are atomics that a reload sets, so live sessions follow.
#[derive(Debug)]
pub struct User {
    name: Name,
    sessions: AtomicU32,
    /// [`FORGOTTEN`] less one: no limit.
    max_sessions: AtomicU32,
    guaranteed: AtomicU64,
    max: AtomicU64,
    burst: AtomicU64,
    /// The line of `max`.
    pub(super) line: Bucket,
    /// Half of `max`, for datagrams while streams stand in that line.
    pub(super) datagrams: Bucket,
    pub(super) guarantee: Bucket,
    /// As one of those who share the global rate.
    pub(super) party: Arc<Party>,
    quota: AtomicU64,
    /// Bytes that count against it.
    pub(super) used: AtomicU64,
    pub(super) begun: AtomicU64,
    pub(super) bytes_up: AtomicU64,
    pub(super) bytes_down: AtomicU64,
    /// When its last session ended.
    left_at: AtomicU64,
}

impl User {
    pub(super) fn new(name: Name, now: u64) -> Self {
        Self {
            name,
            sessions: AtomicU32::new(0),
            max_sessions: AtomicU32::new(FORGOTTEN - 1),
            guaranteed: AtomicU64::new(0),
            max: AtomicU64::new(0),
            burst: AtomicU64::new(0),
            line: Bucket::default(),
            datagrams: Bucket::default(),
            guarantee: Bucket::default(),
            party: Arc::default(),
            quota: AtomicU64::new(0),
            used: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
            left_at: AtomicU64::new(now),
        }
    }

    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Sessions that are open now.
    #[must_use]
    pub fn sessions(&self) -> u32 {
        let sessions = self.sessions.load(Ordering::Relaxed);
        if sessions == FORGOTTEN { 0 } else { sessions }
    }

    /// Sessions since it is known.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Bytes up and down since it is known.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes_up.load(Ordering::Relaxed), self.bytes_down.load(Ordering::Relaxed))
    }

    /// What it may; 0 means no limit.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let read = |limit: &AtomicU64| limit.load(Ordering::Relaxed);
        Limits { guaranteed: read(&self.guaranteed), max: read(&self.max), burst: read(&self.burst) }
    }

    /// Sessions that it may have at once; `None`: as many as it wants.
    #[must_use]
    pub fn max_sessions(&self) -> Option<u32> {
        Some(self.max_sessions.load(Ordering::Relaxed)).filter(|most| *most < FORGOTTEN - 1)
    }

    /// Bytes that count against its quota.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// A new period begins.
    pub fn renew_quota(&self) {
        self.used.store(0, Ordering::Relaxed);
    }

    /// What it has used of the period before arus was started.
    pub fn resume_quota(&self, used: u64) {
        self.used.store(used, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_out_of_quota(&self) -> bool {
        let quota = self.quota.load(Ordering::Relaxed);
        quota != 0 && self.used() >= quota
    }

    pub(super) fn set(&self, limits: Limits, quota: Option<Quota>, sessions: u32, now: u64) {
        self.guaranteed.store(limits.guaranteed, Ordering::Relaxed);
        self.max.store(limits.max, Ordering::Relaxed);
        self.burst.store(limits.burst, Ordering::Relaxed);
        self.quota.store(quota.map_or(0, |quota| quota.bytes), Ordering::Relaxed);
        self.max_sessions.store(if sessions == 0 { FORGOTTEN - 1 } else { sessions }, Ordering::Relaxed);
        if let Some(rate) = self.max() {
            self.line.empty_line(rate, now);
        }
    }

    pub(super) fn max(&self) -> Option<Rate> {
        let per_second = self.max.load(Ordering::Relaxed);
        (per_second > 0).then(|| Rate { per_second, burst: self.burst.load(Ordering::Relaxed) })
    }

    pub(super) fn guaranteed(&self) -> Option<Rate> {
        super::terms::rate_of(self.guaranteed.load(Ordering::Relaxed))
    }

    /// Counts a session in. `None`: this state is being forgotten.
    pub(super) fn enter(&self) -> Option<Result<(), Reason>> {
        if self.is_out_of_quota() {
            return Some(Err(Reason::Quota));
        }
        let most = self.max_sessions.load(Ordering::Relaxed);
        let entered = self.sessions.fetch_update(Ordering::AcqRel, Ordering::Acquire, |sessions| {
            (sessions < most && sessions != FORGOTTEN).then(|| sessions + 1)
        });
        match entered {
            Ok(_) => {
                self.begun.fetch_add(1, Ordering::Relaxed);
                Some(Ok(()))
            }
            Err(FORGOTTEN) => None,
            Err(_) => Some(Err(Reason::UserMaxConnections)),
        }
    }

    fn leave(&self, now: u64) {
        self.left_at.store(now, Ordering::Relaxed);
        let before = self.sessions.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before != 0 && before != FORGOTTEN, "a session has left twice");
    }

    /// Forgets a user without sessions that left before `since`, and says whether it did. One with a quota is kept, as
    /// what it has used must be.
    pub(super) fn forget(&self, since: u64) -> bool {
        let is_idle = self.left_at.load(Ordering::Relaxed) < since && self.quota.load(Ordering::Relaxed) == 0;
        is_idle && self.sessions.compare_exchange(0, FORGOTTEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.sessions.load(Ordering::Acquire) == FORGOTTEN
    }
}

/// A session that is counted as one of its user's until this is dropped.
#[derive(Debug)]
pub struct Membership {
    user: Arc<User>,
}

impl Membership {
    pub(super) fn new(user: Arc<User>) -> Self {
        Self { user }
    }

    #[must_use]
    pub fn user(&self) -> &Arc<User> {
        &self.user
    }

    /// Counts payload; false when the quota is used up. Numbers wrap, so that adding a negative one subtracts.
    #[must_use]
    pub fn count(&self, is_up: bool, bytes: u64) -> bool {
        let total = if is_up { &self.user.bytes_up } else { &self.user.bytes_down };
        total.fetch_add(bytes, Ordering::Relaxed);
        if self.user.quota.load(Ordering::Relaxed) == 0 {
            return true;
        }
        // What a session that is cut for its quota takes back must not make room for another.
        let is_taken_back = (bytes as i64) < 0;
        if !is_taken_back || !self.user.is_out_of_quota() {
            self.user.used.fetch_add(bytes, Ordering::Relaxed);
        }
        !self.user.is_out_of_quota()
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.user.leave(super::users::clock());
    }
}
