//! Sums by hour, kept along with the records, so that nobody has to look through a million of them.

use std::collections::{HashMap, HashSet};

use rusqlite::{Transaction, params};

use super::record::{Destination, bounded, count, hour};
use crate::stats::summary::Summary;
use crate::types::State;

/// Names of one hour that are counted apart, each for users and destinations; the rest count together, under no name.
/// It bounds what a scan of many destinations adds, and what a question about two days has to sum up.
pub(super) const NAMES: usize = 2000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    User,
    Destination,
}

impl Kind {
    pub(super) const fn table(self) -> &'static str {
        match self {
            Self::User => "hours_user",
            Self::Destination => "hours_destination",
        }
    }
}

/// Sums over some sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) sessions: i64,
    pub(super) closed: i64,
    pub(super) failed: i64,
    pub(super) rejected: i64,
    pub(super) bytes_up: i64,
    pub(super) bytes_down: i64,
}

impl Sums {
    pub(super) fn add(&mut self, summary: &Summary) {
        self.sessions += 1;
        match summary.state {
            State::Active => {}
            State::Closed => self.closed += 1,
            State::Failed => self.failed += 1,
            State::Rejected => self.rejected += 1,
        }
        self.bytes_up = self.bytes_up.saturating_add(count(summary.bytes_up));
        self.bytes_down = self.bytes_down.saturating_add(count(summary.bytes_down));
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.closed += other.closed;
        self.failed += other.failed;
        self.rejected += other.rejected;
        self.bytes_up = self.bytes_up.saturating_add(other.bytes_up);
        self.bytes_down = self.bytes_down.saturating_add(other.bytes_down);
    }
}

/// Which names an hour has in the database.
#[derive(Debug, Default)]
pub(super) struct Rollup {
    known: HashMap<(i64, Kind), HashSet<String>>,
}

/// What a batch adds.
#[derive(Debug, Default)]
struct Added {
    hours: HashMap<i64, Sums>,
    names: HashMap<(i64, Kind), HashMap<String, Sums>>,
}

impl Rollup {
    /// Adds a batch within its transaction. When that fails, what is known must be forgotten: [`Rollup::forget`].
    pub(super) fn add(
        &mut self,
        transaction: &Transaction<'_>,
        batch: &[(&Summary, Option<Destination<'_>>)],
    ) -> rusqlite::Result<()> {
        let mut added = Added::default();
        for (summary, destination) in batch {
            let hour = hour(summary);
            added.hours.entry(hour).or_default().add(summary);
            if let Some(user) = summary.user.as_deref() {
                self.name(transaction, &mut added, (hour, Kind::User), bounded(user), summary)?;
            }
            if let Some(destination) = destination {
                let host = bounded(&destination.host);
                self.name(transaction, &mut added, (hour, Kind::Destination), host, summary)?;
            }
        }
        let mut hours = transaction.prepare_cached(
            "INSERT INTO hours VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (hour) DO UPDATE SET
             sessions = sessions + ?2, closed = closed + ?3, failed = failed + ?4, rejected = rejected + ?5,
             bytes_up = bytes_up + ?6, bytes_down = bytes_down + ?7",
        )?;
        let mut all = Sums::default();
        for (hour, sums) in &added.hours {
            let Sums { sessions, closed, failed, rejected, bytes_up, bytes_down } = sums;
            hours.execute(params![hour, sessions, closed, failed, rejected, bytes_up, bytes_down])?;
            all.merge(sums);
        }
        for ((hour, kind), names) in &added.names {
            let mut statement = transaction.prepare_cached(&format!(
                "INSERT INTO {} VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (hour, name) DO UPDATE SET
                 sessions = sessions + ?3, bytes_up = bytes_up + ?4, bytes_down = bytes_down + ?5",
                kind.table()
            ))?;
            for (name, sums) in names {
                statement.execute(params![hour, name, sums.sessions, sums.bytes_up, sums.bytes_down])?;
            }
        }
        for (state, sessions) in
            [(State::Closed, all.closed), (State::Failed, all.failed), (State::Rejected, all.rejected)]
        {
            add_to_counts(transaction, state.label(), sessions)?;
        }
        Ok(())
    }

    fn name(
        &mut self,
        transaction: &Transaction<'_>,
        added: &mut Added,
        (hour, kind): (i64, Kind),
        name: &str,
        summary: &Summary,
    ) -> rusqlite::Result<()> {
        if self.known.len() > 16 {
            // Hours that are over; a late record loads them again.
            self.known.clear();
        }
        let known = match self.known.entry((hour, kind)) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(unknown) => {
                let sql = format!("SELECT name FROM {} WHERE hour = ?1", kind.table());
                let mut statement = transaction.prepare_cached(&sql)?;
                let names = statement.query_map([hour], |row| row.get(0))?;
                unknown.insert(names.collect::<rusqlite::Result<_>>()?)
            }
        };
        let name = match known.contains(name) {
            true => name,
            false if known.len() < NAMES => {
                known.insert(name.to_owned());
                name
            }
            false => "",
        };
        let names = added.names.entry((hour, kind)).or_default();
        match names.get_mut(name) {
            Some(sums) => sums.add(summary),
            None => names.entry(name.to_owned()).or_default().add(summary),
        }
        Ok(())
    }

    pub(super) fn forget(&mut self) {
        self.known.clear();
    }
}

pub(super) fn add_to_counts(transaction: &Transaction<'_>, state: &str, sessions: i64) -> rusqlite::Result<()> {
    if sessions == 0 {
        return Ok(());
    }
    let mut counts = transaction.prepare_cached(
        "INSERT INTO counts VALUES (?1, ?2) ON CONFLICT (state) DO UPDATE SET sessions = sessions + ?2",
    )?;
    counts.execute(params![state, sessions]).map(|_| ())
}
