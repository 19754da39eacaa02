//! How fast one session may go: the connection's own rate, its user's, and a share of the process's, one after the other.
//!
//! A stream asks for what it is about to send, is told when, and sends then: so nothing is taken ahead that others could
//! use, and nobody asks in vain. A datagram cannot wait: it is let through or not.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use super::bucket::{Bucket, Rate};
use super::party::Party;
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
    /// The user's, or of a connection without one its own, made when it is needed.
    party: OnceLock<Arc<Party>>,
    own: Bucket,
}

/// Bytes that a stream wants to send, on their way through the lines.
#[derive(Debug)]
pub struct Request {
    pub bytes: u64,
    /// When they may go on from where they are.
    at: u64,
    stage: Stage,
    /// They are counted as waiting for a share of the global rate.
    shares: bool,
    /// Of the limits that were asked; at a change, it all begins anew.
    version: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The rates of the connection and of its user.
    Own,
    /// What of the global rate the user is guaranteed.
    Guaranteed(Rate),
    /// The share of the rest, with the place in the line for it.
    Share(u64),
    /// The global rate itself.
    Global,
    /// Likewise, for what is guaranteed: that counts among those who do not share.
    GlobalGuaranteed,
}

impl Pace {
    /// For a session without a user.
    #[must_use]
    pub fn anonymous(users: &Arc<Users>) -> Self {
        Self {
            users: Arc::clone(users),
            user: Arc::clone(users.anonymous()),
            party: OnceLock::new(),
            own: Bucket::default(),
        }
    }

    /// For a session of a user.
    #[must_use]
    pub fn of(users: &Arc<Users>, membership: &Membership) -> Self {
        let user = Arc::clone(membership.user());
        Self { users: Arc::clone(users), party: Arc::clone(&user.party).into(), user, own: Bucket::default() }
    }

    fn party(&self) -> &Party {
        self.party.get_or_init(Arc::default)
    }

