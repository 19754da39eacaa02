//! Who keeps a session waiting: the client, the backend, or arus itself. Judged from two looks a moment apart, as counters
//! alone tell of the past and one look cannot tell a stall from traffic.

mod association;

use std::time::Duration;

use super::sight::{Holdup, Inside, Sight};
use crate::net::TcpInfo;
use crate::types::Stage;

/// A backend that has not answered for so long is slow.
const ANSWER: Duration = Duration::from_millis(500);
/// A stage that has lasted so long has somebody who is waited for.
const STAGE: Duration = Duration::from_millis(500);
/// Nothing came for so long: the session is idle.
const IDLE: Duration = Duration::from_secs(1);
/// Part of the time in which a peer's window must have been full for the peer to count as slow.
const LIMITED: f64 = 0.5;
/// Part of its time that a busy shard works.
const BUSY: f64 = 0.9;

/// Who is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Client,
    Backend,
    /// arus: a rate, a plugin, its buffers, a busy shard.
    Us,
    /// Nobody has anything to say.
    Idle,
    /// Bytes move.
    Ok,
}

impl Who {
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Us => "us",
            Self::Idle => "idle",
            Self::Ok => "ok",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub who: Who,
    /// In words, for a person.
    pub why: String,
}

impl Verdict {
    fn new(who: Who, why: impl Into<String>) -> Self {
        Self { who, why: why.into() }
    }
}

/// What else is known of a session.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    pub stage: Stage,
    /// Since it was accepted.
    pub age: Duration,
    /// Payload so far.
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// Part of the last second in which its shard worked, 0 to 1.
    pub shard_busy: f64,
}

/// Judges a live session. Where only one look was had, `before` is the same as `now`.
#[must_use]
pub fn judge(known: &Known, before: &Sight, now: &Sight) -> Verdict {
    if let Some(verdict) = before_relay(known) {
        return verdict;
    }
    if let Some(is) = &now.association {
        return association::judge(before.association.as_ref().unwrap_or(is), is, now.at);
    }
    let lines = [
        Line {
            to: Who::Client,
            from: "the backend",
            of: [before.upstream, now.upstream],
            to_of: [before.client, now.client],
        }
        .with([before.down, now.down]),
        Line {
            to: Who::Backend,
            from: "the client",
            of: [before.client, now.client],
            to_of: [before.upstream, now.upstream],
        }
        .with([before.up, now.up]),
    ];
    let gap = now.at.saturating_sub(before.at);
    let held_up = lines.iter().find_map(|line| line.held_up(gap, known.shard_busy));
    held_up.or_else(|| unanswered(known, now)).unwrap_or_else(|| at_ease(known, before, now))
}

/// Before bytes flow the stage says who is waited for.
fn before_relay(known: &Known) -> Option<Verdict> {
    let took = span(known.age);
    let (who, why) = match known.stage {
        Stage::Accept | Stage::ProxyHeader => (Who::Client, format!("its PROXY header is not complete after {took}")),
        Stage::Tls => (Who::Client, format!("its TLS handshake is not finished after {took}")),
        Stage::Negotiate => (Who::Client, format!("its SOCKS dialogue is not finished after {took}")),
        Stage::Route => (Who::Us, format!("it has no route after {took}")),
        Stage::Queue => {
            (Who::Backend, format!("every backend is full; it has waited for a place since it came {took} ago"))
        }
        Stage::Resolve => (Who::Us, format!("the name it asks for is not resolved after {took}")),
        Stage::Connect => (Who::Backend, format!("it is not connected after {took}")),
        Stage::FirstByte | Stage::Relay => return None,
    };
    Some(if known.age < STAGE { Verdict::new(Who::Ok, "it has just begun") } else { Verdict::new(who, why) })
}

/// One direction at two moments.
struct Line {
    /// Who gets the bytes, and of whom they are.
    to: Who,
    from: &'static str,
    of: [Option<TcpInfo>; 2],
    to_of: [Option<TcpInfo>; 2],
}

struct Laden {
    line: Line,
    inside: [Inside; 2],
}

impl Line {
    fn with(self, inside: [Inside; 2]) -> Laden {
        Laden { line: self, inside }
    }
}

