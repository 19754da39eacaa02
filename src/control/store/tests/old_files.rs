//! Databases of versions of arus before this one.

use super::*;

/// As version 1 made it, with two sessions that had ended and one that lived when the process was killed.
fn first_version(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(include_str!("../schema.sql")).unwrap();
    let insert = |table: &str, n: u8, more: &str| {
        let sql = format!(
            "INSERT INTO {table} VALUES (x'0000000003e80000000000000000000{n}', 'socks', 'socks5', 'udp', 'alice', \
             '192.0.2.1:7', x'00000000000000000000ffffc0000201', NULL, 'host.example:53', 'host.example', NULL, 53, \
             NULL, NULL, 1000000, 5000000, NULL, NULL, {n}, 20, 'closed', 'relay', NULL, 'done', NULL, NULL, NULL, \
             NULL, NULL, 1, 1{more})"
        );
        connection.execute_batch(&sql).unwrap();
    };
    insert("sessions", 1, "");
    insert("sessions", 2, "");
    insert("active", 3, ", 7");
    connection
        .execute_batch(
            "INSERT INTO counts VALUES ('closed', 2); UPDATE progress SET boot = 5, number = 2;
             PRAGMA application_id = 1634891123; PRAGMA user_version = 1; PRAGMA journal_mode = WAL;",
        )
        .unwrap();
}

#[test]
fn a_database_of_the_first_version_is_brought_up_to_date() {
    let stage = Desk::prepared(first_version);
    assert_eq!(stage.said(), ["1 sessions of a process that was killed were closed in the database"]);
    assert_eq!(stage.aside(), 0, "it is good");
    // A datagram count that nobody knows, then two that somebody does.
    let association = Summary { duration: Duration::from_secs(9), ..session(11) };
    stage.put([association.clone()]);
    stage.wait_written(1);
    let order = Order { is_descending: false, ..NEWEST };
    let found = stage.list(Vec::new(), Filter::default(), order, 0, 9);
    let counts: Vec<_> =
        found.sessions.iter().map(|session| (session.bytes_up, session.datagrams_up, session.datagrams_down)).collect();
    assert_eq!(counts, [(1, None, None), (2, None, None), (3, None, None), (association.bytes_up, Some(11), Some(0))]);
    assert_eq!(found.sessions[2].reason.as_deref(), Some("server_restart"));
    // One that lives is noted with its counts, and keeps them when the process is killed.
    let Desk { path, store, directory, .. } = stage;
    store.finish(Duration::from_secs(60));
    let (mut database, _) = database::Database::open(&path, 6).unwrap();
    database.note_active(&[Summary { id: SessionId(5 << 90), ..live(19) }], 1).unwrap();
    database.close();
    let (database, stale) = database::Database::open(&path, 7).unwrap();
    assert_eq!(stale, 1);
    let connection = file::open_to_read(&path).unwrap();
    let closed = query::find(&connection, SessionId(5 << 90)).unwrap().unwrap();
    assert_eq!((closed.datagrams_up, closed.datagrams_down, closed.state.as_str()), (Some(6), Some(8), "failed"));
    drop((database, directory));
}

#[test]
fn one_that_cannot_be_brought_up_to_date_is_read_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions.db");
    first_version(&path);
    let connection = file::open_to_read(&path).unwrap();
    let found = query::page(&connection, &Filter::default(), NEWEST, 0, 9).unwrap();
    assert_eq!((found.len(), found[0].session.datagrams_up), (2, None));
}
