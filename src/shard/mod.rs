//! One shard: a pinned executor with its own listeners, ring, buffers and timers.

pub mod command;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::Sender;

use crate::config::plan::Engine;
use crate::ring::Features;
use crate::stats::counters::ShardStats;
use crate::stats::summary::Summary;
use crate::types::ShardId;
use command::{Event, Inbox, Mailbox};

/// What a shard is made of. It begins without listeners; the first [`command::Command::Apply`] brings them.
#[derive(Debug)]
pub struct Parts {
    pub id: ShardId,
    /// The CPU to pin to; `None`: not pinned.
    pub cpu: Option<usize>,
    pub engine: Engine,
    /// What the kernel can do, as probed once at start.
    pub features: Features,
    pub inbox: Inbox,
    pub stats: Arc<ShardStats>,
    pub events: Sender<Event>,
    /// Finished sessions, for the access log. A full channel drops and counts.
    pub summaries: Sender<Summary>,
    /// The mailboxes of all shards, by [`ShardId`], this one's included.
    pub peers: Arc<[Mailbox]>,
}

/// Starts a shard on a thread of its own, named `shard-N`. The ring is made on that thread; when that fails the shard
/// says so by [`Event::Failed`] and ends. A shard ends after it has drained, or when every mailbox to it is gone.
///
/// # Errors
/// When the thread cannot be made.
pub fn spawn(parts: Parts) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("shard-{}", parts.id.0)).spawn(move || drop(parts))
}
