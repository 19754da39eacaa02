//! The store with real databases: exact answers, and every kind of bad disk.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use rusqlite::Connection;

use super::*;
use crate::config::plan::Telemetry;
use crate::control::events::Category;
use crate::limits;
use crate::shard::command::{Command, Inbox};
use crate::types::{self, Blame, Client, Generation, Protocol, Reason, Service, SessionId, ShardId, Stage};

mod bad_disks;
mod old_files;

const START_MS: u64 = 1_000;
const NEWEST: Order = Order { by: Sort::Start, is_descending: true };

fn terms(path: &Path) -> Sessions {
    Sessions {
        store: Kind::Sqlite(path.to_owned()),
        batch_size: 100,
        batch_interval: Duration::from_millis(10),
        // The sessions here are of 1970.
        retention: Duration::from_secs(3600 * 24 * 365 * 200),
        recent: 50,
    }
}

fn events() -> Events {
    Events::new(Telemetry { max_events: 100, retention: Duration::from_secs(3600) })
}

struct Desk {
    directory: tempfile::TempDir,
    path: PathBuf,
    events: Events,
    store: Store,
    runtime: tokio::runtime::Runtime,
}

impl Desk {
    fn new() -> Self {
        Self::prepared(|_| {})
    }

    fn prepared(prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sessions.db");
        prepare(&path);
        let events = events();
        let store = Store::start(&terms(&path), events.clone(), Vec::new()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { directory, path, events, store, runtime }
    }

    fn list(&self, live: Vec<Summary>, filter: Filter, order: Order, skip: usize, most: usize) -> Found {
        self.runtime.block_on(self.store.list(live, filter, order, skip, most)).unwrap()
    }

    fn total(&self, filter: Filter) -> u64 {
        self.list(Vec::new(), filter, NEWEST, 0, 1).total
    }

    fn put(&self, summaries: impl IntoIterator<Item = Summary>) {
        self.store.put(summaries.into_iter().map(Arc::new));
    }

    fn wait_written(&self, written: u64) {
        until("records are written", || self.store.state().written >= written);
    }

    /// Messages about the store, newest first.
    fn said(&self) -> Vec<String> {
        let said = self.events.newest(100, |event| event.category == Category::Store);
        said.into_iter().map(|event| event.message).collect()
    }

    fn aside(&self) -> usize {
        let names = fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().contains("db.corrupt.")).count()
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The nth of many different sessions; starts are a second apart.
fn session(n: u64) -> Summary {
    let state = match n % 7 {
        0 => types::State::Failed,
        1 => types::State::Rejected,
        _ => types::State::Closed,
    };
    let source: SocketAddr = match n % 3 {
        0 => format!("10.0.{}.{}:{}", n % 5, n % 250, 1000 + n % 60_000).parse().unwrap(),
        1 => format!("[2001:db8::{:x}]:{}", n % 99, 1000 + n % 60_000).parse().unwrap(),
        _ => format!("192.0.2.{}:77", n % 9).parse().unwrap(),
    };
    let target = match n % 4 {
        0 => None,
        1 => Some(format!("host{}.example.com:443", n % 6)),
        2 => Some(format!("198.51.100.{}:80", n % 8)),
        _ => Some(format!("Other{}.Example.NET.:8080", n % 3)),
    };
    Summary {
        id: SessionId(u128::from(START_MS + 1000 * n) << 80 | 0x7000 << 64 | u128::from(n)),
        shard: ShardId((n % 2) as u16),
        generation: Generation(1),
        listener: if n.is_multiple_of(2) { "web".into() } else { "socks".into() },
        client: Client::Ip(source),
        remote: (n % 6 == 5).then(|| format!("203.0.113.{}:443", n % 200).parse().unwrap()),
        source: if n.is_multiple_of(11) { Client::Unix } else { Client::Ip(source) },
        service: Service::Socks5,
        protocol: if n % 8 == 3 { Protocol::Udp } else { Protocol::Tcp },
        user: (!n.is_multiple_of(5)).then(|| format!("user{}", n % 5).into()),
        target: target.map(Into::into),
        rule: None,
        tls: None,
        backend: None,
        start: SystemTime::UNIX_EPOCH + Duration::from_millis(START_MS + 1000 * n),
        duration: Duration::from_millis(n * 7919 % 1000),
        connect: Some(Duration::from_micros(250)),
        first_byte: None,
        bytes_up: n * 31 % 1009,
        bytes_down: n * 17 % 2003,
        datagrams_up: if n % 8 == 3 { n % 13 } else { 0 },
        datagrams_down: if n % 8 == 3 { n % 11 } else { 0 },
        state,
        stage: Stage::Relay,
        blame: (state != types::State::Closed).then_some(Blame::Client),
        reason: Some(Reason::Reset),
    }
}

fn live(n: u64) -> Summary {
    Summary { state: types::State::Active, reason: None, blame: None, ..session(n) }
}

/// Every filter and order, over live ones, ones that wait and ones in the database, against the plain reading.
#[test]
fn memory_and_database_answer_alike() {
    let stage = Desk::new();
    let all: Vec<Summary> = (0..600).map(session).collect();
    stage.put(all[..500].iter().cloned());
    stage.wait_written(500);
    let held = stage.store.shared.held.lock().unwrap();
    stage.put(all[500..].iter().cloned());
    // Three that have just ended are still told as live ones, from the database and from the shelf.
    let mut living: Vec<Summary> = (600..650).map(live).collect();
    living.extend([3, 499, 599].map(live));
    let mut truth = all.clone();
    truth.extend((600..650).map(live));

    let text = |text: &str| Some(text.to_owned());
    let filters = [
        Filter::default(),
        Filter { state: Some(types::State::Active), ..Filter::default() },
        Filter { state: Some(types::State::Closed), ..Filter::default() },
        Filter { state: Some(types::State::Failed), user: text("user2"), ..Filter::default() },
        Filter { user: text("user3"), ..Filter::default() },
        Filter { user: text("nobody"), ..Filter::default() },
        Filter {
            listener: text("web"),
            since: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(450)),
            ..Filter::default()
        },
        Filter { source: Source::parse("10.0.2.0/24"), ..Filter::default() },
        Filter { source: Source::parse("192.0.2.5"), ..Filter::default() },
        Filter { source: Source::parse("192.0.2.5:77"), ..Filter::default() },
        Filter { source: Source::parse("2001:db8::/64"), ..Filter::default() },
        Filter { source: Source::parse("::/0"), ..Filter::default() },
        Filter { source: Source::parse("0.0.0.0/0"), ..Filter::default() },
        Filter { source: Source::parse("unix"), ..Filter::default() },
        Filter { destination: Place::parse("HOST1.example.com"), ..Filter::default() },
        Filter { destination: Place::parse("host1.example.com:80"), ..Filter::default() },
        Filter { destination: Place::parse("other*"), ..Filter::default() },
        Filter { destination: Place::parse("198.51.100.0/30"), ..Filter::default() },
        Filter { destination: Place::parse("198.51.100.2:80"), ..Filter::default() },
    ];
    let mut orders = Vec::new();
    for (_, by) in Sort::ALL {
        orders.extend([true, false].map(|is_descending| Order { by, is_descending }));
    }
    let mut found_some = 0;
    for filter in &filters {
        // Who lives is for the shards to say.
        let told = if filter.state == Some(types::State::Active) { &living } else { &truth };
        let mut wanted: Vec<&Summary> = told.iter().filter(|summary| filter.takes(summary)).collect();
        found_some += usize::from(!wanted.is_empty());
        for order in &orders {
            let key = |summary: &Summary| (order.by.key(summary), summary.id.0);
            wanted.sort_by(|a, b| order.compare(key(a), key(b)));
            for (skip, most) in [(0, 20), (95, 60), (wanted.len().saturating_sub(3), 10), (2000, 5), (0, 10_000)] {
                let found = stage.list(living.clone(), filter.clone(), *order, skip, most);
                assert_eq!(found.total, wanted.len() as u64, "{filter:?}");
                let ids: Vec<String> = found.sessions.iter().map(|session| session.id.clone()).collect();
                let page = wanted.iter().skip(skip).take(most);
                let wanted: Vec<String> = page.map(|summary| summary.id.to_string()).collect();
                assert_eq!(ids, wanted, "{filter:?} {order:?} {skip} {most}");
            }
        }
    }
    assert!(found_some > 12, "the filters find nothing");
    // What comes from the database reads as what comes from memory.
    for n in [5, 7, 11] {
        let from_database = stage.runtime.block_on(stage.store.find(session(n).id)).unwrap().unwrap();
        let from_memory = crate::control::admin::sessions::describe(&session(n));
        assert_eq!(serde_json::to_value(from_database).unwrap(), serde_json::to_value(from_memory).unwrap());
    }
    drop(held);
}

#[test]
fn sums_over_hours_are_those_of_the_records() {
    let stage = Desk::new();
    let now = SystemTime::now();
    let recent =
        |n: u64| Summary { start: now - Duration::from_secs(n * 60), duration: Duration::from_secs(1), ..session(n) };
    let all: Vec<Summary> = (0..600).map(recent).collect();
    stage.put(all.iter().cloned());
    stage.wait_written(600);
    let living = vec![Summary { user: Some("zoe".into()), bytes_up: 1 << 40, ..live(700) }];
    let overview = stage.runtime.block_on(stage.store.overview(living.clone(), 48)).unwrap();
    assert_eq!((overview.sessions, overview.active), (601, 1));
    assert_eq!(overview.closed + overview.failed + overview.rejected, 600);
    let sum: u64 = all.iter().map(|summary| summary.bytes_down).sum();
    assert_eq!(overview.bytes_down, sum + living[0].bytes_down);
    assert_eq!(overview.users[0].name, "zoe");
    let user1 = overview.users.iter().find(|named| named.name == "user1").unwrap();
    let wanted = all.iter().filter(|summary| summary.user.as_deref() == Some("user1"));
    assert_eq!(user1.bytes_up, wanted.clone().map(|summary| summary.bytes_up).sum::<u64>());
    assert_eq!(user1.sessions, wanted.count() as u64);
    assert!(overview.destinations.iter().any(|named| named.name == "host1.example.com"));
    let less = stage.runtime.block_on(stage.store.overview(Vec::new(), 2)).unwrap();
    assert!(less.sessions >= 60 && less.sessions <= 121, "{less:?}");
}

#[test]
fn a_scan_of_destinations_does_not_fill_the_sums() {
    let stage = Desk::new();
    let scan = |n: u64| Summary { target: Some(format!("h{n}.test:1").into()), start: SystemTime::now(), ..session(n) };
    stage.put((0..3000).map(scan));
    stage.wait_written(3000);
    let connection = Connection::open(&stage.path).unwrap();
    let names: u64 = connection.query_row("SELECT count(*) FROM hours_destination", [], |row| row.get(0)).unwrap();
    assert!(names as usize <= 2 * (rollup::NAMES + 1), "{names}");
    let sessions: u64 =
        connection.query_row("SELECT sum(sessions) FROM hours_destination", [], |row| row.get(0)).unwrap();
    assert_eq!(sessions, 3000);
}

#[test]
fn old_records_go_and_the_counts_with_them() {
    let stage = Desk::new();
    stage.store.follow(&Sessions { retention: Duration::from_secs(3600 * 24 * 365), ..terms(&stage.path) });
    let now = SystemTime::now();
    let of_age = |n: u64, age: Duration| {
        let start = now - age;
        let id = SessionId(record::first_id(start).0 | 0x7000 << 64 | u128::from(n));
        Summary { id, start, ..session(n) }
    };
    let day = Duration::from_secs(24 * 3600);
    stage.put((0..2500).map(|n| of_age(n, 400 * day)));
    stage.put((2500..2600).map(|n| of_age(n, day)));
    stage.wait_written(2600);
    until("they are deleted", || stage.total(Filter::default()) == 100);
    let closed = |filter| stage.list(Vec::new(), filter, NEWEST, 0, 0).total;
    let by_count = closed(Filter { state: Some(types::State::Closed), ..Filter::default() });
    let by_scan =
        closed(Filter { state: Some(types::State::Closed), since: Some(SystemTime::UNIX_EPOCH), ..Filter::default() });
    assert_eq!(by_count, by_scan);
}

#[test]
fn terms_change_while_it_runs() {
    let stage = Desk::new();
    stage.put((0..100).map(session));
    stage.wait_written(100);
    let other = stage.directory.path().join("other.db");
    stage.store.follow(&Sessions { recent: 3, ..terms(&other) });
    until("the other is open", || other.exists() && stage.store.state().state == "ok");
    stage.put((100..110).map(session));
    stage.wait_written(110);
    assert_eq!(stage.total(Filter::default()), 10);
    stage.store.follow(&Sessions { store: Kind::Memory, recent: 3, ..terms(&other) });
    stage.put((110..120).map(session));
    assert_eq!((stage.total(Filter::default()), stage.store.state().state), (3, "memory"));
    stage.store.follow(&Sessions { store: Kind::Off, recent: 0, ..terms(&other) });
    stage.put((120..130).map(session));
    assert_eq!(stage.total(Filter::default()), 0);
    stage.store.follow(&terms(&stage.path));
    until("the first is open again", || stage.total(Filter::default()) == 100);
    stage.store.finish(Duration::from_secs(60));
}

/// Live sessions are noted once they last, in portions; a shard that does not answer holds up nothing.
#[test]
fn sessions_that_last_are_noted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions.db");
    let (mailbox, Inbox { commands, .. }) = Mailbox::new().unwrap();
    let (stuck, _inbox) = Mailbox::new().unwrap();
    std::thread::spawn(move || {
        for command in commands {
            let Command::SomeSessions { from, most, reply, .. } = command else { panic!("{command:?}") };
            let end = (from + most).min(1200);
            reply.send(((from..end).map(|n| live(n as u64)).collect(), (end < 1200).then_some(end)));
        }
    });
    let store = Store::start(&terms(&path), events(), vec![stuck, mailbox]).unwrap();
    let connection = Connection::open(&path).unwrap();
    let noted = || connection.query_row("SELECT count(*) FROM active", [], |row| row.get::<_, u64>(0)).unwrap_or(0);
    until("they are noted", || noted() == 1200);
    let ended = |n| Summary { duration: Duration::from_secs(5), ..session(n) };
    store.put((0..100).map(ended).map(Arc::new));
    until("those that end are live no more", || noted() == 1100);
}

