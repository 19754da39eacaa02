//! The users that have sessions, over all shards, and the limits of traffic.
//!
//! A hash table whose buckets are immutable lists, each changed by one compare-and-swap of its head: two shards that
//! meet a new user at the same time end up with the same state, so limits per user are exact. Who is forgotten is marked
//! first; a shard that still finds such a state makes another. Nobody waits for anybody.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};

use super::share::Global;
use super::terms::Qos;
use super::user::{Membership, User};
use crate::limits::USERS;
use crate::types::{Name, Reason};

/// Lists; a few users each at most.
const LISTS: usize = 4096;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The clock of all rates: nanoseconds since some moment before the first use, plus ten seconds.
#[must_use]
pub fn clock() -> u64 {
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX) + 10_000_000_000
}

/// Kept over reloads.
#[derive(Debug)]
pub struct Users {
    qos: ArcSwap<Qos>,
    /// Counts the changes of limits: who waits for tokens then asks anew.
    pub(super) version: AtomicU64,
    /// Whether anything is limited at all.
    limits: AtomicBool,
    /// The rate of the process.
    pub(super) global: Global,
    /// Bytes per second of one connection; 0: no limit.
    pub(super) per_connection: AtomicU64,
    /// Everybody who is not known by name.
    anonymous: Arc<User>,
    lists: Box<[ArcSwapOption<Node>]>,
    count: AtomicUsize,
    hasher: RandomState,
}

#[derive(Debug)]
struct Node {
    user: Arc<User>,
    next: Option<Arc<Node>>,
}

/// What a user had done when it was forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    pub name: Name,
    pub begun: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

impl Users {
    #[must_use]
    pub fn new(qos: &Qos, now: u64) -> Self {
        let users = Self {
            qos: ArcSwap::from_pointee(Qos::default()),
            version: AtomicU64::new(0),
            limits: AtomicBool::new(false),
            global: Global::default(),
            per_connection: AtomicU64::new(0),
            anonymous: Arc::new(User::new("".into(), now)),
            lists: std::iter::repeat_with(ArcSwapOption::empty).take(LISTS).collect(),
            count: AtomicUsize::new(0),
            hasher: RandomState::new(),
        };
        users.set(qos, now);
        users
    }

    /// Puts limits into force, for live sessions too.
    pub fn set(&self, qos: &Qos, now: u64) {
        if **self.qos.load() == *qos {
            return;
        }
        self.qos.store(Arc::new(qos.clone()));
        self.limits.store(qos.limits_rates(), Ordering::Relaxed);
        self.global.set(qos.global, now);
        self.per_connection.store(qos.per_connection, Ordering::Relaxed);
        self.each(|user| self.limit(user, qos, now));
        self.version.fetch_add(1, Ordering::Release);
        // Those with a quota are there from the start, and stay, so that what they have used is always known.
        for user in qos.users.iter().filter(|user| user.quota.is_some()) {
            let _ = self.find_or_make(&user.name, now);
        }
    }

    /// Whether any rate is limited.
    #[must_use]
    pub fn limits_rates(&self) -> bool {
        self.limits.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn anonymous(&self) -> &Arc<User> {
        &self.anonymous
    }

    /// Counts a session in as one of the user of this name.
    ///
    /// # Errors
    /// When the user has as many as it may, or its quota is used up, or there are more users than can be known.
    pub fn enter(&self, name: &Name, now: u64) -> Result<Membership, Reason> {
        loop {
            let user = self.find_or_make(name, now).ok_or(Reason::Memory)?;
            match user.enter() {
                Some(entered) => return entered.map(|()| Membership::new(user)),
                // Being forgotten: help, so that nobody waits for who began it.
                None => self.sweep(&self.lists[self.list(name)]),
            }
        }
    }

    /// The user of this name, if it is known.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<User>> {
        find(&self.lists[self.list(name)].load(), name)
    }

    /// Calls `visit` with every user.
    pub fn each(&self, mut visit: impl FnMut(&Arc<User>)) {
        for list in &self.lists {
            let head = list.load_full();
            let mut next = head.as_ref();
            while let Some(node) = next {
                visit(&node.user);
                next = node.next.as_ref();
            }
        }
    }

    /// Users that are known.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Forgets users without sessions that left before `since`; gives what they had done. Called by control alone.
    pub fn forget(&self, since: u64) -> Vec<Forgotten> {
        let mut forgotten = Vec::new();
        for list in &self.lists {
            let head = list.load_full();
            let (mut next, before) = (head.as_ref(), forgotten.len());
            while let Some(node) = next {
                if node.user.forget(since) {
                    let ((bytes_up, bytes_down), begun) = (node.user.bytes(), node.user.begun());
                    forgotten.push(Forgotten { name: node.user.name().clone(), begun, bytes_up, bytes_down });
                }
                next = node.next.as_ref();
            }
            if forgotten.len() > before {
                self.sweep(list);
            }
        }
        forgotten
    }

    fn list(&self, name: &str) -> usize {
        self.hasher.hash_one(name) as usize % LISTS
    }

    fn find_or_make(&self, name: &Name, now: u64) -> Option<Arc<User>> {
        let list = &self.lists[self.list(name)];
        loop {
            let head = list.load();
            if let Some(user) = find(&head, name) {
                return Some(user);
            }
            if self.count.fetch_add(1, Ordering::Relaxed) >= USERS {
                self.count.fetch_sub(1, Ordering::Relaxed);
                return None;
            }
            let user = Arc::new(User::new(name.clone(), now));
            let qos = self.qos.load_full();
            self.limit(&user, &qos, now);
            let node = Arc::new(Node { user: Arc::clone(&user), next: Guard::into_inner(head) });
            let before = list.compare_and_swap(&node.next, Some(Arc::clone(&node)));
            if !is_same(&before, &node.next) {
                self.count.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            // A reload meanwhile may have missed it.
            let newest = self.qos.load_full();
            if !Arc::ptr_eq(&newest, &qos) {
                self.limit(&user, &newest, now);
            }
            return Some(user);
        }
    }

    fn limit(&self, user: &User, qos: &Qos, now: u64) {
        let (limits, quota) = qos.of(user.name());
        user.set(limits, quota, qos.connections_per_user, now);
    }

    /// Takes those who are being forgotten out of a list.
    fn sweep(&self, list: &ArcSwapOption<Node>) {
        loop {
            let head = list.load_full();
            let (mut kept, mut removed) = (None, 0);
            let mut next = head.as_ref();
            while let Some(node) = next {
                if node.user.is_forgotten() {
                    removed += 1;
                } else {
                    kept = Some(Arc::new(Node { user: Arc::clone(&node.user), next: kept }));
                }
                next = node.next.as_ref();
            }
            if removed == 0 {
                return;
            }
            let before = list.compare_and_swap(&head, kept);
            if is_same(&before, &head) {
                self.count.fetch_sub(removed, Ordering::Relaxed);
                return;
            }
        }
    }
}

fn find(head: &Option<Arc<Node>>, name: &str) -> Option<Arc<User>> {
    let mut next = head.as_ref();
    while let Some(node) = next {
        if &**node.user.name() == name {
            return Some(Arc::clone(&node.user));
        }
        next = node.next.as_ref();
    }
    None
}

fn is_same(one: &Option<Arc<Node>>, other: &Option<Arc<Node>>) -> bool {
    one.as_ref().map(Arc::as_ptr) == other.as_ref().map(Arc::as_ptr)
}
