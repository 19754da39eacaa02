//! The API from outside: a real socket, a supervisor and shards played by threads.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use serde_json::{Value, json};

mod description;
mod door;

use super::serve::{Bounds, HEAD_BYTES, SOCKET};
use super::*;
use crate::control::fixture::{self, FakeShard};
use crate::control::handle::{ReloadRefused, Request, View};
use crate::shard::command::{Command, Inbox};
use crate::stats::counters;
use crate::stats::latency::{Latencies, Measure};
use crate::stats::summary::Summary;
use crate::types::{Blame, Client, Generation, Protocol, Reason, Service, SessionId, ShardId};
use crate::upstream::state::BackendId;

const LIVE: SessionId = SessionId(0x0190_0000_0000_7000_8000_0000_0000_0001);
const OTHER: SessionId = SessionId(0x0191_0000_0000_7000_8000_0000_0000_0002);

/// A running arus as far as the API can see, and what it was told.
struct Stage {
    _runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
    _entrance: tokio::sync::mpsc::UnboundedSender<Option<tokio::net::TcpListener>>,
    address: std::net::SocketAddr,
    socket: PathBuf,
    control: Control,
    /// Backends that the shards heard to be down, sessions that they were told to cut.
    heard: Arc<Mutex<Vec<String>>>,
}

/// How a played shard behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Answers,
    Stuck,
}

impl Stage {
    fn new(manners: [Manner; 2], bounds: Bounds) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let mut plan = fixture::plan(directory.path()).with_listener("web", &["127.0.0.1:8080"]);
        plan.admin = door::admin(&plan.admin);
        let (control, mut requests, shards) =
            fixture::control(plan.with_upstream("pool", vec![fixture::host("db", 5432)]));
        let heard = Arc::new(Mutex::new(Vec::new()));
        for ((id, shard), manner) in (0..).map(ShardId).zip(shards).zip(manners) {
            play_shard(id, shard, manner, &heard);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let told = Arc::clone(&heard);
        runtime.spawn(async move {
            let mut reloads = 0;
            while let Some(request) = requests.recv().await {
                match request {
                    Request::Reload(answer) => {
                        reloads += 1;
                        let refused = ReloadRefused { errors: vec!["proxy.toml:3:1: no".into(), "4:1: no".into()] };
                        let _ = answer.send(if reloads == 1 { Ok(Generation(8)) } else { Err(refused) });
                    }
                    Request::Drain => told.lock().unwrap().push("drain".into()),
                }
            }
        });
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(&socket).unwrap()
        };
        let api = Api { control: control.clone(), door: Arc::new(Door::new(control.clone())) };
        runtime.spawn(serve::unix(open(api.clone()), listener, bounds));
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        tcp.set_nonblocking(true).unwrap();
        let address = tcp.local_addr().unwrap();
        let (entrance, listeners) = tokio::sync::mpsc::unbounded_channel();
        {
            let _inside = runtime.enter();
            entrance.send(Some(tokio::net::TcpListener::from_std(tcp).unwrap())).unwrap();
        }
        runtime.spawn(serve::tcp(guarded(api), listeners, bounds));
        Self { _runtime: runtime, _directory: directory, _entrance: entrance, address, socket, control, heard }
    }

    fn answering() -> Self {
        Self::new([Manner::Answers, Manner::Answers], SOCKET)
    }

    fn call(&self, method: &str, path: &str) -> (u16, Value) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: arus\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

