//! Finished sessions: the last ones in memory, all of them in a SQLite database, and questions to both.
//!
//! - `shelf` holds what is in memory: the recorder thread puts, the `writer` thread takes.
//! - `file` opens databases, `database` writes, `rollup` keeps the sums by hour.
//! - `mapping` keeps a file that is cut short from ending the process.
//! - `filter` says what is asked for, `query` asks the database, `ask` puts the parts of an answer together.
//!
//! A record is in exactly one place: on the shelf as not written, or in the database, which notes the number of the last
//! one it has in the same transaction. So whoever reads the shelf first and the database then finds each once.

mod ask;
mod database;
mod file;
mod filter;
mod mapping;
mod query;
mod record;
mod rollup;
mod shelf;
#[cfg(test)]
mod tests;
mod writer;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crossbeam::channel::{Receiver, bounded};
use tokio::sync::Semaphore;

pub use ask::{Found, Named, Overview, Unanswered};
pub(super) use file::all as files;
pub use filter::{Filter, Order, Place, Sort, Source};

use super::background;
use super::events::Events;
use super::recorder::Settler;
use crate::config::plan::{Sessions, Store as Kind};
use crate::shard::command::Mailbox;
use crate::stats::summary::Summary;
use shelf::Shelf;
use writer::{Census, SteadyClock, Writer};

/// How long the start waits for the database.
const OPENING: Duration = Duration::from_secs(2);
/// How long a question waits for what has just ended.
const SETTLING: Duration = Duration::from_millis(500);
/// Questions to the database at once; more wait, within their time.
const QUESTIONS: usize = 4;

/// Cheap to clone; every clone speaks of the same store.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
    /// Disconnected when the writer has ended.
    ended: Receiver<()>,
}

#[derive(Debug)]
struct Shared {
    /// Tells this process's records from those of others.
    boot: i64,
    shelf: Shelf,
    condition: Mutex<Condition>,
    written: AtomicU64,
    has_begun: AtomicBool,
    /// Somebody who reads has found the content wanting.
    is_suspect: AtomicBool,
    /// Somebody has cut a file of the database short.
    was_cut: AtomicBool,
    questions: Arc<Semaphore>,
    settler: OnceLock<Settler>,
    /// Tests hold the writer up by it, as a slow disk would.
    held: Mutex<()>,
}

/// How the database stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    Opening,
    NotUsed,
    Well,
    Trouble(String),
}

/// What `arus status` shows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// As in the configuration.
    pub store: String,
    /// ok | opening | trouble | memory | off
    pub state: &'static str,
    pub error: Option<String>,
    /// Records that the database has taken since the start.
    pub written: u64,
    /// Records that wait for it.
    pub waiting: usize,
    /// Records that it could not take.
    pub dropped: u64,
}

impl Store {
    /// Starts the writer, and gives it some time to open the database.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(terms: &Sessions, events: Events, shards: Vec<Mailbox>) -> io::Result<Self> {
        let (done, ended) = bounded::<()>(1);
        let (begun, has_begun) = sync_channel(1);
        let store = Self { shared: Arc::new(Shared::new(terms)), ended };
        let writer = Writer {
            shared: Arc::clone(&store.shared),
            events,
            shards,
            begun: Some(begun),
            database: None,
            census: Census::new(),
            clock: SteadyClock::default(),
            dropped: 0,
        };
        std::thread::Builder::new().name("session-store".into()).spawn(move || {
            background::give_way(background::RECORDS);
            writer.run();
            drop(done);
        })?;
        // Disconnected once it is open, or is found not to open.
        let _ = has_begun.recv_timeout(OPENING);
        store.shared.has_begun.store(true, Ordering::Relaxed);
        Ok(store)
    }

    /// Puts other terms into force.
    pub fn follow(&self, terms: &Sessions) {
        self.shared.shelf.follow(terms);
    }

    /// Takes sessions that have ended. Never waits for a disk.
    pub fn put(&self, finished: impl IntoIterator<Item = Arc<Summary>>) {
        self.shared.shelf.put(finished);
    }

    pub(super) fn settle_by(&self, settler: Settler) {
        let _ = self.shared.settler.set(settler);
    }

    /// Waits until the sessions that have ended so far are here, unless the recorder is held up.
    pub async fn settle(&self) {
        if let Some(settler) = self.shared.settler.get().cloned() {
            let _ = tokio::task::spawn_blocking(move || settler.settle(SETTLING)).await;
        }
    }

    /// Writes what is left and ends, unless that takes longer than `wait`; then what is left counts as dropped.
    pub fn finish(&self, wait: Duration) {
        self.shared.shelf.close();
        let _ = self.ended.recv_timeout(wait);
        self.shared.shelf.give_up();
    }

    #[must_use]
    pub fn state(&self) -> State {
        let terms = self.shared.shelf.terms();
        let condition = self.shared.condition();
        let (state, error) = match (&terms.store, condition) {
            (Kind::Memory, _) => ("memory", None),
            (Kind::Off, _) => ("off", None),
            (Kind::Sqlite(_), Condition::Well) => ("ok", None),
            (Kind::Sqlite(_), Condition::Opening | Condition::NotUsed) => ("opening", None),
            (Kind::Sqlite(_), Condition::Trouble(error)) => ("trouble", Some(error)),
        };
        let Shared { shelf, written, .. } = &*self.shared;
        State {
            store: terms.store.words(),
            state,
            error,
            written: written.load(Ordering::Relaxed),
            waiting: shelf.waiting(),
            dropped: shelf.dropped(),
        }
    }

    /// Records that no database took, since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.shelf.dropped()
    }
}

impl Shared {
    fn new(terms: &Sessions) -> Self {
        Self {
            boot: (RandomState::new().hash_one(std::process::id()) >> 1) as i64,
            shelf: Shelf::new(terms),
            condition: Mutex::new(Condition::Opening),
            written: AtomicU64::new(0),
            has_begun: AtomicBool::new(false),
            is_suspect: AtomicBool::new(false),
            was_cut: AtomicBool::new(false),
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            settler: OnceLock::new(),
            held: Mutex::new(()),
        }
    }

    fn condition(&self) -> Condition {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says whether it goes from good to bad, or back. What the trouble is may change.
    fn set_condition(&self, now: Condition) -> bool {
        let mut condition = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        let was_trouble = matches!(*condition, Condition::Trouble(_));
        let is_trouble = matches!(now, Condition::Trouble(_));
        *condition = now;
        was_trouble != is_trouble
    }

    fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    fn count_written(&self, records: u64) {
        self.written.fetch_add(records, Ordering::Relaxed);
    }

    fn suspect(&self) {
        self.is_suspect.store(true, Ordering::Relaxed);
    }

    fn take_suspicion(&self) -> bool {
        self.is_suspect.swap(false, Ordering::Relaxed)
    }

    fn wait_while_held(&self) {
        drop(self.held.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
