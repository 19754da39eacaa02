//! What the writer does with an open database. Each of these is one transaction: it happens whole or not at all.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::{Connection, Statement, Transaction, TransactionBehavior, params};

use super::file::{self, Fault, Identity};
use super::record::{Destination, bounded, client_key, count, first_id, hour_of, id_bytes, ip_key, micros, span};
use super::rollup::{Rollup, add_to_counts};
use super::shelf::Finished;
use super::writer::CENSUS_AGE;
use crate::stats::summary::Summary;
use crate::types::{Blame, State};

/// What the records of sessions that a process left behind when it was killed have as their reason.
pub(super) const RESTART: &str = "server_restart";

const COLUMNS: &str = "id, listener, service, protocol, user, source, source_ip, peer, target, destination, \
    destination_ip, destination_port, backend, upstream, start_us, duration_us, connect_us, first_byte_us, bytes_up, \
    bytes_down, state, stage, blame, reason, acl_rule, sni, alpn, tls_version, tls_cipher, shard, generation, \
    datagrams_up, datagrams_down";
const VALUES: &str = "?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, \
    ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33";

#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    pub(super) path: PathBuf,
    /// Of each of its files. While it is open SQLite makes none of them anew.
    identities: [Option<Identity>; 3],
    rollup: Rollup,
    /// Tells this process's records from those of others.
    boot: i64,
}

impl Database {
    /// Opens it, and closes what a process that was killed has left open. Says how many sessions that were.
    pub(super) fn open(path: &Path, boot: i64) -> Result<(Self, u64), Fault> {
        let connection = file::open(path)?;
        let (path, identities) = (path.to_owned(), [None; 3]);
        let mut database = Self { connection, path, identities, rollup: Rollup::default(), boot };
        let stale = database.begin()?;
        // The other two are there once something was written.
        database.identities = file::all(&database.path).map(|path| Identity::of(&path).ok());
        Ok((database, stale))
    }

    fn begin(&mut self) -> rusqlite::Result<u64> {
        let boot = self.boot;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let last: i64 = transaction.query_row("SELECT boot FROM progress", [], |row| row.get(0))?;
        if last == boot {
            return Ok(0);
        }
        let stale = close_stale(&transaction)?;
        transaction.execute("UPDATE progress SET boot = ?1, number = 0", [boot])?;
        transaction.commit()?;
        Ok(stale)
    }

    /// The files that are not any more what was opened: what is written to them nobody finds.
    pub(super) fn missing(&self) -> Vec<PathBuf> {
        let files = file::all(&self.path).into_iter().zip(self.identities);
        let missing = files.filter(|(path, identity)| identity.is_some() && Identity::of(path).ok() != *identity);
        missing.map(|(path, _)| path).collect()
    }

    pub(super) fn check(&self) -> Result<(), Fault> {
        // By another connection: this one has pages in its cache that may be better than the file.
        file::check(&file::open_to_read(&self.path)?)
    }

    /// Writes a batch. One that was written already, though it did not seem so, is left alone.
    pub(super) fn write(&mut self, batch: &[Finished]) -> rusqlite::Result<()> {
        let Some(last) = batch.last() else { return Ok(()) };
        let result = write(&mut self.connection, &mut self.rollup, batch, last.number);
        if result.is_err() {
            self.rollup.forget();
        }
        result
    }

    /// Notes live sessions as they are now.
    pub(super) fn note_active(&mut self, live: &[Summary], round: i64) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut ended = transaction.prepare_cached("SELECT 1 FROM sessions WHERE id = ?1")?;
            let mut statement = transaction.prepare_cached(&format!(
                "INSERT OR REPLACE INTO active ({COLUMNS}, round) VALUES ({VALUES}, {round})"
            ))?;
            for summary in live {
                if !ended.exists([id_bytes(summary.id)])? {
                    insert(&mut statement, summary, Destination::of(summary).as_ref())?;
                }
            }
        }
        transaction.commit()
    }

    /// Forgets the live sessions that no later round than this has seen.
    pub(super) fn forget_active(&mut self, round: i64) -> rusqlite::Result<()> {
        self.connection.execute("DELETE FROM active WHERE round <= ?1", [round]).map(|_| ())
    }

    /// Deletes up to `most` of the sessions that began before a time; says how many.
    pub(super) fn expire(&mut self, before: SystemTime, most: usize) -> rusqlite::Result<usize> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut deleted = 0;
        let mut states = [0i64; State::ALL.len()];
        {
            let mut statement = transaction.prepare_cached(
                "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE id < ?1 ORDER BY id LIMIT ?2)
                 RETURNING state",
            )?;
            let mut rows = statement.query(params![id_bytes(first_id(before)), count(most as u64)])?;
            while let Some(row) = rows.next()? {
                deleted += 1;
                let state = row.get_ref(0)?.as_str().unwrap_or_default();
                if let Some(index) = State::ALL.iter().position(|known| known.label() == state) {
                    states[index] += 1;
                }
            }
        }
        for (state, deleted) in State::ALL.iter().zip(states) {
            add_to_counts(&transaction, state.label(), -deleted)?;
        }
        for table in ["hours", "hours_user", "hours_destination"] {
            let sql = format!("DELETE FROM {table} WHERE hour < ?1");
            transaction.prepare_cached(&sql)?.execute([hour_of(before)])?;
        }
        transaction.commit()?;
        Ok(deleted)
    }

    /// Puts everything into the one file, and ends.
    pub(super) fn close(self) {
        let _ = self.connection.execute_batch("PRAGMA optimize;");
        let _ = self.connection.close();
    }
}

