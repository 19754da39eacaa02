//! Clients that finish, reset, stall or vanish at every stage, and the deadlines that end what nobody else ends.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::*;

const SHORT: &str = "[timeouts]\nidle = \"700ms\"\nhalf_closed = \"700ms\"";

fn ended(line: &Value) -> (&str, &str, Option<&str>) {
    (line["state"].as_str().unwrap(), line["reason"].as_str().unwrap(), line["blame"].as_str())
}

/// Keeps backends' connections open, whatever comes, until it is dropped.
#[derive(Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn wait(&self) -> impl Fn() + Send + Sync + 'static {
        let gate = Arc::clone(&self.0);
        move || {
            let open = gate.0.lock().unwrap();
            drop(gate.1.wait_while(open, |open| !*open).unwrap());
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

#[test]
fn one_that_finishes_without_a_word() {
    let backend = Backend::start(behaviour::echo);
    let arus = Setup::one("127.0.0.1:0", &[&backend]).start();
    let mut client = Stream::connect(&arus.address("web"));
    client.finish();
    assert_eq!(client.end(), End::Fin);
    assert_eq!(ended(&arus.finished(1)[0]), ("closed", "done", None));
    assert_eq!(backend.accepted(), 1);
}

#[test]
fn one_that_finishes_within_the_answer_gets_all_of_it() {
    const ANSWER: u64 = 8 << 20;
    let backend = Backend::start(behaviour::source(ANSWER));
    let arus = Setup::one("127.0.0.1:0", &[&backend]).start();
    let mut client = Stream::connect(&arus.address("web"));
    client.expect(0, 0, 1000);
    client.finish();
    assert_eq!(client.drain(0, 1000), (ANSWER - 1000, End::Fin));
    assert_eq!(ended(&arus.finished(1)[0]), ("closed", "done", None));
}

#[test]
fn one_that_closes_within_the_answer_resets_the_backend() {
    let (verdicts, verdict) = std::sync::mpsc::channel();
    let backend = Backend::start(move |mut stream: Stream, _| {
        stream.send_until_error(0, 1 << 30);
        verdicts.send(()).unwrap();
    });
    let arus = Setup::one("127.0.0.1:0", &[&backend]).start();
    let mut client = Stream::connect(&arus.address("web"));
    client.expect(0, 0, 1000);
    drop(client);
    verdict.recv_timeout(DEADLINE).unwrap();
    assert_eq!(ended(&arus.finished(1)[0]), ("failed", "reset", Some("client")));
    arus.wait_buffers_whole();
}

#[test]
fn one_that_resets_without_a_word_ends_the_session() {
    let backend = Backend::start(behaviour::echo);
    let arus = Setup::one("127.0.0.1:0", &[&backend]).start();
    let client = Stream::connect(&arus.address("web"));
    arus.wait_active(1);
    eventually("arus has dialled", || (backend.accepted() == 1).then_some(()));
    client.reset();
    assert_eq!(ended(&arus.finished(1)[0]), ("failed", "reset", Some("client")));
    eventually("the backend's connection has ended", || (backend.live() == 0).then_some(()));
}

#[test]
fn silence_ends_by_the_idle_deadline() {
    let backend = Backend::start(behaviour::silent);
    let arus = Setup::one("127.0.0.1:0", &[&backend]).also(SHORT).start();
    let begin = Instant::now();
    let mut client = Stream::connect(&arus.address("web"));
    client.end();
    assert!(begin.elapsed() >= Duration::from_millis(700));
    let line = &arus.finished(1)[0];
    assert_eq!(ended(line), ("failed", "idle_timeout", Some("client")));
    eventually("the backend's connection has ended", || (backend.live() == 0).then_some(()));
}

/// Traffic in one direction keeps both alive.
#[test]
fn one_direction_keeps_the_other_alive() {
    let backend = Backend::start(behaviour::sink);
    let arus = Setup::one("127.0.0.1:0", &[&backend]).also(SHORT).start();
    let mut client = Stream::connect(&arus.address("web"));
    for second in 0..10 {
        client.send(1, second, 1);
        std::thread::sleep(Duration::from_millis(200));
    }
    client.finish();
    assert_eq!(client.end(), End::Fin);
    let line = &arus.finished(1)[0];
    assert_eq!((ended(line), &line["bytes_up"]), (("closed", "done", None), &10.into()));
}

#[test]
fn half_closed_ends_by_its_deadline() {
    // The client has sent FIN and the backend does not care.
    let gate = Gate::default();
    let wait = gate.wait();
    let backend = Backend::start(move |_stream, _| wait());
    let half_closed = "[timeouts]\nidle = \"60s\"\nhalf_closed = \"500ms\"";
    let arus = Setup::one("127.0.0.1:0", &[&backend]).also(half_closed).start();
    let mut client = Stream::connect(&arus.address("web"));
    client.send(1, 0, 10);
    client.finish();
    client.end();
    assert_eq!(ended(&arus.finished(1)[0]), ("failed", "half_closed_timeout", Some("upstream")));
    drop(gate);
    // The backend has, and the client does not care.
    let backend = Backend::start(behaviour::close);
    let arus = Setup::one("127.0.0.1:0", &[&backend]).also(half_closed).start();
    let mut client = Stream::connect(&arus.address("web"));
    assert_eq!(client.end(), End::Fin);
    assert_eq!(ended(&arus.finished(1)[0]), ("failed", "half_closed_timeout", Some("client")));
}

/// A transfer that goes on after a FIN is not cut by half_closed, however long it takes.
#[test]
fn half_closed_does_not_cut_a_transfer() {
    let backend = Backend::start(|mut stream: Stream, _| {
        assert_eq!(stream.end(), End::Fin);
        for at in 0..10 {
            stream.send(1, at * 1000, 1000);
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let arus = Setup::one("127.0.0.1:0", &[&backend]).also(SHORT).start();
    let mut client = Stream::connect(&arus.address("web"));
    client.finish();
    assert_eq!(client.drain(1, 0), (10_000, End::Fin));
    assert_eq!(ended(&arus.finished(1)[0]), ("closed", "done", None));
}

fn with_small_buffer(address: &Address) -> Stream {
    Stream::try_connect_with(address, |socket| socket.set_recv_buffer_size(8 * 1024)).unwrap()
}

#[test]
fn one_that_never_reads_ends_by_the_idle_deadline() {
    let backend = Backend::start(behaviour::source(64 << 20));
    let arus = Setup::one("127.0.0.1:0", &[&backend]).also(SHORT).start();
    let client = with_small_buffer(&arus.address("web"));
    let line = &arus.finished(1)[0];
    assert_eq!(ended(line), ("failed", "idle_timeout", Some("client")));
    arus.wait_buffers_whole();
    drop(client);
}

/// What a slow reader takes counts as life, though a send of many buffers completes late.
#[test]
fn a_slow_reader_is_not_cut() {
    const LEN: u64 = 8 << 20;
    let backend = Backend::start(behaviour::source(LEN));
    let arus = Setup::one("127.0.0.1:0", &[&backend]).also("[timeouts]\nidle = \"1s\"").start();
    let mut client = with_small_buffer(&arus.address("web"));
    let mut seen = 0;
    for _ in 0..20 {
        client.expect(0, seen, 8 * 1024);
        seen += 8 * 1024;
        std::thread::sleep(Duration::from_millis(250));
    }
    assert_eq!(client.drain(0, seen), (LEN - seen, End::Fin));
    drop(client);
    let line = &arus.finished(1)[0];
    assert_eq!((ended(line), &line["bytes_down"]), (("closed", "done", None), &LEN.into()));
}

/// Many readers that stall cost little, and the others do not notice.
#[test]
fn stalled_readers_cost_little_and_harm_nobody() {
    const STALLED: usize = 200;
    let source = Backend::start(behaviour::source(64 << 20));
    let echo = Backend::start(behaviour::echo);
    let arus = Setup::new(format!(
        "[[upstream]]\nname = \"source\"\nbackends = \"{}\"\n[[upstream]]\nname = \"echo\"\nbackends = \"{}\"\n\
         [[listener]]\nname = \"source\"\nlisten = \"127.0.0.1:0\"\nupstream = \"source\"\n\
         [[listener]]\nname = \"echo\"\nlisten = \"127.0.0.1:0\"\nupstream = \"echo\"\n",
        source.address(),
        echo.address()
    ))
    .start();
    let before = arus.process().resident();
    let stalled: Vec<Stream> = (0..STALLED).map(|_| with_small_buffer(&arus.address("source"))).collect();
    arus.wait_active(STALLED as u64);
    let moved = || arus.status()["totals"]["bytes_down"].as_u64().unwrap();
    eventually("all are stalled", || {
        let seen = moved();
        std::thread::sleep(Duration::from_millis(300));
        (seen > 0 && seen == moved()).then_some(())
    });
    let grown = arus.process().resident().saturating_sub(before) / STALLED as u64;
    println!("{} KiB resident per stalled reader", grown / 1024);
    assert!(grown <= 300 * 1024, "{} KiB resident per stalled reader", grown / 1024);
    let mut client = Stream::connect(&arus.address("echo"));
    for round in 0..200 {
        client.send(round, 0, 10_000);
        client.expect(round, 0, 10_000);
    }
    drop(stalled);
    drop(client);
    arus.wait_active(0);
    arus.wait_buffers_whole();
}
