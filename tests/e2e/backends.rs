//! Backends that are down, hang, reset, close or say nothing: what the client sees, what the log says, and that others
//! step in.

use std::collections::HashMap;

use serde_json::Value;

use crate::harness::*;

fn assert_failed(line: &Value, reason: &str, stage: &str) {
    let seen = (&line["state"], &line["reason"], &line["blame"], &line["stage"]);
    assert_eq!(seen, (&"failed".into(), &reason.into(), &"upstream".into(), &stage.into()), "{line}");
}

#[test]
fn one_that_is_down_is_refused_at_once() {
    let closed = Closed::new();
    let arus = Setup::to("127.0.0.1:0", &[closed.address().to_string()], "", "").start();
    let mut client = Stream::connect(&arus.address("web"));
    let local = client.local();
    client.discard();
    let line = arus.session_of(local);
    assert_failed(&line, "connect_refused", "connect");
    assert_eq!((&line["bytes_up"], &line["bytes_down"]), (&0.into(), &0.into()));
    // A unix socket that is not there is the same.
    let arus = Setup::to("127.0.0.1:0", &["unix:/nonexistent/backend.sock".into()], "", "").start();
    let mut client = Stream::connect(&arus.address("web"));
    let local = client.local();
    client.discard();
    assert_failed(&arus.session_of(local), "connect_refused", "connect");
}

#[test]
fn others_step_in_for_those_that_are_down() {
    const CONNECTIONS: u64 = 12;
    let closed = [Closed::new(), Closed::new()];
    let echo = Backend::start(behaviour::echo);
    let mut backends: Vec<String> = closed.iter().map(|closed| closed.address().to_string()).collect();
    backends.push(echo.address().to_string());
    let arus = Setup::to("127.0.0.1:0", &backends, "", "retries = 2").start();
    for seed in 0..CONNECTIONS {
        let mut client = Stream::connect(&arus.address("web"));
        // Sent before anybody is connected: it must reach the third one whole, and once.
        client.send(seed, 0, 5000);
        client.finish();
        assert_eq!(client.drain(seed, 0), (5000, End::Fin));
    }
    let lines = arus.finished(CONNECTIONS as usize);
    assert!(lines.iter().all(|line| line["reason"] == "done" && line["bytes_up"] == 5000));
    assert_eq!(echo.accepted() as u64, CONNECTIONS);
    let status = arus.status();
    let failures = |index: usize| status["upstreams"][0]["backends"][index]["connect_failures"].as_u64().unwrap();
    assert!(failures(0) > 0 && failures(1) > 0 && failures(2) == 0, "{status}");
}

#[test]
fn without_retries_nobody_steps_in() {
    let closed = Closed::new();
    let echo = Backend::start(behaviour::echo);
    let backends = [closed.address().to_string(), echo.address().to_string()];
    let arus = Setup::to("127.0.0.1:0", &backends, "", "retries = 0").start();
    for _ in 0..8 {
        let mut client = Stream::connect(&arus.address("web"));
        client.finish();
        client.discard();
    }
    let mut reasons: HashMap<String, u32> = HashMap::new();
    for line in arus.finished(8) {
        *reasons.entry(line["reason"].as_str().unwrap().into()).or_default() += 1;
    }
    assert_eq!(reasons, HashMap::from([("done".into(), 4), ("connect_refused".into(), 4)]));
}

#[test]
fn one_that_hangs_in_connect_is_given_up() {
    let hanging = Hanging::new();
    let arus = Setup::to("127.0.0.1:0", &[hanging.address().to_string()], "", "retries = 5")
        .also("[timeouts]\nconnect = \"300ms\"")
        .start();
    let mut client = Stream::connect(&arus.address("web"));
    let local = client.local();
    client.discard();
    assert_failed(&arus.session_of(local), "connect_timeout", "connect");
}

#[test]
fn others_step_in_for_one_that_hangs() {
    let hanging = Hanging::new();
    let echo = Backend::start(behaviour::echo);
    let backends = [hanging.address().to_string(), echo.address().to_string()];
    let arus = Setup::to("127.0.0.1:0", &backends, "", "").also("[timeouts]\nconnect = \"300ms\"").start();
    let clients: Vec<_> = (0..8)
        .map(|seed| {
            let mut client = Stream::connect(&arus.address("web"));
            client.send(seed, 0, 100);
            client
        })
        .collect();
    for (seed, mut client) in clients.into_iter().enumerate() {
        client.expect(seed as u64, 0, 100);
        client.finish();
        assert_eq!(client.end(), End::Fin);
    }
    assert!(arus.finished(8).iter().all(|line| line["reason"] == "done"));
}

