//! Rates in a simulation with a clock of its own: streams that always have something to send, or seldom, of users with
//! one or many, each woken by a timer that counts in milliseconds, as the shards' wheels do. The atomics are the ones that
//! shards share, so streams of different shards do not differ from those of one.

#![allow(clippy::unwrap_used)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;
use crate::policy::terms::{Limits, Qos, User as Terms};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
const START: u64 = 10 * SECOND;
const NAP: u64 = 250 * MS;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

struct Stream {
    pace: Pace,
    _member: Option<Membership>,
    request: Option<Request>,
    /// Sends so much and thinks so long, over and over.
    piece: usize,
    pause: u64,
    rest: usize,
    sent: u64,
    has_left: bool,
}

struct World {
    users: Arc<Users>,
    now: u64,
    random: Random,
    streams: Vec<Stream>,
    due: BinaryHeap<Reverse<(u64, usize)>>,
    /// When how much went, of which stream.
    log: Vec<(u64, u64, usize)>,
    wakes: u64,
}

impl World {
    fn new(qos: &Qos, seed: u64) -> Self {
        Self {
            users: Arc::new(Users::new(qos, START)),
            now: START,
            random: Random(seed),
            streams: Vec::new(),
            due: BinaryHeap::new(),
            log: Vec::new(),
            wakes: 0,
        }
    }

    /// A stream that always has more to send, as fast as it may.
    fn greedy(&mut self, user: Option<&str>) -> usize {
        self.stream(user, 64 * 1024, 0)
    }

    fn stream(&mut self, user: Option<&str>, piece: usize, pause: u64) -> usize {
        let member = user.map(|user| self.users.enter(&user.into(), self.now).unwrap());
        let pace = match &member {
            Some(member) => Pace::of(&self.users, member),
            None => Pace::anonymous(&self.users),
        };
        let stream =
            Stream { pace, _member: member, request: None, piece, pause, rest: piece, sent: 0, has_left: false };
        self.streams.push(stream);
        let index = self.streams.len() - 1;
        let begin = self.now + self.random.below(5 * MS);
        self.due.push(Reverse((begin, index)));
        index
    }

    fn run_for(&mut self, duration: u64) {
        let end = self.now + duration;
        while let Some(Reverse((at, index))) = self.due.pop() {
            if at > end {
                self.due.push(Reverse((at, index)));
                break;
            }
            self.now = at;
            self.wakes += 1;
            self.step(index);
        }
        self.now = end;
    }

    fn step(&mut self, index: usize) {
        // A send takes its time: some 50 us.
        let soon = self.now + 20_000 + self.random.below(60_000);
        let stream = &mut self.streams[index];
        if stream.has_left {
            if let Some(request) = stream.request.take() {
                let bytes = request.bytes;
                stream.pace.give_back(request, bytes, self.now);
            }
            return;
        }
        let mut request = stream
            .request
            .take()
            .unwrap_or_else(|| stream.pace.ask((stream.rest as u64).min(stream.pace.piece()), self.now));
        let next = match stream.pace.poll(&mut request, self.now) {
            Ok(()) => {
                stream.sent += request.bytes;
                stream.rest -= request.bytes as usize;
                self.log.push((self.now, request.bytes, index));
                if stream.rest == 0 {
                    stream.rest = stream.piece;
                    soon + stream.pause
                } else {
                    soon
                }
            }
            Err(wait) => {
                stream.request = Some(request);
                (self.now + wait.min(NAP)).div_ceil(MS) * MS
            }
        };
        self.due.push(Reverse((next, index)));
    }

    fn sent(&self, index: usize) -> f64 {
        self.streams[index].sent as f64
    }

    fn sum(&self, streams: &[usize]) -> f64 {
        streams.iter().map(|index| self.sent(*index)).sum()
    }

