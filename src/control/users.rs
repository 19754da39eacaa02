//! What the finished sessions of each user added up to: by name for the most active ones, together for all others, so that
//! the number of names is bounded however many users there are.
//!
//! No count ever falls: a user that gets a place of its own begins there at nothing, with what it had before left in
//! `other`, and one that loses its place leaves its counts to `other`.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::stats::summary::Summary;
use crate::types::Name;

/// Users with a place of their own.
const NAMED: usize = 100;
/// Others of which it is known how active they are.
const WATCHED: usize = 1000;
/// The name of all others. No user has it: it would not be told apart.
pub const OTHER: &str = "other";

static USERS: LazyLock<Mutex<Users>> = LazyLock::new(Mutex::default);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: Name,
    pub sessions: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

/// A session has ended.
pub(super) fn note(summary: &Summary) {
    if let Some(name) = &summary.user {
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        users.note(name, summary.bytes_up, summary.bytes_down);
    }
}

/// The users with a place of their own, and the others where there are any.
#[must_use]
pub fn counted() -> Vec<User> {
    USERS.lock().unwrap_or_else(PoisonError::into_inner).all()
}

#[derive(Debug, Default)]
struct Users {
    named: HashMap<Name, User>,
    other: Option<User>,
    /// Bytes of users without a place. When there are too many, the less active half is forgotten.
    watched: HashMap<Name, u64>,
}

impl User {
    fn new(name: Name) -> Self {
        Self { name, sessions: 0, bytes_up: 0, bytes_down: 0 }
    }

    fn bytes(&self) -> u64 {
        self.bytes_up + self.bytes_down
    }

    fn add(&mut self, sessions: u64, bytes_up: u64, bytes_down: u64) {
        self.sessions += sessions;
        self.bytes_up += bytes_up;
        self.bytes_down += bytes_down;
    }
}

impl Users {
    fn note(&mut self, name: &Name, bytes_up: u64, bytes_down: u64) {
        if let Some(user) = self.named.get_mut(name) {
            user.add(1, bytes_up, bytes_down);
        } else if self.named.len() < NAMED && **name != *OTHER {
            self.named
                .entry(Name::clone(name))
                .or_insert_with(|| User::new(Name::clone(name)))
                .add(1, bytes_up, bytes_down);
        } else {
            self.other().add(1, bytes_up, bytes_down);
            self.watch(name, bytes_up + bytes_down);
        }
    }

    fn other(&mut self) -> &mut User {
        self.other.get_or_insert_with(|| User::new(OTHER.into()))
    }

    fn watch(&mut self, name: &Name, bytes: u64) {
        if **name == *OTHER {
            return;
        }
        if self.watched.len() >= WATCHED && !self.watched.contains_key(name) {
            let mut activity: Vec<u64> = self.watched.values().copied().collect();
            let (_, median, _) = activity.select_nth_unstable(WATCHED / 2);
            let median = *median;
            self.watched.retain(|_, bytes| *bytes > median);
        }
        let total = self.watched.entry(Name::clone(name)).or_default();
        *total += bytes;
        let total = *total;
        let least =
            self.named.values().min_by_key(|user| user.bytes()).map(|user| (Name::clone(&user.name), user.bytes()));
        if let Some((least, _)) = least.filter(|(_, bytes)| total > bytes.saturating_mul(2)) {
            self.watched.remove(name);
            if let Some(gone) = self.named.remove(&least) {
                self.other().add(gone.sessions, gone.bytes_up, gone.bytes_down);
            }
            self.named.insert(Name::clone(name), User::new(Name::clone(name)));
        }
    }

    fn all(&self) -> Vec<User> {
        let mut all: Vec<User> = self.named.values().cloned().collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all.extend(self.other.clone());
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_nothing_is_lost_and_the_active_get_a_place() {
        let mut users = Users::default();
        let sum = |users: &Users| {
            users.all().iter().map(|user| (user.sessions, user.bytes())).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
        };
        let mut last = 0;
        for n in 0..5000_u64 {
            users.note(&format!("u{n}").as_str().into(), 1, 2);
            let other = users.other.as_ref().map_or(0, |other| other.sessions);
            assert!(other >= last, "a count fell");
            last = other;
        }
        assert_eq!(sum(&users), (5000, 15_000));
        assert!(users.all().len() <= NAMED + 1 && users.watched.len() <= WATCHED);
        let heavy: Name = "u4999".into();
        users.note(&heavy, 1_000_000, 0);
        users.note(&heavy, 5, 0);
        assert_eq!(users.named.get(&heavy).map(User::bytes), Some(5), "it begins at nothing");
        assert_eq!(sum(&users), (5002, 1_015_005));
        users.note(&OTHER.into(), 1, 0);
        assert_eq!(users.all().iter().filter(|user| &*user.name == OTHER).count(), 1);
    }
}