impl Laden {
    fn held_up(&self, gap: Duration, busy: f64) -> Option<Verdict> {
        match self.receiver(gap) {
            Some(Some(why)) => Some(Verdict::new(self.line.to, why)),
            // It has enough to chew on, and chews.
            Some(None) => None,
            None => self.ours(busy).map(|why| Verdict::new(Who::Us, why)),
        }
    }

    /// `None`: nothing waits for the receiver. Otherwise why it is slow, if it is.
    fn receiver(&self, gap: Duration) -> Option<Option<String>> {
        let [before, now] = self.inside;
        let [Some(was), Some(is)] = self.line.to_of else {
            // A unix socket: a send that does not end is all that shows.
            let stalls = before.sending > 0 && now.sending > 0 && before == now;
            return (now.sending > 0)
                .then(|| stalls.then(|| format!("{} wait and it takes nothing", bytes(now.sending + now.held))));
        };
        let waits = |inside: Inside, info: TcpInfo| info.waiting > 0 || inside.sending > 0;
        if !waits(before, was) || !waits(now, is) {
            return None;
        }
        let waiting = bytes(u64::from(is.waiting) + now.held + now.sending);
        let has_moved = is.bytes_acked > was.bytes_acked;
        let is_closed = is.not_sent > 0 && is.unacked == 0 && (is.probes > 0 || is.peer_window == Some(0));
        if is_closed && !has_moved {
            return Some(Some(format!("it reads nothing: its receive window is closed, and {waiting} wait for it")));
        }
        let limited = is.rwnd_limited.saturating_sub(was.rwnd_limited).as_secs_f64() / gap.as_secs_f64().max(1e-9);
        if limited >= LIMITED {
            let percent = (limited.min(1.0) * 100.0).round();
            return Some(Some(format!(
                "it reads slowly: its receive window was full {percent} % of the time, and {waiting} wait for it"
            )));
        }
        if !has_moved && is.backoff > 0 {
            return Some(Some(format!(
                "it acknowledges nothing: {waiting} on the way to it, sent again {} times; look at the network",
                is.retransmits
            )));
        }
        Some(None)
    }

    /// Why bytes wait that the receiver would take.
    fn ours(&self, busy: f64) -> Option<String> {
        let [before, now] = self.inside;
        let unread = |at: usize| self.line.of[at].map_or(0, |info: TcpInfo| u64::from(info.unread));
        let has_come = |at: usize| self.line.of[at].map_or(0, |info: TcpInfo| info.bytes_received);
        let waited = (before.held + unread(0) > 0).then_some(now.held + unread(1)).filter(|waiting| *waiting > 0)?;
        let waiting = bytes(waited);
        let from = self.line.from;
        let is_still = has_come(0) == has_come(1) && before.held == now.held && unread(0) == unread(1);
        match now.holdup.or(before.holdup) {
            Some(Holdup::Pace) => Some(format!("a rate limit holds {waiting} from {from} back")),
            Some(Holdup::Plugin) => Some(format!("a plugin holds {waiting} from {from} back")),
            Some(Holdup::Buffers) => Some(format!("its shard has no buffer for {waiting} from {from}")),
            None if busy >= BUSY => {
                Some(format!("its shard is busy {:.0} % of the time; {waiting} from {from} wait", busy * 100.0))
            }
            None if is_still => Some(format!("{waiting} from {from} wait inside arus")),
            None => None,
        }
    }
}

/// The client has said something that the backend has not answered.
fn unanswered(known: &Known, now: &Sight) -> Option<Verdict> {
    let upstream = now.upstream?;
    let waited = upstream.last_sent;
    let owes = known.bytes_up > 0 && upstream.last_sent < upstream.last_received && waited >= ANSWER;
    if owes {
        let what = if known.bytes_down == 0 { "has said nothing at all" } else { "has not answered since" };
        let why = format!("what the client sent was passed on {} ago, and it {what}", span(waited));
        return Some(Verdict::new(Who::Backend, why));
    }
    let has_gone = now.up.has_ended && !now.down.has_ended && upstream.last_received >= IDLE;
    has_gone.then(|| {
        let why =
            format!("the client has finished; it has not, and has said nothing for {}", span(upstream.last_received));
        Verdict::new(Who::Backend, why)
    })
}

