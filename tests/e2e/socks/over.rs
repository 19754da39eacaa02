//! SOCKS over TLS, behind a PROXY header, through plugins, on a unix socket.

use super::*;
use crate::harness::proxy_header::v2;

fn tls_request(stream: &mut TlsStream, request: &[u8]) -> Vec<u8> {
    stream.write_all(&GREETING);
    assert_eq!(stream.read_exactly(2), [5, 0]);
    stream.write_all(request);
    stream.read_exactly(10)
}

#[test]
fn over_tls() {
    let backend = Backend::start(behaviour::echo);
    let closed = Closed::new();
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let pair = authority.server("server", &["a.test"], Key::Ecdsa);
    let table = format!("[listener.tls]\ncertificates = [{{ cert = {:?}, key = {:?} }}]", pair.cert, pair.key);
    let arus = setup("", &table).start();
    for cut in [None, Some(1)] {
        let client = TlsClient::new(&authority, "a.test");
        let client = cut.map_or(client.clone(), |cut| client.cut(cut));
        let mut stream = client.connect(&arus.address("socks"));
        assert_eq!(tls_request(&mut stream, &request_ip(CONNECT, backend.address().ip()))[..2], [5, 0]);
        stream.send(1, 0, 100_000);
        stream.expect(1, 0, 100_000);
        stream.close_notify();
        // All at once, payload included.
        let mut stream = client.connect(&arus.address("socks"));
        let mut all = GREETING.to_vec();
        all.extend(request_ip(CONNECT, backend.address().ip()));
        all.extend(pattern(3, 0, 2000));
        stream.write_all(&all);
        assert_eq!(stream.read_exactly(4), [5, 0, 5, 0]);
        stream.read_exactly(8);
        stream.expect(3, 0, 2000);
        // A refusal is said in full, and with a goodbye.
        let mut stream = client.connect(&arus.address("socks"));
        assert_eq!(tls_request(&mut stream, &request_ip(CONNECT, closed.address().ip()))[..2], [5, 5]);
        assert_eq!(stream.read_to_end(), (Vec::new(), TlsEnd::CloseNotify));
        let mut stream = client.connect(&arus.address("socks"));
        stream.write_all(&[5, 1, 9]);
        assert_eq!(stream.read_to_end(), (vec![5, 0xff], TlsEnd::CloseNotify));
    }
}

#[test]
fn with_client_certificates() {
    let backend = Backend::start(behaviour::echo);
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let pair = authority.server("server", &["a.test"], Key::Ecdsa);
    let table = format!(
        "[listener.tls]\ncertificates = [{{ cert = {:?}, key = {:?} }}]\nclient_auth = {{ mode = \"require\", ca = {:?} }}",
        pair.cert,
        pair.key,
        authority.cert()
    );
    let arus = setup("", &table).start();
    let own = authority.client("client");
    let mut stream = TlsClient::identified(&authority, "a.test", &own).connect(&arus.address("socks"));
    assert_eq!(tls_request(&mut stream, &request_ip(CONNECT, backend.address().ip()))[..2], [5, 0]);
    if let Ok(mut stream) = TlsClient::new(&authority, "a.test").try_connect(&arus.address("socks")) {
        let _ = stream.try_write_all(&GREETING);
        assert_ne!(stream.read_to_end().1, TlsEnd::CloseNotify, "an alert");
    }
}

#[test]
fn behind_a_proxy_header() {
    let backend = Backend::start(behaviour::echo);
    let keys = "accept_proxy = { mode = \"require\", trusted = [\"127.0.0.1/32\"] }";
    let arus = setup(keys, "").start();
    for pieces in BOTH {
        let mut all = v2("192.0.2.7:1234".parse().unwrap(), "192.0.2.1:1080".parse().unwrap(), &[]);
        all.extend(GREETING);
        all.extend(request_ip(CONNECT, backend.address().ip()));
        all.extend(pattern(2, 0, 100));
        let mut client = Stream::connect(&arus.address("socks"));
        say(&mut client, &all, pieces);
        assert_eq!(client.read_exactly(2), [5, 0]);
        assert_eq!(read_reply(&mut client).0, 0);
        client.expect(2, 0, 100);
    }
    assert_eq!(arus.finished(2)[0]["source"], "192.0.2.7:1234");
}

#[test]
fn on_a_unix_socket() {
    let backend = Backend::start(behaviour::echo);
    let arus = setup_at("unix:{dir}/socks.sock", "", "").start();
    let mut client = connected(&arus, backend.address());
    client.send(1, 0, 1000);
    client.expect(1, 0, 1000);
}