/// What the client sends while arus dials, FIN included, arrives once somebody answers.
#[test]
fn bytes_and_fin_wait_for_the_connect() {
    let mut hanging = Hanging::new();
    let arus = Setup::to("127.0.0.1:0", &[hanging.address().to_string()], "", "")
        .also("[timeouts]\nconnect = \"60s\"")
        .start();
    let mut client = Stream::connect(&arus.address("web"));
    let local = client.local();
    client.send(1, 0, 100_000);
    client.finish();
    arus.wait_active(1);
    // The kernel tries its SYN again after a second.
    let mut peer = hanging.accept_another();
    assert_eq!(peer.drain(1, 0), (100_000, End::Fin));
    peer.send(2, 0, 50_000);
    drop(peer);
    assert_eq!(client.drain(2, 0), (50_000, End::Fin));
    let line = arus.session_of(local);
    assert_eq!(
        (&line["reason"], &line["bytes_up"], &line["bytes_down"]),
        (&"done".into(), &100_000.into(), &50_000.into())
    );
}

#[test]
fn a_client_that_resets_while_arus_dials_leaves_nothing() {
    let hanging = Hanging::new();
    let arus = Setup::to("127.0.0.1:0", &[hanging.address().to_string()], "", "")
        .also("[timeouts]\nconnect = \"50s\"")
        .start();
    let before = arus.descriptors();
    let mut clients: Vec<Stream> = (0..10).map(|_| Stream::connect(&arus.address("web"))).collect();
    clients.iter_mut().for_each(|client| client.send(1, 0, 100));
    arus.wait_active(10);
    clients.into_iter().for_each(Stream::reset);
    for line in arus.finished(10) {
        assert_eq!((&line["reason"], &line["stage"]), (&"reset".into(), &"connect".into()), "{line}");
        assert_eq!(line["blame"], "client", "{line}");
    }
    arus.wait_active(0);
    arus.wait_descriptors(before);
    arus.wait_buffers_whole();
}

#[test]
fn one_that_resets_is_passed_on_at_every_stage() {
    // At once, after the request's first byte, after the whole request, and within the answer.
    for (after, reply) in [(0, 0), (1, 0), (1000, 0), (1000, 1), (1000, 100_000)] {
        let backend = Backend::start(behaviour::reset_after(after, reply));
        let arus = Setup::one("127.0.0.1:0", &[&backend]).start();
        let mut client = Stream::connect(&arus.address("web"));
        let local = client.local();
        let _ = client.try_write_all(&pattern(1, 0, 1000));
        let (seen, end) = client.drain(0, 0);
        assert!(end == End::Reset && seen <= reply, "{after} {reply}: {seen} {end:?}");
        let line = arus.session_of(local);
        assert_eq!(
            (&line["state"], &line["reason"], &line["blame"]),
            (&"failed".into(), &"reset".into(), &"upstream".into()),
            "{after} {reply}: {line}"
        );
        assert_eq!(line["bytes_down"], seen, "{line}");
    }
}

#[test]
fn one_that_resets_after_the_clients_fin_is_passed_on() {
    let backend = Backend::start(|mut stream: Stream, _| {
        assert_eq!(stream.drain(1, 0), (1000, End::Fin));
        stream.reset();
    });
    let arus = Setup::one("127.0.0.1:0", &[&backend]).start();
    let mut client = Stream::connect(&arus.address("web"));
    let local = client.local();
    client.send(1, 0, 1000);
    client.finish();
    assert_eq!(client.end(), End::Reset);
    let line = arus.session_of(local);
    assert_eq!(
        (&line["reason"], &line["blame"], &line["bytes_up"]),
        (&"reset".into(), &"upstream".into(), &1000.into())
    );
}

#[test]
fn one_that_closes_at_once_is_a_clean_end() {
    let backend = Backend::start(behaviour::close);
    let arus = Setup::one("127.0.0.1:0", &[&backend]).start();
    let mut client = Stream::connect(&arus.address("web"));
    let local = client.local();
    assert_eq!(client.end(), End::Fin);
    drop(client);
    let line = arus.session_of(local);
    assert_eq!((&line["state"], &line["reason"], &line["blame"]), (&"closed".into(), &"done".into(), &Value::Null));
}

#[test]
fn a_backend_is_ejected_after_failures_and_comes_back() {
    let address = Closed::new();
    let echo = Backend::start(behaviour::echo);
    let backends = [address.address().to_string(), echo.address().to_string()];
    let upstream = "retries = 1\noutlier = { failures = 3, eject = \"2s\" }";
    let arus = Setup::to("127.0.0.1:0", &backends, "", upstream).start();
    let one = |seed| {
        let mut client = Stream::connect(&arus.address("web"));
        client.send(seed, 0, 10);
        client.expect(seed, 0, 10);
    };
    let failures = || arus.status()["upstreams"][0]["backends"][0]["connect_failures"].as_u64().unwrap();
    (0..6).for_each(one);
    arus.log.message("ejected");
    assert_eq!(failures(), 3);
    assert_eq!(arus.status()["upstreams"][0]["backends"][0]["ejections"], 1);
    // Ejected: it gets no more connections, but lives again when its time is over.
    (0..10).for_each(one);
    assert_eq!(failures(), 3);
    let port = address.address();
    drop(address);
    let revived = Backend::listen(&port, behaviour::echo);
    eventually("the ejected backend is used again", || {
        one(1);
        (revived.accepted() > 0).then_some(())
    });
}
