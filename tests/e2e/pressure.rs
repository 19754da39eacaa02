//! Many connections, too few descriptors, too few buffers: work slows down, nothing is lost, and it comes back.

use std::time::{Duration, Instant};

use crate::harness::*;

fn exchange(client: &mut Stream, seed: u64, len: u64) {
    client.send(seed, 0, len);
    client.expect(seed, 0, len);
}

#[test]
fn five_thousand_connections_at_once() {
    const CONNECTIONS: u64 = 5000;
    let echo = Crowd::start();
    let arus = Setup::to("127.0.0.1:0", &[echo.address().to_string()], "", "").start();
    let address = arus.address("web");
    let mut clients: Vec<Stream> = (0..CONNECTIONS).map(|_| Stream::connect(&address)).collect();
    for (seed, client) in clients.iter_mut().enumerate() {
        client.send(seed as u64, 0, 300);
    }
    for (seed, client) in clients.iter_mut().enumerate() {
        client.expect(seed as u64, 0, 300);
    }
    assert_eq!(arus.active(), CONNECTIONS);
    // Once more, now that all of them are warm.
    for (seed, client) in clients.iter_mut().enumerate() {
        client.send(seed as u64, 300, 300);
        client.finish();
    }
    for (seed, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.drain(seed as u64, 300), (300, End::Fin));
    }
    let lines = arus.finished(CONNECTIONS as usize);
    assert!(lines.iter().all(|line| line["reason"] == "done" && line["bytes_up"] == 600 && line["bytes_down"] == 600));
    arus.wait_buffers_whole();
}

/// It knows its limit: connections beyond it wait in the accept queue, and lose nothing.
#[test]
fn connections_beyond_the_descriptors_wait() {
    const LIMIT: u64 = 500;
    const CLIENTS: u64 = 400;
    let echo = Crowd::start();
    let arus = Setup::to("127.0.0.1:0", &[echo.address().to_string()], "", "").descriptors(LIMIT).start();
    let address = arus.address("web");
    let mut clients: Vec<Stream> = (0..CLIENTS).map(|_| Stream::connect(&address)).collect();
    for (seed, client) in clients.iter_mut().enumerate() {
        client.send(seed as u64, 0, 100);
    }
    let served = eventually("as many as there are descriptors for", || {
        let active = arus.active();
        std::thread::sleep(Duration::from_millis(200));
        (active > 50 && active == arus.active()).then_some(active)
    });
    assert!(served < LIMIT / 2, "{served} with {LIMIT} descriptors");
    let share = arus.process().cpu_share(Duration::from_secs(2));
    println!("{served} served; {:.2} % of a core while {} wait", share * 100.0, CLIENTS - served);
    assert!(share < 0.05, "{share} of a core while connections wait");
    // Which ones wait is the kernel's choice.
    let (mut ready, mut waiting) = (Vec::new(), Vec::new());
    for (seed, client) in clients.into_iter().enumerate() {
        client.0.set_nonblocking(true).unwrap();
        let has_answer = client.0.peek(&mut [std::mem::MaybeUninit::uninit()]).is_ok();
        client.0.set_nonblocking(false).unwrap();
        if has_answer { ready.push((seed, client)) } else { waiting.push((seed, client)) }
    }
    assert_eq!(ready.len() as u64, served);
    for (seed, client) in &mut ready {
        client.expect(*seed as u64, 0, 100);
    }
    let begin = Instant::now();
    drop(ready);
    for (seed, client) in &mut waiting {
        client.expect(*seed as u64, 0, 100);
    }
    let taken = begin.elapsed();
    println!("the others were served within {taken:?}");
    assert!(taken < Duration::from_secs(3), "accepting resumed after {taken:?}");
    drop(waiting);
    assert!(arus.finished(CLIENTS as usize).iter().all(|line| line["reason"] == "done" || line["reason"] == "reset"));
}