    /// Since the start no more went than the rate and the burst, of the streams that are chosen; nor between any two
    /// instants but for what was due a moment before, as timers count in milliseconds.
    fn assert_never_above(&self, rate: f64, burst: f64, chosen: impl Fn(usize) -> bool) {
        let (mut tokens, mut last, mut sum) = (burst, START, 0.0);
        let late = rate / 1000.0;
        for (at, bytes, index) in &self.log {
            if chosen(*index) {
                tokens = (tokens + (at - last) as f64 * rate / SECOND as f64).min(burst);
                last = *at;
                tokens -= *bytes as f64;
                assert!(tokens >= -1.0 - late, "{} bytes above at {} ms", -tokens, (at - START) / MS);
                sum += *bytes as f64;
                assert!(
                    sum <= burst + (at - START) as f64 * rate / SECOND as f64 + 1.0,
                    "{sum} at {} ms",
                    (at - START) / MS
                );
            }
        }
        assert!(!self.log.is_empty());
    }
}

fn per_user(max: u64, burst: u64) -> Qos {
    Qos { per_user: Limits { guaranteed: 0, max, burst }, ..Qos::default() }
}

fn assert_near(what: &str, found: f64, wanted: f64, percent: f64) {
    let off = (found - wanted).abs() * 100.0 / wanted;
    assert!(off <= percent, "{what}: {found} is {off:.1} % off {wanted}");
}

#[test]
fn a_user_has_its_rate_whatever_the_number_of_streams() {
    for (seed, streams) in [(1, 1), (2, 2), (3, 16), (4, 200)] {
        let (rate, burst) = (1_000_000, 100_000);
        let mut world = World::new(&per_user(rate, burst), seed);
        let all: Vec<usize> = (0..streams).map(|_| world.greedy(Some("alice"))).collect();
        world.run_for(10 * SECOND);
        world.assert_never_above(rate as f64, burst as f64, |_| true);
        assert_near(&format!("{streams} streams"), world.sum(&all), (10 * rate + burst) as f64, 3.0);
        // They take turns.
        if streams == 16 {
            all.iter().for_each(|stream| assert_near("one of 16", world.sent(*stream), world.sum(&all) / 16.0, 15.0));
        }
    }
}

#[test]
fn nobody_is_woken_for_nothing() {
    let mut world = World::new(&per_user(1_000_000, 100_000), 5);
    (0..100).for_each(|_| {
        world.greedy(Some("alice"));
    });
    world.run_for(10 * SECOND);
    let went = world.log.len() as u64;
    // Each is woken when its time has come, and at least four times a second.
    assert!(world.wakes <= went * 2 + 100 * 10 * 4 + 200, "{} wakes for {went} sends", world.wakes);
}

#[test]
fn a_burst_that_is_smaller_than_what_is_sent_still_makes_progress() {
    for burst in [1, 600, 1500, 5000] {
        let rate = 200_000;
        let mut world = World::new(&per_user(rate, burst), burst);
        let streams = [world.greedy(Some("alice")), world.greedy(Some("alice"))];
        world.run_for(10 * SECOND);
        world.assert_never_above(rate as f64, burst.max(1024) as f64, |_| true);
        assert!(world.sum(&streams) >= 10.0 * rate as f64 * 0.8, "burst {burst}: {}", world.sum(&streams));
    }
}

#[test]
fn two_users_share_the_global_rate_however_many_streams_each_has() {
    for (seed, many) in [(11, 1), (12, 2), (13, 10), (14, 60), (15, 300)] {
        let rate = 2_000_000;
        let mut world = World::new(&Qos { global: rate, ..Qos::default() }, seed);
        let one = [world.greedy(Some("one"))];
        let other: Vec<usize> = (0..many).map(|_| world.greedy(Some("many"))).collect();
        world.run_for(10 * SECOND);
        world.assert_never_above(rate as f64, rate as f64 / 10.0, |_| true);
        let (one, other) = (world.sum(&one), world.sum(&other));
        assert_near(&format!("all, with {many} streams"), one + other, 10.0 * rate as f64, 5.0);
        assert_near(&format!("one of {many} streams"), one, (one + other) / 2.0, 5.0);
    }
}

