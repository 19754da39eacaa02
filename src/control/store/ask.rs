//! An answer put together: live sessions, those on the shelf and those in the database, each once.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::Connection;

use super::filter::{Filter, Order};
use super::mapping::Here;
use super::query::{self, Sorted};
use super::record::{Destination, bounded, hour, hour_of};
use super::rollup::{Kind, Sums};
use super::shelf::Finished;
use super::{Condition, Store, file};
use crate::config::plan::Store as Where;
use crate::control::admin::sessions::{Session, describe};
use crate::stats::summary::Summary;
use crate::types::{SessionId, State};

/// A question to the database takes no longer.
const TIME: Duration = Duration::from_secs(5);
/// Users and destinations of an overview: so many with the most bytes, and so many with the most sessions.
const TOP: usize = 10;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    #[error("the database needs more than {} seconds for this: narrow it down, as with `since`", TIME.as_secs())]
    TooSlow,
    #[error("the session database cannot be read: {0}")]
    Unreadable(String),
}

/// A page of sessions.
#[derive(Debug)]
pub struct Found {
    pub sessions: Vec<Session>,
    /// On all pages together.
    pub total: u64,
}

/// Sums over the sessions of some time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overview {
    pub sessions: u64,
    pub active: u64,
    pub closed: u64,
    pub failed: u64,
    pub rejected: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub users: Vec<Named>,
    pub destinations: Vec<Named>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub sessions: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

impl Store {
    /// The sessions that a filter takes, from `skip` on. `live` was asked from the shards just now, and what had ended
    /// before has reached the shelf since.
    pub async fn list(
        &self,
        live: Vec<Summary>,
        filter: Filter,
        order: Order,
        skip: usize,
        most: usize,
    ) -> Result<Found, Unanswered> {
        let live: Vec<Arc<Summary>> = live.into_iter().filter(|summary| filter.takes(summary)).map(Arc::new).collect();
        if filter.state == Some(State::Active) {
            return Ok(merge(live, Vec::new(), order, skip, most, 0));
        }
        let Some(path) = self.database() else {
            let recent = self.shared.shelf.recent();
            let memory = once(live, recent.into_iter().filter(|summary| filter.takes(summary)));
            return Ok(merge(memory, Vec::new(), order, skip, most, 0));
        };
        let unwritten = self.shared.shelf.unwritten();
        let boot = self.shared.boot;
        self.read(path, move |connection| {
            let unwritten = not_in(&unwritten, query::progress(connection, boot)?);
            let memory = once(live, unwritten.filter(|summary| filter.takes(summary)));
            let is_live = |summary: &&Arc<Summary>| summary.state == State::Active;
            let ended = query::ended(connection, memory.iter().filter(is_live).map(|summary| summary.id))?;
            let memory: Vec<_> = memory.into_iter().filter(|summary| !ended.contains(&summary.id)).collect();
            // Those in memory may come before as many of the database's.
            let skipped = skip.saturating_sub(memory.len());
            let stored = query::page(connection, &filter, order, skipped, most.saturating_add(skip - skipped))?;
            let total = query::total(connection, &filter)?;
            Ok(merge(memory, stored, order, skip - skipped, most, total))
        })
        .await
    }

    /// A session that has ended.
    pub async fn find(&self, id: SessionId) -> Result<Option<Session>, Unanswered> {
        let recent = self.shared.shelf.recent().into_iter().rev().find(|summary| summary.id == id);
        if let Some(summary) = recent {
            return Ok(Some(describe(&summary)));
        }
        let Some(path) = self.database() else { return Ok(None) };
        let unwritten = self.shared.shelf.unwritten().into_iter().find(|finished| finished.summary.id == id);
        if let Some(Finished { summary, .. }) = unwritten {
            return Ok(Some(describe(&summary)));
        }
        self.read(path, move |connection| query::find(connection, id)).await
    }

    /// Sums over the sessions that live or have ended in the last hours, full ones and the one that has begun.
    pub async fn overview(&self, live: Vec<Summary>, hours: u32) -> Result<Overview, Unanswered> {
        let from = hour_of(SystemTime::now()) - i64::from(hours);
        let live: Vec<Arc<Summary>> = live.into_iter().map(Arc::new).collect();
        let Some(path) = self.database() else {
            let recent = self.shared.shelf.recent();
            let memory = once(live, recent.into_iter().filter(|summary| hour(summary) > from));
            return Ok(overview(&memory, Sums::default(), Vec::new(), Vec::new()));
        };
        let unwritten = self.shared.shelf.unwritten();
        let boot = self.shared.boot;
        self.read(path, move |connection| {
            let unwritten = not_in(&unwritten, query::progress(connection, boot)?);
            let memory = once(live, unwritten.filter(|summary| hour(summary) > from));
            let is_live = |summary: &&Arc<Summary>| summary.state == State::Active;
            let ended = query::ended(connection, memory.iter().filter(is_live).map(|summary| summary.id))?;
            let ended: HashSet<SessionId> = ended.into_iter().collect();
            let memory: Vec<_> = memory.into_iter().filter(|summary| !ended.contains(&summary.id)).collect();
            let top = |kind| query::top(connection, kind, from + 1, 2 * TOP);
            Ok(overview(&memory, query::sums(connection, from + 1)?, top(Kind::User)?, top(Kind::Destination)?))
        })
        .await
    }

