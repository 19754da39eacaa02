//! Bytes after the dialogue: as plain forwarding has them.

use super::*;

#[test]
fn much_both_ways() {
    const MUCH: u64 = 64 << 20;
    let backend = Backend::start(behaviour::echo);
    let arus = setup("", "").start();
    let mut client = connected(&arus, backend.address());
    let from = client.local();
    let mut sender = client.try_clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            sender.send(1, 0, MUCH);
            sender.finish();
        });
        client.expect(1, 0, MUCH);
        assert_eq!(client.end(), End::Fin);
    });
    let line = arus.session_of(from);
    assert_eq!((line["bytes_up"].as_u64(), line["bytes_down"].as_u64()), (Some(MUCH), Some(MUCH)));
}

#[test]
fn half_closed_by_either_side() {
    const ANSWER: u64 = 1 << 20;
    // The target answers when it has seen the end.
    let late = Backend::start(|mut stream: Stream, number| {
        stream.discard();
        stream.send(number as u64, 0, ANSWER);
    });
    let first = Backend::start(behaviour::source(ANSWER));
    let arus = setup("", "").start();
    let mut client = connected(&arus, late.address());
    client.send(9, 0, 5000);
    client.finish();
    assert_eq!(client.drain(0, 0), (ANSWER, End::Fin));
    let mut client = connected(&arus, first.address());
    assert_eq!(client.drain(0, 0), (ANSWER, End::Fin));
    client.send(9, 0, 100_000);
    client.finish();
    for line in arus.finished(2) {
        assert_eq!(line["reason"], "done");
    }
}

#[test]
fn resets_of_either_side() {
    let backend = Backend::start(behaviour::reset_after(10, 0));
    let arus = setup("", "").start();
    let mut client = connected(&arus, backend.address());
    let from = client.local();
    client.send(1, 0, 10);
    assert_eq!(client.end(), End::Reset);
    let line = arus.session_of(from);
    assert_eq!(
        (&line["state"], &line["reason"], &line["blame"]),
        (&"failed".into(), &"reset".into(), &"upstream".into())
    );
    let echo = Backend::start(behaviour::echo);
    let client = connected(&arus, echo.address());
    let from = client.local();
    client.reset();
    assert_eq!(arus.session_of(from)["blame"], "client");
}

#[test]
fn targets_that_speak_first() {
    let backend = Backend::start(|mut stream: Stream, number| {
        stream.write_all(b"220 ready\r\n");
        behaviour::echo(stream, number);
    });
    let arus = setup("", "").start();
    for _ in 0..20 {
        let mut client = connected(&arus, backend.address());
        assert_eq!(client.read_exactly(11), b"220 ready\r\n");
    }
}

/// Clients that go at every point of the dialogue leave nothing behind.
#[test]
fn nothing_is_left_of_clients_that_go() {
    let backend = Backend::start(behaviour::echo);
    let arus = setup("", "").start();
    drop(connected(&arus, backend.address()));
    arus.wait_active(0);
    let before = arus.descriptors();
    let mut all = GREETING.to_vec();
    all.extend(request_name(CONNECT, b"localhost", backend.address().ip().port()));
    for cut in 0..=all.len() {
        for resets in [false, true] {
            let mut client = Stream::connect(&arus.address("socks"));
            client.write_all(&all[..cut]);
            if resets {
                client.reset();
            }
        }
    }
    arus.wait_active(0);
    arus.wait_descriptors(before);
    arus.wait_buffers_whole();
}

#[test]
fn many_at_once() {
    let backend = Backend::start(behaviour::echo);
    let arus = setup("", "").start();
    let mut clients: Vec<_> = (0..100).map(|_| connected(&arus, backend.address())).collect();
    for (seed, client) in clients.iter_mut().enumerate() {
        client.send(seed as u64, 0, 20_000);
    }
    for (seed, client) in clients.iter_mut().enumerate() {
        client.expect(seed as u64, 0, 20_000);
    }
    drop(clients);
    arus.wait_active(0);
    let status = arus.status();
    assert_eq!(status["totals"]["panics"].as_u64().unwrap_or(0), 0);
}
