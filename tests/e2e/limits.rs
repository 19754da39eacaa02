//! Limits of connections and rates: exact over all shards, and a slot is free as soon as a connection has ended.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use crate::harness::*;

/// Attempts from many threads at once; gives those that were served, each with an answer of its own.
fn attempt(address: &Address, attempts: usize, source: impl Fn(usize) -> IpAddr) -> Vec<Stream> {
    const THREADS: usize = 16;
    let barrier = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (address, barrier) = (address.clone(), Arc::clone(&barrier));
            let own: Vec<IpAddr> = (thread..attempts).step_by(THREADS).map(&source).collect();
            std::thread::spawn(move || {
                barrier.wait();
                let tries = own.into_iter().filter_map(|source| try_once(source, &address));
                tries.collect::<Vec<Stream>>()
            })
        })
        .collect();
    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

/// `None` when it was refused.
fn try_once(source: IpAddr, address: &Address) -> Option<Stream> {
    let mut client = Stream::connect_from(source, address);
    client.try_write_all(&pattern(1, 0, 10)).ok()?;
    match client.read_some(&mut [0; 10]) {
        Ok(0) => None,
        Ok(_) => Some(client),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
        Err(error) => panic!("neither served nor refused: {error}"),
    }
}

fn local(last: usize) -> IpAddr {
    IpAddr::from([127, 0, 0, last as u8])
}

fn assert_limit(setup: Setup, limit: usize, reason: &str) {
    let arus = setup.shards(4).start();
    for round in 0..3 {
        let served = attempt(&arus.address("web"), 64, |_| local(1));
        assert_eq!(served.len(), limit, "{reason} in round {round}");
        assert_eq!(arus.active(), limit as u64);
        assert_eq!(arus.rejected("web"), HashMap::from([(reason.into(), (64 - limit as u64) * (round + 1))]));
        drop(served);
        arus.wait_active(0);
    }
    let refused = arus.finished(3 * 64).into_iter().filter(|line| line["state"] == "rejected");
    let refused: Vec<_> = refused.collect();
    assert_eq!(refused.len(), 3 * (64 - limit));
    assert!(refused.iter().all(|line| line["reason"] == *reason && line["blame"] == "policy"));
}

#[test]
fn connections_of_a_listener() {
    let echo = Crowd::start();
    let setup = Setup::to("127.0.0.1:0", &[echo.address().to_string()], "max_connections = 7", "");
    assert_limit(setup, 7, "listener_max_connections");
}

#[test]
fn connections_of_the_process() {
    let echo = Crowd::start();
    let setup = Setup::to("127.0.0.1:0", &[echo.address().to_string()], "", "").engine("max_connections = 9");
    assert_limit(setup, 9, "max_connections");
}

#[test]
fn connections_of_a_source() {
    let echo = Crowd::start();
    let setup = Setup::to("127.0.0.1:0", &[echo.address().to_string()], "max_connections_per_source = 5", "");
    assert_limit(setup, 5, "source_max_connections");
}

#[test]
fn sources_do_not_count_against_each_other() {
    let echo = Crowd::start();
    let limit = "max_connections_per_source = 3";
    let arus = Setup::to("127.0.0.1:0", &[echo.address().to_string()], limit, "").shards(4).start();
    let served = attempt(&arus.address("web"), 64, |attempt| local(1 + attempt % 8));
    let mut by_source: HashMap<IpAddr, usize> = HashMap::new();
    served.iter().for_each(|client| *by_source.entry(client.local().ip()).or_default() += 1);
    assert_eq!(by_source, (1..=8).map(|last| (local(last), 3)).collect());
}

/// Whoever ends makes room for one, at once and no more than one.
#[test]
fn a_slot_is_free_when_its_connection_ends() {
    let echo = Crowd::start();
    let arus = Setup::to("127.0.0.1:0", &[echo.address().to_string()], "max_connections = 2", "").shards(3).start();
    let mut held: Vec<Stream> = attempt(&arus.address("web"), 2, |_| local(1));
    for _ in 0..20 {
        assert!(try_once(local(1), &arus.address("web")).is_none());
        let ended = held.remove(0);
        ended.finish();
        let mut ended = ended;
        assert_eq!(ended.end(), End::Fin);
        held.push(eventually("the slot is free", || try_once(local(1), &arus.address("web"))));
        assert_eq!(arus.active(), 2);
    }
}

#[test]
fn new_connections_per_second() {
    let echo = Crowd::start();
    let arus = Setup::to("127.0.0.1:0", &[echo.address().to_string()], "accept_rate = 20", "").shards(4).start();
    // A second without any before it, and one burst that may reach over the border of two.
    let served = attempt(&arus.address("web"), 100, |_| local(1)).len();
    assert!((20..=40).contains(&served), "{served} served of a burst with 20 a second");
    assert_eq!(arus.rejected("web"), HashMap::from([("accept_rate".into(), 100 - served as u64)]));
    eventually("the rate lets somebody in again", || try_once(local(1), &arus.address("web")));
}

