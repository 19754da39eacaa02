//! Logins that control has let in a moment ago: whoever brings one of them again to this shard is let in at once, for the
//! price of an HMAC, and wakes no other thread.
//!
//! What is remembered counts for the generation that was in force when it was asked for, and a reload leaves it behind,
//! whichever generation a connection began with. A source that may be banned is left to control.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::command::{Errand, Password};
use super::session::Session;
use crate::config::plan::Method;
use crate::policy::banned::{self, Source};
use crate::policy::identity::{Attempt, Identity};
use crate::policy::logins::{Cache, Key, SHARD, Sealer};
use crate::stats::clock_ms;
use crate::stats::counters::add;

/// The logins of one shard.
pub(super) struct Logins(Option<(Sealer, RefCell<Cache>)>);

/// What has come of looking.
pub(super) enum Recalled {
    Known(Arc<Identity>),
    /// Control is to be asked, and what it says is [noted](Logins::note).
    Ask(Errand, Option<Key>),
}

impl Logins {
    pub(super) fn new() -> Self {
        // Without randomness everything is asked of control.
        Self(Sealer::new().ok().map(|sealer| (sealer, RefCell::new(Cache::new(SHARD)))))
    }

    /// Whether these credentials were right.
    pub(super) fn of_user(&self, session: &Session, user: &[u8], password: &[u8]) -> Recalled {
        let (in_force, source) = (session.in_force(), session.source());
        let auth = &in_force.snapshot.plan.auth;
        let is_pam = auth.methods.contains(&Method::Pam);
        // PAM may decide by the address.
        let key = self.key(session, [b"login", user, password], source.filter(|_| is_pam));
        self.recall(session, source, auth.first_attempt(), key)
            .unwrap_or_else(|| Recalled::Ask(authenticate(source, user, password), key))
    }

    /// Whether clients may come from there.
    pub(super) fn of_address(&self, session: &Session, source: IpAddr) -> Recalled {
        let key = self.key(session, [b"address", b"", b""], Some(source));
        self.recall(session, Some(source), Attempt::Address, key)
            .unwrap_or_else(|| Recalled::Ask(Errand::AdmitAddress(source), key))
    }

    pub(super) fn note(&self, key: Key, identity: &Arc<Identity>) {
        if let Some((_, cache)) = &self.0 {
            cache.borrow_mut().insert(key, Arc::clone(identity), Instant::now());
        }
    }

    /// Everything that the answer depends on.
    fn key(&self, session: &Session, [kind, user, password]: [&[u8]; 3], source: Option<IpAddr>) -> Option<Key> {
        let (sealer, _) = self.0.as_ref()?;
        let generation = session.in_force().snapshot.generation.0.to_be_bytes();
        let source = source.map(|source| match source.to_canonical() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        });
        let source = source.as_ref().map_or(&[][..], |source| source);
        Some(sealer.seal(&[kind, &generation, user, password, source]))
    }

    fn recall(
        &self,
        session: &Session,
        source: Option<IpAddr>,
        attempt: Attempt,
        key: Option<Key>,
    ) -> Option<Recalled> {
        let (_, cache) = self.0.as_ref()?;
        if source.is_some_and(|source| banned::may_be(Source::of(source), clock_ms)) {
            return None;
        }
        let identity = cache.borrow().get(&key?, Instant::now())?;
        add(&session.shard().stats().logins_recalled[attempt as usize], 1);
        Some(Recalled::Known(identity))
    }
}

fn authenticate(source: Option<IpAddr>, user: &[u8], password: &[u8]) -> Errand {
    Errand::Authenticate { source, user: user.into(), password: Password(password.into()) }
}
