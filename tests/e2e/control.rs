//! Kill, stop and idleness: what happens when somebody wants something, and when nobody does.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::*;

#[test]
fn a_killed_session_is_cut_and_the_others_live() {
    let (verdicts, verdict) = std::sync::mpsc::channel();
    let backend = Backend::start(move |mut stream: Stream, number| {
        let mut buffer = [0; 100];
        loop {
            match stream.read_some(&mut buffer) {
                Ok(0) => break,
                Ok(count) => stream.write_all(&buffer[..count]),
                Err(_) => {
                    let _ = verdicts.send((number, End::Reset));
                    break;
                }
            }
        }
    });
    let arus = Setup::one("127.0.0.1:0", &[&backend]).start();
    let mut clients: Vec<Stream> = Vec::new();
    for seed in 0..3 {
        let mut client = Stream::connect(&arus.address("web"));
        client.send(seed, 0, 100);
        client.expect(seed, 0, 100);
        clients.push(client);
    }
    let victim = clients[1].local().to_string();
    let (listed, ok) = arus.command(&["sessions", "--json"]);
    assert!(ok, "{listed}");
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let id = listed["data"].as_array().unwrap().iter().find(|session| session["source"] == *victim).unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let begin = Instant::now();
    let (said, ok) = arus.command(&["kill", &id]);
    assert!(ok, "{said}");
    assert_eq!(clients[1].end(), End::Reset);
    assert_eq!(verdict.recv_timeout(DEADLINE).unwrap(), (1, End::Reset));
    // A second is what is promised; a loaded machine gets more.
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let line = arus.session_of(victim);
    assert_eq!(
        (&line["id"], &line["reason"], &line["blame"]),
        (&id.as_str().into(), &"killed".into(), &"policy".into())
    );
    assert_eq!((&line["state"], &line["bytes_up"], &line["bytes_down"]), (&"failed".into(), &100.into(), &100.into()));
    for seed in [0, 2] {
        let client = &mut clients[seed as usize];
        client.send(seed, 0, 100);
        client.expect(seed, 0, 100);
    }
    // Who is gone cannot be killed.
    let (said, ok) = arus.command(&["kill", &id]);
    assert!(!ok && said.contains("no live session"), "{said}");
}

/// Also one whose client does not read, and one that has no backend yet.
#[test]
fn a_stalled_session_and_one_that_dials_are_killed_too() {
    let source = Backend::start(behaviour::source(64 << 20));
    let hanging = Hanging::new();
    for backend in [source.address().clone(), hanging.address()] {
        let arus =
            Setup::to("127.0.0.1:0", &[backend.to_string()], "", "").also("[timeouts]\nconnect = \"60s\"").start();
        let mut client = Stream::connect(&arus.address("web"));
        arus.wait_active(1);
        if backend == *source.address() {
            eventually("it is stalled", || (arus.sessions()[0]["bytes_down"].as_u64().unwrap() > 0).then_some(()));
        }
        let id = arus.sessions()[0]["id"].as_str().unwrap().to_owned();
        assert_eq!(arus.request("DELETE", &format!("/api/v1/sessions/{id}")).0, 200);
        let line = arus.finished(1).remove(0);
        assert_eq!((&line["reason"], &line["id"]), (&"killed".into(), &id.into()));
        client.discard();
        arus.wait_active(0);
        arus.wait_buffers_whole();
    }
}

#[test]
fn sigterm_under_load_drains_and_ends_cleanly() {
    const LEN: u64 = 12 << 20;
    let backend = Backend::start(behaviour::echo);
    let mut arus = Setup::one("127.0.0.1:0", &[&backend]).engine("drain_timeout = \"60s\"").start();
    let address = arus.address("web");
    let clients: Vec<_> = (0..8)
        .map(|seed| {
            let mut client = Stream::connect(&address);
            client.send(seed, 0, 1000);
            client.expect(seed, 0, 1000);
            std::thread::spawn(move || {
                let mut writer = client.try_clone();
                let sender = std::thread::spawn(move || {
                    writer.send(seed, 1000, LEN);
                    writer.finish();
                });
                let seen = client.drain(seed, 1000);
                sender.join().unwrap();
                seen
            })
        })
        .collect();
    arus.signal(Signal::SIGTERM);
    arus.log.message("stopping");
    for client in clients {
        assert_eq!(client.join().unwrap(), (LEN, End::Fin));
    }
    assert_eq!(arus.wait_exit(DEADLINE).code(), Some(0));
    assert!(Stream::try_connect(&address).is_err(), "somebody still listens");
    let lines = arus.finished(8);
    assert!(lines.iter().all(|line| line["reason"] == "done"), "{lines:?}");
}

