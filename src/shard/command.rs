//! Everything that crosses a thread: commands to a shard, events and summaries from it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use socket2::Socket;

use crate::config::plan::Plan;
use crate::plugin::watch::{ProcessId, Watch};
use crate::plugin::{Opened, Process};
use crate::policy::acl::Acl;
use crate::policy::budget::Budget;
use crate::policy::identity;
use crate::policy::source::SourceTable;
use crate::policy::users::Users;
use crate::relay::sight::Sight;
use crate::stats::counters::{ListenerState, ShardStats};
use crate::stats::latency::Latencies;
use crate::stats::summary::Summary;
use crate::tls::terms::{ListenerTls, UpstreamTls};
use crate::types::{Endpoint, Generation, ListenerIndex, Name, SessionId, ShardId};
use crate::upstream::state::{BackendId, UpstreamState};

/// A plan plus what was acquired for it. Immutable; a connection keeps the one it began with.
#[derive(Debug)]
pub struct Snapshot {
    pub generation: Generation,
    pub plan: Plan,
    /// In the order of the plan's listeners.
    pub listeners: Vec<Arc<ListenerState>>,
    /// In the order of the plan's upstreams.
    pub upstreams: Vec<Arc<UpstreamState>>,
    /// In the order of the plan's listeners; `Some` where TLS is terminated.
    pub tls: Vec<Option<Arc<ListenerTls>>>,
    /// In the order of the plan's upstreams; `Some` where the backends are spoken to with TLS.
    pub upstream_tls: Vec<Option<Arc<UpstreamTls>>>,
    /// Where clients of SOCKS listeners may go.
    pub acl: Arc<Acl>,
    /// Connections of the whole process.
    pub connections: Arc<Budget>,
    /// UDP associations by user, or by source where there is none.
    pub associations: Arc<SourceTable>,
    /// Who has sessions, and how fast they may go.
    pub users: Arc<Users>,
    /// In the order of the plan's plugins.
    pub plugins: Vec<Arc<Process>>,
    /// By shard: which plugin it is in now. The same over all reloads.
    pub watches: Arc<[Arc<Watch>]>,
}

/// Identity of a bound address for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BindId(pub u32);

/// One bound address as one shard gets it. The same `id` on all shards; each has its own socket (SO_REUSEPORT), or a
/// duplicate of the one socket where the address is a unix path.
#[derive(Debug)]
pub struct Bind {
    pub id: BindId,
    /// The listener that connections belong to, in the snapshot that comes along.
    pub listener: ListenerIndex,
    /// The address really bound.
    pub address: Endpoint,
    /// `Some` for an address that this shard does not have yet.
    pub socket: Option<Socket>,
}

/// One plugin as one shard gets it.
#[derive(Debug)]
pub struct Handed {
    pub id: ProcessId,
    /// `Some` for a process that this shard does not have yet.
    pub opened: Option<Opened>,
}

/// A snapshot with the sockets of one shard. `binds` names every address of the snapshot; an address that the shard
/// has and that is not named is retired: its accept queue is served with the old snapshot, then it is closed.
#[derive(Debug)]
pub struct Handover {
    pub snapshot: Arc<Snapshot>,
    pub binds: Vec<Bind>,
    /// Addresses of the backends whose names are resolved; a later [`Command::Addresses`] changes them.
    pub addresses: HashMap<BackendId, Arc<[SocketAddr]>>,
    /// In the order of the plan's plugins.
    pub plugins: Vec<Handed>,
}

/// From control (or, where said, another shard) to a shard.
#[derive(Debug)]
pub enum Command {
    /// Put a snapshot into force; cannot fail. Answers when new connections see it.
    Apply(Box<Handover>, Reply<ShardId>),
    /// A backend's name resolves to these addresses now.
    Addresses(BackendId, Arc<[SocketAddr]>),
    /// A backend went down: cut the connections of upstreams with `on_down = "close"`.
    BackendDown(BackendId),
    /// A connection of this backend ended on another shard, or it came back into use: a queue may move.
    SlotFreed(BackendId),
    /// The live sessions.
    Sessions(Reply<Vec<Summary>>),
    /// Look at sessions, whose ids come sorted: each answers for itself, as it gets its turn. The channel has room for all
    /// of them, and is closed when no more come.
    Look(Arc<[SessionId]>, Sender<(SessionId, Sight)>),
    /// Some of the live sessions that have lasted for `age`: from a place in the shard's table on, `most` places. Answers
    /// with the place where to go on, if there is one.
    SomeSessions { from: usize, most: usize, age: Duration, reply: Reply<(Vec<Summary>, Option<usize>)> },
    /// Cut a session; answers whether the shard had it.
    Kill(SessionId, Reply<bool>),
    /// The histograms since the last time.
    Latencies(Reply<Latencies>),
    /// What came of an errand.
    Done(Ticket, Answer),
    /// Stop accepting; answers when the last session has ended. Sessions that remain after the duration are cut.
    Drain(Duration, Reply<ShardId>),
}

