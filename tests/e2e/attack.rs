//! What a hostile reading of the source found: each of these failed once.

use std::io::ErrorKind;
use std::time::Duration;

use socket2::Socket;

use crate::harness::*;

/// A client that takes as little as possible.
fn narrow(address: &Address) -> Stream {
    Stream::try_connect_with(address, |socket| socket.set_recv_buffer_size(2048)).unwrap()
}

/// Writes until nothing is taken for a while; false when the peer has gone.
fn fill(socket: &Socket) -> bool {
    socket.set_write_timeout(Some(Duration::from_millis(150))).unwrap();
    loop {
        if let Err(error) = socket.send(&[7; 64 * 1024]) {
            return error.kind() == ErrorKind::WouldBlock;
        }
    }
}

/// Floods a client whose first byte is `F`, and is an echo to all others.
fn flood_or_echo(mut stream: Stream, number: usize) {
    let mut first = [0];
    if !matches!(stream.read_some(&mut first), Ok(1)) {
        return;
    }
    if first == *b"F" {
        while stream.try_write_all(&[7; 64 * 1024]).is_ok() {}
    } else if stream.try_write_all(&first).is_ok() {
        behaviour::echo(stream, number);
    }
}

/// Memory of free buffers is given back when a shard wakes from a long sleep: not that of the buffers that woke it.
#[test]
fn bytes_that_wake_an_idle_shard_are_intact() {
    let echo = Backend::start(behaviour::echo);
    let pool = "buffers = 8\nmax_buffers = 64\nbuffer_size = \"4KiB\"";
    let arus = Setup::one("127.0.0.1:0", &[&echo]).shards(1).engine(pool).start();
    let address = arus.address("web");
    // Slow readers make the pool grow.
    let stalled: Vec<Stream> = (0..12).map(|_| narrow(&address)).collect();
    std::thread::scope(|scope| stalled.iter().for_each(|client| drop(scope.spawn(|| fill(&client.0)))));
    assert!(arus.shard_sum("/buffers/total") > 8, "{:#}", arus.status()["shards"]);
    stalled.into_iter().for_each(Stream::reset);
    arus.wait_active(0);
    let mut client = Stream::connect(&address);
    for round in 0..6 {
        // Nothing may happen for more than a second.
        std::thread::sleep(Duration::from_millis(1300));
        client.send(1, round * 3000, 3000);
        client.expect(1, round * 3000, 3000);
    }
    arus.wait_buffers_whole();
}

#[test]
fn a_pool_of_few_buffers_grows_for_those_who_wait() {
    for buffers in [1, 2, 4] {
        let backend = Backend::start(flood_or_echo);
        let pool = format!("buffers = {buffers}\nmax_buffers = 64\nbuffer_size = \"1KiB\"");
        let arus = Setup::one("127.0.0.1:0", &[&backend]).shards(1).engine(&pool).start();
        let address = arus.address("web");
        let mut stalled: Vec<Stream> = (0..6).map(|_| narrow(&address)).collect();
        stalled.iter_mut().for_each(|client| client.write_all(b"F"));
        arus.wait_active(6);
        eventually("what is not read fills all buffers", || {
            let before = arus.status()["totals"]["bytes_down"].clone();
            std::thread::sleep(Duration::from_millis(300));
            (before == arus.status()["totals"]["bytes_down"]).then_some(())
        });
        let mut client = Stream::connect(&address);
        client.send(1, 0, 100);
        client.expect(1, 0, 100);
    }
}

/// A connection that comes while no buffer is left starves before it has anything to receive. When buffers come back,
/// those who are fed first may stay silent: the others must be fed all the same.
#[test]
fn the_silent_starve_nobody() {
    let backend = Backend::start(flood_or_echo);
    let pool = "buffers = 8\nmax_buffers = 8\nbuffer_size = \"1KiB\"";
    let arus = Setup::one("127.0.0.1:0", &[&backend]).shards(1).engine(pool).start();
    let address = arus.address("web");
    let mut stalled: Vec<Stream> = (0..10).map(|_| narrow(&address)).collect();
    stalled.iter_mut().for_each(|client| client.write_all(b"F"));
    // Whoever found none waits on a way of its own, and holds none then: it need not stay like that.
    eventually("there was no buffer left", || (arus.shard_sum("/enobufs") > 0).then_some(()));
    let mut silent: Vec<Stream> = (0..300).map(|_| Stream::connect(&address)).collect();
    arus.wait_active(310);
    stalled.into_iter().for_each(Stream::reset);
    arus.wait_active(300);
    arus.wait_buffers_whole();
    for client in [299, 298, 150, 0] {
        silent[client].send(1, 0, 100);
        silent[client].expect(1, 0, 100);
    }
}

/// The upstream has finished, so that nothing is received from it any more; only sends can tell that it has gone.
#[test]
fn a_failed_send_to_an_upstream_that_has_finished_ends_the_session() {
    let backend = Backend::start(|mut stream: Stream, _| {
        stream.finish();
        let _ = stream.read_some(&mut [0; 16]);
        stream.reset();
    });
    let arus = Setup::one("127.0.0.1:0", &[&backend]).start();
    let mut client = Stream::connect(&arus.address("web"));
    assert_eq!(client.drain(0, 0), (0, End::Fin));
    client.write_all(b"one");
    eventually("the backend has reset", || (backend.live() == 0).then_some(()));
    client.write_all(b"two");
    assert_eq!(arus.finished(1)[0]["blame"], "upstream");
}

