//! What a plugin makes of bytes is bounded, and so is what waits for it.

use std::time::Duration;

use super::*;

/// Each byte becomes a hundred in each direction, and the client hardly reads: what waits for the plugin counts as
/// queued like what has come out of it.
#[test]
fn a_slow_reader_behind_a_plugin_that_grows_holds_little() {
    const CLIENTS: usize = 8;
    let echo = Backend::start(behaviour::echo);
    let arus = arus(&echo, &(hostile("grow", "grow", "") + &through("web", &["grow"])));
    let small = |socket: &socket2::Socket| socket.set_recv_buffer_size(8 * 1024);
    let mut clients: Vec<Stream> =
        (0..CLIENTS).map(|_| Stream::try_connect_with(&arus.address("web"), small).unwrap()).collect();
    let senders: Vec<_> = clients
        .iter()
        .map(|client| {
            let mut client = client.try_clone();
            std::thread::spawn(move || while client.try_write_all(&[b'g'; 16 * 1024]).is_ok() {})
        })
        .collect();
    clients.iter_mut().for_each(|client| drop(client.read_exactly(64 * 1024)));
    let used = || arus.shard_sum("/buffers/total") - arus.shard_sum("/buffers/free");
    let used = eventually("nothing moves any more", || {
        let before = used();
        std::thread::sleep(Duration::from_millis(500));
        (before == used()).then_some(before)
    });
    // 256 KiB a direction in pieces of 16 KiB, and as much again that was asked for before they were full.
    assert!(used <= CLIENTS as u64 * 2 * 2 * 16, "{used} buffers are held");
    clients.iter().for_each(|client| drop(client.0.shutdown(std::net::Shutdown::Both)));
    drop(clients);
    arus.wait_active(0);
    arus.wait_buffers_whole();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
}

/// Whoever has input needs a buffer for output: many that have the one and wait for the other must not wait for ever.
#[test]
fn a_pool_without_a_free_buffer_goes_on() {
    const CLIENTS: usize = 25;
    let echo = Backend::start(behaviour::echo);
    let rest = hostile("grow", "grow", "") + &through("web", &["grow"]);
    let arus = Setup::new(body(&echo, &rest)).engine("buffers = 8\nmax_buffers = 8").shards(1).start();
    let address = arus.address("web");
    let exchanges: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = Stream::connect(&address);
            std::thread::spawn(move || {
                let mut writer = client.try_clone();
                let sender = std::thread::spawn(move || drop(writer.try_write_all(&[b'g'; 120_000])));
                client.read_exactly(120_000);
                let _ = client.0.shutdown(std::net::Shutdown::Both);
                sender.join().unwrap();
            })
        })
        .collect();
    exchanges.into_iter().for_each(|exchange| exchange.join().unwrap());
    arus.wait_active(0);
    arus.wait_buffers_whole();
}
