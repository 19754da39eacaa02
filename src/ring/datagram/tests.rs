//! Datagrams over loopback, on every path that the kernel can be made to take.
#![allow(clippy::unwrap_used)]

use std::future::poll_fn;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::*;
use crate::ring::Ring;
use crate::ring::tests::{TINY, on_ring, paths};

fn bound(ring: &Ring, address: &str) -> (DatagramSocket, SocketAddr) {
    let address: SocketAddr = address.parse().unwrap();
    let socket = socket2::Socket::new(Domain::for_address(address), socket2::Type::DGRAM, None).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(false).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    let bound = socket.local_addr().unwrap().as_socket().unwrap();
    (ring.datagram_socket(OwnedFd::from(socket)).unwrap(), bound)
}

fn peer(address: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

async fn receive(socket: &mut DatagramSocket) -> Datagram {
    poll_fn(|context| socket.poll_receive(context)).await.unwrap()
}

/// The path with multishot receives, and the one without.
fn ways() -> Vec<crate::ring::Features> {
    let mut ways = paths();
    ways.retain(|way| !way.multishot_recv || way.bundles == paths()[0].bundles);
    assert!(ways.iter().any(|way| !way.multishot_recv) && ways.iter().any(|way| way.multishot_recv));
    ways
}

#[test]
fn a_datagram_comes_with_its_sender_and_goes_to_whom_it_is_for() {
    for features in ways() {
        on_ring(TINY, features, |ring| async move {
            for (own, other) in [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0")] {
                let (mut socket, mut at) = bound(&ring, own);
                if own.starts_with("[::]") {
                    at = ("127.0.0.1".parse::<std::net::IpAddr>().unwrap(), at.port()).into();
                }
                let (a, at_a) = peer(other);
                let (b, at_b) = peer(other);
                // The empty one ends a multishot receive; what is behind it must come all the same.
                for len in [1, 0, 500, 0, 0, 1472, 65_507, 3] {
                    let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
                    a.send_to(&payload, at).unwrap();
                    let datagram = receive(&mut socket).await;
                    assert_eq!(datagram.from, at_a);
                    assert!(!datagram.is_truncated);
                    assert!(datagram.payload() == payload, "{features:?} {own} {len}");
                    // Without its first byte and with a head, to another.
                    let mut datagram = datagram;
                    datagram.advance(4);
                    socket.send(b"head", datagram, at_b);
                    let mut got = vec![0; 70_000];
                    let read = poll_blocking(&ring, &b, &mut got).await;
                    let rest = &payload[4.min(payload.len())..];
                    assert!(got[..read] == [b"head", rest].concat(), "{features:?} {own} {len}: {read}");
                }
                socket.send_bytes(b"", Box::from(*b"own"), at_a);
                let mut got = [0; 10];
                let read = poll_blocking(&ring, &a, &mut got).await;
                assert_eq!(&got[..read], b"own");
                poll_fn(|context| socket.poll_settled(context)).await;
                assert_eq!(poll_fn(|context| Poll::Ready(socket.failure(context))).await, None);
            }
        });
    }
}

/// Lets the ring run until the peer has something.
async fn poll_blocking(ring: &Ring, peer: &UdpSocket, into: &mut [u8]) -> usize {
    peer.set_nonblocking(true).unwrap();
    loop {
        match peer.recv(into) {
            Ok(len) => return len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ring.sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn what_cannot_be_sent_is_told() {
    on_ring(TINY, ways()[0], |ring| async move {
        let (socket, _) = bound(&ring, "127.0.0.1:0");
        let (_other, to) = peer("127.0.0.1:0");
        socket.send_bytes(b"0123456789", vec![7; 65_498].into(), to);
        socket.send_bytes(b"0123456789", vec![7; 65_497].into(), to);
        let failure = poll_fn(|context| socket.failure(context).map_or(Poll::Pending, Poll::Ready)).await;
        assert_eq!(failure, Failure { errno: libc::EMSGSIZE, payload: 65_498 });
        poll_fn(|context| socket.poll_settled(context)).await;
        assert_eq!(poll_fn(|context| Poll::Ready(socket.failure(context))).await, None);
    });
}

#[test]
fn whoever_finds_no_buffer_waits_for_one_and_loses_nothing() {
    for features in ways() {
        on_ring(TINY, features, |ring| async move {
            // More than there are buffers, in sockets whose queues hold them meanwhile.
            const EACH: u32 = 60;
            let (sender, _) = peer("127.0.0.1:0");
            let mut sockets: Vec<_> = (0..6).map(|_| bound(&ring, "127.0.0.1:0")).collect();
            for number in 0..EACH {
                for (_, at) in &sockets {
                    sender.send_to(&number.to_be_bytes(), at).unwrap();
                }
            }
            let mut held = Vec::new();
            let mut seen = [0; 6];
            while held.len() < BUFFERS as usize {
                for (index, (socket, _)) in sockets.iter_mut().enumerate() {
                    let next = ring.timeout(Duration::from_millis(2), receive(socket)).await;
                    if let Some(datagram) = next {
                        assert_eq!(datagram.payload(), u32::to_be_bytes(seen[index]));
                        seen[index] += 1;
                        held.push(datagram);
                    }
                }
            }
            assert!(ring.0.counters.enobufs.get() > 0, "{features:?}");
            assert_eq!(held.len(), BUFFERS as usize);
            held.clear();
            for (index, (socket, _)) in sockets.iter_mut().enumerate() {
                while seen[index] < EACH {
                    assert_eq!(receive(socket).await.payload(), u32::to_be_bytes(seen[index]));
                    seen[index] += 1;
                }
            }
        });
    }
}

#[test]
fn a_socket_can_go_at_any_time() {
    for features in ways() {
        on_ring(TINY, features, |ring| async move {
            let (sender, _) = peer("127.0.0.1:0");
            let (keeper, _) = bound(&ring, "127.0.0.1:0");
            let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
            let (before, busy) = (descriptors(), ring.operations());
            for round in 0..200 {
                let (mut socket, at) = bound(&ring, "127.0.0.1:0");
                // Armed or not, with something on its way or not, with something that was not taken or not.
                if round % 2 == 0 {
                    assert!(ring.timeout(Duration::ZERO, receive(&mut socket)).await.is_none());
                }
                for _ in 0..round % 5 {
                    sender.send_to(&[7; 3000], at).unwrap();
                }
                if round % 3 == 0 && round % 5 > 0 {
                    let datagram = receive(&mut socket).await;
                    socket.send(b"", datagram, at);
                }
            }
            while ring.operations() > busy {
                ring.sleep(Duration::from_millis(1)).await;
            }
            // Other tests of this process open and close descriptors of theirs.
            while descriptors() > before + 20 {
                ring.sleep(Duration::from_millis(1)).await;
            }
            let counts = ring.0.mail.borrow().as_ref().unwrap().buffers.borrow().counts();
            assert_eq!(counts.free, counts.total);
            drop(keeper);
        });
    }
}

#[test]
fn memory_of_large_datagrams_goes_back_and_they_still_come() {
    on_ring(TINY, ways()[0], |ring| async move {
        let (mut socket, at) = bound(&ring, "127.0.0.1:0");
        let (sender, _) = peer("127.0.0.1:0");
        for _ in 0..300 {
            sender.send_to(&[9; 65_507], at).unwrap();
            assert_eq!(receive(&mut socket).await.payload().len(), 65_507);
        }
        assert!(ring.0.mail.borrow().as_ref().unwrap().is_touched);
        // Long enough for the driver to give memory back.
        ring.sleep(Duration::from_millis(1200)).await;
        assert!(!ring.0.mail.borrow().as_ref().unwrap().is_touched);
        sender.send_to(&[8; 65_507], at).unwrap();
        assert!(receive(&mut socket).await.payload().iter().all(|byte| *byte == 8));
    });
}

#[test]
fn addresses_are_read_as_the_kernel_writes_them() {
    for text in ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%3]:9"] {
        let address: SocketAddr = text.parse().unwrap();
        let stored = socket2::SockAddr::from(address);
        // SAFETY: a SockAddr is `len` readable bytes.
        let bytes = unsafe { std::slice::from_raw_parts(stored.as_ptr().cast::<u8>(), stored.len() as usize) };
        assert_eq!(super::address(bytes), Some(address));
        for cut in 0..24 {
            assert!(super::address(&bytes[..cut.min(bytes.len() - 1)]).is_none() || cut >= 8);
        }
    }
    assert_eq!(super::address(&[]), None);
}