    /// Whether there is any limit now.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.users.limits_rates()
            && (self.own().is_some() || self.user.max().is_some() || self.users.global.rate().is_some())
    }

    /// What a stream best asks for at a time.
    #[must_use]
    pub fn piece(&self) -> u64 {
        let global = self.users.global.rate();
        let share = global.map(|rate| self.users.global.last_share(rate));
        let rates = [self.own(), self.user.max(), global, share];
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
        Request { bytes, at, stage: Stage::Own, shares: false, version }
    }

    /// Whether the bytes may go now; else in how many nanoseconds to ask again. The caller asks earlier as well when
    /// that is long, as limits may change.
    ///
    /// # Errors
    /// While they have to wait.
    pub fn poll(&self, request: &mut Request, now: u64) -> Result<(), u64> {
        if request.version != self.users.version.load(Ordering::Acquire) {
            self.leave(request, now);
            if let Some(own) = self.own() {
                self.own.empty_line(own, now);
            }
            *request = self.ask(request.bytes, now);
        }
        loop {
            let global = self.users.global.rate();
            if let Some(rate) = global {
                self.look_again(request, rate, now);
            }
            if request.at > now {
                // Whoever waits for the global rate or a share of it is one of those who share it.
                let shares = matches!(request.stage, Stage::Share(_) | Stage::Global);
                if shares && !std::mem::replace(&mut request.shares, true) {
                    self.party().begin_sharing(&self.users.global, now);
                }
                return Err(request.at - now);
            }
            match (request.stage, global) {
                (_, None) | (Stage::Global | Stage::GlobalGuaranteed, _) => {
                    self.leave(request, now);
                    return Ok(());
                }
                (Stage::Own, Some(rate)) => self.turn_to_global(request, rate, now),
                (Stage::Guaranteed(_), Some(rate)) => {
                    self.users.global.note_light(request.bytes, now);
                    request.stage = Stage::GlobalGuaranteed;
                    request.at = self.users.global.line.reserve(rate, request.bytes, now);
                }
                (Stage::Share(_), Some(rate)) => {
                    if !request.shares {
                        self.party().note_unhindered(&self.users.global, request.bytes, now);
                    }
                    request.stage = Stage::Global;
                    request.at = self.users.global.line.reserve(rate, request.bytes, now);
                }
            }
        }
    }

    /// Takes that of two ways to the global rate which is free earlier: what is guaranteed, or the share of the rest.
    fn turn_to_global(&self, request: &mut Request, rate: Rate, now: u64) {
        let (user, party, bytes) = (&self.user, self.party(), request.bytes);
        let guaranteed = user.guaranteed().map(|promise| (promise, user.guarantee.reserve(promise, bytes, now)));
        if let Some((promise, at)) = guaranteed.filter(|(_, at)| *at <= now) {
            (request.stage, request.at) = (Stage::Guaranteed(promise), at);
            return;
        }
        let share = self.users.global.share(rate, party.shares(now), now);
        let place = party.share.reserve(bytes);
        let at = party.share.turn_of(place, share, now);
        (request.stage, request.at) = (Stage::Share(place), at);
        if let Some((promise, earlier)) = guaranteed {
            if earlier < at {
                party.share.skip(bytes);
                (request.stage, request.at) = (Stage::Guaranteed(promise), earlier);
            } else {
                user.guarantee.give_back(promise, bytes);
            }
        }
    }

    /// Looks anew when the turn of what waits for its share comes: at once where nobody uses the rate.
    fn look_again(&self, request: &mut Request, rate: Rate, now: u64) {
        let Stage::Share(place) = request.stage else { return };
        let global = &self.users.global;
        request.at = self.party().share.turn_of(place, global.share(rate, true, now), now);
        if request.at > now && global.is_unused(now) {
            self.party().share.skip(request.bytes);
            request.at = now;
        }
    }

    /// Gives up what was asked for, or of it what does not go.
    pub fn give_back(&self, mut request: Request, bytes: u64, now: u64) {
        if request.version == self.users.version.load(Ordering::Acquire) {
            if let Some(own) = self.own() {
                self.own.give_back(own, bytes);
            }
            if let Some(max) = self.user.max() {
                self.user.line.give_back(max, bytes);
            }
            match (request.stage, self.users.global.rate()) {
                (Stage::Guaranteed(promise), _) => self.user.guarantee.give_back(promise, bytes),
                (Stage::Share(_), _) => self.party().share.skip(bytes),
                (Stage::Global | Stage::GlobalGuaranteed, Some(rate)) => self.users.global.line.give_back(rate, bytes),
                _ => {}
            }
        }
        self.leave(&mut request, now);
    }

    /// Takes it out of the count of what waits.
    fn leave(&self, request: &mut Request, now: u64) {
        if std::mem::take(&mut request.shares) {
            self.party().end_sharing(&self.users.global, now);
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
        if let Some(global) = self.users.global.rate() {
            self.users.global.line.charge(global, bytes, now);
        }
    }

    /// Takes a datagram, or refuses it.
    #[must_use]
    pub fn try_take(&self, bytes: u64, now: u64) -> bool {
        let (own, max) = (self.own(), self.user.max());
        if own.is_some_and(|own| !self.own.try_take(own, bytes, now, 0)) {
            return false;
        }
        let has_max = max.is_none_or(|max| try_line(max, &self.user.line, &self.user.datagrams, bytes, now));
        if has_max && self.users.global.rate().is_none_or(|rate| self.try_global(rate, bytes, now)) {
            return true;
        }
        if let Some(own) = own {
            self.own.give_back(own, bytes);
        }
        if let Some(max) = max.filter(|_| has_max) {
            self.user.line.give_back(max, bytes);
        }
        false
    }

    fn try_global(&self, rate: Rate, bytes: u64, now: u64) -> bool {
        let (user, party, global) = (&self.user, self.party(), &self.users.global);
        let promise = user.guaranteed().filter(|rate| user.guarantee.try_take(*rate, bytes, now, 0));
        let share = global.share(rate, party.shares(now), now);
        // Streams of the same party that stand in its line leave half of the share to datagrams.
        let has_share = promise.is_some() || party.try_share(bytes, share, now) || global.is_unused(now);
        let is_taken = has_share && try_line(rate, &global.line, &global.datagrams, bytes, now);
        match (is_taken, promise) {
            (true, Some(_)) => global.note_light(bytes, now),
            (true, None) => party.note_unhindered(global, bytes, now),
            (false, Some(promise)) => user.guarantee.give_back(promise, bytes),
            (false, None) => {}
        }
        is_taken
    }

    fn own(&self) -> Option<Rate> {
        rate_of(self.users.per_connection.load(Ordering::Relaxed))
    }
}

/// Lets a datagram through a line, a little ahead of those who stand in it. Behind a long line there would never be a gap
/// for it, as only streams can wait: then half of the rate is for datagrams, out of `beside`, and streams wait the longer.
fn try_line(rate: Rate, line: &Bucket, beside: &Bucket, bytes: u64, now: u64) -> bool {
    if line.try_take(rate, bytes, now, AHEAD_NS) {
        return true;
    }
    // Datagrams alone never bring it so far.
    let streams_wait = line.ahead(now) > rate.cost(rate.burst.max(bytes)) + AHEAD_NS;
    let is_taken = streams_wait && beside.try_take(rate.half(), bytes, now, 0);
    if is_taken {
        line.charge(rate, bytes, now);
    }
    is_taken
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
#[cfg(test)]
#[path = "pace_world.rs"]
mod world;
