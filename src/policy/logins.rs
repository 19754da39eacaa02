//! Logins that were right a moment ago, so that the next connection of the same client costs no hash.
//!
//! A key is an HMAC, with a secret that its [`Sealer`] alone has, over the user, the password, and what the answer depends
//! on. A user who is removed or changed is therefore not found again, and nothing here tells a password. Bounded by two
//! halves: a full or old one takes the place of the one before.
//!
//! Control remembers for all shards, and each shard for itself what it was told a moment ago. A login that control
//! remembers costs two threads a wake-up; one that the shard remembers costs the HMAC.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use crate::policy::identity::Identity;

/// How long control holds a login for right, and how long a shard what control has told it: together a minute.
pub const CONTROL: Terms = Terms { life: Duration::from_secs(50), half: 16 * 1024 };
pub const SHARD: Terms = Terms { life: Duration::from_secs(10), half: 1024 };

/// How much is remembered.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    life: Duration,
    /// Entries of one half.
    half: usize,
}

pub type Key = [u8; 32];

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

/// Makes keys; the secret is known to nobody.
pub struct Sealer(hmac::Key);

impl Sealer {
    /// # Errors
    /// One line, when the system has no randomness.
    pub fn new() -> Result<Self, String> {
        let mut secret = zeroize::Zeroizing::new([0; 32]);
        SystemRandom::new().fill(&mut *secret).map_err(|_| "the system gives no random bytes".to_string())?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &*secret)))
    }

    /// The parts go in with their lengths, so that no two lists of parts are the same text.
    #[must_use]
    pub fn seal(&self, parts: &[&[u8]]) -> Key {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut key = [0; 32];
        key.copy_from_slice(context.sign().as_ref());
        key
    }
}

#[derive(Debug)]
pub struct Cache {
    terms: Terms,
    recent: HashMap<Key, (Arc<Identity>, Instant)>,
    before: HashMap<Key, (Arc<Identity>, Instant)>,
    begun: Option<Instant>,
}

impl Cache {
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self { terms, recent: HashMap::new(), before: HashMap::new(), begun: None }
    }

    #[must_use]
    pub fn get(&self, key: &Key, now: Instant) -> Option<Arc<Identity>> {
        let (identity, until) = self.recent.get(key).or_else(|| self.before.get(key))?;
        (now < *until).then(|| Arc::clone(identity))
    }

    pub fn insert(&mut self, key: Key, identity: Arc<Identity>, now: Instant) {
        let is_old = self.begun.is_none_or(|begun| now.saturating_duration_since(begun) >= self.terms.life);
        if is_old || self.recent.len() >= self.terms.half {
            self.before = std::mem::take(&mut self.recent);
            self.begun = Some(now);
        }
        self.recent.insert(key, (identity, now + self.terms.life));
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.recent.len() + self.before.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn identity(user: &str) -> Arc<Identity> {
        Arc::new(Identity { user: user.into(), groups: Arc::new([]) })
    }

    #[test]
    fn entries_end_after_their_life() {
        let (mut cache, begin) = (Cache::new(CONTROL), Instant::now());
        cache.insert([1; 32], identity("a"), begin);
        assert_eq!(cache.get(&[1; 32], begin + CONTROL.life / 2), Some(identity("a")));
        assert_eq!(cache.get(&[1; 32], begin + CONTROL.life), None);
        assert_eq!(cache.get(&[2; 32], begin), None);
    }

    #[test]
    fn it_stays_bounded_and_keeps_the_recent() {
        let (mut cache, now) = (Cache::new(CONTROL), Instant::now());
        let key = |i: u32| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&i.to_be_bytes());
            key
        };
        for i in 0..100_000 {
            cache.insert(key(i), identity("a"), now);
            assert!(cache.len() <= 2 * CONTROL.half);
        }
        assert!((100_000 - CONTROL.half as u32..100_000).all(|i| cache.get(&key(i), now).is_some()));
    }

    #[test]
    fn keys_tell_parts_apart_and_differ_between_processes() {
        let sealer = Sealer::new().unwrap();
        assert_eq!(sealer.seal(&[b"a", b"b"]), sealer.seal(&[b"a", b"b"]));
        assert_ne!(sealer.seal(&[b"ab", b""]), sealer.seal(&[b"a", b"b"]));
        assert_ne!(sealer.seal(&[b"a"]), sealer.seal(&[b"a", b""]));
        assert_ne!(sealer.seal(&[b"a"]), Sealer::new().unwrap().seal(&[b"a"]));
    }
}
