//! The pieces for tests of TLS and of the PROXY protocol, each proven without an arus in between.

use std::net::SocketAddr;

use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ProtocolVersion};

use crate::harness::proxy_header::{ALPN, AUTHORITY, CRC32C, SSL_CIPHER, SSL_CN, UNIQUE_ID, crc32c, v1, v2};
use crate::harness::tls_openssl::{SServer, exchange, handshake, s_client};
use crate::harness::*;
use crate::ops::{has, text};

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Sends a line to `openssl s_server -rev` and reads it back.
fn check_reversal(stream: &mut TlsStream) {
    stream.write_all(b"abc def\n");
    assert_eq!(text(&stream.read_exactly(8)), "fed cba\n");
}

#[test]
fn certificates_with_keys_of_every_form() {
    if !has("openssl") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let forms = [
        (Key::Ecdsa, "BEGIN PRIVATE KEY"),
        (Key::EcdsaSec1, "BEGIN EC PRIVATE KEY"),
        (Key::Rsa, "BEGIN PRIVATE KEY"),
        (Key::RsaPkcs1, "BEGIN RSA PRIVATE KEY"),
    ];
    for (number, (key, begin)) in forms.into_iter().enumerate() {
        let pair = authority.server(&format!("server{number}"), &["a.test", "127.0.0.1"], key);
        assert!(std::fs::read_to_string(&pair.key).unwrap().contains(begin), "{key:?}");
        let server = SServer::start(&pair, &[]);
        let mut stream = TlsClient::new(&authority, "a.test").connect(server.address());
        assert_eq!(stream.peer_certificate().unwrap(), pair.der());
        check_reversal(&mut stream);
        drop(stream);
        // By its address, for which no name is sent.
        TlsClient::new(&authority, "127.0.0.1").connect(server.address());
        let refused = TlsClient::new(&authority, "b.test").try_connect(server.address()).err();
        assert!(matches!(refused, Some(TlsEnd::Refused(rustls::Error::InvalidCertificate(_)))), "{refused:?}");
        // And with the backend of the tests themselves.
        let own = Backend::start(TlsServer::new(&pair, &[]).echo());
        let ca = authority.cert().to_str().unwrap();
        let (printed, is_well) =
            handshake(own.address(), &["-CAfile", ca, "-servername", "a.test", "-verify_return_error"]);
        assert!(is_well && printed.contains("Verification: OK"), "{printed}");
    }
    let expired = SServer::start(&authority.expired("old", &["a.test"]), &[]);
    let refused = TlsClient::new(&authority, "a.test").try_connect(expired.address()).err();
    assert!(matches!(refused, Some(TlsEnd::Refused(_))), "{refused:?}");
}

#[test]
fn openssl_as_client_and_server() {
    if !has("openssl") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let (one, two) =
        (authority.server("one", &["one.test"], Key::Ecdsa), authority.server("two", &["two.test"], Key::Ecdsa));
    let (cert, key) = (two.cert.to_str().unwrap(), two.key.to_str().unwrap());
    let by_name = ["-servername", "two.test", "-cert2", cert, "-key2", key, "-alpn", "h2,http/1.1"];
    // It does not speak ALPN for its second certificate.
    let server = SServer::start(&one, &by_name);
    let ca = authority.cert().to_str().unwrap();
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let words = [version, "-CAfile", ca, "-servername", "one.test", "-alpn", "h2", "-crlf"];
        let mut client = s_client(server.address(), &words);
        client.say(b"hello\n");
        let printed = client.wait_for("olleh");
        assert!(printed.contains(name) && printed.contains("ALPN protocol: h2"), "{printed}");
        assert!(printed.contains("CN = one.test"), "{printed}");
        client.say_no_more();
        assert!(client.wait_exit().success());
    }
    let asked = TlsClient::new(&authority, "one.test").alpn(&["http/1.1"]);
    let stream = asked.connect(server.address());
    assert_eq!((stream.version(), stream.alpn().as_deref()), (ProtocolVersion::TLSv1_3, Some("http/1.1")));
    assert_eq!(stream.peer_certificate().unwrap(), one.der());
    drop(stream);
    let stream = TlsClient::speaking(&authority, "two.test", &[&TLS12]).connect(server.address());
    assert_eq!((stream.version(), stream.alpn()), (ProtocolVersion::TLSv1_2, None));
    assert_eq!(stream.peer_certificate().unwrap(), two.der());
    // An old client at a server that is too new for it.
    let modern = SServer::start(&one, &["-tls1_3"]);
    let refused = TlsClient::speaking(&authority, "one.test", &[&TLS12]).try_connect(modern.address()).err();
    assert_eq!(refused, Some(TlsEnd::Alert(AlertDescription::ProtocolVersion)));
    let (printed, is_well) = handshake(modern.address(), &["-tls1_2"]);
    assert!(!is_well && printed.contains("alert protocol version"), "{printed}");
}