fn play_shard(id: ShardId, shard: FakeShard, manner: Manner, heard: &Arc<Mutex<Vec<String>>>) {
    let FakeShard { inbox, stats } = shard;
    counters::add(&stats.accepted, 10 + u64::from(id.0));
    let heard = Arc::clone(heard);
    std::thread::spawn(move || {
        let Inbox { commands, .. } = inbox;
        let mut unanswered = Vec::new();
        for command in commands {
            match command {
                stuck if manner == Manner::Stuck => unanswered.push(stuck),
                Command::Sessions(reply) if id.0 == 0 => reply.send(vec![summary(LIVE), summary(OTHER)]),
                Command::Sessions(reply) => reply.send(Vec::new()),
                Command::Kill(session, reply) => {
                    heard.lock().unwrap().push(format!("shard {} kill {session}", id.0));
                    reply.send(id.0 == 0 && session == LIVE);
                }
                Command::BackendDown(BackendId(n)) => {
                    heard.lock().unwrap().push(format!("shard {} down {n}", id.0));
                }
                Command::SlotFreed(BackendId(n)) => {
                    heard.lock().unwrap().push(format!("shard {} free {n}", id.0));
                }
                // Sessions that do not answer: there is no verdict then.
                Command::Look(..) => {}
                other => panic!("the API does not send {other:?}"),
            }
        }
    });
}

fn summary(id: SessionId) -> Summary {
    Summary {
        id,
        shard: ShardId(0),
        generation: Generation(7),
        listener: "web".into(),
        client: Client::Ip("192.0.2.1:5000".parse().unwrap()),
        source: Client::Ip("192.0.2.1:5000".parse().unwrap()),
        service: Service::Tcp,
        protocol: Protocol::Tcp,
        user: None,
        target: None,
        rule: None,
        tls: None,
        backend: None,
        remote: None,
        start: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000),
        duration: Duration::from_millis(1500),
        connect: Some(Duration::from_micros(250)),
        first_byte: None,
        bytes_up: 5,
        bytes_down: 6,
        datagrams_up: 0,
        datagrams_down: 0,
        state: crate::types::State::Active,
        stage: crate::types::Stage::Relay,
        blame: None,
        reason: None,
    }
}

#[test]
fn status_sums_over_shards_and_shows_what_is_bound() {
    let stage = Stage::answering();
    let mut latencies = Latencies::default();
    latencies.record(Measure::Connect, Duration::from_micros(100));
    stage.control.merge_latencies(ShardId(1), &latencies);
    let web = &stage.control.view().snapshot.listeners[0];
    counters::add(&web.counters[0].rejected[Reason::AcceptRate as usize], 2);
    counters::add(&web.counters[1].rejected[Reason::AcceptRate as usize], 1);
    counters::add(&web.counters[1].failed[crate::types::Stage::Connect as usize][Blame::Upstream as usize], 4);

    let (code, body) = stage.call("GET", "/api/v1/status");
    assert_eq!(code, 200);
    // What the clients of the API read is what it writes.
    let status: status::Status = serde_json::from_value(body.clone()).unwrap();
    assert_eq!(status.generation, 1);
    assert_eq!(status.totals.accepted, 21);
    assert_eq!(status.totals.rejected, 3);
    assert_eq!(status.totals.failed, 4);
    assert_eq!(status.listeners[0].addresses, ["127.0.0.1:8080"]);
    assert_eq!(status.listeners[0].rejected["accept_rate"], 3);
    assert_eq!(status.listeners[0].failed[0].stage, "connect");
    assert_eq!(status.limits.connections.limit, Some(100));
    assert!(status.limits.descriptors.unwrap() > 0);
    assert_eq!(status.upstreams[0].backends[0].connections.limit, None);
    assert_eq!(status.latency["connect"].p50, 100);
    assert_eq!(status.latency["session"].count, 0);
    assert_eq!((status.shards[1].id, status.shards[1].accepted), (1, 11));
    assert_eq!((status.shards[0].latency.len(), status.shards[1].latency["connect"].p50), (0, 100));
    assert!((status.shards[0].skew_index - 1.0).abs() < 1e-9);

    let (code, shards) = stage.call("GET", "/api/v1/shards");
    assert_eq!((code, &shards), (200, &body["shards"]));
    let (code, upstreams) = stage.call("GET", "/api/v1/upstreams");
    assert_eq!((code, &upstreams), (200, &body["upstreams"]));
}

