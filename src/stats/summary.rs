//! The record of one session, as the access log and the session list show it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::types::{Blame, Client, Generation, Name, Protocol, Reason, Service, SessionId, ShardId, Stage, State};
use crate::upstream::state::BackendState;

/// What a session was (or, for a live one, is so far). Byte counts are exact: the payload that arus sent on.
#[derive(Debug, Clone)]
pub struct Summary {
    pub id: SessionId,
    pub shard: ShardId,
    pub generation: Generation,
    pub listener: Name,
    /// Who connected.
    pub client: Client,
    /// Who that really is: what a trusted PROXY header said, else the same.
    pub source: Client,
    pub service: Service,
    pub protocol: Protocol,
    /// Who the client said and proved to be; `None` where nobody asked.
    pub user: Option<Name>,
    /// Where the client wanted to go, as it said it: `host:port`, for services that ask.
    pub target: Option<Arc<str>>,
    /// The ACL rule that decided: its description, or else its place in the configuration.
    pub rule: Option<Arc<str>>,
    /// `None` for a client that did not speak TLS, or not yet.
    pub tls: Option<Arc<TlsFacts>>,
    /// `None` before a backend was chosen.
    pub backend: Option<Arc<BackendState>>,
    /// Where a service that takes no backend is connected to.
    pub remote: Option<SocketAddr>,
    pub start: SystemTime,
    pub duration: Duration,
    pub connect: Option<Duration>,
    pub first_byte: Option<Duration>,
    /// Client to upstream.
    pub bytes_up: u64,
    /// Upstream to client.
    pub bytes_down: u64,
    /// Datagrams that were sent on; 0 where the protocol is not UDP.
    pub datagrams_up: u64,
    pub datagrams_down: u64,
    pub state: State,
    pub stage: Stage,
    /// `None` while active, and where nobody is to blame.
    pub blame: Option<Blame>,
    /// `None` while active.
    pub reason: Option<Reason>,
}

/// What is known of a client's TLS; names and protocols are the client's own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFacts {
    pub sni: Option<Box<str>>,
    /// The agreed protocol; where TLS is passed through, those that are offered, joined by commas.
    pub alpn: Option<Box<str>>,
    /// As `TLSv1.3`; where TLS is passed through, the highest that is offered.
    pub version: Option<&'static str>,
    /// As `TLS13_AES_128_GCM_SHA256`; unknown where TLS is passed through.
    pub cipher: Option<&'static str>,
}

impl Summary {
    /// Those that were sent on, up and down; `None` for streams.
    #[must_use]
    pub fn datagrams(&self) -> Option<[u64; 2]> {
        (self.protocol == Protocol::Udp).then_some([self.datagrams_up, self.datagrams_down])
    }

    /// The address that the session is connected to.
    #[must_use]
    pub fn address(&self) -> Option<&dyn fmt::Display> {
        let remote = self.remote.as_ref().map(|remote| remote as _);
        self.backend.as_ref().map(|backend| &backend.address as _).or(remote)
    }
}
