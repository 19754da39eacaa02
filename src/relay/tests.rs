//! Relays on a tiny ring: 8 buffers, 64 completions, a flooder and a hundred quiet connections, cuts and cancels by a
//! seed. Peers are real sockets in other threads.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;
use crate::ring::First;
use crate::ring::tests::{TINY, on_ring, paths};

mod pace;
mod tls;

/// Relays between two sockets as they are.
async fn run_plain(
    ring: &Ring,
    client: &Socket,
    upstream: &Socket,
    cut: &Cut,
    count: impl Fn(Direction, i64),
) -> Tally {
    let client = Inlet::new(client.clone(), First::Try);
    let upstream = Inlet::new(upstream.clone(), First::Wait);
    run(ring, Box::new(Line::plain(ring, client, upstream, TERMS)), cut, count).await
}

const TERMS: Terms = Terms { idle: Duration::from_secs(20), half_closed: Duration::from_secs(20) };

/// A relay's sockets, and the peers behind them.
struct Wire {
    near: (TcpStream, TcpStream),
    far: (TcpStream, TcpStream),
}

impl Wire {
    fn new() -> Self {
        let (client, near_client) = pair();
        let (upstream, near_upstream) = pair();
        Self { near: (near_client, near_upstream), far: (client, upstream) }
    }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let near = listener.accept().unwrap().0;
    for stream in [&far, &near] {
        stream.set_nodelay(true).unwrap();
    }
    far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    far.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    (far, near)
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Byte `at` of stream `seed`.
fn byte(seed: u64, at: u64) -> u8 {
    (at.wrapping_mul(31).wrapping_add(at >> 8).wrapping_add(seed.wrapping_mul(97)) % 251) as u8
}

fn bytes(seed: u64, from: u64, len: u64) -> Vec<u8> {
    (from..from + len).map(|at| byte(seed, at)).collect()
}

fn check(seed: u64, from: u64, got: &[u8]) {
    let wrong = got.iter().zip(from..).position(|(got, at)| *got != byte(seed, at));
    assert_eq!(wrong, None, "stream {seed} from {from}");
}

/// Sends `len` bytes through the line in random pieces and reads them at the other end; then both say goodbye.
fn flood(far: (TcpStream, TcpStream), seed: u64, len: u64) -> JoinHandle<()> {
    let (mut from, mut to) = far;
    std::thread::spawn(move || {
        let writer = std::thread::spawn(move || {
            let (mut random, mut sent) = (Random(seed), 0);
            while sent < len {
                let piece = (1 + random.below(60_000)).min(len - sent);
                from.write_all(&bytes(seed, sent, piece)).unwrap();
                sent += piece;
            }
            from.shutdown(Shutdown::Write).unwrap();
            assert_eq!(from.read(&mut [0]).unwrap(), 0);
        });
        let (mut random, mut seen, mut buffer) = (Random(seed + 1), 0, vec![0; 60_000]);
        loop {
            let size = 1 + random.below(60_000) as usize;
            match to.read(&mut buffer[..size]).unwrap() {
                0 => break,
                count => {
                    check(seed, seen, &buffer[..count]);
                    seen += count as u64;
                }
            }
        }
        assert_eq!(seen, len);
        drop(to);
        writer.join().unwrap();
    })
}

/// Small messages there and back on many lines, one after the other, until told to stop.
fn chat(lines: Vec<(TcpStream, TcpStream)>, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let (mut random, mut messages) = (Random(5), 0);
        let mut lines = lines;
        while !stop.load(Ordering::Relaxed) {
            for (client, upstream) in &mut lines {
                let len = 1 + random.below(3000);
                let text = bytes(messages, 0, len);
                let mut got = vec![0; text.len()];
                client.write_all(&text).unwrap();
                upstream.read_exact(&mut got).unwrap();
                assert!(got == text, "there, message {messages}");
                upstream.write_all(&text).unwrap();
                client.read_exact(&mut got).unwrap();
                assert!(got == text, "back, message {messages}");
                messages += 1;
            }
        }
        messages
    })
}

