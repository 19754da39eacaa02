//! The record of one session, as the access log and the session list show it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::types::{Blame, Client, Generation, Name, Reason, SessionId, ShardId, Stage, State};
use crate::upstream::state::BackendState;

/// What a session was (or, for a live one, is so far). Byte counts are exact: the payload that arus sent on.
#[derive(Debug, Clone)]
pub struct Summary {
    pub id: SessionId,
    pub shard: ShardId,
    pub generation: Generation,
    pub listener: Name,
    pub client: Client,
    /// `None` before a backend was chosen.
    pub backend: Option<Arc<BackendState>>,
    pub start: SystemTime,
    pub duration: Duration,
    pub connect: Option<Duration>,
    pub first_byte: Option<Duration>,
    /// Client to upstream.
    pub bytes_up: u64,
    /// Upstream to client.
    pub bytes_down: u64,
    pub state: State,
    pub stage: Stage,
    /// `None` while active, and where nobody is to blame.
    pub blame: Option<Blame>,
    /// `None` while active.
    pub reason: Option<Reason>,
}
