//! An association between real sockets, under rules that the test makes.
#![allow(clippy::unwrap_used)]

mod world;

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};

use self::world::World;
use super::*;
use crate::ring::tests::{TINY, on_ring, paths};
use crate::ring::{Features, First};
use crate::types::Blame;

/// An association with its client.
struct Scene {
    ring: Ring,
    world: Rc<World>,
    cut: Rc<Cut>,
    control: Option<TcpStream>,
    client: UdpSocket,
    bound: SocketAddr,
}

fn udp(address: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn head(to: SocketAddr) -> Vec<u8> {
    let mut head = Vec::new();
    codec::encode(to, &mut head);
    head
}

impl Scene {
    fn new(ring: &Ring) -> Self {
        Self::with(ring, None, Duration::from_secs(60))
    }

    fn with(ring: &Ring, client_port: Option<u16>, idle: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let control = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = ring.socket(listener.accept().unwrap().0.into());
        let (world, cut) = (Rc::<World>::default(), Rc::<Cut>::default());
        let here = "127.0.0.1".parse().unwrap();
        let (association, bound) = Association::open(ring, SocketAddr::new(here, 0), here, client_port, idle).unwrap();
        let (its_ring, its_world, its_cut) = (ring.clone(), Rc::clone(&world), Rc::clone(&cut));
        glommio::spawn_local(async move {
            let mut inlet = Inlet::new(accepted, First::Try);
            let tally = association.run(&mut inlet, &its_world, &its_cut).await;
            its_world.ended.set(Some(tally));
            its_ring.note_activity();
        })
        .detach();
        let (client, _) = udp("127.0.0.1:0");
        Self { ring: ring.clone(), world, cut, control: Some(control), client, bound }
    }

    fn send(&self, to: SocketAddr, payload: &[u8]) {
        self.send_raw(&[&head(to), payload].concat());
    }

    fn send_name(&self, name: &str, port: u16, payload: &[u8]) {
        let head = [&[0, 0, 0, 3, name.len() as u8], name.as_bytes(), &port.to_be_bytes()].concat();
        self.send_raw(&[&head, payload].concat());
    }

    fn send_raw(&self, datagram: &[u8]) {
        self.client.send_to(datagram, self.bound).unwrap();
    }

    /// What comes to a socket.
    async fn receive(&self, socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut bytes = vec![0; 70_000];
        loop {
            match socket.recv_from(&mut bytes) {
                Ok((len, from)) => return (bytes[..len].to_vec(), from),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ring.sleep(Duration::from_millis(1)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// What comes to the client: from whom, and what.
    async fn answer(&self) -> (SocketAddr, Vec<u8>) {
        let (datagram, _) = self.receive(&self.client).await;
        let (header, used) = codec::parse(&datagram).unwrap();
        assert_eq!(header.fragment, 0);
        let Destination::Ip(from) = header.destination else { panic!("an answer with a name") };
        (from, datagram[used..].to_vec())
    }

    async fn until(&self, what: impl Fn() -> bool) {
        while !what() {
            self.ring.sleep(Duration::from_millis(1)).await;
        }
    }

    async fn dropped(&self, why: Dropped, count: u32) {
        self.until(|| self.world.drops(why) >= count).await;
        assert_eq!(self.world.drops(why), count);
    }

    async fn ended(&self) -> Tally {
        self.until(|| self.world.ended.get().is_some()).await;
        self.world.ended.get().unwrap()
    }
}

fn ways() -> [Features; 2] {
    let best = paths()[0];
    [best, Features { multishot_recv: false, bundles: false, receive_caps: false, ..best }]
}

#[test]
fn targets_are_told_apart_and_all_is_counted() {
    for features in ways() {
        on_ring(TINY, features, |ring| async move {
            let scene = Scene::new(&ring);
            let here: Vec<IpAddr> = vec!["::1".parse().unwrap(), "127.0.0.1".parse().unwrap()];
            scene.world.names.borrow_mut().insert("both.test".into(), here);
            let targets: Vec<_> = (0..10).map(|i| udp(if i % 2 == 0 { "127.0.0.1:0" } else { "[::1]:0" })).collect();
            for (number, (_, at)) in targets.iter().enumerate() {
                scene.send(*at, format!("ask {number}").as_bytes());
            }
            let mut outside = HashSet::new();
            for (number, (target, _)) in targets.iter().enumerate() {
                let (payload, from) = scene.receive(target).await;
                assert_eq!(payload, format!("ask {number}").as_bytes());
                outside.insert(from.port());
                target.send_to(format!("answer {number}").as_bytes(), from).unwrap();
            }
            assert_eq!(outside.len(), 1, "one socket, however many targets");
            let mut answers = HashMap::new();
            for _ in &targets {
                let (from, payload) = scene.answer().await;
                answers.insert(from, payload);
            }
            for (number, (_, at)) in targets.iter().enumerate() {
                assert_eq!(answers[at], format!("answer {number}").as_bytes());
            }
            // By name: the first address that there is.
            scene.send_name("both.test", targets[1].1.port(), b"by name");
            let (payload, from) = scene.receive(&targets[1].0).await;
            assert_eq!(payload, b"by name");
            targets[1].0.send_to(b"", from).unwrap();
            assert_eq!(scene.answer().await, (targets[1].1, vec![]));
            assert_eq!(scene.world.met.borrow().len(), 10, "each is met once");
            assert_eq!(scene.world.up.get(), (11, 57));
            assert_eq!(scene.world.down.get(), (11, 80));
            assert!(scene.world.dropped.borrow().is_empty());
        });
    }
}

#[test]
fn what_must_not_pass_is_dropped_for_its_reason() {
    for features in ways() {
        on_ring(TINY, features, |ring| async move {
            let scene = Scene::new(&ring);
            let (target, at) = udp("127.0.0.1:0");
            scene.world.denied.borrow_mut().insert("127.0.0.9".into());
            scene.world.denied.borrow_mut().insert("denied.test".into());
            let mut names = scene.world.names.take();
            names.insert("elsewhere.test".into(), vec!["127.0.0.9".parse().unwrap()]);
            names.insert("denied.test".into(), vec!["127.0.0.1".parse().unwrap()]);
            scene.world.names.replace(names);

            // A stranger, before there is a client: it captures nothing.
            let (stranger, _) = udp("127.0.0.2:0");
            stranger.send_to(b"\0\0\0\x01\x7f\0\0\x01\0\x09hello", scene.bound).unwrap();
            scene.dropped(Dropped::Stranger, 1).await;
            // Malformed ones pin nobody either.
            let (other, _) = udp("127.0.0.1:0");
            for rubbish in [&b""[..], b"\0", b"\0\0\0\x02abcdefgh", b"\0\0\0\x03\0\0\x09", b"\0\0\0\x01\x7f\0\0\x01\0"]
            {
                other.send_to(rubbish, scene.bound).unwrap();
            }
            scene.dropped(Dropped::Malformed, 5).await;
            scene.send(at, b"first");
            let (_, outside) = scene.receive(&target).await;
            // From now on the client's port is pinned.
            other.send_to(b"\0\0\0\x01\x7f\0\0\x01\0\x09hello", scene.bound).unwrap();
            scene.dropped(Dropped::Stranger, 2).await;

            scene.send_raw(&[b"\0\0\x01\x01\x7f\0\0\x01", &at.port().to_be_bytes()[..], b"piece"].concat());
            scene.send_raw(&[b"\0\0\x81\x01\x7f\0\0\x01", &at.port().to_be_bytes()[..], b"end"].concat());
            scene.dropped(Dropped::Fragment, 2).await;
            scene.send(("127.0.0.1".parse::<IpAddr>().unwrap(), 0).into(), b"no port");
            scene.send_name("nul\0.test", 9, b"x");
            scene.dropped(Dropped::Malformed, 7).await;
            for denied in ["127.0.0.9:9", "[::ffff:127.0.0.9]:9", "224.0.0.1:9", "0.0.0.0:9", "[::]:9", "[ff02::1]:9"] {
                scene.send(denied.parse().unwrap(), b"x");
            }
            scene.send("255.255.255.255:9".parse().unwrap(), b"x");
            for name in ["denied.test", "127.0.0.9", "elsewhere.test"] {
                scene.send_name(name, at.port(), b"x");
            }
            scene.dropped(Dropped::Denied, 10).await;
            scene.send_name("nowhere.test", 9, b"x");
            scene.send_name("nowhere.test", 9, b"again");
            scene.dropped(Dropped::Unresolved, 2).await;
            scene.world.stops.set(true);
            scene.send(at, b"too fast");
            scene.dropped(Dropped::Rate, 1).await;
            scene.world.stops.set(false);

            // To the outside socket, from somebody whom the client did not ask.
            let (unasked, _) = udp("127.0.0.1:0");
            unasked.send_to(b"surprise", outside).unwrap();
            let (unasked, _) = udp("127.0.0.3:0");
            unasked.send_to(b"surprise", outside).unwrap();
            scene.dropped(Dropped::Unasked, 2).await;
            target.send_to(b"asked", outside).unwrap();
            assert_eq!(scene.answer().await, (at, b"asked".to_vec()));
            assert_eq!((scene.world.up.get(), scene.world.down.get()), ((1, 5), (1, 5)));
            // Nothing else got anywhere.
            assert_eq!(target.recv(&mut [0; 10]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        });
    }
}

#[test]
fn a_port_that_the_request_named_is_the_clients() {
    on_ring(TINY, ways()[0], |ring| async move {
        let (named, named_at) = udp("127.0.0.1:0");
        let scene = Scene::with(&ring, Some(named_at.port()), Duration::from_secs(60));
        let (target, at) = udp("127.0.0.1:0");
        scene.send(at, b"from another port");
        scene.dropped(Dropped::Stranger, 1).await;
        named.send_to(&[&head(at), &b"mine"[..]].concat(), scene.bound).unwrap();
        assert_eq!(scene.receive(&target).await.0, b"mine");
    });
}

#[test]
fn new_rules_hold_for_peers_that_are_known() {
    on_ring(TINY, ways()[0], |ring| async move {
        let scene = Scene::new(&ring);
        scene.world.names.borrow_mut().insert("host.test".into(), vec!["127.0.0.1".parse().unwrap()]);
        let (target, at) = udp("127.0.0.1:0");
        scene.send_name("host.test", at.port(), b"one");
        let (_, outside) = scene.receive(&target).await;
        // Said as an address it is another thing, and that may be denied.
        scene.world.denied.borrow_mut().insert("127.0.0.1".into());
        scene.world.edition.set(1);
        scene.send(at, b"two");
        scene.send_name("host.test", at.port(), b"three");
        target.send_to(b"late", outside).unwrap();
        scene.dropped(Dropped::Denied, 3).await;
        scene.world.denied.borrow_mut().clear();
        scene.world.edition.set(2);
        // It was forgotten when its answer was denied.
        target.send_to(b"later", outside).unwrap();
        scene.dropped(Dropped::Unasked, 1).await;
        scene.send_name("host.test", at.port(), b"four");
        assert_eq!(scene.receive(&target).await.0, b"four");
        scene.world.edition.set(3);
        target.send_to(b"allowed still", outside).unwrap();
        assert_eq!(scene.answer().await.1, b"allowed still");
        assert_eq!(scene.world.up.get(), (2, 7));
    });
}

#[test]
fn datagrams_wait_for_a_name_and_not_without_bound() {
    on_ring(TINY, ways()[0], |ring| async move {
        let scene = Scene::new(&ring);
        scene.world.names.borrow_mut().insert("slow.test".into(), vec!["127.0.0.1".parse().unwrap()]);
        let (target, at) = udp("127.0.0.1:0");
        scene.world.gate.closed.set(true);
        let bound = crate::limits::UDP_WAITING as u32;
        for number in 0..bound + 5 {
            scene.send_name("slow.test", at.port(), &number.to_be_bytes());
        }
        scene.dropped(Dropped::Waiting, 5).await;
        // Others go on meanwhile.
        scene.send(at, b"past");
        assert_eq!(scene.receive(&target).await.0, b"past");
        assert_eq!(scene.world.lookups.get(), 1);
        scene.world.gate.open();
        ring.note_activity();
        for number in 0..bound {
            assert_eq!(scene.receive(&target).await.0, number.to_be_bytes());
        }
        assert_eq!(scene.world.up.get(), (1 + i64::from(bound), 4 + 4 * i64::from(bound)));
        // And the association may end while some wait.
        scene.world.gate.closed.set(true);
        scene.send_name("other.test", 9, b"x");
        scene.until(|| scene.world.lookups.get() == 2).await;
        scene.cut.cut(Reason::Killed, Blame::Policy);
        ring.note_activity();
        assert_eq!(scene.ended().await, Tally { reason: Reason::Killed, blame: Some(Blame::Policy) });
    });
}

#[test]
fn it_ends_with_its_control_connection_or_when_nothing_passes() {
    on_ring(TINY, ways()[0], |ring| async move {
        let mut scene = Scene::new(&ring);
        let (target, at) = udp("127.0.0.1:0");
        scene.control.as_mut().unwrap().write_all(b"x").unwrap();
        for _ in 0..3 {
            scene.send(at, b"still there");
            scene.receive(&target).await;
        }
        drop(scene.control.take());
        assert_eq!(scene.ended().await, Tally { reason: Reason::AssociationClosed, blame: None });
        // Its socket is closed: the port is free.
        scene.until(|| UdpSocket::bind(scene.bound).is_ok()).await;

        let scene = Scene::with(&ring, None, Duration::from_millis(300));
        let begun = std::time::Instant::now();
        for _ in 0..6 {
            ring.sleep(Duration::from_millis(100)).await;
            if scene.world.ended.get().is_none() {
                scene.send(at, b"alive");
            }
        }
        // What is dropped keeps nothing alive.
        let stranger = udp("127.0.0.2:0").0;
        while scene.world.ended.get().is_none() {
            let _ = stranger.send_to(b"\0\0\0\x01\x7f\0\0\x01\0\x09", scene.bound);
            ring.sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(scene.ended().await, Tally { reason: Reason::IdleTimeout, blame: None });
        assert!(begun.elapsed() >= Duration::from_millis(300));
    });
}

#[test]
fn the_largest_datagrams_pass_and_larger_ones_are_taken_back() {
    for features in ways() {
        on_ring(TINY, features, |ring| async move {
            let scene = Scene::new(&ring);
            let (target, at) = udp("127.0.0.1:0");
            let large: Vec<u8> = (0..65_507).map(|i| (i % 253) as u8).collect();
            scene.send(at, &large[..65_497]);
            let (payload, outside) = scene.receive(&target).await;
            assert!(payload == large[..65_497]);
            target.send_to(&large[..65_497], outside).unwrap();
            let (_, payload) = scene.answer().await;
            assert!(payload == large[..65_497]);
            // With its header it would be longer than a datagram can be.
            target.send_to(&large, outside).unwrap();
            scene.dropped(Dropped::TooLarge, 1).await;
            assert_eq!((scene.world.up.get(), scene.world.down.get()), ((1, 65_497), (1, 65_497)));
        });
    }
}

#[test]
fn a_flood_keeps_nobody_from_being_heard() {
    for features in ways() {
        on_ring(TINY, features, |ring| async move {
            let flooded = Scene::new(&ring);
            let calm = Scene::new(&ring);
            let (target, at) = udp("127.0.0.1:0");
            let (bound, stop) = (flooded.bound, std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
            let stopped = std::sync::Arc::clone(&stop);
            let flood = std::thread::spawn(move || {
                let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
                let mut sent = 0u64;
                while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                    sent += u64::from(stranger.send_to(&[0; 1400], bound).is_ok());
                }
                sent
            });
            for number in 0..200u32 {
                calm.send(at, &number.to_be_bytes());
                let (payload, outside) = calm.receive(&target).await;
                assert_eq!(payload, number.to_be_bytes());
                target.send_to(b"yes", outside).unwrap();
                assert_eq!(calm.answer().await.1, b"yes");
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(flood.join().unwrap() > 0);
            flooded.until(|| flooded.world.drops(Dropped::Stranger) > 0).await;
            assert_eq!(flooded.world.down.get(), (0, 0));
            assert_eq!((calm.world.up.get(), calm.world.down.get()), ((200, 800), (200, 600)));
        });
    }
}