#[test]
fn a_drain_accepts_nobody_and_keeps_who_is_there() {
    let backend = Backend::start(behaviour::echo);
    let mut arus = Setup::one("127.0.0.1:0", &[&backend]).start();
    let address = arus.address("web");
    let mut client = Stream::connect(&address);
    client.send(1, 0, 10);
    client.expect(1, 0, 10);
    arus.signal(Signal::SIGTERM);
    eventually("nobody listens", || Stream::try_connect(&address).is_err().then_some(()));
    client.send(1, 10, 10);
    client.expect(1, 10, 10);
    assert!(arus.is_running());
    client.finish();
    assert_eq!(client.end(), End::Fin);
    assert_eq!(arus.wait_exit(DEADLINE).code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let backend = Backend::start(behaviour::echo);
    let mut arus = Setup::one("127.0.0.1:0", &[&backend]).engine("drain_timeout = \"1h\"").start();
    let mut client = Stream::connect(&arus.address("web"));
    client.send(1, 0, 10);
    client.expect(1, 0, 10);
    arus.signal(Signal::SIGTERM);
    arus.log.message("stopping");
    // One that comes sooner counts as the first.
    std::thread::sleep(Duration::from_millis(300));
    assert!(arus.is_running());
    arus.signal(Signal::SIGINT);
    assert_eq!(arus.wait_exit(DEADLINE).code(), Some(0));
    client.discard();
}

#[test]
fn drain_timeout_cuts_the_rest() {
    let backend = Backend::start(behaviour::echo);
    let mut arus = Setup::one("127.0.0.1:0", &[&backend]).engine("drain_timeout = \"500ms\"").start();
    let mut client = Stream::connect(&arus.address("web"));
    client.send(1, 0, 10);
    client.expect(1, 0, 10);
    let begin = Instant::now();
    arus.signal(Signal::SIGTERM);
    assert_eq!(client.end(), End::Reset);
    assert!(begin.elapsed() >= Duration::from_millis(500), "{:?}", begin.elapsed());
    let line = arus.finished(1).remove(0);
    assert_eq!((&line["reason"], &line["blame"]), (&"drained".into(), &"proxy".into()));
    assert_eq!(arus.wait_exit(DEADLINE).code(), Some(0));
}

/// Measured as CPU time, which other processes do not change.
/// Nothing ticks: what is idle is not woken, so that the first byte afterwards cannot have waited for a tick.
#[test]
fn idleness_wakes_nobody_and_ends_at_once() {
    let backend = Backend::start(behaviour::echo);
    let arus = Setup::one("127.0.0.1:0", &[&backend]).shards(4).start();
    let mut clients: Vec<Stream> = (0..16).map(|_| Stream::connect(&arus.address("web"))).collect();
    let once = |client: &mut Stream| {
        client.send(1, 0, 10);
        client.expect(1, 0, 10);
    };
    clients.iter_mut().for_each(once);
    // After traffic sockets are looked at once more, and memory is given back: that comes to an end.
    let interval = Duration::from_secs(2);
    let mut woken = Vec::new();
    while woken.len() < 10 {
        let before = arus.process().waits("shard-");
        std::thread::sleep(interval);
        woken.push(arus.process().waits("shard-") - before);
        // A tick of 20 ms on one shard would be 100.
        if woken.last().is_some_and(|count| *count < 20) {
            clients.iter_mut().for_each(once);
            return;
        }
    }
    panic!("4 idle shards were woken so often in {interval:?} each: {woken:?}");
}

/// A panic in the middle of a relay, with bytes on their way, ends that connection and nothing else.
#[test]
fn a_panic_ends_one_connection() {
    if cfg!(not(debug_assertions)) {
        println!("skipped: only debug builds can be asked to panic");
        return;
    }
    let backend = Backend::start(behaviour::echo);
    let mut arus = Setup::one("127.0.0.1:0", &[&backend]).shards(1).env("ARUS_TEST_PANIC", "127.0.0.66").start();
    let address = arus.address("web");
    let mut other = Stream::connect(&address);
    other.send(1, 0, 1000);
    other.expect(1, 0, 1000);
    let descriptors = arus.descriptors();
    for round in 1..=5 {
        let mut victim = Stream::connect_from([127, 0, 0, 66].into(), &address);
        let local = victim.local();
        victim.send_until_error(2, 4 << 20);
        victim.discard();
        let line = arus.session_of(local);
        assert_eq!(
            (&line["reason"], &line["blame"], &line["state"]),
            (&"panic".into(), &"proxy".into(), &"failed".into())
        );
        other.send(1, round * 1000, 1000);
        other.expect(1, round * 1000, 1000);
    }
    assert_eq!(arus.shard_sum("/panics"), 5);
    assert!(arus.is_running());
    arus.wait_active(1);
    arus.wait_buffers_whole();
    arus.wait_descriptors(descriptors);
}