    /// The database to be asked; `None`: what is in memory has to do.
    fn database(&self) -> Option<PathBuf> {
        let Where::Sqlite(path) = self.shared.shelf.terms().store else { return None };
        match self.shared.condition() {
            Condition::Well => Some(path),
            // It may be full and still be read.
            Condition::Trouble(_) => path.exists().then_some(path),
            Condition::Opening | Condition::NotUsed => None,
        }
    }

    /// Asks the database, in one transaction, on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        path: PathBuf,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Unanswered> {
        let questions = Arc::clone(&self.shared.questions);
        let Ok(Ok(place)) = tokio::time::timeout(TIME, questions.acquire_owned()).await else {
            return Err(Unanswered::TooSlow);
        };
        let (sender, mut interrupt) = tokio::sync::oneshot::channel();
        let shared = Arc::clone(&self.shared);
        let work = tokio::task::spawn_blocking(move || {
            let (_place, _here) = (place, Here::enter(&shared.was_cut));
            let connection = open(&path)?;
            let _ = sender.send(connection.get_interrupt_handle());
            let transaction = connection.unchecked_transaction()?;
            question(&transaction)
        });
        tokio::pin!(work);
        let answer = match tokio::time::timeout(TIME, &mut work).await {
            Ok(answer) => answer,
            Err(_) => {
                // A disk that blocks does not hear of it; then the thread is left to itself.
                if let Ok(handle) = interrupt.try_recv() {
                    handle.interrupt();
                }
                return Err(Unanswered::TooSlow);
            }
        };
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if file::is_content(&error) {
                    self.shared.suspect();
                }
                Err(Unanswered::Unreadable(error.to_string()))
            }
            Err(error) => Err(Unanswered::Unreadable(error.to_string())),
        }
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    file::open_to_read(path)
}

fn not_in(unwritten: &[Finished], progress: u64) -> impl Iterator<Item = Arc<Summary>> {
    unwritten.iter().filter(move |finished| finished.number > progress).map(|finished| Arc::clone(&finished.summary))
}

/// A session that has ended since it was asked for as a live one counts as ended.
fn once(live: Vec<Arc<Summary>>, ended: impl Iterator<Item = Arc<Summary>>) -> Vec<Arc<Summary>> {
    let mut all: Vec<Arc<Summary>> = ended.collect();
    let ids: HashSet<SessionId> = all.iter().map(|summary| summary.id).collect();
    all.extend(live.into_iter().filter(|summary| !ids.contains(&summary.id)));
    all
}

/// The page: `stored` begins so late that `before` of those that belong before the page are not skipped yet.
fn merge(
    memory: Vec<Arc<Summary>>,
    stored: Vec<Sorted>,
    order: Order,
    before: usize,
    most: usize,
    stored_total: u64,
) -> Found {
    let total = stored_total + memory.len() as u64;
    let key = |summary: &Summary| (order.by.key(summary), summary.id.0);
    // Those of memory are described only where they are on the page.
    let in_memory = memory.into_iter().map(|summary| (key(&summary), Err(summary)));
    let stored = stored.into_iter().map(|Sorted { key, session }| (key, Ok(session)));
    let mut all: Vec<_> = in_memory.chain(stored).collect();
    all.sort_by(|a, b| order.compare(a.0, b.0));
    let page = all.into_iter().skip(before).take(most);
    let sessions = page.map(|(_, session)| session.unwrap_or_else(|summary| describe(&summary))).collect();
    Found { sessions, total }
}

fn overview(
    memory: &[Arc<Summary>],
    mut sums: Sums,
    users: Vec<(String, Sums)>,
    destinations: Vec<(String, Sums)>,
) -> Overview {
    let (mut users, mut destinations): (HashMap<_, _>, HashMap<_, _>) =
        (users.into_iter().collect(), destinations.into_iter().collect());
    let mut active = 0;
    for summary in memory {
        active += u64::from(summary.state == State::Active);
        sums.add(summary);
        if let Some(user) = summary.user.as_deref() {
            users.entry(bounded(user).to_owned()).or_default().add(summary);
        }
        if let Some(destination) = Destination::of(summary) {
            destinations.entry(destination.host.into_owned()).or_default().add(summary);
        }
    }
    let count = |number: i64| number.max(0).unsigned_abs();
    Overview {
        sessions: count(sums.sessions),
        active,
        closed: count(sums.closed),
        failed: count(sums.failed),
        rejected: count(sums.rejected),
        bytes_up: count(sums.bytes_up),
        bytes_down: count(sums.bytes_down),
        users: top(users),
        destinations: top(destinations),
    }
}

/// By bytes, and then those that are there for their many sessions.
fn top(names: HashMap<String, Sums>) -> Vec<Named> {
    let count = |number: i64| number.max(0).unsigned_abs();
    let mut named: Vec<Named> = names
        .into_iter()
        // The rest of an hour with very many names.
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, sums)| Named {
            name,
            sessions: count(sums.sessions),
            bytes_up: count(sums.bytes_up),
            bytes_down: count(sums.bytes_down),
        })
        .collect();
    named.sort_by(|a, b| b.sessions.cmp(&a.sessions).then_with(|| a.name.cmp(&b.name)));
    let busiest: HashSet<String> = named.iter().take(TOP).map(|named| named.name.clone()).collect();
    let bytes = |named: &Named| named.bytes_up.saturating_add(named.bytes_down);
    named.sort_by(|a, b| bytes(b).cmp(&bytes(a)).then_with(|| a.name.cmp(&b.name)));
    let (mut top, rest) = {
        let rest = named.split_off(named.len().min(TOP));
        (named, rest)
    };
    top.extend(rest.into_iter().filter(|named| busiest.contains(&named.name)));
    top
}
