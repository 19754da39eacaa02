//! What is said before bytes flow: RFC 1928 and what parity asks of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::*;
use crate::ops::{has, is_root};

/// Tells whoever connects where it comes from, and sends back what it gets.
fn mirror() -> impl Fn(Stream, usize) + Send + Sync + 'static {
    |mut stream, number| {
        let peer = stream.0.peer_addr().unwrap().as_socket().unwrap();
        stream.write_all(format!("{peer}\n").as_bytes());
        behaviour::echo(stream, number);
    }
}

fn read_line(stream: &mut Stream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.extend(stream.read_exactly(1));
    }
    String::from_utf8(line).unwrap().trim().into()
}

#[test]
fn methods() {
    let arus = setup("", "").start();
    let every: Vec<u8> = [5, 255].into_iter().chain((0..255).rev()).collect();
    for pieces in BOTH {
        for (greeting, answer, goes_on) in [
            (&[5, 1, 0][..], [5, 0], true),
            (&[5, 2, 2, 0], [5, 0], true),
            (&every, [5, 0], true),
            (&[5, 1, 2], [5, 0xff], false),
            (&[5, 3, 1, 2, 0x80], [5, 0xff], false),
            (&[5, 0], [5, 0xff], false),
        ] {
            let mut client = Stream::connect(&arus.address("socks"));
            say(&mut client, greeting, pieces);
            assert_eq!(client.read_exactly(2), answer, "{greeting:?}");
            if !goes_on {
                assert_eq!(client.end(), End::Fin, "{greeting:?}");
            }
        }
    }
}

#[test]
fn what_is_not_socks_gets_no_word() {
    let arus = setup("", "").start();
    for bytes in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[4, 1, 0, 80, 127, 0, 0, 1, 0], &[0x16, 3, 1, 0, 5], &[0]]
    {
        for pieces in BOTH {
            let begun = Instant::now();
            let mut client = Stream::connect(&arus.address("socks"));
            say(&mut client, bytes, pieces);
            let mut buffer = [0; 64];
            // A reset comes where it has not read all of it; what counts is that no byte does.
            assert!(matches!(client.read_some(&mut buffer), Ok(0) | Err(_)));
            assert!(begun.elapsed() < DEADLINE);
        }
    }
    for line in arus.finished(8) {
        assert_eq!(
            (&line["reason"], &line["stage"], &line["blame"]),
            (&"socks_message".into(), &"negotiate".into(), &"client".into())
        );
    }
}

