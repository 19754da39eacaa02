//! Clients that go while arus waits for somebody else: noticed at once, and not when the wait is over.

use std::sync::atomic::Ordering;

use super::*;
use crate::resolve::{Dns, with_patience};

/// Longer than any test lasts.
const LONG: &str = "[timeouts]\nconnect = \"10m\"\n";

/// How a client goes.
#[derive(Debug, Clone, Copy)]
enum Way {
    Fin,
    Reset,
}

fn go(client: Stream, way: Way) {
    match way {
        Way::Fin => drop(client),
        Way::Reset => client.reset(),
    }
}

/// Whoever went at this stage is known to have gone, and nothing is kept of it.
fn check(arus: &Arus, from: SocketAddr, way: Way, stage: &str) {
    let line = arus.session_of(from);
    let facts = ["state", "reason", "stage", "blame"].map(|key| line[key].as_str().unwrap());
    let reason = match way {
        Way::Fin => "client_gone",
        Way::Reset => "reset",
    };
    assert_eq!(facts, ["failed", reason, stage, "client"], "{line}");
}

/// The only place is free again, and somebody else is served.
fn check_free(arus: &Arus, backend: &Backend) {
    let mut client = eventually("there is a place again", || {
        let mut client = Stream::try_connect(&arus.address("socks")).ok()?;
        client.try_write_all(&GREETING).ok()?;
        matches!(client.read_some(&mut [0; 2]), Ok(2)).then_some(client)
    });
    client.write_all(&request_ip(CONNECT, backend.address().ip()));
    assert_eq!(read_reply(&mut client).0, 0);
}

#[test]
fn while_a_target_is_dialled() {
    let (backend, hanging) = (Backend::start(behaviour::echo), Hanging::new());
    let arus = setup("max_connections = 1", LONG).start();
    for way in [Way::Fin, Way::Reset] {
        let mut client = greeted(&arus);
        let from = client.local();
        client.write_all(&request_ip(CONNECT, hanging.address().ip()));
        eventually("it is dialled", || arus.sessions().iter().any(|live| live["stage"] == "connect").then_some(()));
        go(client, way);
        check(&arus, from, way, "connect");
        check_free(&arus, &backend);
        arus.wait_active(0);
    }
}

#[test]
fn while_a_proxy_is_dialled_or_says_nothing() {
    let (hanging, silent) = (Hanging::new(), Backend::start(behaviour::silent));
    for (proxy, stage) in [(hanging.address(), "connect"), (silent.address().clone(), "connect")] {
        let chain = format!(
            "[timeouts]\nconnect = \"10m\"\nnegotiate = \"10m\"\n[socks]\nupstream_proxy = \"socks5://{proxy}\""
        );
        let arus = setup("", &chain).start();
        let mut client = greeted(&arus);
        let from = client.local();
        client.write_all(&request_name(CONNECT, b"localhost", 80));
        eventually("it is dialled", || arus.sessions().iter().any(|live| live["stage"] == stage).then_some(()));
        drop(client);
        check(&arus, from, Way::Fin, stage);
    }
}

#[test]
fn while_a_name_is_looked_up() {
    let (dns, backend) = (Dns::start(), Backend::start(behaviour::echo));
    dns.mute.store(true, Ordering::SeqCst);
    let table = format!("{LONG}[socks]\ncommands = [\"connect\", \"bind\"]");
    let setup = setup("max_connections = 1", &table);
    let Some(setup) = with_patience(setup, "127.0.0.1 localhost\n", dns.address, 30) else { return };
    let arus = setup.start();
    for (number, (command, way)) in
        [(CONNECT, Way::Fin), (CONNECT, Way::Reset), (BIND, Way::Fin)].into_iter().enumerate()
    {
        let before = dns.asked.load(Ordering::SeqCst);
        let mut client = greeted(&arus);
        let from = client.local();
        client.write_all(&request_name(command, format!("silent{number}.test").as_bytes(), 80));
        eventually("it is asked for", || (dns.asked.load(Ordering::SeqCst) > before).then_some(()));
        go(client, way);
        check(&arus, from, way, "resolve");
        check_free(&arus, &backend);
        arus.wait_active(0);
    }
}

/// Who has said all that it has to say has not gone: it waits for the answer.
#[test]
fn a_client_that_only_says_no_more_is_waited_for() {
    let mut hanging = Hanging::new();
    let arus = setup("", LONG).start();
    let mut client = greeted(&arus);
    let mut all = request_ip(CONNECT, hanging.address().ip());
    all.extend(pattern(3, 0, 2000));
    client.write_all(&all);
    client.finish();
    // The kernel tries again after a second, by when arus has looked at the client.
    let mut target = hanging.accept_another();
    assert_eq!(read_reply(&mut client).0, 0);
    assert_eq!(target.drain(3, 0), (2000, End::Fin));
    target.send(4, 0, 100_000);
    target.finish();
    assert_eq!(client.drain(4, 0), (100_000, End::Fin));
    assert_eq!(arus.finished(1)[0]["reason"], "done");
}

/// More than is taken ahead stays with the system, and goes on when there is somebody to take it; a reset is seen at once.
#[test]
fn a_client_that_says_much_ahead_is_waited_for_unless_it_resets() {
    const MUCH: u64 = 140_000;
    let mut hanging = Hanging::new();
    let arus = setup("", LONG).start();
    let dialled = || {
        let mut client = greeted(&arus);
        client.write_all(&request_ip(CONNECT, hanging.address().ip()));
        client.send(5, 0, MUCH);
        client
    };
    for finishes in [false, true] {
        let client = dialled();
        let from = client.local();
        if finishes {
            client.finish();
        }
        eventually("it is dialled", || arus.sessions().iter().any(|live| live["stage"] == "connect").then_some(()));
        client.reset();
        check(&arus, from, Way::Reset, "connect");
    }
    let mut client = dialled();
    client.finish();
    let mut target = hanging.accept_another();
    assert_eq!(read_reply(&mut client).0, 0);
    assert_eq!(target.drain(5, 0), (MUCH, End::Fin));
    drop(target);
    assert_eq!(client.end(), End::Fin);
}
