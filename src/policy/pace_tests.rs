//! Rates by a clock that the tests turn, with streams of several shards that each act for themselves.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::policy::terms::{Limits, Qos, User as UserTerms, burst_of};
use crate::types::Reason;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const START: u64 = 100 * SECOND;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A stream that always has more to send.
struct Stream {
    pace: Pace,
    request: Option<Request>,
    wakes: u64,
    sent: u64,
}

impl Stream {
    fn new(pace: Pace) -> Self {
        Self { pace, request: None, wakes: START, sent: 0 }
    }

    /// Sends until it has to wait; timers are late by up to 2 ms.
    fn turn(&mut self, now: u64, random: &mut Random) {
        while self.wakes <= now {
            let wanted = 1 + random.below(2 * self.pace.piece());
            let request = self.request.get_or_insert_with(|| self.pace.ask(wanted.min(self.pace.piece()), now));
            match self.pace.poll(request, now) {
                Ok(()) => {
                    let request = self.request.take().unwrap();
                    // Now and then less goes than was asked for.
                    let gone = if random.below(8) == 0 { random.below(request.bytes + 1) } else { request.bytes };
                    self.sent += gone;
                    let unsent = request.bytes - gone;
                    self.pace.give_back(request, unsent, now);
                    // The peer needs a moment.
                    self.wakes = now + random.below(MS / 5);
                }
                Err(wait) => self.wakes = now + wait.min(100 * MS) + random.below(2 * MS),
            }
        }
    }
}

fn run(streams: &mut [Stream], random: &mut Random, from: u64, until: u64, mut each: impl FnMut(u64, u64)) {
    let mut now = from;
    while now < until {
        let first = random.below(streams.len() as u64) as usize;
        streams.rotate_left(first);
        streams.iter_mut().for_each(|stream| stream.turn(now, random));
        streams.rotate_right(first);
        each(now, streams.iter().map(|stream| stream.sent).sum());
        now += MS / 4;
    }
}

fn limits(max: u64, burst: u64) -> Limits {
    Limits { guaranteed: 0, max, burst }
}

#[test]
fn a_user_never_has_more_than_its_rate_and_one_burst() {
    for seed in 1..=6 {
        let mut random = Random(seed);
        let rate = 100_000 + random.below(10_000_000);
        let burst = [2_000, burst_of(rate), rate][random.below(3) as usize];
        let qos = Qos { per_user: limits(rate, burst), ..Qos::default() };
        let users = Arc::new(Users::new(&qos, START));
        let sessions: Vec<Membership> = (0..5).map(|_| users.enter(&"alice".into(), START).unwrap()).collect();
        let mut streams: Vec<Stream> = sessions.iter().map(|session| Stream::new(Pace::of(&users, session))).collect();
        // A request larger than the burst goes when the bucket is full.
        let slack = burst.max(streams[0].pace.piece());
        run(&mut streams, &mut random, START, START + 5 * SECOND, |now, sent| {
            let most = u128::from(now - START) * u128::from(rate) / u128::from(SECOND) + u128::from(slack);
            assert!(u128::from(sent) <= most, "seed {seed}: {sent} of {most}");
        });
        let sent: u64 = streams.iter().map(|stream| stream.sent).sum();
        // With a burst smaller than what timers are late by, some of the rate is lost.
        let least = if burst < 10_000 { 5 * rate / 2 } else { 5 * rate * 9 / 10 };
        assert!(sent >= least, "seed {seed}: {sent} of {}", 5 * rate);
    }
}

#[test]
fn a_burst_smaller_than_a_message_still_progresses() {
    let qos = Qos { per_user: limits(10_000, 1), ..Qos::default() };
    let users = Arc::new(Users::new(&qos, START));
    let pace = Pace::of(&users, &users.enter(&"alice".into(), START).unwrap());
    let (mut now, mut sent) = (START, 0);
    for _ in 0..10 {
        let mut request = pace.ask(16_384, now);
        while let Err(wait) = pace.poll(&mut request, now) {
            now += wait;
        }
        sent += request.bytes;
    }
    // The first one goes at once, and every other when all before it is paid for.
    assert_eq!((now - START) / MS, (sent - 16_384) * 1_000 / 10_000);
}