/// A reset is told to one operation only. Where bytes are on their way in both directions, that may be the send: then the
/// receive sees an end like that of a FIN, and a transfer that was cut off must not look like a whole one.
#[test]
fn a_reset_amid_traffic_both_ways_is_not_taken_for_a_fin() {
    const ROUNDS: usize = 60;
    let ends = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&ends);
    let backend = Backend::start(move |mut stream: Stream, _| {
        let mut here = fill(&stream.0);
        // From here on it only reads, so that its own end is told as it is.
        let mut buffer = [0; 64 * 1024];
        let mut end = End::Reset;
        while here {
            match stream.read_some(&mut buffer) {
                Ok(0) => (here, end) = (false, End::Fin),
                Ok(_) => {}
                Err(_) => here = false,
            }
        }
        seen.lock().unwrap().push(end);
    });
    let arus = Setup::one("127.0.0.1:0", &[&backend]).shards(1).start();
    let address = arus.address("web");
    std::thread::scope(|scope| {
        for client in 0..6 {
            let address = &address;
            scope.spawn(move || {
                for round in 0..ROUNDS / 6 {
                    let mut stream = narrow(address);
                    for _ in 0..20 + 3 * client + round {
                        stream.write_all(&[1; 200]);
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    stream.reset();
                }
            });
        }
    });
    let lines = arus.finished(ROUNDS);
    assert!(lines.iter().all(|line| line["reason"] == "reset" && line["blame"] == "client"));
    eventually("all backends have seen an end", || (backend.live() == 0).then_some(()));
    let ends = ends.lock().unwrap();
    let fins = ends.iter().filter(|end| **end == End::Fin).count();
    assert_eq!((ends.len(), fins), (ROUNDS, 0), "FINs that nobody sent");
    arus.wait_buffers_whole();
}

/// A client that neither reads nor leaves room for what it writes, and then goes: its backend waits for somebody to read
/// before it reads on, so that neither direction can ever end by itself.
#[test]
fn a_client_that_resets_with_both_directions_full_ends_the_session() {
    let echo = Backend::start(behaviour::echo);
    let arus = Setup::one("127.0.0.1:0", &[&echo]).shards(1).start();
    let clients: Vec<Stream> = (0..4).map(|_| narrow(&arus.address("web"))).collect();
    std::thread::scope(|scope| clients.iter().for_each(|client| drop(scope.spawn(|| fill(&client.0)))));
    clients.into_iter().for_each(Stream::reset);
    let lines = arus.finished(4);
    assert!(lines.iter().all(|line| line["reason"] == "reset" && line["blame"] == "client"), "{lines:?}");
    eventually("the backend's connections have ended", || (echo.live() == 0).then_some(()));
    arus.wait_buffers_whole();
}

/// Who connects faster than a closing listener can be emptied must not keep the shard, nor outlive the time to drain.
#[test]
fn a_flood_of_connects_does_not_hold_up_the_end() {
    let echo = Crowd::start();
    let setup = Setup::to("127.0.0.1:0", &[echo.address().to_string()], "", "");
    let mut arus = setup.engine("drain_timeout = \"0\"").start();
    let address = arus.address("web");
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut clients = Vec::new();
                while !over.load(std::sync::atomic::Ordering::Relaxed) && clients.len() < 8000 {
                    match Stream::try_connect(&address) {
                        Ok(client) => clients.push(client),
                        Err(_) => std::thread::sleep(Duration::from_millis(1)),
                    }
                }
            });
        }
        eventually("many are connected", || (arus.active() > 300).then_some(()));
        arus.signal(nix::sys::signal::Signal::SIGTERM);
        let status = arus.wait_exit(DEADLINE);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(status.success());
    });
    let unfinished = "stopped before all had ended";
    assert!(
        !arus.log.lines().iter().any(|line| line["message"].as_str().is_some_and(|text| text.contains(unfinished)))
    );
}

/// Nothing is received from a client while its upstream takes nothing; that it has gone must be seen all the same.
#[test]
fn a_client_that_resets_while_its_upload_stalls_ends_the_session() {
    for taken in [0, 16 << 20] {
        // After 16 MiB the direction is spliced.
        let backend = Backend::start(move |mut stream: Stream, number| {
            let mut left = taken;
            let mut buffer = vec![0; 64 * 1024];
            while left > 0 {
                left -= stream.read_some(&mut buffer).unwrap().min(left);
            }
            behaviour::silent(stream, number);
        });
        let arus = Setup::one("127.0.0.1:0", &[&backend]).start();
        let client = Stream::connect(&arus.address("web"));
        assert!(fill(&client.0));
        client.reset();
        let line = &arus.finished(1)[0];
        assert_eq!((&line["reason"], &line["blame"]), (&"reset".into(), &"client".into()), "{line}");
        arus.wait_buffers_whole();
    }
}