#[test]
fn sources_that_are_not_allowed() {
    let echo = Crowd::start();
    let allowed = "allow_sources = [\"127.0.0.2\", \"127.0.1.0/24\"]";
    let arus = Setup::to("127.0.0.1:0", &[echo.address().to_string()], allowed, "").start();
    let address = arus.address("web");
    assert!(try_once(local(1), &address).is_none());
    assert!(try_once(local(3), &address).is_none());
    assert!(try_once(local(2), &address).is_some());
    assert!(try_once(IpAddr::from([127, 0, 1, 77]), &address).is_some());
    assert_eq!(arus.rejected("web"), HashMap::from([("source_not_allowed".into(), 2)]));
}

#[test]
fn a_full_backend_without_a_queue() {
    let backend = Backend::start(behaviour::echo);
    let setup = Setup::to("127.0.0.1:0", &[backend.address().to_string()], "", "max_connections_per_backend = 4");
    let arus = setup.shards(4).start();
    let served = attempt(&arus.address("web"), 64, |_| local(1));
    assert_eq!((served.len(), backend.most()), (4, 4));
    drop(served);
    let lines = arus.finished(64);
    assert_eq!(lines.iter().filter(|line| line["reason"] == "backend_full").count(), 60);
    // Another upstream's backend would be next; here there is only this one, and it is free again.
    eventually("the backend is free again", || try_once(local(1), &arus.address("web")));
}

/// In the order in which they came, where one shard has them all.
#[test]
fn a_queue_for_a_full_backend_is_first_in_first_out() {
    let backend = Backend::start(behaviour::echo);
    let upstream = "max_connections_per_backend = 1\nqueue = { size = 10, timeout = \"60s\" }";
    let arus = Setup::to("127.0.0.1:0", &[backend.address().to_string()], "", upstream).shards(1).start();
    let mut clients = Vec::new();
    for waiting in 0..=10 {
        let mut client = Stream::connect(&arus.address("web"));
        client.send(waiting, 0, 10);
        clients.push(client);
        eventually("it waits", || (arus.status()["upstreams"][0]["waiting"] == waiting).then_some(()));
    }
    // The eleventh finds no place in the queue.
    assert!(try_once(local(1), &arus.address("web")).is_none());
    for (seed, mut client) in clients.into_iter().enumerate() {
        client.expect(seed as u64, 0, 10);
        assert_eq!(backend.accepted(), seed + 1, "somebody was served before his turn");
        client.finish();
        assert_eq!(client.end(), End::Fin);
    }
    assert_eq!(backend.most(), 1);
    let lines = arus.finished(12);
    assert_eq!(lines.iter().filter(|line| line["reason"] == "done").count(), 11);
    assert_eq!(lines.iter().filter(|line| line["reason"] == "queue_full").count(), 1);
}

#[test]
fn a_queue_over_shards_serves_everybody() {
    let (live, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, seen) = (Arc::clone(&live), Arc::clone(&most));
    let backend = Backend::start(move |mut stream: Stream, _| {
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let bytes = stream.read_exactly(1000);
        assert_eq!(stream.end(), End::Fin);
        // Before arus can know that it has ended.
        now.fetch_sub(1, Ordering::SeqCst);
        stream.write_all(&bytes);
    });
    let upstream = "max_connections_per_backend = 3\nqueue = { size = 100, timeout = \"60s\" }";
    let arus = Setup::to("127.0.0.1:0", &[backend.address().to_string()], "", upstream).shards(4).start();
    let address = arus.address("web");
    let clients: Vec<_> = (0..60)
        .map(|seed| {
            let address = address.clone();
            std::thread::spawn(move || {
                let mut client = Stream::connect(&address);
                client.send(seed, 0, 1000);
                client.finish();
                client.drain(seed, 0)
            })
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().unwrap(), (1000, End::Fin));
    }
    assert!(most.load(Ordering::SeqCst) <= 3, "{most:?} at once");
    assert!(arus.finished(60).iter().all(|line| line["reason"] == "done"));
    assert_eq!(arus.status()["upstreams"][0]["waiting"], 0);
}

#[test]
fn waiting_for_a_full_backend_ends() {
    let backend = Backend::start(behaviour::echo);
    let upstream = "max_connections_per_backend = 1\nqueue = { size = 10, timeout = \"500ms\" }";
    let arus = Setup::to("127.0.0.1:0", &[backend.address().to_string()], "", upstream).start();
    let held = try_once(local(1), &arus.address("web")).expect("the first is served");
    let begin = std::time::Instant::now();
    assert!(try_once(local(1), &arus.address("web")).is_none());
    assert!(begin.elapsed() >= Duration::from_millis(500));
    let line = arus.finished(1).remove(0);
    assert_eq!(
        (&line["reason"], &line["stage"], &line["state"]),
        (&"queue_timeout".into(), &"queue".into(), &"rejected".into())
    );
    drop(held);
}
