//! Headers that arus sends: byte for byte, and as curl, HAProxy, nginx and `arus hello` understand them.

use crate::harness::proxy_header::{ALPN, AUTHORITY, SSL_CIPHER, SSL_CN, SSL_VERSION, UNIQUE_ID, raw_v2, v1, v2};
use crate::harness::*;
use crate::hello::Demo;
use crate::ops::{check_echo, has, text};
use crate::tls::{Scene, tls_table};

use super::{address, relay};

fn sender(backend: &Address, version: &str) -> Setup {
    relay("127.0.0.1:0", backend, &format!("send_proxy = \"{version}\""), "")
}

#[test]
fn curl_sees_its_own_address_through_tls() {
    if !has("curl") {
        return;
    }
    let (scene, demo) = (Scene::new(), Demo::proxied());
    for version in ["v1", "v2"] {
        let tls = tls_table(&[&scene.server("a.test")], "alpn = [\"h2\", \"http/1.1\"]");
        let arus = relay("127.0.0.1:0", &demo.address, &format!("send_proxy = \"{version}\""), &tls).start();
        for protocol in ["--http1.1", "--http2"] {
            let url = format!("https://{}/", arus.address("web"));
            let mut command = std::process::Command::new("curl");
            command.args(["-k", "-sS", "--max-time", "30", "--noproxy", "*", protocol]);
            let output = command.args(["-w", "%{local_ip}:%{local_port}", &url]).output().unwrap();
            let answer = text(&output.stdout);
            let (body, own) =
                answer.split_once("\r\n").unwrap_or_else(|| panic!("{answer:?} {}", text(&output.stderr)));
            let words = body.strip_prefix("hello client ").expect("a greeting");
            let (client, proxy) = words.split_once(", you were served by tls terminator proxy ").expect("a greeting");
            assert_eq!(client, own, "{version} {protocol}");
            let proxy = address(proxy);
            assert!(proxy != address(own) && proxy != arus.address("web").ip() && proxy.ip().is_loopback(), "{body}");
        }
    }
    // Who comes past arus has no header.
    let mut command = std::process::Command::new("curl");
    command.args(["-k", "-s", "--max-time", "30", "--noproxy", "*", &format!("https://{}/", demo.address)]);
    assert!(!command.status().unwrap().success());
}

#[test]
fn headers_are_exact_and_come_first() {
    let recording = Recording::start();
    for (count, (listen, version)) in
        [("127.0.0.1:0", "v2"), ("[::1]:0", "v2"), ("127.0.0.1:0", "v1"), ("[::1]:0", "v1")].into_iter().enumerate()
    {
        let keys = format!("send_proxy = \"{version}\"");
        let arus = relay(listen, recording.address(), &keys, "").start();
        let mut stream = Stream::connect(&arus.address("web"));
        check_echo(&mut stream, 1);
        let header = recording.headers(count + 1).remove(count);
        let (from, to) = (stream.local(), arus.address("web").ip());
        assert_eq!(header.addresses, Some((from, to)), "{listen} {version}");
        let expected = if version == "v1" { v1(from, to) } else { v2(from, to, &[]) };
        assert_eq!(header.bytes, expected, "{listen} {version}");
        assert!(header.first_read >= expected.len(), "the header came in pieces");
    }
}

/// It goes out with the connection, and does not wait for the client's first byte.
#[test]
fn a_server_that_speaks_first_has_its_header() {
    let recording = Recording::before(&Address::parse("127.0.0.1:0"), behaviour::source(10_000));
    for (number, version) in ["v1", "v2"].into_iter().enumerate() {
        let arus = sender(recording.address(), version).start();
        let mut stream = Stream::connect(&arus.address("web"));
        stream.expect(number as u64, 0, 10_000);
        assert_eq!(recording.headers(number + 1)[number].source(), stream.local());
        // The header is no payload.
        stream.finish();
        assert_eq!(stream.end(), End::Fin);
        assert_eq!(arus.finished(1)[0]["bytes_up"], 0);
    }
}

#[test]
fn clients_without_an_address_are_unknown() {
    let recording = Recording::start();
    let directory = tempfile::tempdir().unwrap();
    for (count, version) in ["v1", "v2"].into_iter().enumerate() {
        let path = directory.path().join(version);
        let keys = format!("send_proxy = \"{version}\"");
        let arus = relay(&format!("unix:{}", path.display()), recording.address(), &keys, "").start();
        check_echo(&mut Stream::connect(&Address::Unix(path)), 1);
        let header = recording.headers(count + 1).remove(count);
        assert_eq!((header.addresses, header.is_local), (None, false), "{version}");
        assert_eq!(header.version, count as u8 + 1);
        drop(arus);
    }
}

