//! What arus tells of a live association.

use super::*;

#[test]
fn who_an_association_waits_for_is_told() {
    let arus = setup("").start();
    let client = Associated::new(&arus);
    let id = arus.sessions()[0]["id"].as_str().unwrap().to_owned();
    let wait = |who: &str, word: &str| {
        let mut seen = Value::Null;
        eventually(&format!("{who}: {word}"), || {
            seen = arus.request("GET", &format!("/api/v1/sessions/{id}")).1;
            let why = seen["verdict"]["why"].as_str().unwrap_or_default().to_owned();
            (seen["verdict"]["who"] == who && why.contains(word)).then(|| seen.clone())
        })
    };
    let session = wait("idle", "no datagram yet");
    assert!(session["tcp"].is_null() && session["held"].is_null(), "{session:#}");
    client.send("224.0.0.1:9".parse().unwrap(), b"x");
    wait("client", "nothing was passed on, and 1 dropped");
    let ((target, at), (_mute, other)) = (udp("127.0.0.1:0"), udp("127.0.0.1:0"));
    client.send(at, b"ask");
    client.send(at, b"ask");
    client.send(other, b"ask");
    wait("backend", "nothing has ever come from any of its 2 targets");
    let (_, from) = receive(&target);
    target.send_to(b"answer", from).unwrap();
    client.expect(at, b"answer");
    let session = wait("idle", "nothing to do");
    let association = &session["association"];
    assert_eq!((&association["targets"], &association["dropped"]["denied"]), (&2.into(), &1.into()), "{session:#}");
    assert_eq!((&association["datagrams_up"], &association["datagrams_down"]), (&3.into(), &1.into()));
    assert!(association["last_up_ms"].as_u64().unwrap() >= association["last_down_ms"].as_u64().unwrap());
    let (text, ok) = arus.command(&["sessions", &id]);
    assert!(ok && text.contains("3 up, 1 down") && text.contains("1 denied"), "{text}");
    let (_, all) = arus.request("GET", "/api/v1/sessions/verdicts");
    assert_eq!((&all["counts"]["idle"], &all["data"][0]["backend"]), (&1.into(), &at.to_string().into()), "{all:#}");
    client.send(at, b"ask again");
    wait("backend", "no answer to what was sent");
}

/// What is known of a session while it lives is known when it has ended, too, also to the process after this one.
#[test]
fn datagrams_and_dialled_addresses_are_stored() {
    let mut arus = setup("").start();
    let client = Associated::new(&arus);
    let (target, at) = udp("127.0.0.1:0");
    for _ in 0..3 {
        client.send(at, b"ask");
        let (_, from) = receive(&target);
        target.send_to(b"answer", from).unwrap();
        client.expect(at, b"answer");
    }
    drop(client);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dialled = listener.local_addr().unwrap();
    let mut stream = connect(&arus, 0);
    let name = [&[5, 1, 0, 5, 1, 0, 3, 9][..], b"localhost", &dialled.port().to_be_bytes()].concat();
    stream.write_all(&name).unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    drop((stream, listener.accept().unwrap()));
    eventually("both have ended", || arus.sessions().is_empty().then_some(()));
    arus.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(arus.wait_exit(DEADLINE).success());
    let arus = arus.again();
    let (_, page) = arus.request("GET", "/api/v1/sessions?order=asc");
    let [association, stream] = &page["data"].as_array().unwrap()[..] else { panic!("{page:#}") };
    assert_eq!((&association["datagrams_up"], &association["datagrams_down"]), (&3.into(), &3.into()), "{page:#}");
    assert!(stream["datagrams_up"].is_null(), "{page:#}");
    assert_eq!(stream["target"], format!("localhost:{}", dialled.port()));
    assert_eq!(stream["backend"], dialled.to_string(), "{page:#}");
    let (text, ok) = arus.command(&["sessions", association["id"].as_str().unwrap()]);
    assert!(ok && text.contains("3 up, 3 down"), "{text}");
}