/// What a shard asks of control, as it may block or take long.
#[derive(Debug)]
pub enum Errand {
    /// The addresses of a host name, in lower case. One that ends in a dot is whole. `source`: for whom.
    Resolve { source: Option<IpAddr>, host: Name },
    /// Whether they are the password of that user. Both as they came.
    Authenticate { source: Option<IpAddr>, user: Box<[u8]>, password: Password },
    /// Whether a client may begin a dialogue at all.
    AdmitAddress(IpAddr),
}

/// A password as it came; overwritten when it is not needed any more. Debug shows nothing of it.
pub struct Password(pub Box<[u8]>);

impl Drop for Password {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

/// An errand, and where its answer goes.
#[derive(Debug)]
pub struct Commission {
    pub shard: ShardId,
    pub ticket: Ticket,
    pub errand: Errand,
}

/// Tells the errands of a shard apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub slot: u32,
    pub number: u32,
}

/// What came of an errand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// In the order in which to try them; none: the name has none, or nobody could say.
    Addresses(Arc<[IpAddr]>),
    Verdict(identity::Verdict),
}

/// Errands of all shards that may wait for control; more are refused at once.
pub const ERRANDS: usize = 16 * 1024;

/// Where the answer to a command goes. The asker may have gone; that is no error.
#[derive(Debug)]
pub struct Reply<T>(Sender<T>);

impl<T> Reply<T> {
    /// A reply, and where it arrives: at most one value; disconnected when the shard dropped the command.
    #[must_use]
    pub fn channel() -> (Self, Receiver<T>) {
        let (sender, receiver) = bounded(1);
        (Self(sender), receiver)
    }

    pub fn send(self, value: T) {
        let _ = self.0.try_send(value);
    }
}

/// Commands that may wait at a shard; they are taken every turn, so more means that the shard is stuck.
const MAILBOX_CAPACITY: usize = 1024;
/// Hints that may wait, so that they cannot crowd out what must not be lost.
const HINTS: usize = MAILBOX_CAPACITY / 2;

/// The sending end of a shard's command channel.
#[derive(Debug, Clone)]
pub struct Mailbox {
    commands: Sender<Command>,
    /// An eventfd that the shard's ring watches.
    doorbell: Arc<OwnedFd>,
}

/// The shard's end.
#[derive(Debug)]
pub struct Inbox {
    pub commands: Receiver<Command>,
    pub doorbell: Arc<OwnedFd>,
}

/// The shard does not take commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    #[error("the shard has {MAILBOX_CAPACITY} commands waiting")]
    Full,
    #[error("the shard has ended")]
    Gone,
}

impl Mailbox {
    /// # Errors
    /// When no eventfd can be made.
    pub fn new() -> io::Result<(Self, Inbox)> {
        let doorbell = Arc::new(crate::net::eventfd()?);
        let (commands, receiver) = bounded(MAILBOX_CAPACITY);
        Ok((Self { commands, doorbell: Arc::clone(&doorbell) }, Inbox { commands: receiver, doorbell }))
    }

    /// Never blocks.
    ///
    /// # Errors
    /// When the shard has ended, or so many commands wait that it must be stuck.
    pub fn send(&self, command: Command) -> Result<(), MailboxError> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => MailboxError::Full,
            TrySendError::Disconnected(_) => MailboxError::Gone,
        })?;
        crate::net::ring_doorbell(self.doorbell.as_fd());
        Ok(())
    }

    /// Sends what may be lost, unless so much waits already that the shard has enough to do.
    pub fn hint(&self, command: Command) {
        if self.commands.len() < HINTS {
            let _ = self.send(command);
        }
    }
}

/// From a shard to control. Sent on an unbounded crossbeam channel: there are at most a few per shard and minute.
#[derive(Debug)]
pub enum Event {
    /// The shard cannot go on; the process must end with exit code 1.
    Failed(ShardId, String),
    /// A backend was ejected for failed connects in a row.
    Ejected(BackendId),
}

/// What control keeps of a running shard.
#[derive(Debug)]
pub struct ShardHandle {
    pub id: ShardId,
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    pub mailbox: Mailbox,
    pub stats: Arc<ShardStats>,
    pub thread: std::thread::JoinHandle<()>,
}