/// Nobody is waited for.
fn at_ease(known: &Known, before: &Sight, now: &Sight) -> Verdict {
    let moved = |was: Option<TcpInfo>, is: Option<TcpInfo>| match (was, is) {
        (Some(was), Some(is)) => is.bytes_received > was.bytes_received || is.bytes_acked > was.bytes_acked,
        _ => false,
    };
    if moved(before.client, now.client) || moved(before.upstream, now.upstream) {
        return Verdict::new(Who::Ok, "bytes move, and nobody waits");
    }
    if now.down.has_ended && !now.up.has_ended {
        return Verdict::new(Who::Idle, "the backend has finished, and the client has not closed");
    }
    let quiet =
        [now.client, now.upstream].into_iter().flatten().map(|info| info.last_received.min(info.last_sent)).min();
    match quiet {
        Some(quiet) if quiet < IDLE => Verdict::new(Who::Ok, "bytes moved less than a second ago"),
        Some(_) if known.bytes_up == 0 && known.bytes_down == 0 => {
            Verdict::new(Who::Idle, "neither side has said anything yet")
        }
        Some(quiet) => Verdict::new(Who::Idle, format!("nothing to do; the last byte came {} ago", span(quiet))),
        None => Verdict::new(Who::Idle, "nothing waits"),
    }
}