#[test]
fn whoever_says_nothing_or_little_is_closed() {
    let arus = setup("", "[timeouts]\nnegotiate = \"300ms\"").start();
    for bytes in [&[][..], &[5], &[5, 1], &[5, 1, 0], &[5, 1, 0, 5, 1, 0, 3]] {
        let mut client = Stream::connect(&arus.address("socks"));
        client.write_all(bytes);
        let mut buffer = [0; 64];
        while let Ok(1..) = client.read_some(&mut buffer) {}
    }
    // The deadline is for all of it: whoever sends a byte now and then is closed too.
    let mut slow = Stream::connect(&arus.address("socks"));
    let begun = Instant::now();
    let long: Vec<u8> = [5, 255].into_iter().chain([1; 255]).collect();
    for byte in long {
        if slow.try_write_all(&[byte]).is_err() || begun.elapsed() > DEADLINE {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let ends = arus.finished(6);
    assert!(ends.iter().all(|line| line["reason"] == "stage_timeout" && line["stage"] == "negotiate"), "{ends:?}");
}

#[test]
fn connect_by_address_and_by_name() {
    let four = Backend::start(mirror());
    let six = Backend::start_v6(mirror());
    let arus = setup("", "").start();
    let port = |backend: &Backend| backend.address().ip().port();
    let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{}", port(&four)).parse().unwrap();
    for pieces in BOTH {
        for request in [
            request_ip(CONNECT, four.address().ip()),
            request_ip(CONNECT, six.address().ip()),
            request_ip(CONNECT, mapped),
            request_name(CONNECT, b"localhost", port(&four)),
            request_name(CONNECT, b"LocalHost.", port(&four)),
            request_name(CONNECT, b"127.0.0.1", port(&four)),
            request_name(CONNECT, b"0x7f.1", port(&four)),
            request_name(CONNECT, b"[::1]", port(&six)),
        ] {
            let mut client = greeted(&arus);
            say(&mut client, &request, pieces);
            let (reply, bound) = read_reply(&mut client);
            assert_eq!(reply, 0, "{request:?}");
            assert_eq!(read_line(&mut client), bound.to_string(), "where the target sees the connection come from");
            client.send(1, 0, 10_000);
            client.expect(1, 0, 10_000);
        }
    }
}

#[test]
fn every_reply_where_it_belongs() {
    let backend = Backend::start(behaviour::echo);
    let closed = Closed::new();
    let hanging = Hanging::new();
    let arus = setup("", "[timeouts]\nconnect = \"1s\"").start();
    let port = backend.address().ip().port();
    let changed = |at: usize, value: u8| {
        let mut request = request_ip(CONNECT, backend.address().ip());
        request[at] = value;
        request
    };
    for pieces in BOTH {
        for (request, reply) in [
            (request_ip(CONNECT, closed.address().ip()), 5),
            (request_ip(CONNECT, hanging.address().ip()), 4),
            (request_name(CONNECT, b"nothing.invalid", port), 4),
            // No host has such a name.
            (request_name(CONNECT, b"a..b", port), 4),
            (request_name(CONNECT, b"local\0host", port), 4),
            (request_name(CONNECT, b"\xff\xfe", port), 4),
            (request_name(CONNECT, &[b'a'; 255], port), 4),
            (vec![5, 1, 0, 3, 0, 0, 80], 1),
            (changed(1, 4), 7),
            (changed(1, 0), 7),
            (request_ip(BIND, backend.address().ip()), 7),
            (request_ip(3, backend.address().ip()), 7),
            (changed(3, 5), 8),
            (changed(3, 2), 8),
        ] {
            assert_eq!(refusal(&arus, &request, pieces), reply, "{request:?}");
        }
    }
    // RSV may be anything.
    let mut client = greeted(&arus);
    client.write_all(&changed(2, 0xff));
    assert_eq!(read_reply(&mut client).0, 0);
    // A second version, within the dialogue, is none.
    let mut client = greeted(&arus);
    client.write_all(&[4, 1, 0, 80]);
    assert!(rest(&mut client).is_empty());
}

#[test]
fn reasons_stages_and_blame() {
    let closed = Closed::new();
    let arus = setup("", "").start();
    for (request, reason, stage, blame) in [
        (request_ip(CONNECT, closed.address().ip()), "connect_refused", "connect", "upstream"),
        (request_name(CONNECT, b"a..b", 80), "unresolved", "route", "client"),
        (vec![5, 9, 0, 1], "socks_command", "negotiate", "client"),
        (vec![5, 1, 0, 9], "socks_address", "negotiate", "client"),
    ] {
        let mut client = greeted(&arus);
        let from = client.local();
        client.write_all(&request);
        rest(&mut client);
        drop(client);
        let line = arus.session_of(from);
        assert_eq!((line["state"].as_str(), line["reason"].as_str()), (Some("failed"), Some(reason)), "{line}");
        assert_eq!((line["stage"].as_str(), line["blame"].as_str()), (Some(stage), Some(blame)), "{line}");
    }
    let backend = Backend::start(behaviour::echo);
    let mut client = connected(&arus, backend.address());
    let from = client.local();
    client.send(3, 0, 1000);
    client.expect(3, 0, 1000);
    client.finish();
    assert_eq!(client.end(), End::Fin);
    let line = arus.session_of(from);
    let target = backend.address().to_string();
    assert_eq!((line["target"].as_str(), line["backend"].as_str()), (Some(&*target), Some(&*target)), "{line}");
    assert_eq!((line["bytes_up"].as_u64(), line["bytes_down"].as_u64()), (Some(1000), Some(1000)), "{line}");
    assert_eq!(line["reason"], "done");
}

#[test]
fn this_machine_is_blocked_in_every_spelling() {
    let backend = Backend::start(behaviour::echo);
    let listener = "[[listener]]\nname = \"socks\"\nlisten = \"127.0.0.1:0\"\nservice = \"socks5\"\n";
    let arus = Setup::new(format!("{listener}[acl]\ndefault = \"allow\"")).start();
    let port = backend.address().ip().port();
    let names: [&[u8]; 8] = [
        b"localhost",
        b"LOCALHOST.",
        b"127.1",
        b"2130706433",
        b"0x7f000001",
        b"0",
        b"[::ffff:127.0.0.1]",
        b"a.localhost",
    ];
    let mut requests: Vec<_> = names.iter().map(|name| request_name(CONNECT, name, port)).collect();
    for ip in ["127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "127.9.9.9", "169.254.1.1"] {
        requests.push(request_ip(CONNECT, SocketAddr::new(ip.parse().unwrap(), port)));
    }
    for request in &requests {
        assert_eq!(refusal(&arus, request, Pieces::Whole), 2, "{request:?}");
    }
    for line in arus.finished(requests.len()) {
        assert_eq!(
            (line["state"].as_str(), line["reason"].as_str()),
            (Some("rejected"), Some("acl_blocked")),
            "{line}"
        );
        assert_eq!(line["blame"], "policy");
    }
    assert_eq!(backend.accepted(), 0);
}

/// In a network of its own, which has no way out but those that it is given.
#[test]
fn networks_and_hosts_that_cannot_be_reached() {
    if !is_root() || !has("ip") || !has("unshare") {
        return;
    }
    let script = "ip link set lo up && ip route add unreachable 192.0.2.0/24 && ip link add v0 type veth peer name v1 && \
                  ip addr add 198.51.100.1/24 dev v0 && ip link set v0 up && ip link set v1 up && exec \"$@\"";
    let arus = setup_at("unix:{dir}/socks.sock", "", "[timeouts]\nconnect = \"20s\"")
        .wrap(&["unshare", "--net", "sh", "-c", script, "sh"])
        .start();
    for (to, reply) in [("203.0.113.1:80", 3), ("192.0.2.1:80", 3), ("[2001:db8::1]:80", 3), ("198.51.100.2:80", 4)] {
        assert_eq!(refusal(&arus, &request_ip(CONNECT, to.parse().unwrap()), Pieces::Whole), reply, "{to}");
    }
}

#[test]
fn what_comes_along_is_kept() {
    let backend = Backend::start(behaviour::echo);
    let arus = setup("", "").start();
    for pieces in BOTH {
        for request in [
            request_ip(CONNECT, backend.address().ip()),
            request_name(CONNECT, b"localhost", backend.address().ip().port()),
        ] {
            let mut all = GREETING.to_vec();
            all.extend(request);
            all.extend(pattern(7, 0, 3000));
            let mut client = Stream::connect(&arus.address("socks"));
            say(&mut client, &all, pieces);
            assert_eq!(client.read_exactly(2), [5, 0]);
            assert_eq!(read_reply(&mut client).0, 0);
            client.expect(7, 0, 3000);
            client.finish();
            assert_eq!(client.end(), End::Fin);
        }
    }
}

#[test]
fn version_4() {
    let backend = Backend::start(behaviour::echo);
    let closed = Closed::new();
    let arus = setup("", "[socks]\nsocks4 = true").start();
    let address = |to: &Address| match to.ip() {
        SocketAddr::V4(to) => {
            let mut request = vec![4, 1];
            request.extend(to.port().to_be_bytes());
            request.extend(to.ip().octets());
            request
        }
        SocketAddr::V6(to) => panic!("{to}"),
    };
    let name = |name: &[u8], to: &Address| {
        let mut request = vec![4, 1];
        request.extend(to.ip().port().to_be_bytes());
        request.extend([0, 0, 0, 1, 0]);
        request.extend(name);
        request.push(0);
        request
    };
    for pieces in BOTH {
        for (request, code) in [
            ([address(backend.address()), b"root\0".to_vec()].concat(), 0x5a),
            ([address(backend.address()), b"\0".to_vec()].concat(), 0x5a),
            (name(b"localhost", backend.address()), 0x5a),
            ([address(&closed.address()), b"\0".to_vec()].concat(), 0x5b),
            (name(b"a..b", backend.address()), 0x5b),
            ([&[4, 2][..], &address(backend.address())[2..], &[0]].concat(), 0x5b),
        ] {
            let mut client = Stream::connect(&arus.address("socks"));
            let from = client.local();
            say(&mut client, &request, pieces);
            let answer = client.read_exactly(8);
            assert_eq!((answer[0], answer[1]), (0, code), "{request:?}");
            if code == 0x5a {
                client.send(5, 0, 5000);
                client.expect(5, 0, 5000);
                client.finish();
            }
            assert_eq!(client.end(), End::Fin);
            assert!(arus.session_of(from)["user"].is_null(), "whom a client names is nobody");
        }
    }
    // Nothing proves who a client of version 4 is.
    let arus = setup(
        "",
        "[socks]\nsocks4 = true\n[auth]\nmethods = [\"password\"]\n[[auth.user]]\nname = \"a\"\npassword = \"b\"",
    )
    .start();
    let mut client = Stream::connect(&arus.address("socks"));
    client.write_all(&[address(backend.address()), b"a\0".to_vec()].concat());
    assert_eq!(client.read_exactly(2), [0, 0x5b]);
}
