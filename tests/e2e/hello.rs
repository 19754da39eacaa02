//! `arus hello`, the demo backend, with and without a PROXY header: asked by curl and through HAProxy, and by hand.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::proxy_header::{self, AUTHORITY, CRC32C, SIGNATURE, UNIQUE_ID, v1, v2};
use crate::harness::*;
use crate::ops::{has, text};

/// Within which the header must have come.
const PATIENCE: Duration = Duration::from_secs(5);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n\r\n";

/// An `arus hello` of its own.
pub(crate) struct Demo {
    pub(crate) address: Address,
    _program: Program,
}

impl Demo {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::listen("127.0.0.1:0", arguments)
    }

    /// One that wants a header.
    pub(crate) fn proxied() -> Self {
        Self::start(&["--accept-proxy"])
    }

    fn listen(listen: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_arus"));
        command.args(["hello", "--listen", listen]).args(arguments);
        let program = Program::start(command);
        let address = program.wait("address", |text| {
            let (address, _) = text.split_once("address=")?.1.split_once('\n')?;
            Some(Address::parse(address.trim()))
        });
        Self { address, _program: program }
    }

    fn connect(&self) -> Stream {
        Stream::connect(&self.address)
    }

    /// What it answers to a connection that begins with `header`.
    fn ask(&self, header: &[u8]) -> (String, SocketAddr) {
        let mut stream = self.connect();
        stream.write_all(&[header, REQUEST].concat());
        (answer(&mut stream), stream.local())
    }

    /// Nothing is answered to these bytes, and the connection ends.
    fn assert_dropped(&self, bytes: &[u8], why: &str) {
        let mut stream = self.connect();
        let begin = Instant::now();
        let _ = stream.try_write_all(bytes); // it may be over before the last of them
        let (seen, _) = stream.discard();
        assert_eq!(seen, 0, "{why}");
        assert!(begin.elapsed() < PATIENCE, "{why}: dropped only by the deadline");
    }
}

fn greeting(client: impl std::fmt::Display, proxy: impl std::fmt::Display) -> String {
    format!("hello client {client}, you were served by tls terminator proxy {proxy}\r\n")
}

/// The body of one HTTP/1.1 answer.
fn answer(stream: &mut Stream) -> String {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = stream.read_some(&mut buffer) {
        bytes.extend_from_slice(&buffer[..count]);
    }
    let answer = text(&bytes);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    body.to_owned()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Body, curl's own address, and HTTP's version.
fn curl(arguments: &[&str], address: &Address) -> Option<(String, SocketAddr, String)> {
    let url = format!("http://{address}/");
    let facts = "%{local_ip} %{local_port} %{http_version}";
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "30", "--noproxy", "*", "-w", facts]).args(arguments).arg(url);
    let output = command.output().unwrap();
    let answer = text(&output.stdout);
    let (body, facts) = answer.split_at(answer.rfind('\n').map_or(0, |end| end + 1));
    if body.is_empty() {
        return None;
    }
    let words: Vec<&str> = facts.split(' ').collect();
    let own = SocketAddr::new(words[0].parse().unwrap(), words[1].parse().unwrap());
    Some((body.to_owned(), own, words[2].to_owned()))
}

#[test]
fn curl_says_who_it_is() {
    if !has("curl") {
        return;
    }
    for demo in [Demo::proxied(), Demo::listen("[::1]:0", &["--accept-proxy"])] {
        for (version, name) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
            let (body, own, spoken) = curl(&[version, "--haproxy-protocol"], &demo.address).expect("an answer");
            assert_eq!((body, spoken.as_str()), (greeting(own, own), name));
            assert_eq!(curl(&[version], &demo.address), None, "{version} without a header");
        }
    }
    let plain = Demo::start(&[]);
    let (body, own, _) = curl(&["--http2-prior-knowledge"], &plain.address).expect("an answer");
    assert_eq!(body, greeting(own, own));
    // A header that nobody asked for is no header.
    assert!(curl(&["--haproxy-protocol"], &plain.address).is_none_or(|(body, ..)| !body.starts_with("hello")));
}

#[test]
fn haproxy_says_whom_it_serves() {
    if !has("haproxy") || !has("curl") {
        return;
    }
    let demo = Demo::proxied();
    for words in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
        // Its checks are LOCAL headers, and must not be answered with a drop.
        let words = format!("{words} check inter 100 check-send-proxy");
        let haproxy = Haproxy::start("", &demo.address, &words);
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let (body, own, _) = curl(&[version], haproxy.address()).expect("an answer");
            let (client, proxy) = body
                .strip_prefix("hello client ")
                .and_then(|rest| rest.split_once(", you were served by tls terminator proxy "))
                .unwrap_or_else(|| panic!("{body:?}"));
            let proxy = address(proxy.trim_end());
            assert_eq!(address(client), own, "{words}");
            assert!(proxy != own && proxy != haproxy.address().ip() && proxy.ip().is_loopback(), "{words}: {body:?}");
        }
    }
    let without = Haproxy::start("", &demo.address, "");
    assert_eq!(curl(&[], without.address()), None);
}