/// The limit is lowered under its feet: what lives goes on, new ones are refused or wait, nothing spins, and it comes
/// back by itself.
#[test]
fn descriptors_that_are_taken_away_and_given_back() {
    let echo = Crowd::start();
    let arus = Setup::to("127.0.0.1:0", &[echo.address().to_string()], "", "").start();
    let address = arus.address("web");
    let mut live: Vec<Stream> = (0..50).map(|_| Stream::connect(&address)).collect();
    for (seed, client) in live.iter_mut().enumerate() {
        exchange(client, seed as u64, 1000);
    }
    arus.process().limit_descriptors(arus.process().descriptors() as u64 + 5);
    let mut more: Vec<Stream> = (0..100).map(|_| Stream::connect(&address)).collect();
    for (seed, client) in more.iter_mut().enumerate() {
        let _ = client.try_write_all(&pattern(seed as u64, 0, 100));
    }
    std::thread::sleep(Duration::from_millis(300));
    let share = arus.process().cpu_share(Duration::from_secs(2));
    println!("{:.2} % of a core without descriptors", share * 100.0);
    assert!(share < 0.05, "{share} of a core without descriptors");
    for (seed, client) in live.iter_mut().enumerate() {
        exchange(client, seed as u64, 1000);
    }
    arus.process().limit_descriptors(u64::MAX);
    let begin = Instant::now();
    let mut client = Stream::connect(&address);
    exchange(&mut client, 1, 1000);
    let taken = begin.elapsed();
    assert!(taken < Duration::from_secs(3), "accepting resumed after {taken:?}");
    // Each of the others is served rightly, or was refused and the log says why.
    let mut served = 0;
    for (seed, mut client) in more.into_iter().enumerate() {
        let _ = client.0.shutdown(std::net::Shutdown::Write);
        match client.drain(seed as u64, 0) {
            (100, End::Fin) => served += 1,
            (0, _) => {}
            other => panic!("neither served nor refused: {other:?}"),
        }
    }
    drop((live, client));
    let lines = arus.finished(151);
    let refused = lines.iter().filter(|line| line["reason"] == "descriptors").count();
    println!("{served} served later, {refused} refused for want of descriptors");
    assert_eq!(served + refused, 100);
    assert!(lines.iter().all(|line| line["reason"] != "descriptors" || line["blame"] == "proxy"));
    arus.wait_active(0);
    arus.wait_buffers_whole();
}

/// Readers that stall hold buffers; whoever else needs one gets one, and the readers find everything.
fn stalled_readers_share_few_buffers(buffers: u32, readers: usize) {
    const LEN: u64 = 8 << 20;
    let source = Backend::start(behaviour::source(LEN));
    let echo = Backend::start(behaviour::echo);
    let arus = Setup::new(format!(
        "[[upstream]]\nname = \"source\"\nbackends = \"{}\"\n[[upstream]]\nname = \"echo\"\nbackends = \"{}\"\n\
         [[listener]]\nname = \"source\"\nlisten = \"127.0.0.1:0\"\nupstream = \"source\"\n\
         [[listener]]\nname = \"echo\"\nlisten = \"127.0.0.1:0\"\nupstream = \"echo\"\n",
        source.address(),
        echo.address()
    ))
    .shards(1)
    .engine(&format!("buffers = {buffers}\nmax_buffers = {buffers}\nbuffer_size = \"4KiB\""))
    .start();
    let address = arus.address("source");
    let small = |socket: &socket2::Socket| socket.set_recv_buffer_size(8 * 1024);
    let stalled: Vec<Stream> = (0..readers).map(|_| Stream::try_connect_with(&address, small).unwrap()).collect();
    arus.wait_active(readers as u64);
    let moved = || arus.status()["totals"]["bytes_down"].as_u64().unwrap();
    eventually("all are stalled", || {
        let seen = moved();
        std::thread::sleep(Duration::from_millis(300));
        (seen > 0 && seen == moved()).then_some(())
    });
    let free = arus.shard_sum("/buffers/free");
    println!("{free} of {buffers} buffers free with {readers} stalled readers");
    let mut others: Vec<Stream> = (0..5).map(|_| Stream::connect(&arus.address("echo"))).collect();
    for round in 0..20 {
        for client in &mut others {
            exchange(client, round, 30_000);
        }
    }
    // Each source has its number as its seed, which is not the client's.
    let threads: Vec<_> = stalled.into_iter().map(|mut client| std::thread::spawn(move || client.discard())).collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), (LEN, End::Fin));
    }
    drop(others);
    arus.wait_active(0);
    arus.wait_buffers_whole();
}

#[test]
fn fewer_stalled_readers_than_buffers() {
    stalled_readers_share_few_buffers(64, 32);
}

#[test]
fn more_stalled_readers_than_buffers() {
    stalled_readers_share_few_buffers(16, 40);
}