#[test]
fn sessions_are_listed_newest_first_in_pages() {
    let stage = Stage::answering();
    let (code, body) = stage.call("GET", "/api/v1/sessions");
    let page: sessions::Page = serde_json::from_value(body).unwrap();
    assert_eq!((code, page.total, page.missing_shards.len()), (200, 2, 0));
    assert_eq!(page.data[0].id, OTHER.to_string());
    assert_eq!(page.data[1].start, "2001-09-09T01:46:40.000Z");
    assert_eq!(page.data[1].connect_ms, Some(0.25));
    assert_eq!((&*page.data[1].service, page.data[1].end.as_deref()), ("tcp", None));

    let (_, body) = stage.call("GET", "/api/v1/sessions?page=2&page_size=1");
    assert_eq!(body["data"][0]["id"], LIVE.to_string());
    let (_, body) = stage.call("GET", "/api/v1/sessions?page=9");
    assert_eq!((body["data"].as_array().unwrap().len(), &body["total"]), (0, &json!(2)));
    for bad in ["page=0", "page_size=0", "page_size=10001", "page=x", "colour=red"] {
        let (code, body) = stage.call("GET", &format!("/api/v1/sessions?{bad}"));
        assert_eq!(code, 400, "{bad}: {body}");
        assert!(body["error"].is_string());
    }
}

#[test]
fn a_session_is_shown_and_killed() {
    let stage = Stage::answering();
    let path = format!("/api/v1/sessions/{LIVE}");
    assert_eq!(stage.call("GET", &path).1["bytes_down"], 6);
    assert_eq!(stage.call("DELETE", &path), (200, json!({ "id": LIVE.to_string(), "killed": true })));
    assert_eq!(stage.heard().iter().filter(|line| line.contains("kill")).count(), 2);
    let nobody = "/api/v1/sessions/0190ffff-0000-7000-8000-000000000000";
    assert_eq!(stage.call("GET", nobody).0, 404);
    assert_eq!(stage.call("DELETE", nobody).0, 404);
    assert_eq!(stage.call("DELETE", "/api/v1/sessions/7").0, 400);
}

#[test]
fn a_stuck_shard_is_named_and_holds_up_nobody() {
    let stage = Stage::new([Manner::Answers, Manner::Stuck], SOCKET);
    let begun = Instant::now();
    let (code, body) = stage.call("GET", "/api/v1/sessions");
    assert_eq!((code, &body["total"], &body["missing_shards"]), (200, &json!(2), &json!([1])));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let nobody = "/api/v1/sessions/0190ffff-0000-7000-8000-000000000000";
    assert_eq!(stage.call("DELETE", nobody).0, 504, "the stuck shard may have it");
    assert_eq!(stage.call("DELETE", &format!("/api/v1/sessions/{LIVE}")).0, 200);
}

#[test]
fn what_is_counted_is_told_without_the_shards() {
    let stage = Stage::new([Manner::Stuck, Manner::Stuck], SOCKET);
    let begun = Instant::now();
    let mut stream = UnixStream::connect(&stage.socket).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: arus\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("\narus_connections_total{listener=\"web\"} 0\n"), "{text}");
    assert_eq!(stage.call("GET", "/api/v1/status").0, 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "it waited for a shard: {:?}", begun.elapsed());
}

#[test]
fn reload_answers_with_the_generation_or_every_error() {
    let stage = Stage::answering();
    assert_eq!(stage.call("POST", "/api/v1/reload"), (200, json!({ "generation": 8 })));
    let errors = json!({ "errors": ["proxy.toml:3:1: no", "4:1: no"] });
    assert_eq!(stage.call("POST", "/api/v1/reload"), (400, errors));
    assert_eq!(stage.call("GET", "/api/v1/reload").0, 405);
}