#[test]
fn sessions_are_resumed() {
    if !has("openssl") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let pair = authority.server("server", &["a.test"], Key::Ecdsa);
    let (openssl, own) = (SServer::start(&pair, &[]), Backend::start(TlsServer::new(&pair, &[]).echo()));
    for (server, answer) in [(openssl.address(), "olleh\n"), (own.address(), "hello\n")] {
        let ask = |stream: &mut TlsStream| {
            stream.write_all(b"hello\n");
            // The tickets come before the answer.
            assert_eq!(text(&stream.read_exactly(6)), answer);
        };
        for version in [&TLS12, &TLS13] {
            let client = TlsClient::speaking(&authority, "a.test", &[version]);
            for round in 0..4 {
                let mut stream = client.connect(server);
                ask(&mut stream);
                assert_eq!(stream.is_resumed(), round > 0, "{version:?}, round {round}");
                stream.close_notify();
            }
            let mut stream = client.clone().without_resumption().connect(server);
            ask(&mut stream);
            assert!(!stream.is_resumed());
        }
        for version in ["-tls1_2", "-tls1_3"] {
            let [first, next] = ["first", "next"].map(|name| directory.path().join(name));
            let printed = exchange(server, &[version], "hello", answer, &first);
            assert!(printed.contains("\nNew, ") && !printed.contains("Reused"), "{printed}");
            let again = [version, "-sess_in", first.to_str().unwrap()];
            for _ in 0..2 {
                let printed = exchange(server, &again, "hello", answer, &next);
                assert!(printed.contains("\nReused, "), "{printed}");
            }
        }
    }
}

#[test]
fn handshakes_can_be_cut() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let server = TlsServer::new(&authority.server("server", &["a.test"], Key::Ecdsa), &[]);
    let server = Backend::start(server.echo());
    for version in [&TLS12, &TLS13] {
        for cut in [1, 7, 255] {
            let client = TlsClient::speaking(&authority, "a.test", &[version]).without_resumption().cut(cut);
            let mut stream = client.connect(server.address());
            stream.send(1, 0, 50_000);
            stream.expect(1, 0, 50_000);
        }
    }
    let hello = TlsClient::new(&authority, "a.test").hello();
    for size in [1, 3, 50] {
        let mut stream = Stream::connect(server.address());
        for byte in in_records(&hello, size) {
            stream.write_all(&[byte]);
        }
        assert_eq!(stream.read_exactly(1), [22], "a handshake record, and no alert");
    }
    for suite in rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES {
        let is_rsa = format!("{:?}", suite.suite()).contains("ECDHE_RSA");
        let client = TlsClient::only(&authority, "a.test", *suite);
        assert_eq!(client.try_connect(server.address()).is_ok(), !is_rsa, "{suite:?}");
    }
}

#[test]
fn every_end_of_a_tls_connection_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let pair = authority.server("server", &["a.test"], Key::Ecdsa);
    let server = TlsServer::new(&pair, &[]);
    // Reads to the end, says how it was, and closes as the byte before the end tells.
    let backend = Backend::start(move |socket: Stream, _: usize| {
        let Ok(mut stream) = server.accept(socket) else { return };
        assert_eq!(stream.server_name().as_deref(), Some("a.test"));
        let (bytes, end) = stream.read_to_end();
        if end != TlsEnd::CloseNotify {
            return stream.socket.reset();
        }
        stream.send(2, 0, 1 << 20);
        if bytes.last() == Some(&b'c') {
            stream.close_notify();
        }
    });
    let client = TlsClient::new(&authority, "a.test");
    for (word, end) in [("c", TlsEnd::CloseNotify), ("t", TlsEnd::Truncated)] {
        let mut stream = client.connect(backend.address());
        stream.write_all(word.as_bytes());
        // Half-closed: what comes back after it is all there.
        stream.close_notify();
        stream.expect(2, 0, 1 << 20);
        assert_eq!(stream.read_to_end(), (Vec::new(), end));
    }
    let mut stream = client.connect(backend.address());
    stream.write_all(b"c");
    stream.truncate();
    assert_eq!(stream.read_to_end().1, TlsEnd::Reset);
    let nobody = Backend::start(behaviour::close);
    assert!(matches!(client.try_connect(nobody.address()).err(), Some(TlsEnd::Truncated | TlsEnd::Reset)));
}

