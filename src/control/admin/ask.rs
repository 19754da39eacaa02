//! Asking all shards at once, with one deadline: what came in time, and who is missing.

use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;

use crate::control::handle::Control;
use crate::shard::command::{Command, Reply};
use crate::types::ShardId;

/// A shard answers within a turn, so one that takes longer is stuck, and whoever asked wants to know that soon.
const TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Answers<T> {
    pub(super) given: Vec<T>,
    /// Shards that did not answer in time.
    pub(super) missing: Vec<u16>,
}

/// Sends every shard a command and gathers the replies; takes a second at most.
pub(super) async fn ask_all<T: Send + 'static>(control: &Control, command: impl Fn(Reply<T>) -> Command) -> Answers<T> {
    let deadline = Instant::now() + TIMEOUT;
    let asked: Vec<(ShardId, Option<Receiver<T>>)> = control
        .shards()
        .iter()
        .map(|shard| {
            let (reply, answer) = Reply::channel();
            (shard.id, shard.mailbox.send(command(reply)).is_ok().then_some(answer))
        })
        .collect();
    // The replies are crossbeam channels, as everything that a shard sends on: waiting for one blocks a thread.
    let gathered = tokio::task::spawn_blocking(move || gather(asked, deadline)).await;
    gathered.unwrap_or_else(|_| Answers {
        given: Vec::new(),
        missing: control.shards().iter().map(|shard| shard.id.0).collect(),
    })
}

fn gather<T>(asked: Vec<(ShardId, Option<Receiver<T>>)>, deadline: Instant) -> Answers<T> {
    let mut answers = Answers { given: Vec::with_capacity(asked.len()), missing: Vec::new() };
    for (shard, answer) in asked {
        match answer.and_then(|answer| answer.recv_deadline(deadline).ok()) {
            Some(value) => answers.given.push(value),
            None => answers.missing.push(shard.0),
        }
    }
    answers
}