#[test]
fn a_hundred_users_share_the_global_rate() {
    let rate = 10_000_000;
    let mut world = World::new(&Qos { global: rate, ..Qos::default() }, 21);
    let users: Vec<Vec<usize>> =
        (0..100).map(|user| (0..1 + user % 4).map(|_| world.greedy(Some(&format!("u{user}")))).collect()).collect();
    world.run_for(20 * SECOND);
    world.assert_never_above(rate as f64, rate as f64 / 10.0, |_| true);
    let all: f64 = users.iter().map(|streams| world.sum(streams)).sum();
    assert_near("all", all, 20.0 * rate as f64, 5.0);
    for streams in &users {
        assert_near("one of a hundred", world.sum(streams), all / 100.0, 15.0);
    }
}

#[test]
fn who_wants_little_gets_it_and_the_others_share_the_rest() {
    let rate = 2_000_000;
    let mut world = World::new(&Qos { global: rate, ..Qos::default() }, 31);
    // 20 KB every 100 ms: 200 KB/s.
    let light = [world.stream(Some("light"), 20_000, 100 * MS)];
    let first: Vec<usize> = (0..8).map(|_| world.greedy(Some("first"))).collect();
    let second = [world.greedy(Some("second"))];
    world.run_for(10 * SECOND);
    let (light, first, second) = (world.sum(&light), world.sum(&first), world.sum(&second));
    assert!(light >= 1_600_000.0, "{light}");
    assert_near("all", light + first + second, 20_000_000.0, 6.0);
    assert_near("the greedy ones", first, second, 8.0);
}

#[test]
fn what_a_user_leaves_the_others_have_at_once() {
    let rate = 2_000_000;
    let mut world = World::new(&Qos { global: rate, ..Qos::default() }, 41);
    let stays: Vec<usize> = (0..20).map(|_| world.greedy(Some("stays"))).collect();
    let leaves: Vec<usize> = (0..20).map(|_| world.greedy(Some("leaves"))).collect();
    world.run_for(5 * SECOND);
    leaves.iter().for_each(|stream| world.streams[*stream].has_left = true);
    world.run_for(SECOND);
    let before = world.sum(&stays);
    world.run_for(4 * SECOND);
    assert_near("alone", world.sum(&stays) - before, 4.0 * rate as f64, 5.0);
    world.assert_never_above(rate as f64, rate as f64 / 10.0, |_| true);
}

#[test]
fn what_is_guaranteed_comes_first() {
    let terms = Terms { name: "vip".into(), limits: Limits { guaranteed: 600_000, max: 0, burst: 0 }, quota: None };
    let mut world = World::new(&Qos { global: 1_000_000, users: vec![terms], ..Qos::default() }, 51);
    let others: Vec<usize> = (0..9).map(|user| world.greedy(Some(&format!("u{user}")))).collect();
    world.run_for(2 * SECOND);
    let vip = [world.greedy(Some("vip"))];
    world.run_for(10 * SECOND);
    world.assert_never_above(1_000_000.0, 100_000.0, |_| true);
    let got = world.sum(&vip);
    assert!((5_700_000.0..7_200_000.0).contains(&got), "{got}");
    assert_near("all", got + world.sum(&others), 12_000_000.0, 6.0);
}

#[test]
fn more_guaranteed_than_there_is_never_exceeds_what_there_is() {
    let qos = Qos { global: 1_000_000, per_user: Limits { guaranteed: 500_000, max: 0, burst: 0 }, ..Qos::default() };
    let mut world = World::new(&qos, 61);
    let all: Vec<usize> = (0..10).map(|user| world.greedy(Some(&format!("u{user}")))).collect();
    world.run_for(10 * SECOND);
    world.assert_never_above(1_000_000.0, 100_000.0, |_| true);
    assert_near("all", world.sum(&all), 10_000_000.0, 5.0);
    all.iter().for_each(|stream| assert_near("one of ten", world.sent(*stream), world.sum(&all) / 10.0, 10.0));
}