#[test]
fn clients_have_certificates() {
    if !has("openssl") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (authority, clients) = (Authority::new(directory.path(), "ca"), Authority::new(directory.path(), "clients"));
    let (pair, alice) = (authority.server("server", &["a.test"], Key::Ecdsa), clients.client("alice"));
    let own = Backend::start(TlsServer::for_clients_of(&pair, &clients).echo());
    let words = ["-Verify", "1", "-verify_return_error", "-CAfile", clients.cert().to_str().unwrap()];
    let openssl = SServer::start(&pair, &words);
    for server in [own.address(), openssl.address()] {
        let mut stream = TlsClient::identified(&authority, "a.test", &alice).connect(server);
        stream.write_all(b"abc\n");
        assert!(["abc\n", "cba\n"].contains(&text(&stream.read_exactly(4)).as_str()));
        drop(stream);
        for (client, alert) in [
            (TlsClient::new(&authority, "a.test"), AlertDescription::CertificateRequired),
            (TlsClient::identified(&authority, "a.test", &authority.client("mallory")), AlertDescription::UnknownCA),
        ] {
            // With TLS 1.3 the client hears of it only after its own part of the handshake.
            let end = client.try_connect(server).map_or_else(|end| end, |mut stream| stream.read_to_end().1);
            assert_eq!(end, TlsEnd::Alert(alert), "{server}");
        }
    }
}

#[test]
fn headers_are_written_and_read_back() {
    assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    let (from, to) = (address("[2001:db8::1]:4711"), address("[::1]:443"));
    let bytes = v2(from, to, &[(AUTHORITY, b"a.test"), (CRC32C, &[0; 4]), (UNIQUE_ID, b"")]);
    let header = ProxyHeader::decode(bytes.clone(), 0);
    assert_eq!((header.version, header.source(), header.destination()), (2, from, to));
    assert_eq!((header.text(AUTHORITY).as_deref(), header.is_checksum_right()), (Some("a.test"), Some(true)));
    let mut wrong = bytes;
    wrong[20] ^= 1;
    assert_eq!(ProxyHeader::decode(wrong, 0).is_checksum_right(), Some(false));
    let header = ProxyHeader::decode(v1(from, to), 0);
    assert_eq!((header.version, header.source(), header.destination()), (1, from, to));
}

