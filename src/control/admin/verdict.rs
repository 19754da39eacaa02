//! Who keeps a session waiting: two looks at it, asked from its shard, and what they mean. For one session with all that
//! the kernel knows of its connections, for several in short.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use crossbeam::channel::{Receiver, bounded};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ask::{Answers, ask_all};
use super::refusal::{Problem, Refusal};
use super::sessions::parse;
use crate::control::handle::Control;
use crate::net::TcpInfo;
use crate::relay::sight::{self, Sight};
use crate::relay::verdict::{Known, judge};
use crate::shard::command::Command;
use crate::stats::summary::Summary;
use crate::types::{Dropped, SessionId};

/// Between the two looks: long enough for the kernel's clock to move some ticks.
const GAP: Duration = Duration::from_millis(120);
/// A session answers in its shard's next turn; one that has not relayed to its end may never.
const TIMEOUT: Duration = Duration::from_millis(400);
/// Sessions that are looked at for one question.
const MOST: usize = 200;

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Verdict {
    /// client | backend | us | idle | ok
    pub who: String,
    pub why: String,
}

/// Both connections of a session; absent for unix sockets.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Tcp {
    pub client: Option<Side>,
    pub upstream: Option<Side>,
}

/// TCP_INFO in the words of the API.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Side {
    pub rtt_ms: f64,
    pub rtt_variation_ms: f64,
    pub retransmits: u32,
    pub unacked_segments: u32,
    pub not_sent_bytes: u32,
    /// In the kernel's send queue.
    pub send_queue_bytes: u32,
    /// In the kernel's receive queue.
    pub unread_bytes: u32,
    pub busy_ms: u64,
    pub rwnd_limited_ms: u64,
    pub sndbuf_limited_ms: u64,
    pub receive_space_bytes: u32,
    pub peer_window_bytes: Option<u32>,
    pub congestion_window_segments: u32,
    pub delivery_bytes_per_second: u64,
    pub last_sent_ms: u64,
    pub last_received_ms: u64,
    /// Part of the last moment in which the peer's window was full, 0 to 1.
    pub rwnd_limited_share: f64,
}

/// What arus itself holds of a session.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct Held {
    pub up_bytes: u64,
    pub down_bytes: u64,
}

/// What a UDP association has done so far.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Association {
    /// That the client has sent to; one that it has not sent to for long may count again.
    pub targets: u32,
    /// Passed on.
    pub datagrams_up: u64,
    pub datagrams_down: u64,
    /// Not passed on, by reason; those that never happened are left out.
    pub dropped: BTreeMap<String, u64>,
    /// Since the last datagram went that way.
    pub last_up_ms: Option<u64>,
    pub last_down_ms: Option<u64>,
}

/// What the looks have shown of one session.
pub(super) struct Found {
    /// `None` of an association.
    pub(super) stream: Option<(Tcp, Held)>,
    pub(super) association: Option<Association>,
    pub(super) verdict: Verdict,
}

/// Looks at one live session; `None` when it did not answer.
pub(super) async fn examine(control: &Control, summary: &Summary) -> Option<Found> {
    let [before, now] = look_twice(control, std::slice::from_ref(summary)).await;
    let now = *now.get(&summary.id)?;
    let before = before.get(&summary.id).copied().unwrap_or(now);
    let gap = now.at.saturating_sub(before.at);
    let side = |was: Option<TcpInfo>, is: Option<TcpInfo>| is.map(|is| side(&was.unwrap_or(is), &is, gap));
    let tcp = Tcp { client: side(before.client, now.client), upstream: side(before.upstream, now.upstream) };
    let held = Held { up_bytes: now.up.held + now.up.sending, down_bytes: now.down.held + now.down.sending };
    let association = now.association.as_ref().map(|association| describe(association, now.at));
    let stream = association.is_none().then_some((tcp, held));
    Some(Found { stream, association, verdict: verdict(control, summary, &before, &now) })
}

fn describe(association: &sight::Association, at: Duration) -> Association {
    let sight::Association { targets, datagrams: [datagrams_up, datagrams_down], dropped, passed_on } = *association;
    let [last_up_ms, last_down_ms] = passed_on.map(|last| last.map(|last| at.saturating_sub(last).as_millis() as u64));
    let dropped = Dropped::ALL.iter().zip(dropped).filter(|(_, count)| *count > 0);
    let dropped = dropped.map(|(why, count)| (why.label().to_owned(), count)).collect();
    Association { targets, datagrams_up, datagrams_down, dropped, last_up_ms, last_down_ms }
}

/// Verdicts on some sessions, and how many of each kind there are among them.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Verdicts {
    pub data: Vec<Judged>,
    /// By who is waited for.
    pub counts: HashMap<String, usize>,
    /// Live sessions in all, of which 200 are judged, taken evenly by age, unless `ids` names others.
    pub live: usize,
    pub missing_shards: Vec<u16>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Judged {
    pub id: String,
    pub listener: String,
    /// Or, where it has none, where it wants to go.
    pub backend: Option<String>,
    pub shard: u16,
    pub verdict: Verdict,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Separated by commas; absent: up to 200 of all, taken evenly by age.
    ids: Option<String>,
}

