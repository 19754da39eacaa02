//! TLS to backends: whom arus trusts, what it asks for, and how such connections end.

use std::sync::{Arc, Mutex};

use crate::harness::*;
use crate::ops::{check_echo, has, listener, text};

use super::Scene;

/// arus with a plain listener `web` before a backend that wants TLS.
fn speaker(backend: &Address, keys: &str) -> Setup {
    Setup::new(
        format!("[[upstream]]\nname = \"app\"\nbackends = [\"{backend}\"]\n[upstream.tls]\n{keys}\n")
            + &listener("web", "127.0.0.1:0", "app", ""),
    )
}

#[test]
fn a_backend_that_speaks_tls() {
    const BYTES: u64 = 3 << 20;
    let scene = Scene::new();
    let backend = Backend::start(TlsServer::new(&scene.server("db.test"), &[]).echo());
    let keys = format!("server_name = \"db.test\"\nca = {:?}", scene.authority.cert());
    let arus = speaker(backend.address(), &keys).start();
    let mut stream = Stream::connect(&arus.address("web"));
    for offset in (0..BYTES).step_by(64 * 1024) {
        stream.send(1, offset, 64 * 1024);
        stream.expect(1, offset, 64 * 1024);
    }
    // FIN becomes close_notify, and comes back as FIN.
    stream.finish();
    assert_eq!(stream.drain(1, 0), (0, End::Fin));
    let line = arus.finished(1).remove(0);
    assert_eq!(
        (&line["reason"], &line["bytes_up"], &line["bytes_down"]),
        (&"done".into(), &BYTES.into(), &BYTES.into())
    );
}

#[test]
fn a_backend_that_is_not_trusted_gets_nothing() {
    let (scene, other) = (Scene::new(), Scene::new());
    let foreign = other.server("db.test");
    let expired = scene.authority.expired("expired", &["db.test"]);
    let wrong = scene.server("elsewhere.test");
    let plain = Backend::start(behaviour::echo);
    let name = format!("server_name = \"db.test\"\nca = {:?}", scene.authority.cert());
    for (why, pair) in [("another authority", &foreign), ("expired", &expired), ("another name", &wrong)] {
        let backend = Backend::start(TlsServer::new(pair, &[]).echo());
        let arus = speaker(backend.address(), &name).start();
        let mut stream = Stream::connect(&arus.address("web"));
        let _ = stream.try_write_all(b"secret");
        stream.end();
        let line = arus.finished(1).remove(0);
        assert_eq!((&line["blame"], &line["bytes_down"]), (&"upstream".into(), &0.into()), "{why}: {line}");
        assert_ne!(line["state"], "closed", "{why}");
        // In so many words, it may be trusted all the same.
        let arus = speaker(backend.address(), &format!("{name}\nverify = false")).start();
        check_echo(&mut Stream::connect(&arus.address("web")), 1);
    }
    // One that does not speak TLS at all.
    let arus = speaker(plain.address(), &name).start();
    Stream::connect(&arus.address("web")).end();
}

#[test]
fn arus_shows_a_certificate_and_asks_for_names_and_protocols() {
    let scene = Scene::new();
    let clients = Authority::new(scene.directory.path(), "clients");
    let (pair, own) = (scene.server("db.test"), clients.client("arus"));
    let strict = Backend::start(TlsServer::for_clients_of(&pair, &clients).echo());
    let keys = format!("server_name = \"db.test\"\nca = {:?}", scene.authority.cert());
    let arus = speaker(strict.address(), &keys).start();
    Stream::connect(&arus.address("web")).discard();
    assert_ne!(arus.finished(1)[0]["state"], "closed");
    let identity = format!("{keys}\ncert = {:?}\nkey = {:?}", own.cert, own.key);
    let arus = speaker(strict.address(), &identity).start();
    check_echo(&mut Stream::connect(&arus.address("web")), 1);

    let asked = Arc::new(Mutex::new(Vec::new()));
    let (kept, server) = (Arc::clone(&asked), TlsServer::new(&pair, &["h2", "x"]));
    let backend = Backend::start(move |socket: Stream, _: usize| {
        let Ok(stream) = server.accept(socket) else { return };
        kept.lock().unwrap().push((stream.server_name(), stream.alpn()));
    });
    // An address is no name, and is checked against the certificate's addresses.
    let by_address = format!("ca = {:?}", scene.authority.cert());
    for (keys, name, protocol) in [
        (keys.clone() + "\nalpn = [\"x\"]", Some("db.test"), Some("x")),
        (keys, Some("db.test"), None),
        (by_address, None, None),
    ] {
        let arus = speaker(backend.address(), &keys).start();
        Stream::connect(&arus.address("web")).end();
        let (seen_name, seen_protocol) = eventually("a handshake", || asked.lock().unwrap().pop());
        assert_eq!((seen_name.as_deref(), seen_protocol.as_deref()), (name, protocol));
    }
}

/// What a backend does without close_notify is a cut, and must not reach the client as an end.
#[test]
fn a_truncated_answer_is_no_end() {
    let scene = Scene::new();
    let server = TlsServer::new(&scene.server("db.test"), &[]);
    let backend = Backend::start(move |socket: Stream, _: usize| {
        let Ok(mut stream) = server.accept(socket) else { return };
        stream.send(2, 0, 100_000);
        stream.truncate();
        stream.read_to_end();
    });
    let keys = format!("server_name = \"db.test\"\nca = {:?}", scene.authority.cert());
    let arus = speaker(backend.address(), &keys).start();
    let mut stream = Stream::connect(&arus.address("web"));
    stream.expect(2, 0, 100_000);
    stream.discard();
    drop(stream);
    let line = arus.finished(1).remove(0);
    assert_eq!((&line["state"], &line["blame"]), (&"failed".into(), &"upstream".into()), "{line}");
}

/// As nginx does: a client that has said goodbye gets none.
#[test]
fn a_backend_without_manners_after_the_client_has_gone_is_no_failure() {
    let scene = Scene::new();
    let server = TlsServer::new(&scene.server("db.test"), &[]);
    let backend = Backend::start(move |socket: Stream, _: usize| {
        let Ok(mut stream) = server.accept(socket) else { return };
        stream.send(2, 0, 1000);
        stream.read_to_end();
        stream.truncate();
    });
    let keys = format!("server_name = \"db.test\"\nca = {:?}", scene.authority.cert());
    let arus = speaker(backend.address(), &keys).start();
    let mut stream = Stream::connect(&arus.address("web"));
    stream.expect(2, 0, 1000);
    stream.finish();
    stream.discard();
    let line = arus.finished(1).remove(0);
    assert_eq!((&line["state"], &line["reason"]), (&"closed".into(), &"tls_truncated".into()), "{line}");
}

#[test]
fn openssl_as_the_backend() {
    if !has("openssl") {
        return;
    }
    let scene = Scene::new();
    let keys = format!("server_name = \"db.test\"\nca = {:?}", scene.authority.cert());
    for version in ["-tls1_2", "-tls1_3"] {
        let server = crate::harness::tls_openssl::SServer::start(&scene.server("db.test"), &[version]);
        let arus = speaker(server.address(), &keys).start();
        let mut stream = Stream::connect(&arus.address("web"));
        stream.write_all(b"abc def\n");
        assert_eq!(text(&stream.read_exactly(8)), "fed cba\n", "{version}");
    }
}