/// How much a million records take, and how fast they are written: `cargo test --release --lib a_million -- --ignored --nocapture`
#[test]
#[ignore = "prints figures"]
fn a_million_records() {
    let desk = Desk::new();
    let records: u64 = std::env::var("RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let (begin, now) = (Instant::now(), SystemTime::now());
    for n in 0..records {
        let start = now - Duration::from_millis((records - n) * 10);
        let id = SessionId(record::first_id(start).0 | 0x7000 << 64 | u128::from(n));
        while desk.store.state().waiting > 50_000 {
            std::thread::sleep(Duration::from_millis(1));
        }
        desk.put([Summary { id, start, ..session(n) }]);
    }
    desk.wait_written(records);
    let took = begin.elapsed();
    let size = fs::metadata(&desk.path).unwrap().len();
    println!("{records} records in {took:?}, {} bytes each", size / records);
    let begin = Instant::now();
    desk.runtime.block_on(desk.store.overview(Vec::new(), 48)).unwrap();
    println!("overview: {:?}", begin.elapsed());
    let begin = Instant::now();
    let filter = Filter { user: Some("user2".into()), ..Filter::default() };
    println!("{} of a user: {:?}", desk.list(Vec::new(), filter, NEWEST, 0, 100).total, begin.elapsed());
}
