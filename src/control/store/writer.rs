//! The writer thread: the one that writes to the database, in batches. Whatever the disk does, it holds up nobody: what
//! cannot be written waits, bounded, is tried again, and is counted once it has to be dropped.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::database::Database;
use super::file::{self, Fault};
use super::mapping::Here;
use super::shelf::{Finished, Shelf, Work};
use super::{Condition, Shared};
use crate::config::plan::Store;
use crate::control::events::{Category, Events, Severity};
use crate::shard::command::{Command, Mailbox, Reply};
use crate::stats::summary::Summary;
use crate::types::SessionId;

/// The writer looks round so often when nothing comes.
const ROUND: Duration = Duration::from_secs(1);
/// Between two attempts at a database that cannot be written.
const RETRY: Duration = Duration::from_secs(1);
/// Live sessions are asked for so often.
const CENSUS: Duration = Duration::from_secs(5);
/// Those that are younger are not noted, so that a short one costs one row.
pub(super) const CENSUS_AGE: Duration = Duration::from_secs(5);
/// Every so many censuses, those that were noted before are noted again, with their bytes.
const REFRESH: i64 = 12;
/// Sessions that a shard tells at once: some tens of microseconds of its time.
const PORTION: usize = 512;
/// A shard that does not answer in this time is asked again the next time.
const ANSWER: Duration = Duration::from_millis(200);
/// Rows that retention deletes in one step, and steps of one round while there is time.
const STEP: usize = 500;
const STEPS: usize = 20;
/// A clock that differs from before by more than this has been set, and what it says of the age of records is not acted
/// upon before it has said so for as long.
const JUMP: Duration = Duration::from_secs(3600);

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) events: Events,
    pub(super) shards: Vec<Mailbox>,
    /// Told once the first database is open, or is found not to open.
    pub(super) begun: Option<SyncSender<()>>,
    pub(super) database: Option<Database>,
    pub(super) census: Census,
    pub(super) clock: SteadyClock,
    /// Records that were dropped when trouble was last spoken of.
    pub(super) dropped: u64,
}

/// Which live sessions are noted.
#[derive(Debug)]
pub(super) struct Census {
    due: Instant,
    round: i64,
    noted: HashSet<SessionId>,
    is_whole: bool,
}

impl Census {
    pub(super) fn new() -> Self {
        Self { due: Instant::now() + CENSUS, round: 0, noted: HashSet::new(), is_whole: true }
    }
}

