//! A hundred reloads under load: nothing is refused, nothing is lost, nothing is left.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Address, Arus, Random, Setup, Stream, eventually};
use crate::ops::{configure, listener, tag_and_echo, tagged, upstream};

const TRANSFERS: u64 = 200;
const RELOADS: u64 = 100;

/// What the connections of the storm have seen.
#[derive(Default)]
struct Tally {
    over: AtomicBool,
    connects: AtomicU64,
    slowest_us: AtomicU64,
    bytes: AtomicU64,
}

/// Sends and checks bytes both ways until the storm is over, then ends with FIN on both sides.
fn transfer(web: &Address, seed: u64, tally: &Tally) {
    let (mut stream, tag) = crate::ops::ask(web);
    assert!(tag == "a" || tag == "b", "{tag}");
    let mut random = Random::new(seed);
    let mut at = 0;
    while !tally.over.load(Ordering::Relaxed) {
        let len = 1 + random.below(24 * 1024);
        stream.send(seed, at, len);
        stream.expect(seed, at, len);
        at += len;
        // A pace, not a wait: 200 of these must leave something of two cores for the rest.
        std::thread::sleep(Duration::from_millis(20));
    }
    stream.finish();
    assert_eq!(stream.end(), crate::harness::End::Fin);
    tally.bytes.fetch_add(at, Ordering::Relaxed);
}

/// Connects anew all the time; a refused connection fails the test.
fn knock(web: &Address, seed: u64, tally: &Tally) {
    while !tally.over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let mut stream = Stream::connect(web);
        tally.slowest_us.fetch_max(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
        let tag = crate::ops::read_tag(&mut stream);
        assert!(tag == "a" || tag == "b", "{tag}");
        stream.send(seed, 0, 100);
        stream.expect(seed, 0, 100);
        tally.connects.fetch_add(1, Ordering::Relaxed);
    }
}

fn ask_for_reload(arus: &Arus, round: u64, is_good: bool) {
    let (code, answer) = arus.request("POST", "/api/v1/reload");
    assert_eq!(code, if is_good { 200 } else { 400 }, "round {round}: {answer}");
}

#[test]
fn a_hundred_reloads_while_two_hundred_connections_transfer() {
    let (a, b) = (tagged("a"), tagged("b"));
    let on_socket = tempfile::tempdir().unwrap();
    let path = on_socket.path().join("b.sock");
    let c = crate::harness::Backend::start_unix(&path, tag_and_echo("b"));
    let base = |backends: &[&crate::harness::Backend]| {
        upstream("app", backends, "") + &listener("web", "127.0.0.1:0", "app", "")
    };
    let calm = base(&[&a, &b]);
    let arus = Setup::new(&calm).log("format = \"json\"\naccess = \"off\"").start();
    let web = arus.address("web");
    drop(crate::ops::ask(&web));
    arus.wait_active(0);
    let descriptors = arus.process().descriptors();
    let tally = Tally::default();
    std::thread::scope(|scope| {
        for seed in 0..TRANSFERS {
            let (web, tally) = (&web, &tally);
            scope.spawn(move || transfer(web, seed, tally));
        }
        arus.wait_active(TRANSFERS);
        for seed in 0..2 {
            let (web, tally) = (&web, &tally);
            scope.spawn(move || knock(web, seed, tally));
        }
        // Whatever fails in here, the others must not go on for ever.
        let over = Over(&tally.over);
        for round in 0..RELOADS {
            let more = |count: u64| {
                (0..count).map(|n| listener(&format!("more{n}"), "127.0.0.1:0", "app", "")).collect::<String>()
            };
            let (body, is_good) = match round % 6 {
                0 => (base(&[&a]) + &more(3), true),
                1 => (base(&[&b, &c]) + &more(1), true),
                2 => (calm.replace("backends", "backend"), false),
                3 => (
                    base(&[&c])
                        + &listener("socket", &format!("unix:{}/x.sock", on_socket.path().display()), "app", ""),
                    true,
                ),
                4 => (base(&[&a]) + &listener("bad", "192.0.2.77:1", "app", ""), false),
                _ => (base(&[&a, &b, &c]) + &more(5), true),
            };
            configure(&arus, &body);
            ask_for_reload(&arus, round, is_good);
        }
        configure(&arus, &calm);
        ask_for_reload(&arus, RELOADS, true);
        drop(over);
    });
    let (connects, bytes) = (tally.connects.load(Ordering::Relaxed), tally.bytes.load(Ordering::Relaxed));
    let slowest = tally.slowest_us.load(Ordering::Relaxed) as f64 / 1000.0;
    println!("{RELOADS} reloads, {connects} connects, none failed, slowest {slowest:.1} ms, {bytes} bytes each way");
    assert!(connects > 100, "only {connects} connects");
    arus.wait_active(0);
    eventually("descriptors are as before", || (arus.process().descriptors() <= descriptors).then_some(()));
    let status = arus.status();
    assert_eq!((&status["totals"]["failed"], &status["totals"]["rejected"]), (&0.into(), &0.into()), "{status}");
    assert!(status["totals"]["reloads"].as_u64().unwrap() >= RELOADS * 2 / 3);
    assert!(status["totals"]["reloads_refused"].as_u64().unwrap() >= RELOADS / 3 - 2);
    assert!(!on_socket.path().join("x.sock").exists());
}

/// Ends the storm when dropped.
struct Over<'t>(&'t AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
