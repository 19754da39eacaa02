//! How fast one session may go: the connection's own rate, its user's, and the process's.
//!
//! A stream asks for what it is about to send, is told when, and sends then: so nothing is taken ahead that others could
//! use, and nobody asks in vain. A datagram cannot wait: it is let through or not.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::bucket::{Bucket, Rate};
use super::terms::rate_of;
use super::user::{Membership, User};
use super::users::Users;

/// A stream asks for so much at a time, if it has so much: a hundredth of a second's worth of its narrowest rate, within
/// these bounds, so that many streams take turns.
const LEAST: u64 = 1024;
const MOST: u64 = 64 * 1024;
const PARTS_OF_SECOND: u64 = 100;
/// How far a datagram, which cannot stand in line, may go ahead of those who do.
const AHEAD_NS: u64 = 50_000_000;

/// The rates of one session. Made once; every rate in it follows reloads.
#[derive(Debug)]
pub struct Pace {
    users: Arc<Users>,
    user: Arc<User>,
    own: Bucket,
}

/// Bytes that a stream wants to send, on their way through the lines.
#[derive(Debug)]
pub struct Request {
    pub bytes: u64,
    /// When they may go on from where they are.
    at: u64,
    is_global: bool,
    /// Of the limits that were asked; at a change, it all begins anew.
    version: u64,
}

impl Pace {
    /// For a session without a user.
    #[must_use]
    pub fn anonymous(users: &Arc<Users>) -> Self {
        Self { users: Arc::clone(users), user: Arc::clone(users.anonymous()), own: Bucket::default() }
    }

    /// For a session of a user.
    #[must_use]
    pub fn of(users: &Arc<Users>, membership: &Membership) -> Self {
        Self { users: Arc::clone(users), user: Arc::clone(membership.user()), own: Bucket::default() }
    }

    /// Whether there is any limit now.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.users.limits_rates()
            && (self.own().is_some() || self.user.max().is_some() || self.users.global().is_some())
    }

    /// What a stream best asks for at a time.
    #[must_use]
    pub fn piece(&self) -> u64 {
        let rates = [self.own(), self.user.max(), self.users.global()];
        let piece = |rate: Rate| (rate.per_second / PARTS_OF_SECOND).min(rate.burst).max(LEAST);
        rates.into_iter().flatten().map(piece).fold(MOST, u64::min)
    }

    /// Takes a place in the lines for so many bytes. For none: behind all that has gone without asking.
    #[must_use]
    pub fn ask(&self, bytes: u64, now: u64) -> Request {
        let version = self.users.version.load(Ordering::Acquire);
        let mut at = 0;
        if let Some(own) = self.own() {
            at = self.own.reserve(own, bytes, now);
        }
        if let Some(max) = self.user.max() {
            at = at.max(self.user.line.reserve(max, bytes, now));
        }
        Request { bytes, at, is_global: false, version }
    }

    /// Whether the bytes may go now; else in how many nanoseconds to ask again. The caller asks earlier as well when
    /// that is long, as limits may change.
    ///
    /// # Errors
    /// While they have to wait.
    pub fn poll(&self, request: &mut Request, now: u64) -> Result<(), u64> {
        if request.version != self.users.version.load(Ordering::Acquire) {
            if let Some(own) = self.own() {
                self.own.empty_line(own, now);
            }
            *request = self.ask(request.bytes, now);
        }
        if request.at > now {
            return Err(request.at - now);
        }
        let Some(global) = self.users.global().filter(|_| !request.is_global) else { return Ok(()) };
        let ahead = global.cost(global.burst);
        if let Some(guaranteed) = self.user.guaranteed()
            && self.user.guarantee.try_take(guaranteed, request.bytes, now, 0)
        {
            if self.users.line.try_take(global, request.bytes, now, ahead) {
                request.is_global = true;
                return Ok(());
            }
            self.user.guarantee.give_back(guaranteed, request.bytes);
        }
        let turn = self.user.turn.load(Ordering::Relaxed);
        if turn > now {
            return Err(turn - now);
        }
        request.at = self.users.line.reserve(global, request.bytes, now);
        request.is_global = true;
        if self.has_name() {
            // One stream of each user stands in this line, so that users, not streams, take turns in it. Two that come at
            // the very same time may both: that makes no difference in the long run.
            self.user.turn.store(request.at, Ordering::Relaxed);
        }
        if request.at > now { Err(request.at - now) } else { Ok(()) }
    }

    /// Gives up what was asked for, or of it what does not go.
    pub fn give_back(&self, request: &Request, bytes: u64) {
        if request.version != self.users.version.load(Ordering::Acquire) {
            return;
        }
        if let Some(own) = self.own() {
            self.own.give_back(own, bytes);
        }
        if let Some(max) = self.user.max() {
            self.user.line.give_back(max, bytes);
        }
        if let Some(global) = self.users.global().filter(|_| request.is_global) {
            self.users.line.give_back(global, bytes);
        }
    }

    /// Counts bytes that have gone without being asked for.
    pub fn charge(&self, bytes: u64, now: u64) {
        if let Some(own) = self.own() {
            self.own.charge(own, bytes, now);
        }
        if let Some(max) = self.user.max() {
            self.user.line.charge(max, bytes, now);
        }
        if let Some(global) = self.users.global() {
            self.users.line.charge(global, bytes, now);
        }
    }

    /// Takes a datagram, or refuses it.
    #[must_use]
    pub fn try_take(&self, bytes: u64, now: u64) -> bool {
        let lines = [
            (self.own(), &self.own, 0),
            (self.user.max(), &self.user.line, AHEAD_NS),
            (self.users.global(), &self.users.line, AHEAD_NS),
        ];
        for (index, (rate, line, ahead)) in lines.iter().enumerate() {
            let Some(rate) = rate else { continue };
            if !line.try_take(*rate, bytes, now, *ahead) {
                for (rate, line, _) in &lines[..index] {
                    if let Some(rate) = rate {
                        line.give_back(*rate, bytes);
                    }
                }
                return false;
            }
        }
        true
    }

    fn own(&self) -> Option<Rate> {
        rate_of(self.users.per_connection.load(Ordering::Relaxed))
    }

    fn has_name(&self) -> bool {
        !self.user.name().is_empty()
    }
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
