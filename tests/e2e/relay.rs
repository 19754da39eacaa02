//! Bytes arrive exactly once and in order, both ways, with FIN and RST passed on after them: on every path that the
//! ring can take.

use std::sync::mpsc;
use std::sync::{Arc, Barrier};

use crate::harness::*;

/// Features of the ring to do without, as ARUS_RING_WITHOUT says them.
type Without = &'static str;

macro_rules! on_every_path {
    ($($test:ident),+ $(,)?) => {
        on_every_path!(@path best, "", $($test),+);
        on_every_path!(@path without_caps, "caps", $($test),+);
        on_every_path!(@path without_bundles, "caps,bundles", $($test),+);
        on_every_path!(@path without_multishot, "caps,bundles,multishot", $($test),+);
    };
    (@path $path:ident, $without:literal, $($test:ident),+) => {
        mod $path { $(#[test] fn $test() { super::$test($without); })+ }
    };
}

on_every_path!(
    echo_of_all_sizes,
    both_ways_at_once_with_random_cuts,
    single_bytes,
    client_finishes_first,
    upstream_speaks_and_finishes_first,
    reset_of_the_client_comes_after_its_bytes,
    reset_of_the_upstream_comes_after_its_bytes,
    a_reset_that_races_with_its_bytes_is_not_missed,
    both_close_at_once,
    stalled_reader_holds_little_and_loses_nothing,
    unix_and_ipv6,
);

fn start(without: Without, listen: &str, backend: &Backend) -> Arus {
    Setup::one(listen, &[backend]).env("ARUS_RING_WITHOUT", without).start()
}

fn assert_done(line: &serde_json::Value, up: u64, down: u64) {
    assert_eq!((&line["state"], &line["reason"], &line["blame"]), (&"closed".into(), &"done".into(), &().into()));
    assert_eq!((&line["bytes_up"], &line["bytes_down"]), (&up.into(), &down.into()), "{line}");
}

fn echo_of_all_sizes(without: Without) {
    let backend = Backend::start(behaviour::echo);
    let arus = start(without, "127.0.0.1:0", &backend);
    for len in [0, 1, 2, 1000, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 300_000, 24 << 20] {
        let mut client = Stream::connect(&arus.address("web"));
        let local = client.local();
        let mut writer = client.try_clone();
        let sender = std::thread::spawn(move || {
            writer.send(len, 0, len);
            writer.finish();
        });
        assert_eq!(client.drain(len, 0), (len, End::Fin));
        sender.join().unwrap();
        assert_done(&arus.session_of(local), len, len);
    }
    arus.wait_buffers_whole();
}

/// Streams of unlike length in both directions at once, cut at random by writers and readers on both ends.
fn both_ways_at_once_with_random_cuts(without: Without) {
    let (verdicts, verdict) = mpsc::channel();
    let backend = Backend::start(move |stream: Stream, _| {
        let mut stream = stream;
        let head = stream.read_exactly(24);
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
        let (seed, up, down) = (word(0), word(8), word(16));
        let mut writer = stream.try_clone();
        let sender = std::thread::spawn(move || {
            writer.send_cut(seed + 1, 0, down, cuts(seed + 1));
            writer.finish();
        });
        stream.expect_cut(seed, 0, up, cuts(seed + 2));
        let end = stream.end();
        sender.join().unwrap();
        verdicts.send((seed, end)).unwrap();
    });
    let arus = start(without, "127.0.0.1:0", &backend);
    let mut random = Random::new(0xC0FFEE);
    let clients: Vec<_> = (0..6)
        .map(|client| {
            let (seed, up, down) = (client * 10, random.below(6 << 20), random.below(6 << 20));
            let address = arus.address("web");
            std::thread::spawn(move || {
                let mut stream = Stream::connect(&address);
                let local = stream.local();
                stream.write_all(&[seed, up, down].map(u64::to_le_bytes).concat());
                let mut writer = stream.try_clone();
                let sender = std::thread::spawn(move || {
                    writer.send_cut(seed, 0, up, cuts(seed + 3));
                    writer.finish();
                });
                stream.expect_cut(seed + 1, 0, down, cuts(seed + 4));
                assert_eq!(stream.end(), End::Fin);
                sender.join().unwrap();
                (local, up + 24, down)
            })
        })
        .collect();
    for client in clients {
        let (local, up, down) = client.join().unwrap();
        assert_eq!(verdict.recv_timeout(DEADLINE).unwrap().1, End::Fin);
        assert_done(&arus.session_of(local), up, down);
    }
}

/// Mostly small pieces, now and then a large one.
fn cuts(seed: u64) -> impl FnMut() -> u64 {
    let mut random = Random::new(seed);
    move || match random.below(8) {
        0 => 1 + random.below(3),
        1..=5 => 1 + random.below(40_000),
        _ => 1 + random.below(400_000),
    }
}

fn single_bytes(without: Without) {
    const BYTES: u64 = 3000;
    let backend = Backend::start(behaviour::echo);
    let arus = start(without, "127.0.0.1:0", &backend);
    let mut client = Stream::connect(&arus.address("web"));
    let local = client.local();
    let mut writer = client.try_clone();
    let sender = std::thread::spawn(move || {
        writer.send_cut(1, 0, BYTES, || 1);
        writer.finish();
    });
    client.expect_cut(1, 0, BYTES, || 1);
    assert_eq!(client.end(), End::Fin);
    sender.join().unwrap();
    assert_done(&arus.session_of(local), BYTES, BYTES);
}

/// The answer begins only when the FIN has arrived, and the way up is over by then.
fn client_finishes_first(without: Without) {
    const ANSWER: u64 = 1 << 20;
    let backend = Backend::start(|mut stream: Stream, _| {
        assert_eq!(stream.drain(5, 0), (70_000, End::Fin));
        stream.send(6, 0, ANSWER);
    });
    let arus = start(without, "127.0.0.1:0", &backend);
    let mut client = Stream::connect(&arus.address("web"));
    let local = client.local();
    client.send(5, 0, 70_000);
    client.finish();
    assert_eq!(client.drain(6, 0), (ANSWER, End::Fin));
    assert_done(&arus.session_of(local), 70_000, ANSWER);
}

fn upstream_speaks_and_finishes_first(without: Without) {
    const LEN: u64 = 1 << 20;
    let (verdicts, verdict) = mpsc::channel();
    let backend = Backend::start(move |mut stream: Stream, _| {
        stream.write_all(b"220 ready\r\n");
        stream.finish();
        verdicts.send(stream.drain(9, 0)).unwrap();
    });
    let arus = start(without, "127.0.0.1:0", &backend);
    let mut client = Stream::connect(&arus.address("web"));
    let local = client.local();
    assert_eq!(client.read_exactly(11), b"220 ready\r\n");
    assert_eq!(client.end(), End::Fin);
    client.send(9, 0, LEN);
    client.finish();
    assert_eq!(verdict.recv_timeout(DEADLINE).unwrap(), (LEN, End::Fin));
    assert_done(&arus.session_of(local), LEN, 11);
}

fn reset_of_the_client_comes_after_its_bytes(without: Without) {
    let (verdicts, verdict) = mpsc::channel();
    let backend = Backend::start(move |mut stream: Stream, _| verdicts.send(stream.drain(3, 0)).unwrap());
    let arus = start(without, "127.0.0.1:0", &backend);
    for (number, len) in [0, 1, 50_000, 3 << 20].into_iter().enumerate() {
        let mut client = Stream::connect(&arus.address("web"));
        let local = client.local();
        // A client that has gone before it was accepted is no session.
        eventually("arus has dialled", || (backend.accepted() > number).then_some(()));
        client.send(3, 0, len);
        client.wait_acknowledged();
        client.reset();
        assert_eq!(verdict.recv_timeout(DEADLINE).unwrap(), (len, End::Reset));
        let line = arus.session_of(local);
        assert_eq!((&line["state"], &line["reason"]), (&"failed".into(), &"reset".into()), "{line}");
        assert_eq!((&line["blame"], &line["bytes_up"]), (&"client".into(), &len.into()), "{line}");
    }
}

fn reset_of_the_upstream_comes_after_its_bytes(without: Without) {
    let (lens, len) = mpsc::channel();
    let len = std::sync::Mutex::new(len);
    let backend = Backend::start(move |mut stream: Stream, _| {
        stream.send(4, 0, len.lock().unwrap().recv().unwrap());
        stream.wait_acknowledged();
        stream.reset();
    });
    let arus = start(without, "127.0.0.1:0", &backend);
    for len in [0, 1, 50_000, 3 << 20] {
        lens.send(len).unwrap();
        let mut client = match Stream::try_connect(&arus.address("web")) {
            Ok(client) => client,
            // Without bytes before it the reset may be there before connect looks.
            Err(error) if len == 0 && error.kind() == std::io::ErrorKind::ConnectionReset => {
                eventually("it is logged", || (!arus.log.access().is_empty()).then_some(()));
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let local = client.local();
        assert_eq!(client.drain(4, 0), (len, End::Reset));
        let line = arus.session_of(local);
        assert_eq!((&line["state"], &line["reason"]), (&"failed".into(), &"reset".into()), "{line}");
        assert_eq!((&line["blame"], &line["bytes_down"]), (&"upstream".into(), &len.into()), "{line}");
    }
}

/// No kernel promises the bytes here, as the reset may overtake them; but nobody waits for ever.
fn a_reset_that_races_with_its_bytes_is_not_missed(without: Without) {
    const ROUNDS: usize = 60;
    let backend = Backend::start(|mut stream: Stream, number| {
        stream.send(4, 0, 1 + (number as u64 % 12) * 50_000);
        stream.reset();
    });
    let arus = start(without, "127.0.0.1:0", &backend);
    for _ in 0..ROUNDS {
        // It may come as early as that.
        match Stream::try_connect(&arus.address("web")) {
            Ok(mut client) => assert_eq!(client.drain(4, 0).1, End::Reset),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    for line in arus.finished(ROUNDS) {
        assert_eq!((&line["reason"], &line["blame"]), (&"reset".into(), &"upstream".into()), "{line}");
    }
}

fn both_close_at_once(without: Without) {
    const ROUNDS: u64 = 40;
    let barrier = Arc::new(Barrier::new(2));
    let theirs = Arc::clone(&barrier);
    let (verdicts, verdict) = mpsc::channel();
    let backend = Backend::start(move |mut stream: Stream, number| {
        theirs.wait();
        stream.send(number as u64, 0, 10);
        stream.finish();
        verdicts.send(stream.drain(number as u64, 0)).unwrap();
    });
    let arus = start(without, "127.0.0.1:0", &backend);
    for round in 0..ROUNDS {
        let mut client = Stream::connect(&arus.address("web"));
        let local = client.local();
        barrier.wait();
        client.send(round, 0, 20);
        client.finish();
        assert_eq!(client.drain(round, 0), (10, End::Fin));
        assert_eq!(verdict.recv_timeout(DEADLINE).unwrap(), (20, End::Fin));
        assert_done(&arus.session_of(local), 20, 10);
    }
}

/// One reader stalls while 32 MiB wait for it: arus holds a bounded part of them, another connection goes on, and when
/// the reader reads again everything is there.
fn stalled_reader_holds_little_and_loses_nothing(without: Without) {
    const LEN: u64 = 32 << 20;
    let source = Backend::start(behaviour::source(LEN));
    let echo = Backend::start(behaviour::echo);
    let arus = Setup::new(format!(
        "[[upstream]]\nname = \"source\"\nbackends = \"{}\"\n[[upstream]]\nname = \"echo\"\nbackends = \"{}\"\n\
         [[listener]]\nname = \"source\"\nlisten = \"127.0.0.1:0\"\nupstream = \"source\"\n\
         [[listener]]\nname = \"echo\"\nlisten = \"127.0.0.1:0\"\nupstream = \"echo\"\n",
        source.address(),
        echo.address()
    ))
    .shards(1)
    .env("ARUS_RING_WITHOUT", without)
    .start();
    let mut stalled = Stream::connect(&arus.address("source"));
    let local = stalled.local();
    let free = |arus: &Arus| arus.shard_sum("/buffers/total") - arus.shard_sum("/buffers/free");
    // Until arus holds what it may and takes no more.
    let held = eventually("the reader is stalled", || {
        let held = free(&arus);
        std::thread::sleep(std::time::Duration::from_millis(50));
        (held > 0 && held == free(&arus)).then_some(held)
    });
    // 256 KiB, and what was on its way when enough was there.
    assert!(held * 16 <= 256 + 64 * 16, "{held} buffers for one stalled reader");
    let mut other = Stream::connect(&arus.address("echo"));
    for round in 0..50 {
        other.send(round, 0, 100_000);
        other.expect(round, 0, 100_000);
    }
    assert_eq!(stalled.drain(0, 0), (LEN, End::Fin));
    drop(stalled);
    assert_done(&arus.session_of(local), 0, LEN);
}

fn unix_and_ipv6(without: Without) {
    let directory = tempfile::tempdir().unwrap();
    let backends = [
        Backend::start_unix(&directory.path().join("backend.sock"), behaviour::echo),
        Backend::start_v6(behaviour::echo),
    ];
    for backend in &backends {
        let arus = Setup::new(format!(
            "[[upstream]]\nname = \"app\"\nbackends = \"{}\"\n[[listener]]\nname = \"web\"\n\
             listen = [\"unix:{{dir}}/web.sock\", \"[::1]:0\", \"127.0.0.1:0\"]\nupstream = \"app\"\n",
            backend.address()
        ))
        .env("ARUS_RING_WITHOUT", without)
        .start();
        for address in arus.addresses("web") {
            let mut client = Stream::connect(&address);
            let source = match &address {
                Address::Unix(_) => "unix".to_owned(),
                Address::Ip(_) => client.local().to_string(),
            };
            let mut writer = client.try_clone();
            let sender = std::thread::spawn(move || {
                writer.send(8, 0, 2 << 20);
                writer.finish();
            });
            assert_eq!(client.drain(8, 0), (2 << 20, End::Fin), "{address}");
            sender.join().unwrap();
            let line = arus.session_of(source);
            assert_done(&line, 2 << 20, 2 << 20);
            assert_eq!(line["backend"], backend.address().to_string());
        }
        assert_eq!(arus.addresses("web").len(), 3);
    }
}
