//! Questions to the database. Each has a connection of its own, which is interrupted when it takes too long.

use std::time::{Duration, SystemTime};

use rusqlite::types::{FromSql, Value};
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::filter::{Filter, Order};
use super::record::{id_bytes, time_of};
use super::rollup::{Kind, Sums};
use crate::control::admin::sessions::{Session, millis, rfc3339};
use crate::types::SessionId;

/// A session with what it is sorted by.
#[derive(Debug)]
pub(super) struct Sorted {
    pub(super) key: (i64, u128),
    pub(super) session: Session,
}

/// Up to which record of this process the database has come. One that it cannot write to speaks of another.
pub(super) fn progress(connection: &Connection, boot: i64) -> rusqlite::Result<u64> {
    let number = connection.query_row("SELECT number FROM progress WHERE boot = ?1", [boot], |row| row.get(0));
    number.optional().map(Option::unwrap_or_default)
}

pub(super) fn total(connection: &Connection, filter: &Filter) -> rusqlite::Result<u64> {
    if filter.is_by_state() {
        let state = filter.state.map(|state| state.label());
        let sql = "SELECT coalesce(sum(sessions), 0) FROM counts WHERE ?1 IS NULL OR state = ?1";
        return connection.query_row(sql, [state], |row| row.get(0));
    }
    let (condition, values) = filter.sql();
    let sql = format!("SELECT count(*) FROM sessions WHERE {condition}");
    connection.query_row(&sql, params_from_iter(values), |row| row.get(0))
}

pub(super) fn page(
    connection: &Connection,
    filter: &Filter,
    order: Order,
    skip: usize,
    most: usize,
) -> rusqlite::Result<Vec<Sorted>> {
    let (condition, mut values) = filter.sql();
    let (key, order) = (order.by.sql(), order.sql());
    let sql = format!("SELECT *, {key} AS sort_key FROM sessions WHERE {condition} ORDER BY {order} LIMIT ? OFFSET ?");
    let number = |number: usize| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    values.extend([number(most), number(skip)]);
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map(params_from_iter(values), |row| {
        Ok(Sorted { key: (row.get("sort_key")?, id(row)?), session: session(row)? })
    })?;
    rows.collect()
}

/// Which of these sessions have ended.
pub(super) fn ended(connection: &Connection, ids: impl Iterator<Item = SessionId>) -> rusqlite::Result<Vec<SessionId>> {
    let mut statement = connection.prepare("SELECT 1 FROM sessions WHERE id = ?1")?;
    let mut ended = Vec::new();
    for id in ids {
        if statement.exists([id_bytes(id)])? {
            ended.push(id);
        }
    }
    Ok(ended)
}

pub(super) fn find(connection: &Connection, id: SessionId) -> rusqlite::Result<Option<Session>> {
    connection.query_row("SELECT * FROM sessions WHERE id = ?1", [id_bytes(id)], session).optional()
}

/// The sums from an hour on.
pub(super) fn sums(connection: &Connection, from: i64) -> rusqlite::Result<Sums> {
    let sum = |column: &str| format!("coalesce(sum({column}), 0)");
    let columns = ["sessions", "closed", "failed", "rejected", "bytes_up", "bytes_down"].map(sum).join(", ");
    connection.query_row(&format!("SELECT {columns} FROM hours WHERE hour >= ?1"), [from], |row| {
        Ok(Sums {
            sessions: row.get(0)?,
            closed: row.get(1)?,
            failed: row.get(2)?,
            rejected: row.get(3)?,
            bytes_up: row.get(4)?,
            bytes_down: row.get(5)?,
        })
    })
}

/// The names with the most sessions or the most bytes from an hour on: `most` of each.
pub(super) fn top(
    connection: &Connection,
    kind: Kind,
    from: i64,
    most: usize,
) -> rusqlite::Result<Vec<(String, Sums)>> {
    let sql = format!(
        "WITH names AS (SELECT name, sum(sessions) AS sessions, sum(bytes_up) AS up, sum(bytes_down) AS down
             FROM {} WHERE hour >= ?1 GROUP BY name)
         SELECT * FROM (SELECT * FROM names ORDER BY up + down DESC, name LIMIT ?2)
         UNION SELECT * FROM (SELECT * FROM names ORDER BY sessions DESC, name LIMIT ?2)",
        kind.table()
    );
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map(params![from, most as i64], |row| {
        let (sessions, bytes_up, bytes_down) = (row.get(1)?, row.get(2)?, row.get(3)?);
        Ok((row.get(0)?, Sums { sessions, bytes_up, bytes_down, ..Sums::default() }))
    })?;
    rows.collect()
}

fn id(row: &Row<'_>) -> rusqlite::Result<u128> {
    row.get("id").map(u128::from_be_bytes)
}

/// A column that a database does not have which could not be brought up to date: on a read-only disk, say.
fn newer<T: FromSql>(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>> {
    match row.get(column) {
        Err(rusqlite::Error::InvalidColumnName(_)) => Ok(None),
        other => other,
    }
}

fn session(row: &Row<'_>) -> rusqlite::Result<Session> {
    let time = |micros: i64| -> SystemTime { time_of(micros) };
    let span = |micros: i64| Duration::from_micros(micros.unsigned_abs());
    let ms = |column: &str| row.get::<_, Option<i64>>(column).map(|micros| micros.map(|micros| millis(span(micros))));
    let (start, duration): (i64, i64) = (row.get("start_us")?, row.get("duration_us")?);
    Ok(Session {
        id: SessionId(id(row)?).to_string(),
        listener: row.get("listener")?,
        service: row.get("service")?,
        user: row.get("user")?,
        source: row.get("source")?,
        peer: row.get("peer")?,
        target: row.get("target")?,
        backend: row.get("backend")?,
        upstream: row.get("upstream")?,
        protocol: row.get("protocol")?,
        start: rfc3339(time(start)),
        end: Some(rfc3339(time(start.saturating_add(duration)))),
        duration_ms: span(duration).as_millis() as u64,
        connect_ms: ms("connect_us")?,
        first_byte_ms: ms("first_byte_us")?,
        bytes_up: row.get("bytes_up")?,
        bytes_down: row.get("bytes_down")?,
        datagrams_up: newer(row, "datagrams_up")?,
        datagrams_down: newer(row, "datagrams_down")?,
        state: row.get("state")?,
        stage: row.get("stage")?,
        blame: row.get("blame")?,
        reason: row.get("reason")?,
        acl_rule: row.get("acl_rule")?,
        sni: row.get("sni")?,
        alpn: row.get("alpn")?,
        tls_version: row.get("tls_version")?,
        tls_cipher: row.get("tls_cipher")?,
        shard: row.get("shard")?,
        generation: row.get("generation")?,
        verdict: None,
        tcp: None,
        held: None,
        association: None,
    })
}