#[test]
fn haproxy_sends_headers() {
    if !has("haproxy") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (authority, clients) = (Authority::new(directory.path(), "ca"), Authority::new(directory.path(), "clients"));
    let bundle = authority.server("server", &["a.test"], Key::Ecdsa).bundle();
    let recording = Recording::start();
    let tls =
        format!("ssl crt {} alpn h2,http/1.1 ca-file {} verify required", bundle.display(), clients.cert().display());
    let options = "proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c,unique-id";
    let haproxy = Haproxy::start(&tls, recording.address(), &format!("send-proxy-v2 {options}"));
    let client = TlsClient::identified(&authority, "a.test", &clients.client("alice")).alpn(&["h2"]);
    let mut stream = client.connect(haproxy.address());
    stream.send(1, 0, 10_000);
    stream.expect(1, 0, 10_000);
    let header = recording.headers(1).remove(0);
    assert_eq!((header.version, header.source()), (2, stream.socket.local()));
    assert_eq!(header.destination(), haproxy.address().ip());
    assert_eq!(header.is_checksum_right(), Some(true));
    assert_eq!((header.text(AUTHORITY).as_deref(), header.text(ALPN).as_deref()), (Some("a.test"), Some("h2")));
    let (client, verify, nested) = header.ssl().unwrap();
    assert_eq!((client & 7, verify), (7, 0), "over TLS, with a certificate, verified");
    let of = |kind: u8| nested.iter().find(|(own, _)| *own == kind).map(|(_, value)| text(value));
    assert_eq!(of(SSL_CN).as_deref(), Some("alice"));
    assert!(of(SSL_CIPHER).is_some_and(|cipher| cipher.starts_with("TLS_")), "{nested:?}");
    stream.close_notify();
    drop(stream);
    let line = haproxy.finished(1).remove(0);
    assert_eq!(line["own_id"].as_str(), header.text(UNIQUE_ID).as_deref());

    let haproxy = Haproxy::start("", recording.address(), "send-proxy");
    let mut stream = Stream::connect(haproxy.address());
    stream.send(1, 0, 100);
    stream.expect(1, 0, 100);
    let header = recording.headers(2).remove(1);
    assert_eq!((header.version, header.source(), header.destination()), (1, stream.local(), haproxy.address().ip()));
    // Its health checks speak for themselves.
    let recording = Recording::start();
    let _haproxy = Haproxy::start("", recording.address(), "send-proxy-v2 check inter 50 check-send-proxy");
    assert!(recording.headers(2).iter().all(|header| header.version == 2 && header.is_local));
}

#[test]
fn haproxy_receives_headers() {
    if !has("haproxy") {
        return;
    }
    let echo = Backend::start(behaviour::echo);
    let haproxy = Haproxy::start("accept-proxy", echo.address(), "");
    let (from, to) = (address("192.0.2.7:4711"), address("198.51.100.1:443"));
    let tlvs: [(u8, &[u8]); 3] = [(AUTHORITY, b"a.test"), (UNIQUE_ID, b"id-1"), (CRC32C, &[0; 4])];
    for (number, header) in [v2(from, to, &tlvs), v1(from, to)].into_iter().enumerate() {
        let mut stream = Stream::connect(haproxy.address());
        stream.write_all(&header);
        stream.send(1, 0, 10_000);
        stream.expect(1, 0, 10_000);
        drop(stream);
        let line = haproxy.finished(number + 1).remove(number);
        assert_eq!(
            (line["source"].as_str(), line["destination"].as_str()),
            (Some("192.0.2.7:4711"), Some("198.51.100.1:443"))
        );
        let of_tlvs = (line["authority"].as_str().unwrap(), line["unique_id"].as_str().unwrap());
        assert_eq!(of_tlvs, if number == 0 { ("a.test", "id-1") } else { ("-", "-") }, "{line}");
    }
    let mut wrong = v2(from, to, &tlvs);
    wrong[20] ^= 1;
    let mut stream = Stream::connect(haproxy.address());
    stream.write_all(&wrong);
    stream.end();
    assert_eq!(echo.accepted(), 2);
}

#[test]
fn nginx_sends_and_receives_headers() {
    if !has("nginx") || !has("curl") {
        return;
    }
    let mirror = Nginx::mirror();
    let (from, to) = (address("192.0.2.7:4711"), address("198.51.100.1:443"));
    for header in [v2(from, to, &[(AUTHORITY, b"a.test")]), v1(from, to)] {
        let mut stream = Stream::connect(mirror.address());
        stream.write_all(&header);
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
        let mut answer = vec![0; 4096];
        let count = stream.read_some(&mut answer).unwrap();
        let answer = text(&answer[..count]);
        assert!(answer.ends_with("\r\n\r\n192.0.2.7 4711 198.51.100.1 443"), "{answer}");
    }
    let recording = Recording::start();
    let Some(front) = Nginx::stream(recording.address(), "", "proxy_protocol on;") else { return };
    let mut stream = Stream::connect(front.address());
    stream.send(1, 0, 10_000);
    stream.expect(1, 0, 10_000);
    let header = recording.headers(1).remove(0);
    assert_eq!((header.version, header.source(), header.destination()), (1, stream.local(), front.address().ip()));
}

#[test]
fn a_recording_backend_without_a_header_is_an_echo() {
    let recording = Recording::start();
    let mut stream = Stream::connect(recording.address());
    stream.send(1, 0, 10_000);
    stream.expect(1, 0, 10_000);
    assert_eq!(recording.headers(1)[0].version, 0);
}