/// Headers, and the client that they name; `None`: the connection itself.
fn vectors() -> Vec<(&'static str, Vec<u8>, Option<SocketAddr>)> {
    let (v4, v6) = (address("192.0.2.7:4711"), address("[2001:db8::7]:4711"));
    let (to4, to6) = (address("198.51.100.1:443"), address("[2001:db8::1]:443"));
    let mapped = address("[::ffff:192.0.2.7]:4711");
    let tlvs: [(u8, &[u8]); 4] = [(AUTHORITY, b"a.test"), (UNIQUE_ID, b""), (CRC32C, &[0; 4]), (0xE0, &[7; 300])];
    // Everything that two bytes of length can say, in one TLV.
    let filler = vec![0x55; 65535 - 12 - 3];
    vec![
        ("v1, IPv4", v1(v4, to4), Some(v4)),
        ("v1, IPv6", v1(v6, to6), Some(v6)),
        ("v1, unknown", b"PROXY UNKNOWN\r\n".to_vec(), None),
        ("v1, unknown with more", b"PROXY UNKNOWN ffff::1 ::2 1 2\r\n".to_vec(), None),
        ("v2, IPv4", v2(v4, to4, &[]), Some(v4)),
        ("v2, IPv6", v2(v6, to6, &[]), Some(v6)),
        ("v2, IPv4-mapped", v2(mapped, to6, &[]), Some(v4)),
        ("v2, TLVs", v2(v4, to4, &tlvs), Some(v4)),
        ("v2, IPv6 and TLVs", v2(v6, to6, &tlvs), Some(v6)),
        ("v2, LOCAL", proxy_header::raw_v2(0x20, 0x00, &[]), None),
        ("v2, LOCAL with addresses", [&SIGNATURE[..], &[0x20], &v2(v4, to4, &[])[13..]].concat(), None),
        ("v2, UNSPEC", proxy_header::raw_v2(0x21, 0x00, &[]), None),
        ("v2, UNSPEC with a TLV", proxy_header::raw_v2(0x21, 0x00, b"\x04\0\x03abc"), None),
        ("v2, unix", proxy_header::raw_v2(0x21, 0x31, &[0; 216]), None),
        ("v2, the largest", v2(v4, to4, &[(0x04, &filler)]), Some(v4)),
    ]
}

#[test]
fn headers_by_hand() {
    let demo = Demo::proxied();
    for (name, header, client) in vectors() {
        let (body, own) = demo.ask(&header);
        assert_eq!(body, greeting(client.unwrap_or(own), own), "{name}");
    }
    let demo = Demo::listen("[::]:0", &["--accept-proxy"]);
    let mut stream = Stream::connect(&Address::Ip(SocketAddr::from(([127, 0, 0, 1], demo.address.ip().port()))));
    stream.write_all(&[&proxy_header::raw_v2(0x20, 0, &[]), REQUEST].concat());
    let own = stream.local();
    assert_eq!(answer(&mut stream), greeting(own, own), "an IPv4 client of a socket for both");
}

#[test]
fn headers_in_pieces() {
    let demo = Demo::proxied();
    for (name, header, client) in vectors() {
        let bytes = [&header, REQUEST].concat();
        // The largest one in larger pieces, one byte too few and too many around its end.
        let begin = bytes.len().saturating_sub(2000);
        let mut stream = demo.connect();
        stream.write_all(&bytes[..begin]);
        stream.wait_acknowledged();
        for byte in &bytes[begin..] {
            stream.write_all(std::slice::from_ref(byte));
        }
        let own = stream.local();
        assert_eq!(answer(&mut stream), greeting(client.unwrap_or(own), own), "{name} in single bytes");
        for cut in [1, 5, 12, 15, 16, header.len() - 1, header.len(), header.len() + 1, bytes.len() - 1] {
            let mut stream = demo.connect();
            stream.write_all(&bytes[..cut]);
            stream.wait_acknowledged();
            stream.write_all(&bytes[cut..]);
            let own = stream.local();
            assert_eq!(answer(&mut stream), greeting(client.unwrap_or(own), own), "{name} cut at {cut}");
        }
    }
}

#[test]
fn what_is_no_header_is_dropped_without_a_byte() {
    let demo = Demo::proxied();
    let (from, to) = (address("192.0.2.7:4711"), address("198.51.100.1:443"));
    let mut checksum = v2(from, to, &[(CRC32C, &[0; 4])]);
    checksum[16] ^= 1;
    let good = v2(from, to, &[]);
    let changed = |at: usize, value: u8| {
        let mut header = good.clone();
        header[at] = value;
        header
    };
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("HTTP/1.1", Vec::new()),
        ("h2c", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
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
        ("a length that is too small", [&changed(15, 11)[..27], &[0]].concat()),
        ("a torn TLV", proxy_header::raw_v2(0x21, 0x11, &[&good[16..], b"\x04\0\x09abc"].concat())),
        ("a wrong checksum", checksum),
    ];
    for (why, bytes) in bad {
        demo.assert_dropped(&[&bytes, REQUEST].concat(), why);
    }
    // One that ends early.
    let mut stream = demo.connect();
    stream.write_all(&good[..20]);
    stream.finish();
    stream.end();
    // And still it serves.
    assert_eq!(demo.ask(&good).0.split(',').next(), Some("hello client 192.0.2.7:4711"));
}

#[test]
fn a_header_that_does_not_come_is_not_awaited_for_long() {
    let demo = Demo::proxied();
    let header = v2(address("192.0.2.7:4711"), address("198.51.100.1:443"), &[]);
    let begin = Instant::now();
    let mut silent = demo.connect();
    let mut slow = demo.connect();
    // A byte now and then is no header either: the time is for all of it.
    let dripping = std::thread::spawn({
        let (mut slow, header) = (slow.try_clone(), header.clone());
        move || {
            for byte in header {
                if slow.try_write_all(&[byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(500));
            }
        }
    });
    assert!(demo.ask(&header).0.starts_with("hello client 192.0.2.7:4711,"), "others are served meanwhile");
    for stream in [&mut silent, &mut slow] {
        stream.end();
        let waited = begin.elapsed();
        assert!(waited >= PATIENCE - Duration::from_millis(100), "dropped after {waited:?}");
    }
    dripping.join().unwrap();
}
