//! Handshakes that are cut, foreign, unfinished, or cut short by a ticket.

use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};
use serde_json::Value;

use crate::harness::tls_openssl::exchange;
use crate::harness::*;
use crate::ops::{configure, has, reload};

use super::{Scene, assert_client_failed_at, check_echo, terminator, terminator_body};

#[test]
fn a_handshake_in_pieces_of_any_size() {
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let arus = terminator(echo.address(), &[&scene.server("a.test")], "").start();
    for version in [&TLS12, &TLS13] {
        for cut in [1, 2, 3, 5, 7, 64, 255] {
            let client = TlsClient::speaking(&scene.authority, "a.test", &[version]).cut(cut).without_resumption();
            check_echo(&mut client.connect(&arus.address("tls")), cut as u64);
        }
    }
}

#[test]
fn plaintext_on_a_tls_port_is_refused() {
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let arus = terminator(echo.address(), &[&scene.server("a.test")], "").start();
    let beginnings: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n", b"\0", b"\x16\x03\x01\xff\xff", b"\x80\x2e\x01\x00\x02"];
    for bytes in beginnings {
        let mut stream = Stream::connect(&arus.address("tls"));
        stream.write_all(bytes);
        stream.finish();
        let (mut seen, mut buffer) = (Vec::new(), [0; 64]);
        while let Ok(count @ 1..) = stream.read_some(&mut buffer) {
            seen.extend_from_slice(&buffer[..count]);
        }
        // An alert, or nothing.
        assert!(seen.is_empty() || (seen[0] == 21 && seen.len() == 7), "{bytes:x?}: {seen:x?}");
    }
    assert_client_failed_at("tls", &arus.finished(beginnings.len()));
    assert_eq!(echo.accepted(), 0, "no backend is asked before the handshake is done");
}

#[test]
fn unfinished_handshakes_end_at_the_deadline_and_hold_up_nobody() {
    const LIMIT: Duration = Duration::from_secs(2);
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let setup = terminator(echo.address(), &[&scene.server("a.test")], "");
    let arus = setup.also("[timeouts]\ntls_handshake = \"2s\"").start();
    let address = arus.address("tls");
    let hello = scene.client("a.test").hello();
    let begin = Instant::now();
    let mut stuck: Vec<Stream> = (0..60).map(|_| Stream::connect(&address)).collect();
    for (number, stream) in stuck.iter_mut().enumerate() {
        // Nothing, a part of the hello, and all of it.
        stream.write_all(&hello[..[0, 1, 5, hello.len() - 1, hello.len()][number % 5]]);
    }
    // A byte now and then does not move the deadline.
    let mut slow = Stream::connect(&address);
    let dripping = std::thread::spawn({
        let (mut slow, hello) = (slow.try_clone(), hello.clone());
        move || {
            for byte in hello {
                if slow.try_write_all(&[byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    });
    stuck.push(slow.try_clone());
    for round in 0..20 {
        check_echo(&mut scene.client("a.test").connect(&address), round);
    }
    for stream in &mut stuck {
        // What the server says of the hello, or in an alert, comes before the end.
        stream.discard();
        let waited = begin.elapsed();
        assert!(waited >= LIMIT - Duration::from_millis(100), "ended after {waited:?}");
    }
    dripping.join().unwrap();
    slow.discard();
    let lines = arus.finished(81);
    let failed: Vec<Value> = lines.iter().filter(|line| line["stage"] == "tls").cloned().collect();
    assert_eq!(failed.len(), 61);
    assert_client_failed_at("tls", &failed);
    assert_eq!(echo.accepted(), 20);
    arus.wait_active(0);
}

/// Every shard can take up what another began.
#[test]
fn sessions_are_resumed_across_shards() {
    const ROUNDS: usize = 40;
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let arus = terminator(echo.address(), &[&scene.server("a.test")], "").shards(4).start();
    let address = arus.address("tls");
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::speaking(&scene.authority, "a.test", &[version]);
        for round in 0..ROUNDS {
            let mut stream = client.connect(&address);
            check_echo(&mut stream, round as u64);
            assert_eq!(stream.is_resumed(), round > 0, "{version:?}, round {round}");
        }
    }
    let status = arus.status();
    let shards = status["shards"].as_array().unwrap().iter();
    let used = shards.filter(|shard| shard["accepted"].as_u64().is_some_and(|accepted| accepted > 0)).count();
    assert!(used > 1, "all connections came to one shard: {status}");
    if !has("openssl") {
        return;
    }
    // One session, again and again.
    for version in ["-tls1_2", "-tls1_3"] {
        let [first, next] = ["first", "next"].map(|name| scene.directory.path().join(name));
        let printed = exchange(&address, &[version], "hello", "\nhello\n", &first);
        assert!(printed.contains("\nNew, "), "{printed}");
        for _ in 0..8 {
            let again = [version, "-sess_in", first.to_str().unwrap()];
            let printed = exchange(&address, &again, "hello", "\nhello\n", &next);
            assert!(printed.contains("\nReused, "), "{printed}");
        }
    }
}

#[test]
fn tickets_outlive_a_reload_but_no_change_of_policy() {
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let (pair, clients) = (scene.server("a.test"), Authority::new(scene.directory.path(), "clients"));
    let arus = terminator(echo.address(), &[&pair], "").start();
    let address = arus.address("tls");
    let alice = TlsClient::identified(&scene.authority, "a.test", &clients.client("alice"));
    check_echo(&mut alice.connect(&address), 1);
    let listen = |keys: &str| {
        let body = terminator_body(echo.address(), &[&pair], keys);
        configure(&arus, &body.replace("127.0.0.1:0", &address.to_string()));
        reload(&arus).unwrap();
    };
    listen("");
    let mut stream = alice.connect(&address);
    check_echo(&mut stream, 2);
    assert!(stream.is_resumed(), "a reload that changed nothing");
    listen(&format!("client_auth = {{ mode = \"require\", ca = {:?} }}", clients.cert()));
    let mut stream = alice.connect(&address);
    check_echo(&mut stream, 3);
    assert!(!stream.is_resumed(), "a session of before the certificates was resumed");
}