impl Writer {
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let (shelf, _here) = (&shared.shelf, Here::enter(&shared.was_cut));
        let mut due = Instant::now();
        loop {
            let terms = shelf.terms();
            let Store::Sqlite(path) = terms.store else {
                self.leave();
                self.shared.set_condition(Condition::NotUsed);
                self.begun = None;
                if shelf.is_closed() {
                    return;
                }
                shelf.pause(ROUND);
                continue;
            };
            if self.database.as_ref().is_some_and(|database| database.path != path) {
                self.leave();
            }
            if self.database.is_none() && !self.enter(&path) {
                if shelf.is_closed() {
                    return shelf.give_up();
                }
                shelf.pause(RETRY);
                continue;
            }
            match shelf.take(due) {
                Work::Batch(batch) => {
                    if !self.write(&batch, shelf) {
                        if shelf.is_closed() {
                            return shelf.give_up();
                        }
                        shelf.pause(RETRY);
                    }
                }
                Work::Closed => return self.leave(),
                Work::Time => {}
            }
            if Instant::now() >= due {
                due = Instant::now() + ROUND;
                self.look_round(terms.retention);
            }
        }
    }

    /// Opens the database; says whether it is open.
    fn enter(&mut self, path: &Path) -> bool {
        let opened = match Database::open(path, self.shared.boot) {
            Err(Fault::Content(why)) => self.begin_anew(path, &why),
            other => other,
        };
        let is_open = match opened {
            Ok((database, stale)) => {
                if stale > 0 {
                    let message = format!("{stale} sessions of a process that was killed were closed in the database");
                    self.events.say(Severity::Warning, Category::Store, message, json!({ "sessions": stale }));
                    tracing::warn!(
                        sessions = stale,
                        "a process that was killed has left sessions open in the database; they were closed"
                    );
                }
                self.database = Some(database);
                self.census = Census::new();
                self.well();
                true
            }
            Err(fault) => {
                self.trouble(path, &fault.to_string());
                false
            }
        };
        self.begun = None;
        is_open
    }

    /// Moves a database aside that is no use, and begins another.
    fn begin_anew(&mut self, path: &Path, why: &str) -> Result<(Database, u64), Fault> {
        self.database = None;
        let aside =
            file::move_aside(path).map_err(|error| Fault::Medium(format!("{why}; it cannot be moved: {error}")))?;
        let aside = aside.display().to_string();
        tracing::error!(path = %path.display(), why, aside, "the session database cannot be used; a new one was begun");
        let details = json!({ "path": path, "aside": aside, "error": why });
        self.events.say(
            Severity::Error,
            Category::Store,
            "the session database cannot be used; a new one was begun",
            details,
        );
        Database::open(path, self.shared.boot)
    }

    fn leave(&mut self) {
        if let Some(database) = self.database.take() {
            database.close();
        }
    }

    /// Writes a batch; says whether it is done with.
    fn write(&mut self, batch: &[Finished], shelf: &Shelf) -> bool {
        self.shared.wait_while_held();
        let done = self.attempt(|database| database.write(batch));
        if done && let Some(last) = batch.last() {
            shelf.written(last.number);
            self.shared.count_written(batch.len() as u64);
            self.well();
        }
        done
    }

    /// Does something to the database, and looks after it when that fails.
    fn attempt(&mut self, work: impl FnOnce(&mut Database) -> rusqlite::Result<()>) -> bool {
        let Some(database) = &mut self.database else { return false };
        let Err(error) = work(database) else { return true };
        let path = database.path.clone();
        if file::is_content(&error) {
            match self.begin_anew(&path, &error.to_string()) {
                Ok((database, _)) => self.database = Some(database),
                Err(fault) => self.trouble(&path, &fault.to_string()),
            }
        } else {
            self.trouble(&path, &error.to_string());
        }
        false
    }

    /// What is done once in a while.
    fn look_round(&mut self, retention: Duration) {
        let Some(database) = &self.database else { return };
        let was_cut = self.shared.was_cut.swap(false, Ordering::Relaxed);
        let missing = database.missing().into_iter().next();
        if let Some(path) = missing.or_else(|| was_cut.then(|| file::all(&database.path)[2].clone())) {
            let message = match path == database.path {
                true => "the session database was moved or removed; a new one is begun",
                false => "a file of the session database was moved, removed or cut; it is opened again",
            };
            tracing::warn!(path = %path.display(), "{message}");
            self.events.say(Severity::Warning, Category::Store, message, json!({ "path": path }));
            // What only the removed file had comes into the database by its end.
            self.database = None;
            return;
        }
        if self.shared.take_suspicion()
            && let Err(fault) = database.check()
        {
            let path = database.path.clone();
            match fault {
                Fault::Content(why) => self.database = self.begin_anew(&path, &why).ok().map(|(database, _)| database),
                Fault::Medium(why) => self.trouble(&path, &why),
            }
            return;
        }
        if Instant::now() >= self.census.due {
            self.take_census();
        }
        if let Some(now) = self.clock.now(SystemTime::now(), Instant::now())
            && let Some(before) = now.checked_sub(retention)
        {
            for _ in 0..STEPS {
                let mut deleted = 0;
                let is_done = self.attempt(|database| database.expire(before, STEP).map(|rows| deleted = rows));
                // Records come first.
                if !is_done || deleted < STEP || self.shared.shelf.waiting() > STEP {
                    break;
                }
            }
        }
    }

    fn take_census(&mut self) {
        self.census.due = Instant::now() + CENSUS;
        self.census.round += 1;
        let round = self.census.round;
        let refreshes = round % REFRESH == 0;
        self.census.is_whole = true;
        let mut noted = HashSet::new();
        for shard in self.shards.clone() {
            let mut from = 0;
            loop {
                let (reply, answer) = Reply::channel();
                let asked = shard.send(Command::SomeSessions { from, most: PORTION, age: CENSUS_AGE, reply });
                let Some((live, next)) = asked.ok().and_then(|()| answer.recv_timeout(ANSWER).ok()) else {
                    self.census.is_whole = false;
                    break;
                };
                noted.extend(live.iter().map(|summary| summary.id));
                let is_due = |summary: &Summary| refreshes || !self.census.noted.contains(&summary.id);
                let live: Vec<Summary> = live.into_iter().filter(is_due).collect();
                if !live.is_empty() && !self.attempt(|database| database.note_active(&live, round)) {
                    return;
                }
                match next {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
        if !self.census.is_whole {
            noted.extend(self.census.noted.drain());
        } else if refreshes {
            self.attempt(|database| database.forget_active(round - 1));
        }
        self.census.noted = noted;
    }

    fn trouble(&mut self, path: &Path, error: &str) {
        if self.shared.set_condition(Condition::Trouble(error.to_owned())) {
            tracing::error!(path = %path.display(), error, "sessions cannot be written to the database; arus goes on without, and tries again");
            let message = "sessions cannot be written to the database";
            self.events.say(Severity::Error, Category::Store, message, json!({ "path": path, "error": error }));
        }
    }

    fn well(&mut self) {
        let dropped = self.shared.shelf.dropped();
        let was_well = !self.shared.set_condition(Condition::Well);
        if was_well && dropped == self.dropped {
            return;
        }
        let lost = dropped - std::mem::replace(&mut self.dropped, dropped);
        if !self.shared.has_begun() {
            return;
        }
        tracing::info!(lost, "sessions are written to the database again");
        let message = "sessions are written to the database again";
        let severity = if lost > 0 { Severity::Warning } else { Severity::Info };
        self.events.say(severity, Category::Store, message, json!({ "dropped": lost }));
    }
}

/// Wall time for judging age, which takes a jump of the clock up only when it lasts.
#[derive(Debug, Default)]
pub(super) struct SteadyClock {
    /// What the clock said at a moment.
    base: Option<(SystemTime, Instant)>,
    differs_since: Option<Instant>,
}

impl SteadyClock {
    /// `None`: nobody knows at the moment.
    fn now(&mut self, wall: SystemTime, at: Instant) -> Option<SystemTime> {
        let (then, since) = *self.base.get_or_insert((wall, at));
        let expected = then + at.saturating_duration_since(since);
        let off = wall.duration_since(expected).unwrap_or_else(|error| error.duration());
        if off < JUMP {
            self.differs_since = None;
            // Small corrections are followed at once.
            self.base = Some((wall, at));
            return Some(wall);
        }
        let differs_since = *self.differs_since.get_or_insert(at);
        if at.saturating_duration_since(differs_since) < JUMP {
            return None;
        }
        (self.base, self.differs_since) = (Some((wall, at)), None);
        Some(wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_is_believed_only_later() {
        let (begin, wall) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let year = Duration::from_secs(365 * 24 * 3600);
        let mut clock = SteadyClock::default();
        let second = Duration::from_secs(1);
        assert_eq!(clock.now(wall, at(0)), Some(wall));
        assert_eq!(clock.now(wall + second, at(1)), Some(wall + second));
        assert_eq!(clock.now(wall + year, at(2)), None, "a year ahead: nothing may be deleted for it");
        assert_eq!(clock.now(wall + 3 * second, at(3)), Some(wall + 3 * second), "it was set back");
        assert_eq!(clock.now(wall + year, at(4)), None);
        assert_eq!(clock.now(wall + year + 3600 * second, at(3604)), Some(wall + year + 3600 * second));
        assert_eq!(clock.now(wall, at(3605)), None, "nor one that goes back");
    }
}