fn write(connection: &mut Connection, rollup: &mut Rollup, batch: &[Finished], last: u64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let done: i64 = transaction.prepare_cached("SELECT number FROM progress")?.query_row([], |row| row.get(0))?;
        let new = batch.iter().filter(|finished| count(finished.number) > done);
        let mut batch: Vec<(&Summary, Option<Destination<'_>>)> =
            new.map(|finished| (&*finished.summary, Destination::of(&finished.summary))).collect();
        // The table's order: what is next to each other there is written one after the other.
        batch.sort_unstable_by_key(|(summary, _)| summary.id);
        let mut sessions =
            transaction.prepare_cached(&format!("INSERT OR IGNORE INTO sessions ({COLUMNS}) VALUES ({VALUES})"))?;
        let mut active = transaction.prepare_cached("DELETE FROM active WHERE id = ?1")?;
        for (summary, destination) in &batch {
            insert(&mut sessions, summary, destination.as_ref())?;
            // A census sees none that is younger.
            if summary.duration >= CENSUS_AGE {
                active.execute([id_bytes(summary.id)])?;
            }
        }
        rollup.add(&transaction, &batch)?;
        transaction.prepare_cached("UPDATE progress SET number = ?1")?.execute([count(last)])?;
    }
    transaction.commit()
}

fn insert(
    statement: &mut Statement<'_>,
    summary: &Summary,
    destination: Option<&Destination<'_>>,
) -> rusqlite::Result<()> {
    let (tls, backend, datagrams) = (summary.tls.as_deref(), summary.backend.as_deref(), summary.datagrams());
    statement.execute(params![
        id_bytes(summary.id),
        bounded(&summary.listener),
        summary.service.label(),
        summary.protocol.label(),
        summary.user.as_deref().map(bounded),
        summary.source.to_string(),
        client_key(summary.source),
        (summary.source != summary.client).then(|| summary.client.to_string()),
        summary.target.as_deref().map(bounded),
        destination.map(|destination| bounded(&destination.host)),
        destination.and_then(|destination| destination.ip).map(ip_key),
        destination.and_then(|destination| destination.port),
        summary.address().map(ToString::to_string),
        backend.map(|backend| &*backend.upstream),
        micros(summary.start),
        span(summary.duration),
        summary.connect.map(span),
        summary.first_byte.map(span),
        count(summary.bytes_up),
        count(summary.bytes_down),
        summary.state.label(),
        summary.stage.label(),
        summary.blame.map(|blame| blame.label()),
        summary.reason.map(|reason| reason.label()),
        summary.rule.as_deref().map(bounded),
        tls.and_then(|tls| tls.sni.as_deref()).map(bounded),
        tls.and_then(|tls| tls.alpn.as_deref()).map(bounded),
        tls.and_then(|tls| tls.version),
        tls.and_then(|tls| tls.cipher),
        summary.shard.0,
        count(summary.generation.0),
        datagrams.map(|[up, _]| count(up)),
        datagrams.map(|[_, down]| count(down)),
    ])?;
    Ok(())
}

/// The live sessions of a process that was killed have ended with it, after what was last seen of them.
fn close_stale(transaction: &Transaction<'_>) -> rusqlite::Result<u64> {
    let (state, blame) = (State::Failed.label(), Blame::Proxy.label());
    transaction.execute("UPDATE active SET state = ?1, blame = ?2, reason = ?3", params![state, blame, RESTART])?;
    let sql = format!("INSERT OR IGNORE INTO sessions ({COLUMNS}) SELECT {COLUMNS} FROM active");
    let stale = transaction.execute(&sql, [])?;
    add_to_counts(transaction, state, count(stale as u64))?;
    // By the hour in which each was last seen.
    transaction.execute_batch(
        "INSERT INTO hours SELECT (start_us + duration_us) / 3600000000 AS at, count(*), 0, count(*), 0, sum(bytes_up),
             sum(bytes_down) FROM active WHERE true GROUP BY at
             ON CONFLICT (hour) DO UPDATE SET sessions = sessions + excluded.sessions, failed = failed + excluded.failed,
             bytes_up = bytes_up + excluded.bytes_up, bytes_down = bytes_down + excluded.bytes_down;
         INSERT INTO hours_user SELECT (start_us + duration_us) / 3600000000 AS at, user, count(*), sum(bytes_up),
             sum(bytes_down) FROM active WHERE user IS NOT NULL GROUP BY at, user
             ON CONFLICT (hour, name) DO UPDATE SET sessions = sessions + excluded.sessions,
             bytes_up = bytes_up + excluded.bytes_up, bytes_down = bytes_down + excluded.bytes_down;
         INSERT INTO hours_destination SELECT (start_us + duration_us) / 3600000000 AS at, destination, count(*),
             sum(bytes_up), sum(bytes_down) FROM active WHERE destination IS NOT NULL GROUP BY at, destination
             ON CONFLICT (hour, name) DO UPDATE SET sessions = sessions + excluded.sessions,
             bytes_up = bytes_up + excluded.bytes_up, bytes_down = bytes_down + excluded.bytes_down;
         DELETE FROM active;",
    )?;
    Ok(stale as u64)
}
