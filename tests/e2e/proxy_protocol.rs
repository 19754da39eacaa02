//! The PROXY protocol: what arus makes of the headers of HAProxy, nginx, and of others by hand. What it sends itself is
//! in `sending`.

mod sending;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::proxy_header::{AUTHORITY, CRC32C, SIGNATURE, UNIQUE_ID, raw_v2, v1, v2};
use crate::harness::*;
use crate::hello::Demo;
use crate::ops::{check_echo, has, listener, tagged, text};
use crate::tls::{Scene, tls_table};

/// `accept_proxy` for everybody on this machine.
const FROM_HERE: &str = "accept_proxy = { mode = \"require\", trusted = [\"127.0.0.0/8\", \"::1/128\"] }";

/// An upstream of one backend with further keys, and a listener in front of it with keys of its own.
fn relay(listen: &str, backend: &Address, upstream: &str, own: &str) -> Setup {
    Setup::new(
        format!("[[upstream]]\nname = \"app\"\nbackends = [\"{backend}\"]\n{upstream}\n")
            + &listener("web", listen, "app", own),
    )
}

fn receiver(backend: &Address) -> Setup {
    relay("127.0.0.1:0", backend, "", FROM_HERE)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Some addresses that nobody here has.
fn foreign() -> (SocketAddr, SocketAddr) {
    (address("192.0.2.7:4711"), address("198.51.100.1:443"))
}

/// Sends `header` before a stream, and gives what the access log has of it.
fn exchange(arus: &Arus, header: &[u8], count: usize) -> (Value, SocketAddr) {
    let mut stream = Stream::connect(&arus.address("web"));
    stream.write_all(header);
    check_echo(&mut stream, count as u64);
    let own = stream.local();
    drop(stream);
    (arus.finished(count).remove(count - 1), own)
}

#[test]
fn arus_believes_haproxy() {
    if !has("haproxy") {
        return;
    }
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let bundle = scene.server("a.test").bundle();
    let tls = format!("ssl crt {} alpn h2", bundle.display());
    let options = "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c,unique-id";
    let recording = Recording::start();
    let all = "send_proxy = \"v2\"\nproxy_tlvs = [\"alpn\", \"authority\", \"ssl\", \"unique_id\", \"crc32c\"]";
    for (number, words) in ["send-proxy", "send-proxy-v2", options].into_iter().enumerate() {
        let arus = receiver(echo.address()).start();
        let haproxy = Haproxy::start(&tls, &arus.address("web"), words);
        let mut stream = scene.client("a.test").alpn(&["h2"]).connect(haproxy.address());
        crate::tls::check_echo(&mut stream, 1);
        assert_eq!(arus.sessions()[0]["source"], stream.socket.local().to_string(), "{words}");
        stream.close_notify();
        assert_eq!(stream.read_to_end().1, TlsEnd::CloseNotify);
        assert_eq!(arus.finished(1)[0]["source"], stream.socket.local().to_string(), "{words}");

        // And it hands on whom the header spoke for.
        let arus = relay("127.0.0.1:0", recording.address(), all, FROM_HERE).start();
        let haproxy = Haproxy::start(&tls, &arus.address("web"), words);
        let mut stream = scene.client("a.test").alpn(&["h2"]).connect(haproxy.address());
        crate::tls::check_echo(&mut stream, 1);
        let header = recording.headers(number + 1).remove(number);
        assert_eq!(header.addresses, Some((stream.socket.local(), haproxy.address().ip())), "{words}");
        assert_eq!(header.is_checksum_right(), Some(true));
    }
    // Its checks are LOCAL, and as good as any other connection.
    let arus = receiver(echo.address()).start();
    let words = "send-proxy-v2 check inter 50 check-send-proxy";
    let _haproxy = Haproxy::start("", &arus.address("web"), words);
    for line in arus.finished(3) {
        assert!(line["source"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        assert_ne!(line["state"], "rejected", "{line}");
    }
}

#[test]
fn arus_believes_nginx() {
    if !has("nginx") {
        return;
    }
    let echo = Backend::start(behaviour::echo);
    let arus = receiver(echo.address()).start();
    let Some(front) = Nginx::stream(&arus.address("web"), "", "proxy_protocol on;") else { return };
    let mut stream = Stream::connect(front.address());
    check_echo(&mut stream, 1);
    let own = stream.local();
    drop(stream);
    assert_eq!(arus.finished(1)[0]["source"], own.to_string());
}

/// Headers, and the source that they name; `None`: the connection itself.
fn vectors() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let (from, to) = foreign();
    let (from6, to6) = (address("[2001:db8::7]:4711"), address("[2001:db8::1]:443"));
    let filler = vec![0x55; 65535 - 12 - 3];
    let all: [(u8, &[u8]); 4] = [(AUTHORITY, b"a.test"), (UNIQUE_ID, b""), (CRC32C, &[0; 4]), (0xE0, &[7; 300])];
    let (v4, v6) = (Some("192.0.2.7:4711"), Some("[2001:db8::7]:4711"));
    vec![
        ("v1", v1(from, to), v4),
        ("v1, IPv6", v1(from6, to6), v6),
        ("v1, unknown", b"PROXY UNKNOWN\r\n".to_vec(), None),
        ("v1, unknown with more", b"PROXY UNKNOWN ffff::1 ::2 1 2\r\n".to_vec(), None),
        ("v2", v2(from, to, &[]), v4),
        ("v2, IPv6", v2(from6, to6, &[]), v6),
        ("v2, TLVs", v2(from, to, &all), v4),
        ("v2, LOCAL", raw_v2(0x20, 0x00, &[]), None),
        ("v2, LOCAL with addresses", [&SIGNATURE[..], &[0x20], &v2(from, to, &[])[13..]].concat(), None),
        ("v2, UNSPEC", raw_v2(0x21, 0x00, b"\x04\0\x03abc"), None),
        ("v2, unix", raw_v2(0x21, 0x31, &[0; 216]), None),
        ("v2, the largest", v2(from, to, &[(0x04, &filler)]), v4),
    ]
}

#[test]
fn headers_by_hand_at_once_and_in_single_bytes() {
    let echo = Backend::start(behaviour::echo);
    let arus = receiver(echo.address()).start();
    for (number, (name, header, source)) in vectors().into_iter().enumerate() {
        let (line, own) = exchange(&arus, &header, 2 * number + 1);
        let expected = source.map_or_else(|| own.to_string(), ToOwned::to_owned);
        assert_eq!(line["source"], expected, "{name}");
        // The payload, and not the header.
        assert_eq!((&line["bytes_up"], &line["bytes_down"]), (&5000.into(), &5000.into()), "{name}: {line}");

        let mut stream = Stream::connect(&arus.address("web"));
        let begin = header.len().saturating_sub(500);
        stream.write_all(&header[..begin]);
        for byte in &header[begin..] {
            stream.write_all(&[*byte]);
        }
        check_echo(&mut stream, 1);
        let expected = source.map_or_else(|| stream.local().to_string(), ToOwned::to_owned);
        drop(stream);
        assert_eq!(arus.finished(2 * number + 2)[2 * number + 1]["source"], expected, "{name} in single bytes");
    }
}

#[test]
fn what_is_no_header_is_refused() {
    let echo = Backend::start(behaviour::echo);
    let arus = receiver(echo.address()).start();
    let (from, to) = foreign();
    let good = v2(from, to, &[(CRC32C, &[0; 4])]);
    let changed = |at: usize, value: u8| {
        let mut header = good.clone();
        header[at] = value;
        header
    };
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("a ClientHello", vec![22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]),
        ("lower case", b"proxy TCP4 192.0.2.7 198.51.100.1 4711 443\r\n".to_vec()),
        ("two spaces", b"PROXY TCP4  192.0.2.7 198.51.100.1 4711 443\r\n".to_vec()),
        ("only LF", b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\n".to_vec()),
        ("port 65536", b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n".to_vec()),
        ("a leading zero", b"PROXY TCP4 192.0.2.07 198.51.100.1 4711 443\r\n".to_vec()),
        ("another family", b"PROXY TCP6 192.0.2.7 198.51.100.1 4711 443\r\n".to_vec()),
        ("no end", [b"PROXY UNKNOWN ", vec![b'x'; 100].as_slice()].concat()),
        ("version 3", changed(12, 0x31)),
        ("command 2", changed(12, 0x22)),
        ("datagrams", changed(13, 0x12)),
        ("family 4", changed(13, 0x41)),
        ("a torn TLV", raw_v2(0x21, 0x11, &[&good[16..28], b"\x04\0\x09abc"].concat())),
        ("a length that is too small", raw_v2(0x21, 0x11, &good[16..27])),
        ("a wrong checksum", changed(16, 193)),
    ];
    for (why, bytes) in &bad {
        let mut stream = Stream::connect(&arus.address("web"));
        let _ = stream.try_write_all(bytes);
        assert_eq!(stream.discard().0, 0, "{why}");
    }
    // One that is cut off.
    let mut stream = Stream::connect(&arus.address("web"));
    stream.write_all(&good[..20]);
    stream.finish();
    stream.end();
    crate::tls::assert_client_failed_at("proxy_header", &arus.finished(bad.len() + 1));
    assert_eq!(echo.accepted(), 0, "a backend was asked for nobody");
    // And still it serves.
    exchange(&arus, &good, bad.len() + 2);
}

/// A header is what a trusted neighbour says, and nobody else.
#[test]
fn strangers_may_not_say_who_they_are() {
    let echo = Backend::start(behaviour::echo);
    let trusted = "accept_proxy = { mode = \"require\", trusted = [\"127.0.0.2/32\"] }";
    let arus = relay("127.0.0.1:0", echo.address(), "", trusted).start();
    let (from, to) = foreign();
    let mut own = Vec::new();
    for header in [v1(from, to), v2(from, to, &[]), Vec::new()] {
        let mut stream = Stream::connect(&arus.address("web"));
        own.push(stream.local().to_string());
        let _ = stream.try_write_all(&header);
        stream.end();
    }
    let lines = arus.finished(3);
    let sources: Vec<_> = lines.iter().filter_map(|line| line["source"].as_str()).collect();
    assert!(own.iter().all(|own| sources.contains(&own.as_str())), "a stranger was believed: {lines:?}");
    assert!(lines.iter().all(|line| line["state"] == "rejected" && line["blame"] == "policy"), "{lines:?}");
    assert_eq!(arus.rejected("web").values().sum::<u64>(), 3);
    assert_eq!(echo.accepted(), 0);
    let mut stream = Stream::connect_from([127, 0, 0, 2].into(), &arus.address("web"));
    stream.write_all(&v2(from, to, &[]));
    check_echo(&mut stream, 1);
    drop(stream);
    assert_eq!(arus.finished(4)[3]["source"], "192.0.2.7:4711");
}

#[test]
fn a_header_is_awaited_until_the_deadline() {
    const LIMIT: Duration = Duration::from_secs(2);
    // It would speak first, and must not before it is known to whom.
    let first = tagged("first");
    let arus = receiver(first.address()).also("[timeouts]\nproxy_header = \"2s\"").start();
    let (from, to) = foreign();
    let header = v2(from, to, &[]);
    let begin = Instant::now();
    let mut stuck: Vec<Stream> = (0..30).map(|_| Stream::connect(&arus.address("web"))).collect();
    for (number, stream) in stuck.iter_mut().enumerate() {
        stream.write_all(&header[..[0, 1, 16, header.len() - 1][number % 4]]);
    }
    for _ in 0..10 {
        let mut stream = Stream::connect(&arus.address("web"));
        stream.write_all(&header);
        assert_eq!(crate::ops::read_tag(&mut stream), "first");
    }
    for stream in &mut stuck {
        stream.end();
        let waited = begin.elapsed();
        assert!(waited >= LIMIT - Duration::from_millis(100), "ended after {waited:?}");
    }
    let lines = arus.finished(40);
    let failed: Vec<Value> = lines.into_iter().filter(|line| line["stage"] == "proxy_header").collect();
    assert_eq!(failed.len(), 30);
    crate::tls::assert_client_failed_at("proxy_header", &failed);
    assert_eq!(first.accepted(), 10);
}

/// Bytes that look like a header are payload where none is expected, and behind the first one.
#[test]
fn only_one_header_and_only_where_it_is_asked_for() {
    let echo = Backend::start(behaviour::echo);
    let (plain, asking) = (relay("127.0.0.1:0", echo.address(), "", "").start(), receiver(echo.address()).start());
    let (from, to) = foreign();
    for header in [v1(from, to), v2(from, to, &[])] {
        for (arus, before) in [(&plain, Vec::new()), (&asking, v1(address("10.0.0.1:1"), to))] {
            let mut stream = Stream::connect(&arus.address("web"));
            stream.write_all(&[&before[..], &header].concat());
            assert_eq!(stream.read_exactly(header.len()), header);
            check_echo(&mut stream, 1);
        }
    }
    for line in plain.finished(2) {
        assert!(line["source"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
    assert!(asking.finished(2).iter().all(|line| line["source"] == "10.0.0.1:1"));
}

#[test]
fn rules_look_at_the_source_that_the_header_names() {
    let (one, two) = (tagged("one"), tagged("two"));
    let body = crate::ops::upstream("one", &[&one], "")
        + &crate::ops::upstream("two", &[&two], "")
        + &listener("web", "127.0.0.1:0", "one", FROM_HERE)
        + "[[listener.route]]\nsource = [\"10.0.0.0/8\"]\nupstream = \"two\"\n";
    let arus = Setup::new(body).start();
    let to = address("198.51.100.1:443");
    for (source, tag) in [("192.0.2.7:1", "one"), ("10.1.2.3:1", "two"), ("192.0.2.8:1", "one")] {
        let mut stream = Stream::connect(&arus.address("web"));
        stream.write_all(&v2(address(source), to, &[]));
        assert_eq!(crate::ops::read_tag(&mut stream), tag, "{source}");
    }
    // An IPv4 address in IPv6's clothes is one.
    let mut stream = Stream::connect(&arus.address("web"));
    stream.write_all(&v2(address("[::ffff:10.1.2.3]:1"), address("[2001:db8::1]:1"), &[]));
    assert_eq!(crate::ops::read_tag(&mut stream), "two");
}

/// Header, then TLS: what a load balancer in front of a terminator sends, in one segment or in single bytes.
#[test]
fn a_header_before_a_handshake() {
    let (scene, demo) = (Scene::new(), Demo::proxied());
    let tls = format!("{FROM_HERE}\n{}", tls_table(&[&scene.server("a.test")], ""));
    let arus = relay("127.0.0.1:0", &demo.address, "send_proxy = \"v2\"", &tls).start();
    let (from, to) = foreign();
    for cut in [usize::MAX, 1] {
        let mut socket = Stream::connect(&arus.address("web"));
        for piece in v2(from, to, &[]).chunks(cut.min(1 << 20)) {
            socket.write_all(piece);
        }
        let mut stream = scene.client("a.test").cut(cut).over(socket).unwrap_or_else(|end| panic!("{end:?}"));
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n");
        let (answer, end) = stream.read_to_end();
        assert!(text(&answer).contains("hello client 192.0.2.7:4711, you were"), "{}", text(&answer));
        assert_eq!(end, TlsEnd::CloseNotify);
    }
}