#[test]
fn a_reload_reaches_those_who_wait() {
    let mut world = World::new(&per_user(10_000, 1_000), 81);
    let all: Vec<usize> = (0..50).map(|_| world.greedy(Some("alice"))).collect();
    world.run_for(2 * SECOND);
    assert!(world.sum(&all) <= 21_000.0);
    world.users.set(&per_user(1_000_000, 100_000), world.now);
    let before = world.sum(&all);
    world.run_for(4 * SECOND);
    assert_near("after", world.sum(&all) - before, 4_000_000.0, 10.0);
    world.users.set(&Qos::default(), world.now);
    world.run_for(SECOND);
    assert!(world.sum(&all) > 50_000_000.0, "nothing limits them any more");
    world.users.set(&per_user(10_000, 1_000), world.now);
    world.run_for(NAP);
    let before = world.sum(&all);
    world.run_for(4 * SECOND);
    assert!(world.sum(&all) - before <= 42_000.0);
}

/// Datagrams of 1000 bytes, twice as many as may go.
fn datagrams(world: &mut World, pace: &Pace, seconds: u64, per_second: u64) -> f64 {
    let mut went = 0;
    for _ in 0..seconds * per_second / 1000 {
        world.run_for(SECOND * 1000 / per_second);
        if pace.try_take(1000, world.now) {
            went += 1000;
            world.log.push((world.now, 1000, usize::MAX));
        }
    }
    went as f64
}

#[test]
fn datagrams_are_held_to_the_same_rates() {
    for (seed, qos) in [(91, per_user(500_000, 50_000)), (92, Qos { global: 500_000, ..Qos::default() })] {
        let mut world = World::new(&qos, seed);
        let member = world.users.enter(&"alice".into(), START).unwrap();
        let pace = Pace::of(&world.users, &member);
        let went = datagrams(&mut world, &pace, 10, 1_000_000);
        assert_near("datagrams", went, 5_050_000.0, 4.0);
        // At most 100 ms ahead, where all share a rate.
        world.assert_never_above(500_000.0, 50_000.0 + 50_000.0, |_| true);
    }
}

#[test]
fn neither_datagrams_nor_streams_starve_each_other() {
    for (seed, qos) in [(95, per_user(500_000, 50_000)), (96, Qos { global: 500_000, ..Qos::default() })] {
        let mut world = World::new(&qos, seed);
        let streams: Vec<usize> = (0..10).map(|_| world.greedy(Some("alice"))).collect();
        let member = world.users.enter(&"alice".into(), START).unwrap();
        let pace = Pace::of(&world.users, &member);
        let datagrams = datagrams(&mut world, &pace, 10, 1_000_000);
        let streams = world.sum(&streams);
        assert_near("all", datagrams + streams, 5_000_000.0, 8.0);
        assert!(datagrams >= 1_000_000.0 && streams >= 1_000_000.0, "{datagrams} and {streams}");
    }
}
/// A shard may meet a user at the very moment at which it is forgotten.
#[test]
fn a_limit_of_sessions_is_exact_while_users_are_forgotten() {
    use std::sync::atomic::AtomicU32;
    let users = Users::new(&Qos { connections_per_user: 2, ..Qos::default() }, START);
    let inside: Vec<AtomicU32> = (0..8).map(|_| AtomicU32::new(0)).collect();
    let (users, inside) = (&users, &inside);
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            scope.spawn(move || {
                for round in 0..20_000usize {
                    let user = round.wrapping_mul(2 * thread + 1) % 8;
                    if let Ok(member) = users.enter(&format!("u{user}").as_str().into(), START) {
                        assert!(inside[user].fetch_add(1, Ordering::SeqCst) < 2);
                        inside[user].fetch_sub(1, Ordering::SeqCst);
                        drop(member);
                    }
                }
            });
        }
        scope.spawn(move || (0..2000).for_each(|_| drop(users.forget(u64::MAX))));
    });
    users.forget(u64::MAX);
    assert_eq!(users.count(), 0);
}
