//! Finished sessions on their way: those in memory, and those that the database does not have yet. The recorder puts
//! them here, the writer takes them, the API reads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::plan::{Sessions, Store};
use crate::limits;
use crate::stats::summary::Summary;

/// A finished session, and which one it is since the start of the process, from 1.
#[derive(Debug, Clone)]
pub(super) struct Finished {
    pub(super) number: u64,
    pub(super) summary: Arc<Summary>,
}

#[derive(Debug)]
pub(super) struct Shelf {
    content: Mutex<Content>,
    /// The writer has something to do.
    work: Condvar,
    /// Records that no database took.
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Content {
    terms: Sessions,
    numbered: u64,
    recent: VecDeque<Arc<Summary>>,
    /// In the order of their numbers.
    unwritten: VecDeque<Finished>,
    /// When the oldest of them came.
    since: Option<Instant>,
    is_closed: bool,
}

/// Why the writer wakes.
#[derive(Debug)]
pub(super) enum Work {
    /// The oldest records, to be written in one transaction; they stay here until [`Shelf::written`].
    Batch(Vec<Finished>),
    /// Nothing came until the time that was given.
    Time,
    /// Nothing is left, and nothing more will come.
    Closed,
}

impl Shelf {
    pub(super) fn new(terms: &Sessions) -> Self {
        let content = Content {
            terms: terms.clone(),
            numbered: 0,
            recent: VecDeque::new(),
            unwritten: VecDeque::new(),
            since: None,
            is_closed: false,
        };
        Self { content: Mutex::new(content), work: Condvar::new(), dropped: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn terms(&self) -> Sessions {
        self.lock().terms.clone()
    }

    pub(super) fn follow(&self, terms: &Sessions) {
        let mut content = self.lock();
        content.terms = terms.clone();
        content.trim_recent();
        if !matches!(terms.store, Store::Sqlite(_)) {
            content.unwritten.clear();
            content.since = None;
        }
        self.work.notify_one();
    }

    /// Puts sessions here that have ended. Never waits for the database.
    pub(super) fn put(&self, finished: impl IntoIterator<Item = Arc<Summary>>) {
        let mut content = self.lock();
        let for_database = match content.terms.store {
            Store::Off => return,
            Store::Memory => false,
            Store::Sqlite(_) => true,
        };
        let had_batch = content.has_batch();
        for summary in finished {
            content.numbered += 1;
            let number = content.numbered;
            content.recent.push_back(Arc::clone(&summary));
            content.trim_recent();
            if !for_database {
                continue;
            }
            if content.unwritten.len() >= limits::UNWRITTEN_SESSIONS {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            content.since.get_or_insert_with(Instant::now);
            content.unwritten.push_back(Finished { number, summary });
        }
        if content.has_batch() && !had_batch {
            self.work.notify_one();
        }
    }

    /// Waits for a batch: full, or waiting for long enough, or the last.
    pub(super) fn take(&self, until: Instant) -> Work {
        let mut content = self.lock();
        loop {
            let now = Instant::now();
            let due = content.since.map(|since| since + content.terms.batch_interval);
            if content.has_batch() || due.is_some_and(|due| due <= now) || content.is_closed {
                let batch: Vec<Finished> =
                    content.unwritten.iter().take(content.terms.batch_size as usize).cloned().collect();
                return match batch.is_empty() {
                    false => Work::Batch(batch),
                    true if content.is_closed => Work::Closed,
                    // Someone else emptied it.
                    true => Work::Time,
                };
            }
            if now >= until {
                return Work::Time;
            }
            let wait = due.map_or(until, |due| due.min(until)) - now;
            content = self.work.wait_timeout(content, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The database has everything up to this number.
    pub(super) fn written(&self, number: u64) {
        let mut content = self.lock();
        while content.unwritten.front().is_some_and(|finished| finished.number <= number) {
            content.unwritten.pop_front();
        }
        content.since = (!content.unwritten.is_empty()).then(Instant::now);
    }

    /// Waits a while without work, unless it is closed.
    pub(super) fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut content = self.lock();
        let store = content.terms.store.clone();
        while !content.is_closed && content.terms.store == store {
            let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) else {
                return;
            };
            content = self.work.wait_timeout(content, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.work.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// What nobody will write any more counts as dropped.
    pub(super) fn give_up(&self) {
        let mut content = self.lock();
        let left = content.unwritten.len() as u64;
        content.unwritten.clear();
        content.since = None;
        self.dropped.fetch_add(left, Ordering::Relaxed);
    }

    pub(super) fn unwritten(&self) -> Vec<Finished> {
        self.lock().unwritten.iter().cloned().collect()
    }

    pub(super) fn recent(&self) -> Vec<Arc<Summary>> {
        self.lock().recent.iter().cloned().collect()
    }

    pub(super) fn waiting(&self) -> usize {
        self.lock().unwritten.len()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Content {
    fn has_batch(&self) -> bool {
        self.unwritten.len() >= self.terms.batch_size as usize
    }

    fn trim_recent(&mut self) {
        let excess = self.recent.len().saturating_sub(self.terms.recent as usize);
        self.recent.drain(..excess);
        if excess > 1 {
            self.recent.shrink_to(self.terms.recent as usize);
        }
    }
}