#[test]
fn drain_is_asked_for_and_seen_in_health() {
    let stage = Stage::answering();
    let (code, body) = stage.call("GET", "/health");
    assert_eq!((code, &body["status"]), (200, &json!("healthy")));
    assert_eq!(stage.call("POST", "/api/v1/drain").0, 202);
    let View { snapshot, binds, .. } = &*stage.control.view();
    stage.control.set_view(View { snapshot: Arc::clone(snapshot), binds: binds.clone(), draining: true });
    let (code, body) = stage.call("GET", "/health");
    assert_eq!((code, &body["status"]), (503, &json!("draining")));
}

#[test]
fn backends_take_orders() {
    let stage = Stage::answering();
    let order = |order: &str| stage.call("POST", &format!("/api/v1/upstreams/pool/backends/db:5432/{order}")).0;
    let state = || stage.call("GET", "/api/v1/upstreams").1[0]["backends"][0]["state"].clone();
    assert_eq!((order("drain"), state()), (200, json!("drained")));
    assert_eq!((order("down"), state()), (200, json!("down")));
    assert_eq!((order("up"), state()), (200, json!("up")));
    assert_eq!(order("sideways"), 404);
    assert_eq!(stage.call("POST", "/api/v1/upstreams/pool/backends/db:1/up").0, 404);
    assert_eq!(stage.call("POST", "/api/v1/upstreams/none/backends/db:5432/up").0, 404);
    // A command that nobody answers: ask for one that is, and the order of the mailbox says that both were taken.
    stage.call("GET", "/api/v1/sessions");
    assert_eq!(stage.heard().iter().filter(|line| line.contains(" down ")).count(), 2);
}

#[test]
fn the_configuration_is_shown_in_the_words_of_the_file() {
    let (code, body) = Stage::answering().call("GET", "/api/v1/config");
    assert_eq!(code, 200);
    assert_eq!(body["engine"]["shards"], 2);
    assert_eq!(body["engine"]["buffer_size"], "16KiB");
    assert_eq!(body["listener"][0]["upstream"], "pool");
    assert_eq!(body["listener"][0]["timeouts"]["idle"], "1m");
    assert_eq!(body["upstream"][0]["on_down"], "keep");
    assert_eq!(body["demo"], Value::Null);
}

#[test]
fn unknown_endpoints_and_large_heads_are_refused() {
    let stage = Stage::answering();
    assert_eq!(stage.call("GET", "/api/v2/status").0, 404);
    let mut stream = UnixStream::connect(&stage.socket).unwrap();
    let _ = write!(stream, "GET / HTTP/1.1\r\nhost: {}\r\n\r\n", "x".repeat(2 * HEAD_BYTES));
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[test]
fn a_peer_that_says_nothing_loses_its_place() {
    let bounds = Bounds { connections: 2, header_timeout: Duration::from_millis(200), ..SOCKET };
    let stage = Stage::new([Manner::Answers, Manner::Answers], bounds);
    let silent: Vec<UnixStream> = (0..2).map(|_| UnixStream::connect(&stage.socket).unwrap()).collect();
    // Both places are taken, so this waits until a silent peer was cut.
    assert_eq!(stage.call("GET", "/health").0, 200);
    for mut stream in silent {
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

#[test]
fn a_peer_that_takes_nothing_loses_its_place() {
    let bounds = Bounds { connections: 1, write_timeout: Duration::from_millis(200), ..SOCKET };
    let stage = Stage::new([Manner::Answers, Manner::Answers], bounds);
    let mut greedy = UnixStream::connect(&stage.socket).unwrap();
    greedy.set_nonblocking(true).unwrap();
    let request = "GET /api/v1/status HTTP/1.1\r\nhost: arus\r\n\r\n".repeat(100);
    // Requests without end and not one answer taken: sooner or later arus cannot write, and cuts.
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        match greedy.write(request.as_bytes()) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(_) => break,
        }
    }
    assert_eq!(stage.call("GET", "/health").0, 200);
}