/// Waits until nothing is in flight; then every buffer must be free.
async fn settle(ring: &Ring) {
    for _ in 0..1000 {
        if ring.operations() == 0 && ring.buffers().free == ring.buffers().total {
            return;
        }
        ring.sleep(Duration::from_millis(5)).await;
    }
    panic!("{} operations in flight, buffers {:?}", ring.operations(), ring.buffers());
}

#[test]
fn a_flooder_and_a_hundred_quiet_connections_share_eight_buffers() {
    for features in paths() {
        let stop = Arc::new(AtomicBool::new(false));
        let mut lines: Vec<Wire> = (0..102).map(|_| Wire::new()).collect();
        let mut near: Vec<_> = Vec::new();
        let mut far: Vec<_> = Vec::new();
        for line in lines.drain(..) {
            near.push(line.near);
            far.push(line.far);
        }
        let flooders = [flood(far.pop().unwrap(), 11, 6 << 20), flood(far.pop().unwrap(), 12, 6 << 20)];
        let quiet = chat(far, Arc::clone(&stop));
        let watch = std::thread::spawn(move || {
            flooders.into_iter().for_each(|flooder| flooder.join().unwrap());
            stop.store(true, Ordering::Relaxed);
            quiet.join().unwrap()
        });
        let (up, down) = on_ring(TINY, features, move |ring| async move {
            let (up, down) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            let tasks: Vec<_> = near
                .into_iter()
                .map(|(client, upstream)| {
                    let (ring, up, down) = (ring.clone(), Rc::clone(&up), Rc::clone(&down));
                    glommio::spawn_local(async move {
                        let (client, upstream) = (ring.socket(client.into()), ring.socket(upstream.into()));
                        let count = |direction, bytes| {
                            let sum = if direction == Direction::Up { &up } else { &down };
                            sum.set(sum.get() + bytes);
                        };
                        run_plain(&ring, &client, &upstream, &Cut::default(), count).await
                    })
                })
                .collect();
            for task in tasks {
                assert_eq!(task.await.reason, Reason::Done);
            }
            settle(&ring).await;
            (up.get(), down.get())
        });
        let messages = watch.join().unwrap();
        assert!(messages >= 100, "{features:?}: only {messages} messages while others flooded");
        assert_eq!(up - down, 12 << 20, "{features:?}: what the quiet ones sent came back");
    }
}

/// Relays whose future is dropped at any moment leave nothing behind: no operation, no buffer, no descriptor.
#[test]
fn dropped_relays_leave_nothing() {
    for features in paths() {
        let peers = on_ring(TINY, features, move |ring| async move {
            let mut random = Random(77);
            let mut peers = Vec::new();
            for round in 0..60u64 {
                let line = Wire::new();
                peers.push(flood_carelessly(line.far, round));
                let (client, upstream) = (ring.socket(line.near.0.into()), ring.socket(line.near.1.into()));
                let limit = Duration::from_millis(random.below(12));
                let cut = Cut::default();
                if ring.timeout(limit, run_plain(&ring, &client, &upstream, &cut, |_, _| {})).await.is_none() {
                    client.reset_on_close();
                }
            }
            settle(&ring).await;
            peers
        });
        // They see the end of both sockets, so no descriptor was left open.
        peers.into_iter().for_each(|peer| peer.join().unwrap());
    }
}

/// Writes and reads until it fails; what comes must be right.
fn flood_carelessly(far: (TcpStream, TcpStream), seed: u64) -> JoinHandle<()> {
    let (mut from, mut to) = far;
    std::thread::spawn(move || {
        let writer = std::thread::spawn(move || {
            let mut sent = 0;
            while sent < 400_000 && from.write_all(&bytes(seed, sent, 10_000)).is_ok() {
                sent += 10_000;
            }
            let end = from.read(&mut [0]).map_err(|error| error.kind());
            assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)), "{end:?}");
        });
        let (mut seen, mut buffer) = (0, vec![0; 30_000]);
        loop {
            match to.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    check(seed, seen, &buffer[..count]);
                    seen += count as u64;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
                    break;
                }
            }
        }
        drop(to);
        writer.join().unwrap();
    })
}
