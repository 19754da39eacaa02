//! Asking the shards from inside the runtime, without blocking it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use tokio::sync::mpsc;

use super::systemd;
use crate::shard::command::{Command, Event, Handover, Mailbox, MailboxError, Reply};
use crate::types::{SessionId, ShardId};

/// A shard that takes longer to start is broken.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long after a shard has ended its reason may come.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What was asked of each shard.
type Asked<T> = Vec<Result<Receiver<T>, MailboxError>>;

/// Sends a command to every shard.
pub(super) fn ask<T>(shards: &[Mailbox], command: impl Fn(Reply<T>) -> Command) -> Asked<T> {
    let ask = |shard: &Mailbox| {
        let (reply, answer) = Reply::channel();
        shard.send(command(reply)).map(|()| answer)
    };
    shards.iter().map(ask).collect()
}

/// Sends every shard its handover.
pub(super) fn apply(shards: &[Mailbox], handovers: Vec<Handover>) -> Asked<ShardId> {
    let send = |(shard, handover): (&Mailbox, Handover)| {
        let (reply, answer) = Reply::channel();
        shard.send(Command::Apply(Box::new(handover), reply)).map(|()| answer)
    };
    shards.iter().zip(handovers).map(send).collect()
}

/// Waits until every shard has answered.
///
/// # Errors
/// The first shard that has ended, or does not answer in time.
pub(super) async fn answers<T: Send + 'static>(asked: Asked<T>, limit: Duration) -> Result<(), String> {
    let wait = move || {
        let deadline = Instant::now() + limit;
        for (shard, asked) in asked.into_iter().enumerate() {
            let answer = asked.map_err(|error| format!("shard {shard}: {error}"))?;
            answer.recv_deadline(deadline).map_err(|error| match error {
                RecvTimeoutError::Timeout => format!("shard {shard} does not answer"),
                RecvTimeoutError::Disconnected => format!("shard {shard} has ended"),
            })?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(wait).await.unwrap_or_else(|error| Err(error.to_string()))
}

/// Tells systemd that arus is alive if every shard still answers: to the cut of a session that cannot exist.
pub(super) fn ping(shards: &Arc<[Mailbox]>, limit: Duration) {
    let asked = ask(shards, |reply| Command::Kill(SessionId(0), reply));
    tokio::spawn(async move {
        match answers(asked, limit).await {
            Ok(()) => systemd::alive(),
            Err(error) => tracing::error!("{error}; the watchdog is not told that all is well"),
        }
    });
}

pub(super) fn failed(shard: ShardId, why: &str) -> String {
    format!("shard {} has failed: {why}", shard.0)
}

/// Puts the first snapshot into force; a shard that could not start says why.
pub(super) async fn first_apply(
    shards: &[Mailbox],
    handovers: Vec<Handover>,
    events: &mut mpsc::UnboundedReceiver<Event>,
) -> Result<(), String> {
    let applied = answers(apply(shards, handovers), START_LIMIT);
    tokio::pin!(applied);
    loop {
        tokio::select! {
            biased;
            Some(event) = events.recv() => if let Event::Failed(shard, why) = event {
                return Err(failed(shard, &why));
            },
            applied = &mut applied => {
                let Err(error) = applied else { return Ok(()) };
                // The reason may be on its way.
                return match tokio::time::timeout(LAST_WORDS, events.recv()).await {
                    Ok(Some(Event::Failed(shard, why))) => Err(failed(shard, &why)),
                    _ => Err(error),
                };
            }
        }
    }
}