/// Who keeps live sessions waiting.
#[utoipa::path(get, path = "/api/v1/sessions/verdicts", tag = "sessions", params(Wanted), responses(
    (status = 200, body = Verdicts),
    (status = 400, description = "No such parameter, no id, or too many", body = Problem),
))]
pub(super) async fn list(
    State(control): State<Control>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Verdicts>, Refusal> {
    let Query(Wanted { ids }) = wanted.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let ids = match &ids {
        None => None,
        Some(ids) => {
            let words: Vec<&str> = ids.split(',').filter(|word| !word.is_empty()).take(MOST + 1).collect();
            if words.len() > MOST {
                return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("{MOST} ids at most")));
            }
            Some(words.into_iter().map(parse).collect::<Result<Vec<SessionId>, Refusal>>()?)
        }
    };
    let Answers { given, missing } = ask_all(&control, Command::Sessions).await;
    let mut live: Vec<Summary> = given.into_iter().flatten().collect();
    let total = live.len();
    match &ids {
        Some(ids) => live.retain(|summary| ids.contains(&summary.id)),
        None => {
            live.sort_unstable_by_key(|summary| std::cmp::Reverse(summary.id));
            live = spread(live);
        }
    }
    let [before, now] = look_twice(&control, &live).await;
    let mut counts = HashMap::new();
    let judged = live.iter().filter_map(|summary| {
        let now = now.get(&summary.id)?;
        let verdict = verdict(&control, summary, before.get(&summary.id).unwrap_or(now), now);
        *counts.entry(verdict.who.clone()).or_default() += 1;
        Some(Judged {
            id: summary.id.to_string(),
            listener: summary.listener.to_string(),
            backend: summary.address().map(ToString::to_string).or_else(|| summary.target.as_deref().map(Into::into)),
            shard: summary.shard.0,
            verdict,
        })
    });
    let data = judged.collect();
    Ok(Json(Verdicts { data, counts, live: total, missing_shards: missing }))
}

/// As many as are looked at, taken evenly, so that they speak for all.
fn spread<T>(mut live: Vec<T>) -> Vec<T> {
    let total = live.len();
    let mut index = 0..total;
    // Of `total` places, those where a multiple of `total / MOST` is passed.
    live.retain(|_| index.next().is_some_and(|at| total <= MOST || (at + 1) * MOST / total > at * MOST / total));
    live
}

fn verdict(control: &Control, summary: &Summary, before: &Sight, now: &Sight) -> Verdict {
    let known = Known {
        stage: summary.stage,
        age: summary.duration,
        bytes_up: summary.bytes_up,
        bytes_down: summary.bytes_down,
        shard_busy: control.busy_share(summary.shard),
    };
    let verdict = judge(&known, before, now);
    Verdict { who: verdict.who.label().into(), why: verdict.why }
}

fn side(was: &TcpInfo, is: &TcpInfo, gap: Duration) -> Side {
    let ms = |duration: Duration| duration.as_millis() as u64;
    let limited = is.rwnd_limited.saturating_sub(was.rwnd_limited).as_secs_f64() / gap.as_secs_f64().max(1e-9);
    Side {
        rtt_ms: is.rtt.as_micros() as f64 / 1000.0,
        rtt_variation_ms: is.rtt_variation.as_micros() as f64 / 1000.0,
        retransmits: is.retransmits,
        unacked_segments: is.unacked,
        not_sent_bytes: is.not_sent,
        send_queue_bytes: is.waiting,
        unread_bytes: is.unread,
        busy_ms: ms(is.busy),
        rwnd_limited_ms: ms(is.rwnd_limited),
        sndbuf_limited_ms: ms(is.sndbuf_limited),
        receive_space_bytes: is.receive_space,
        peer_window_bytes: is.peer_window,
        congestion_window_segments: is.congestion_window,
        delivery_bytes_per_second: is.delivery_rate,
        last_sent_ms: ms(is.last_sent),
        last_received_ms: ms(is.last_received),
        rwnd_limited_share: (limited.min(1.0) * 100.0).round() / 100.0,
    }
}

type Sights = HashMap<SessionId, Sight>;

async fn look_twice(control: &Control, sessions: &[Summary]) -> [Sights; 2] {
    let mut ids: Vec<SessionId> = sessions.iter().map(|summary| summary.id).collect();
    if ids.is_empty() {
        return Default::default();
    }
    ids.sort_unstable();
    let ids: Arc<[SessionId]> = ids.into();
    let mut shards: Vec<_> = sessions.iter().map(|summary| summary.shard).collect();
    shards.sort_unstable();
    shards.dedup();
    let ask = || {
        let (answers, received) = bounded(ids.len());
        for shard in control.shards().iter().filter(|shard| shards.contains(&shard.id)) {
            let _ = shard.mailbox.send(Command::Look(Arc::clone(&ids), answers.clone()));
        }
        received
    };
    let before = gather(ask()).await;
    tokio::time::sleep(GAP).await;
    [before, gather(ask()).await]
}

/// What comes until everybody has answered, or the time is over. Waiting for such a channel blocks a thread.
async fn gather(received: Receiver<(SessionId, Sight)>) -> Sights {
    let deadline = Instant::now() + TIMEOUT;
    let gathered = tokio::task::spawn_blocking(move || {
        let mut sights = Sights::new();
        while let Ok((id, sight)) = received.recv_deadline(deadline) {
            sights.insert(id, sight);
        }
        sights
    });
    gathered.await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_every_age_are_looked_at() {
        assert_eq!(spread(Vec::<usize>::new()).len(), 0);
        assert_eq!(spread((0..MOST).collect()).len(), MOST);
        for count in [201, 399, 400, 10_001] {
            let some = spread((0..count).collect());
            assert_eq!(some.len(), MOST, "of {count}");
            assert!(some[0] <= count / MOST && some[MOST - 1] == count - 1, "{count}: {some:?}");
        }
    }
}
