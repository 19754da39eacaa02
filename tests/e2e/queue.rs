//! Waiting for a full backend.

use std::time::Instant;

use crate::harness::{Arus, Backend, Setup, Stream, eventually};
use crate::ops::{ask, check_echo, listener, read_tag, tagged, upstream};

fn full(backend: &Backend, limit: u32, queue: &str) -> Arus {
    let keys = format!("max_connections_per_backend = {limit}\n{queue}");
    Setup::new(upstream("app", &[backend], &keys) + &listener("web", "127.0.0.1:0", "app", "")).start()
}

fn waiting(arus: &Arus) -> u64 {
    arus.status()["upstreams"][0]["waiting"].as_u64().unwrap()
}

fn await_waiting(arus: &Arus, count: u64) {
    eventually(&format!("{count} wait"), || (waiting(arus) == count).then_some(()));
}

#[test]
fn those_who_wait_are_served_as_places_become_free_and_never_too_many() {
    let backend = tagged("a");
    let arus = full(&backend, 2, "queue = { size = 50, timeout = \"100s\" }");
    let web = arus.address("web");
    let first: Vec<(Stream, String)> = (0..2).map(|_| ask(&web)).collect();
    let mut late: Vec<Stream> = (0..20).map(|_| Stream::connect(&web)).collect();
    await_waiting(&arus, 20);
    assert_eq!(backend.accepted(), 2);
    // What a waiter has said already is not lost.
    late.iter_mut().enumerate().for_each(|(seed, stream)| stream.send(seed as u64, 0, 1000));
    drop(first);
    std::thread::scope(|scope| {
        for (seed, mut stream) in late.into_iter().enumerate() {
            scope.spawn(move || {
                assert_eq!(read_tag(&mut stream), "a");
                stream.expect(seed as u64, 0, 1000);
            });
        }
    });
    arus.finished(22);
    // The backend's threads are slower to see an end than arus is to see the next place; without the limit it is 20.
    assert!(backend.most() <= 10, "{} at once", backend.most());
    assert_eq!((backend.accepted(), waiting(&arus)), (22, 0));
}

#[test]
fn a_full_queue_and_a_long_wait_refuse_with_their_reasons() {
    let backend = tagged("a");
    let arus = full(&backend, 1, "queue = { size = 3, timeout = \"1500ms\" }");
    let web = arus.address("web");
    let (mut live, _) = ask(&web);
    let begun = Instant::now();
    let mut patient: Vec<Stream> = (0..3).map(|_| Stream::connect(&web)).collect();
    await_waiting(&arus, 3);
    let mut over = Stream::connect(&web);
    over.end();
    let line = arus.session_of(over.local());
    let told = ["reason", "state", "stage", "blame"].map(|key| line[key].as_str().unwrap());
    assert_eq!(told, ["queue_full", "rejected", "queue", "policy"], "{line}");
    for stream in &mut patient {
        stream.end();
        assert_eq!(arus.session_of(stream.local())["reason"], "queue_timeout");
    }
    assert!(begun.elapsed().as_millis() >= 1400, "{:?}", begun.elapsed());
    await_waiting(&arus, 0);
    check_echo(&mut live, 1);
    drop(live);
    eventually("there is a place again", || (backend.live() == 0).then_some(()));
    assert_eq!(ask(&web).1, "a");
}

#[test]
fn a_waiter_that_leaves_makes_room_in_the_queue() {
    let backend = tagged("a");
    let arus = full(&backend, 1, "queue = { size = 2, timeout = \"100s\" }");
    let web = arus.address("web");
    let (live, _) = ask(&web);
    let leaver = Stream::connect(&web);
    let mut stayer = Stream::connect(&web);
    await_waiting(&arus, 2);
    let id = arus.sessions().into_iter().find(|session| session["source"] == leaver.local().to_string()).unwrap();
    let (output, killed) = arus.command(&["kill", id["id"].as_str().unwrap()]);
    assert!(killed, "{output}");
    await_waiting(&arus, 1);
    drop(live);
    assert_eq!(read_tag(&mut stayer), "a");
}

#[test]
fn without_a_queue_a_full_backend_refuses_at_once() {
    let backend = tagged("a");
    let arus = full(&backend, 1, "");
    let web = arus.address("web");
    let (_live, _) = ask(&web);
    let mut over = Stream::connect(&web);
    over.end();
    assert_eq!(arus.session_of(over.local())["reason"], "backend_full");
}

#[test]
fn a_backend_that_a_reload_adds_is_there_for_new_connections_while_others_wait() {
    let (a, b) = (tagged("a"), tagged("b"));
    let keys = "max_connections_per_backend = 1\nqueue = { size = 9, timeout = \"100s\" }";
    let body = |backends: &[&Backend]| upstream("app", backends, keys) + &listener("web", "127.0.0.1:0", "app", "");
    let arus = Setup::new(body(&[&a])).start();
    let web = arus.address("web");
    let (on_a, _) = ask(&web);
    let mut waiter = Stream::connect(&web);
    await_waiting(&arus, 1);
    crate::ops::configure(&arus, &body(&[&a, &b]));
    crate::ops::reload(&arus).unwrap();
    let (_on_b, tag) = ask(&web);
    assert_eq!(tag, "b");
    drop(on_a);
    assert_eq!(read_tag(&mut waiter), "a");
}

/// Upstreams whose first backend is full and the second out of use, with five that wait.
struct Crowd {
    arus: Arus,
    full: Backend,
    spare: Backend,
    _live: Stream,
    waiters: Vec<Stream>,
}

impl Crowd {
    fn gather(limit: u32) -> Self {
        let (full, spare) = (tagged("full"), tagged("spare"));
        let arus = Setup::new(Self::body(&[&full, &spare], limit)).start();
        assert_eq!(Self::order(&arus, "drain", &spare), 200);
        let (live, tag) = ask(&arus.address("web"));
        assert_eq!(tag, "full");
        let waiters = (0..5).map(|_| Stream::connect(&arus.address("web"))).collect();
        await_waiting(&arus, 5);
        Self { arus, full, spare, _live: live, waiters }
    }

    fn body(backends: &[&Backend], limit: u32) -> String {
        let keys = format!("max_connections_per_backend = {limit}\nqueue = {{ size = 9, timeout = \"100s\" }}");
        upstream("app", backends, &keys) + &listener("web", "127.0.0.1:0", "app", "")
    }

    fn order(arus: &Arus, order: &str, backend: &Backend) -> u16 {
        arus.request("POST", &format!("/api/v1/upstreams/app/backends/{}/{order}", backend.address())).0
    }
}

#[test]
fn a_backend_that_comes_back_takes_one_who_waits() {
    let crowd = Crowd::gather(1);
    assert_eq!(Crowd::order(&crowd.arus, "up", &crowd.spare), 200);
    await_waiting(&crowd.arus, 4);
    eventually("the spare one serves", || (crowd.spare.accepted() == 1).then_some(()));
}

#[test]
fn a_raised_limit_takes_all_who_wait() {
    let mut crowd = Crowd::gather(1);
    crate::ops::configure(&crowd.arus, &Crowd::body(&[&crowd.full, &crowd.spare], 6));
    crate::ops::reload(&crowd.arus).unwrap();
    for stream in &mut crowd.waiters {
        assert_eq!(read_tag(stream), "full");
    }
    await_waiting(&crowd.arus, 0);
}