#[test]
fn users_share_the_global_rate_whatever_their_streams() {
    for (seed, of_bob) in [(1, 1), (2, 3), (3, 10)] {
        let mut random = Random(seed);
        let rate = 4_000_000;
        let users = Arc::new(Users::new(&Qos { global: rate, ..Qos::default() }, START));
        let (alice, bob) = (users.enter(&"alice".into(), START).unwrap(), users.enter(&"bob".into(), START).unwrap());
        let mut streams = vec![Stream::new(Pace::of(&users, &alice))];
        streams.extend((0..of_bob).map(|_| Stream::new(Pace::of(&users, &bob))));
        run(&mut streams, &mut random, START, START + 10 * SECOND, |now, sent| {
            let most = (now - START) * (rate / 1_000) / MS + rate / 10;
            assert!(sent <= most, "seed {seed}: {sent} of {most}");
        });
        let (one, other) = (streams[0].sent, streams[1..].iter().map(|stream| stream.sent).sum::<u64>());
        assert!(one + other >= 10 * rate * 9 / 10, "seed {seed}: {one} and {other}");
        let half = (one + other) / 2;
        assert!(one.abs_diff(half) <= half / 10, "seed {seed}: {one} and {other}");
    }
}

#[test]
fn what_is_guaranteed_comes_first() {
    let mut random = Random(7);
    let guaranteed = Limits { guaranteed: 1_500_000, max: 0, burst: 0 };
    let of_alice = UserTerms { name: "alice".into(), limits: guaranteed, quota: None };
    let users = Arc::new(Users::new(&Qos { global: 2_000_000, users: vec![of_alice], ..Qos::default() }, START));
    let sessions: Vec<Membership> =
        ["alice", "b", "c", "d"].iter().map(|name| users.enter(&(*name).into(), START).unwrap()).collect();
    let mut streams: Vec<Stream> = sessions.iter().map(|session| Stream::new(Pace::of(&users, session))).collect();
    // What jumps the line is at most one burst ahead of it.
    run(&mut streams, &mut random, START, START + 10 * SECOND, |now, sent| {
        let most = (now - START) * 2_000 / MS + 2 * 200_000;
        assert!(sent <= most, "{sent} of {most}");
    });
    assert!(streams[0].sent >= 15_000_000 * 85 / 100, "{}", streams[0].sent);
    assert!(streams[1..].iter().all(|stream| stream.sent > 500_000));
}

#[test]
fn a_reload_changes_the_rates_of_live_sessions() {
    let slow = Qos { per_connection: 1_024, ..Qos::default() };
    let users = Arc::new(Users::new(&slow, START));
    let pace = Pace::anonymous(&users);
    let mut request = pace.ask(100_000, START);
    assert_eq!(pace.poll(&mut request, START), Ok(()));
    let mut request = pace.ask(50_000, START);
    assert!(pace.poll(&mut request, START).unwrap_err() > 60 * SECOND);
    users.set(&Qos { per_connection: 1_000_000, ..Qos::default() }, START + SECOND);
    let wait = pace.poll(&mut request, START + SECOND).err().unwrap_or(0);
    assert!(wait <= SECOND, "{wait}");
    users.set(&Qos::default(), START + SECOND);
    assert!(!pace.is_limited());
    assert_eq!(pace.poll(&mut request, START + SECOND), Ok(()));
}

#[test]
fn datagrams_go_or_do_not_and_count() {
    let users = Arc::new(Users::new(&Qos { per_user: limits(100_000, 10_000), ..Qos::default() }, START));
    let pace = Pace::of(&users, &users.enter(&"alice".into(), START).unwrap());
    let gone = |at: u64| (0..100).filter(|_| pace.try_take(1_000, at)).count();
    // The burst, and 50 ms ahead.
    assert_eq!((gone(START), gone(START), gone(START + 100 * MS)), (15, 0, 10));
}

#[test]
fn a_limit_of_sessions_is_exact_over_threads_and_users_are_forgotten() {
    let users = Users::new(&Qos { connections_per_user: 3, ..Qos::default() }, START);
    let at_once = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    if let Ok(session) = users.enter(&"alice".into(), START) {
                        assert!(at_once.fetch_add(1, Ordering::SeqCst) < 3);
                        at_once.fetch_sub(1, Ordering::SeqCst);
                        drop(session);
                    }
                }
            });
        }
    });
    let three: Vec<_> = (0..3).map(|_| users.enter(&"alice".into(), START).unwrap()).collect();
    assert_eq!(users.enter(&"alice".into(), START).unwrap_err(), Reason::UserMaxConnections);
    assert!(users.enter(&"bob".into(), START).is_ok());
    assert_eq!(users.forget(u64::MAX).len(), 1);
    drop(three);
    assert_eq!((users.forget(u64::MAX).len(), users.count()), (1, 0));
}