#[test]
fn tlvs_say_what_tls_knew() {
    let scene = Scene::new();
    let clients = Authority::new(scene.directory.path(), "clients");
    let recording = Recording::start();
    let keys = "send_proxy = \"v2\"\nproxy_tlvs = [\"alpn\", \"authority\", \"ssl\", \"unique_id\", \"crc32c\"]";
    let tls = format!("alpn = [\"h2\"]\nclient_auth = {{ mode = \"request\", ca = {:?} }}", clients.cert());
    let own = tls_table(&[&scene.server("a.test")], &tls);
    let arus = relay("127.0.0.1:0", recording.address(), keys, &own).start();
    let alice = TlsClient::identified(&scene.authority, "a.test", &clients.client("alice")).alpn(&["h2"]);
    let mut stream = alice.connect(&arus.address("web"));
    crate::tls::check_echo(&mut stream, 1);
    let header = recording.headers(1).remove(0);
    assert_eq!(header.addresses, Some((stream.socket.local(), arus.address("web").ip())));
    assert_eq!(header.is_checksum_right(), Some(true));
    assert_eq!((header.text(ALPN).as_deref(), header.text(AUTHORITY).as_deref()), (Some("h2"), Some("a.test")));
    // The one name that a connection has everywhere.
    let session = arus.sessions().remove(0);
    let id = header.text(UNIQUE_ID).expect("a unique id");
    assert!(!id.is_empty() && id.len() <= 128 && session["id"].as_str() == Some(&id), "{id} {session}");
    let (client, verify, nested) = header.ssl().expect("an SSL TLV");
    assert_eq!((client & 7, verify), (7, 0), "TLS, with a certificate on this connection, verified");
    let of = |kind: u8| nested.iter().find(|(own, _)| *own == kind).map(|(_, value)| text(value));
    assert_eq!((of(SSL_VERSION).as_deref(), of(SSL_CN).as_deref()), (Some("TLSv1.3"), Some("alice")));
    assert!(of(SSL_CIPHER).is_some_and(|cipher| cipher.starts_with("TLS_")), "{nested:?}");

    // Without a certificate, without ALPN, without a name.
    let mut stream = scene.client("127.0.0.1").connect(&arus.address("web"));
    crate::tls::check_echo(&mut stream, 1);
    let header = recording.headers(2).remove(1);
    assert_eq!((header.text(ALPN), header.text(AUTHORITY), header.is_checksum_right()), (None, None, Some(true)));
    let (client, verify, nested) = header.ssl().expect("an SSL TLV");
    assert_eq!((client & 7, nested.iter().any(|(kind, _)| *kind == SSL_CN)), (1, false));
    assert_ne!(verify, 0, "nobody was verified");
    assert_ne!(header.text(UNIQUE_ID).expect("a unique id"), id);
}

#[test]
fn haproxy_believes_what_arus_sends() {
    if !has("haproxy") {
        return;
    }
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let tls = tls_table(&[&scene.server("a.test")], "alpn = [\"h2\"]");
    let tlvs = "proxy_tlvs = [\"alpn\", \"authority\", \"ssl\", \"unique_id\", \"crc32c\"]";
    for (version, keys) in [("v1", ""), ("v2", ""), ("v2", tlvs)] {
        let haproxy = Haproxy::start("accept-proxy", echo.address(), "");
        let arus =
            relay("127.0.0.1:0", haproxy.address(), &format!("send_proxy = \"{version}\"\n{keys}"), &tls).start();
        let mut stream = scene.client("a.test").alpn(&["h2"]).connect(&arus.address("web"));
        crate::tls::check_echo(&mut stream, 1);
        let own = stream.socket.local();
        stream.close_notify();
        assert_eq!(stream.read_to_end().1, TlsEnd::CloseNotify);
        let line = haproxy.finished(1).remove(0);
        assert_eq!(line["source"], own.to_string(), "{version} {keys}");
        assert_eq!(line["destination"], arus.address("web").to_string(), "{version} {keys}");
        if !keys.is_empty() {
            assert_eq!(line["authority"], "a.test");
            assert_eq!(line["unique_id"], arus.finished(1)[0]["id"]);
        }
    }
}

#[test]
fn nginx_believes_what_arus_sends() {
    if !has("nginx") || !has("curl") {
        return;
    }
    let mirror = Nginx::mirror();
    for version in ["v1", "v2"] {
        let arus = sender(mirror.address(), version).start();
        let url = format!("http://{}/", arus.address("web"));
        let mut command = std::process::Command::new("curl");
        command.args(["-sS", "--max-time", "30", "--noproxy", "*", "-w", " %{local_ip} %{local_port}", &url]);
        let answer = text(&command.output().unwrap().stdout);
        let words: Vec<&str> = answer.split(' ').collect();
        assert_eq!(words.len(), 6, "{answer}");
        let to = arus.address("web").ip();
        assert_eq!(words[..2], words[4..], "{version}");
        assert_eq!(words[2..4], [to.ip().to_string(), to.port().to_string()], "{version}");
    }
}

#[test]
fn health_checks_speak_for_themselves() {
    for version in ["v1", "v2"] {
        let recording = Recording::start();
        let keys = format!("send_proxy = \"{version}\"\nhealth = {{ interval = \"50ms\", timeout = \"5s\" }}");
        let _arus = relay("127.0.0.1:0", recording.address(), &keys, "").start();
        for header in recording.headers(3) {
            match version {
                "v1" => assert_eq!(header.bytes, b"PROXY UNKNOWN\r\n"),
                _ => assert_eq!(header.bytes, raw_v2(0x20, 0, &[])),
            }
        }
    }
}

/// Connections that are made ahead know their client only when they are handed out.
#[test]
fn warm_connections_carry_the_right_header() {
    let recording = Recording::start();
    let keys = "send_proxy = \"v2\"\nwarm = { connections = 2, idle = \"30s\" }";
    let arus = relay("127.0.0.1:0", recording.address(), keys, "").start();
    for round in 0..6 {
        let mut stream = Stream::connect(&arus.address("web"));
        check_echo(&mut stream, round as u64);
        assert_eq!(recording.headers(round + 1)[round].source(), stream.local());
    }
}
