//! Session tickets that all shards read and write, without a lock (rustls' own ticketer has two).
//!
//! A ticket is the name of its key, a nonce, and the session's state under AES-256-GCM. Control changes the key every
//! few hours and keeps the one before, so a ticket lives for one to two such terms, and a key no longer.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;

/// How long a key writes tickets; as long again it reads them.
pub const TERM: Duration = Duration::from_secs(6 * 60 * 60);
/// Tells keys apart; random, so that tickets of another process or listener are not taken for ours.
const NAME_LEN: usize = 16;
const TAG_LEN: usize = 16;
/// State that is sealed at most: a client's certificates are in it. A larger session is not resumed.
const STATE_MAX: usize = 16 * 1024;

/// The ticket keys of a listener.
#[derive(Debug)]
pub struct Tickets {
    keys: ArcSwap<Keys>,
    policy: [u8; 32],
}

#[derive(Debug)]
struct Keys {
    current: Arc<Key>,
    previous: Option<Arc<Key>>,
}

struct Key {
    name: [u8; NAME_LEN],
    key: RandomizedNonceKey,
    since: Instant,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("since", &self.since).finish_non_exhaustive()
    }
}

impl Key {
    fn new() -> Result<Arc<Self>, Unspecified> {
        let (mut name, mut bytes) = ([0; NAME_LEN], [0; 32]);
        rand::fill(&mut name)?;
        rand::fill(&mut bytes)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes)?;
        Ok(Arc::new(Self { name, key, since: Instant::now() }))
    }
}

impl Tickets {
    /// `policy` stands for everything that a resumed session may not get round, such as who signs client certificates.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new(policy: [u8; 32]) -> Result<Self, Unspecified> {
        let keys = Keys { current: Key::new()?, previous: None };
        Ok(Self { keys: ArcSwap::from_pointee(keys), policy })
    }

    #[must_use]
    pub fn policy(&self) -> &[u8; 32] {
        &self.policy
    }

    /// Whether the current key has written tickets for its whole [`TERM`].
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.keys.load().current.since.elapsed() >= TERM
    }

    /// Begins with a new key, and forgets the one before the current. One thread at a time.
    ///
    /// # Errors
    /// When the system gives no random bytes; the keys stay as they are.
    pub fn rotate(&self) -> Result<(), Unspecified> {
        let previous = Some(Arc::clone(&self.keys.load().current));
        self.keys.store(Arc::new(Keys { current: Key::new()?, previous }));
        Ok(())
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(TERM.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        if plain.len() > STATE_MAX {
            return None;
        }
        let Key { name, key, .. } = &*self.keys.load().current;
        let mut ticket = Vec::with_capacity(NAME_LEN + NONCE_LEN + plain.len() + TAG_LEN);
        ticket.extend_from_slice(name);
        ticket.extend_from_slice(&[0; NONCE_LEN]);
        ticket.extend_from_slice(plain);
        let (head, state) = ticket.split_at_mut(NAME_LEN + NONCE_LEN);
        let (nonce, tag) = key.seal_in_place_separate_tag(Aad::from(name), state).ok()?;
        head[NAME_LEN..].copy_from_slice(nonce.as_ref());
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > NAME_LEN + NONCE_LEN + STATE_MAX + TAG_LEN {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.keys.load();
        let key = [Some(&keys.current), keys.previous.as_ref()].into_iter().flatten().find(|key| key.name == *name)?;
        let mut state = sealed.to_vec();
        let length = key.key.open_in_place(Nonce::from(nonce), Aad::from(name), &mut state).ok()?.len();
        state.truncate(length);
        Some(state)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tickets_outlive_one_rotation_and_not_two() {
        let tickets = Tickets::new([0; 32]).unwrap();
        let ticket = tickets.encrypt(b"state").unwrap();
        assert!(!tickets.is_due());
        tickets.rotate().unwrap();
        assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        let next = tickets.encrypt(b"state").unwrap();
        assert_ne!(ticket[..NAME_LEN], next[..NAME_LEN]);
        tickets.rotate().unwrap();
        assert_eq!(tickets.decrypt(&ticket), None);
        assert_eq!(tickets.decrypt(&next).as_deref(), Some(&b"state"[..]));
    }

    #[test]
    fn only_whole_tickets_of_ours_are_read() {
        let (ours, other) = (Tickets::new([0; 32]).unwrap(), Tickets::new([0; 32]).unwrap());
        let ticket = ours.encrypt(b"state").unwrap();
        assert_eq!(other.decrypt(&ticket), None);
        for end in 0..ticket.len() {
            assert_eq!(ours.decrypt(&ticket[..end]), None);
        }
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(ours.decrypt(&changed), None, "byte {at}");
        }
        assert_eq!(ours.decrypt(&ours.encrypt(b"").unwrap()).as_deref(), Some(&b""[..]));
        assert_eq!(ours.encrypt(&vec![0; STATE_MAX + 1]), None);
        assert_eq!(ours.decrypt(&vec![0; 1 << 20]), None);
        let again = ours.encrypt(b"state").unwrap();
        assert_ne!(ticket, again, "no nonce twice");
    }
}