fn bytes(bytes: u64) -> String {
    const KIB: u64 = 1024;
    match bytes {
        0..KIB => format!("{bytes} B"),
        KIB..1_048_576 => format!("{} KiB", bytes / KIB),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

fn span(span: Duration) -> String {
    let ms = span.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{:.1} s", span.as_secs_f64()),
        _ => format!("{} min", ms / 60_000),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const KNOWN: Known =
        Known { stage: Stage::Relay, age: Duration::from_secs(9), bytes_up: 10, bytes_down: 10, shard_busy: 0.1 };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A connection on which something came 3 ms after something was sent, 2 s ago.
    fn quiet() -> TcpInfo {
        TcpInfo { last_sent: ms(2003), last_received: ms(2000), peer_window: Some(65536), ..TcpInfo::default() }
    }

    /// Two looks 100 ms apart at an idle session, changed by `change`.
    fn looks(change: impl Fn(&mut Sight, usize)) -> [Sight; 2] {
        std::array::from_fn(|index| {
            let mut sight = Sight {
                at: ms(1000 + 100 * index as u64),
                client: Some(TcpInfo { last_sent: ms(2000), last_received: ms(2003), ..quiet() }),
                upstream: Some(quiet()),
                ..Sight::default()
            };
            change(&mut sight, index);
            sight
        })
    }

    fn verdict(known: &Known, change: impl Fn(&mut Sight, usize)) -> Verdict {
        let [before, now] = looks(change);
        judge(known, &before, &now)
    }

    #[test]
    fn a_peer_that_does_not_read_is_slow() {
        let stall = |info: &mut Option<TcpInfo>| {
            *info = Some(TcpInfo { waiting: 300_000, not_sent: 300_000, probes: 1, ..quiet() });
        };
        let client = verdict(&KNOWN, |sight, _| {
            stall(&mut sight.client);
            sight.down = Inside { held: 262_144, sending: 32_768, ..Inside::default() };
            sight.upstream.as_mut().unwrap().unread = 70_000;
        });
        assert_eq!(client.who, Who::Client, "{client:?}");
        assert!(client.why.contains("window is closed") && client.why.contains("580 KiB"), "{client:?}");
        let backend = verdict(&KNOWN, |sight, _| stall(&mut sight.upstream));
        assert_eq!(backend.who, Who::Backend, "{backend:?}");
    }

    #[test]
    fn a_peer_that_reads_slowly_is_slow_though_bytes_move() {
        let slow = |share: u64| {
            verdict(&KNOWN, move |sight, index| {
                let index = index as u64;
                let info = sight.client.as_mut().unwrap();
                (info.waiting, info.unacked, info.bytes_acked) = (50_000, 3, 1000 * index);
                info.rwnd_limited = ms(share * index);
            })
        };
        assert_eq!(slow(87).who, Who::Client);
        assert!(slow(87).why.contains("87 %"), "{:?}", slow(87));
        assert_eq!(slow(49).who, Who::Ok);
    }

    #[test]
    fn a_network_that_loses_everything_is_told() {
        let lost = verdict(&KNOWN, |sight, _| {
            let info = sight.client.as_mut().unwrap();
            (info.waiting, info.unacked, info.backoff, info.retransmits) = (5000, 4, 3, 7);
        });
        assert!(lost.who == Who::Client && lost.why.contains("network"), "{lost:?}");
    }

    #[test]
    fn bytes_that_wait_inside_are_ours() {
        let held =
            |holdup| verdict(&KNOWN, move |sight, _| sight.up = Inside { held: 4096, holdup, ..Inside::default() });
        for (holdup, word) in [
            (Some(Holdup::Plugin), "plugin"),
            (Some(Holdup::Pace), "rate limit"),
            (Some(Holdup::Buffers), "no buffer"),
            (None, "wait inside"),
        ] {
            let verdict = held(holdup);
            assert!(
                verdict.who == Who::Us && verdict.why.contains(word) && verdict.why.contains("4 KiB"),
                "{verdict:?}"
            );
        }
        let unread = |sight: &mut Sight, index: usize| {
            let info = sight.upstream.as_mut().unwrap();
            (info.unread, info.bytes_received) = (1000, 1000 * index as u64);
        };
        assert_eq!(verdict(&KNOWN, unread).who, Who::Ok, "it moves");
        let busy = verdict(&Known { shard_busy: 0.97, ..KNOWN }, unread);
        assert!(busy.who == Who::Us && busy.why.contains("97 %"), "{busy:?}");
        let once = verdict(&KNOWN, |sight, index| sight.up.held = if index == 0 { 10 } else { 0 });
        assert_eq!(once.who, Who::Idle, "what was only seen once has gone on: {once:?}");
    }

    #[test]
    fn a_backend_that_owes_an_answer_is_slow() {
        let owes =
            |known: &Known, sent| verdict(known, move |sight, _| sight.upstream.as_mut().unwrap().last_sent = ms(sent));
        let late = owes(&KNOWN, 1200);
        assert!(late.who == Who::Backend && late.why.contains("1.2 s ago"), "{late:?}");
        assert_eq!(owes(&KNOWN, 400).who, Who::Ok, "it has 500 ms");
        let silent = owes(&Known { stage: Stage::FirstByte, bytes_down: 0, ..KNOWN }, 1200);
        assert!(silent.why.contains("nothing at all"), "{silent:?}");
        // A PROXY header is no question.
        assert_eq!(owes(&Known { stage: Stage::FirstByte, bytes_up: 0, bytes_down: 0, ..KNOWN }, 1200).who, Who::Idle);
        assert_eq!(verdict(&KNOWN, |_, _| {}).who, Who::Idle, "answered");
        let gone = verdict(&KNOWN, |sight, _| sight.up.has_ended = true);
        assert!(gone.who == Who::Backend && gone.why.contains("client has finished"), "{gone:?}");
    }

    #[test]
    fn the_stage_tells_before_bytes_flow() {
        for (stage, who) in [
            (Stage::Tls, Who::Client),
            (Stage::Negotiate, Who::Client),
            (Stage::Queue, Who::Backend),
            (Stage::Connect, Who::Backend),
            (Stage::Resolve, Who::Us),
        ] {
            let sight = Sight::default();
            let known = Known { stage, ..KNOWN };
            assert_eq!(judge(&known, &sight, &sight).who, who);
            assert_eq!(judge(&Known { age: ms(20), ..known }, &sight, &sight).who, Who::Ok);
        }
    }

    #[test]
    fn unix_sockets_show_what_their_sends_do() {
        let inside = Inside { sending: 5000, held: 1000, ..Inside::default() };
        let [mut before, mut now] = looks(|sight, _| (sight.client, sight.down) = (None, inside));
        assert_eq!(judge(&KNOWN, &before, &now).who, Who::Client);
        (before.down.sending, now.down.sending) = (9000, 4000);
        assert_ne!(judge(&KNOWN, &before, &now).who, Who::Client);
    }
}
