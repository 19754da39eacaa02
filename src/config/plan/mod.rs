//! What a configuration means: pure, compared with `==`, made once by `compile` and never changed.
//!
//! A plan holds no descriptors and no resolved names; those are acquired by `control::prepare`.

mod acl;
mod admin;
mod auth;
mod sessions;
mod socks;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

pub use acl::{Acl, AclFile};
pub use admin::{Admin, AdminListen, AdminToken, AdminUser, PasswordHash, Scope, TokenDigest};
pub use auth::{Auth, Failures, Method, PamService, Secret, User};
pub use sessions::{Sessions, Store, Telemetry};
pub use socks::{Commands, ProxyCredentials, Socks, UpstreamProxy};
pub use tls::{ClientAuth, File, Identity, KeyPair, Place, TlsIn, TlsOut, TlsVersion, UnknownSni};

pub use crate::policy::terms::Qos;
pub use crate::types::Service;
use crate::types::{Endpoint, ListenerIndex, Name, PluginIndex, UpstreamIndex};

#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub engine: Engine,
    pub log: Log,
    pub admin: Admin,
    pub auth: Auth,
    /// Indexed by [`ListenerIndex`].
    pub listeners: Vec<Listener>,
    /// Indexed by [`UpstreamIndex`].
    pub upstreams: Vec<Upstream>,
    /// Indexed by [`PluginIndex`].
    pub plugins: Vec<Plugin>,
    pub sessions: Sessions,
    pub telemetry: Telemetry,
    pub demo: Option<Demo>,
    pub socks: Socks,
    pub acl: Acl,
    pub qos: Qos,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Engine {
    /// `None`: one per CPU that this process may use.
    pub shards: Option<NonZeroU16>,
    pub pin: bool,
    /// Bytes of one receive buffer.
    pub buffer_size: u32,
    /// Buffers per shard to begin with; a power of two.
    pub buffers: u32,
    /// Buffers per shard at most; a power of two, at most 32,768 (the largest provided-buffer ring).
    pub max_buffers: u32,
    pub busy_poll: BusyPoll,
    /// Connections of the whole process.
    pub max_connections: u32,
    pub drain_timeout: Duration,
    pub user: Option<String>,
    pub state_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusyPoll {
    Off,
    /// Spin so long for completions before sleeping.
    For(Duration),
    Always,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub proxy_header: Duration,
    pub tls_handshake: Duration,
    pub negotiate: Duration,
    /// Per backend address.
    pub connect: Duration,
    /// No byte in either direction.
    pub idle: Duration,
    /// One side has sent FIN.
    pub half_closed: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    pub level: Level,
    pub format: LogFormat,
    pub access: AccessLog,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    Stderr,
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    pub index: ListenerIndex,
    pub name: Name,
    /// At least one; port ranges are already spread out. Port 0 lets the kernel choose. No address but port 0 occurs
    /// twice in a plan, the demo backend's included.
    pub listen: Vec<Endpoint>,
    pub service: Service,
    pub routes: Vec<Route>,
    /// Where a connection goes that no route matches; `None`: it is refused.
    pub upstream: Option<UpstreamIndex>,
    /// In order, client side first; none occurs twice.
    pub plugins: Vec<PluginIndex>,
    pub max_connections: Option<u32>,
    pub max_connections_per_source: Option<u32>,
    /// New connections per second.
    pub accept_rate: Option<u32>,
    /// Empty: everybody. Networks without bits behind their prefix; IPv4-mapped ones are IPv4 here.
    pub allow_sources: Vec<IpNet>,
    /// `None`: a PROXY header is never looked for.
    pub accept_proxy: Option<AcceptProxy>,
    /// TLS that is terminated here.
    pub tls: Option<TlsIn>,
    /// A route looks at the ClientHello, and TLS is not terminated: it has to be read beforehand.
    pub peeks: bool,
    pub backlog: u32,
    pub fast_open: bool,
    pub timeouts: Timeouts,
    /// Line of the `[[listener]]` header in the configuration, from 1.
    pub line: u32,
}

/// One `[[listener.route]]`; the first match wins. A route without any condition matches everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// `None`: any source.
    pub sources: Option<Vec<IpNet>>,
    /// The server name that the client asks for must match one of them. `None`: any, or none at all.
    pub server_names: Option<Vec<ServerNames>>,
    /// The client must offer one of these protocols. `None`: any, or none at all.
    pub alpn: Option<Vec<Name>>,
    pub upstream: UpstreamIndex,
    pub line: u32,
}

/// Names that a route is for; all in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerNames {
    /// `*`: whoever asks for a name.
    Any,
    Exact(Name),
    /// `*.example.com`, without its `*.`: exactly one label more than this.
    Below(Name),
}

impl std::fmt::Display for ServerNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

/// Every connection begins with a PROXY header, and only these peers may send one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptProxy {
    pub trusted: Vec<IpNet>,
    /// Whoever may open the socket file of a unix listener is trusted.
    pub trusts_unix: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendProxy {
    Off,
    V1,
    V2(ProxyTlvs),
}

impl SendProxy {
    /// As the configuration says it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::V1 => "v1",
            Self::V2(_) => "v2",
        }
    }
}

/// What a PROXY v2 header says besides addresses; each where it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProxyTlvs {
    pub alpn: bool,
    pub authority: bool,
    pub ssl: bool,
    pub unique_id: bool,
    pub crc32c: bool,
}

impl ProxyTlvs {
    /// As the configuration says them.
    #[must_use]
    pub fn words(self) -> Vec<&'static str> {
        let Self { alpn, authority, ssl, unique_id, crc32c } = self;
        let all =
            [("alpn", alpn), ("authority", authority), ("ssl", ssl), ("unique_id", unique_id), ("crc32c", crc32c)];
        all.into_iter().filter(|(_, sent)| *sent).map(|(word, _)| word).collect()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    pub index: UpstreamIndex,
    pub name: Name,
    /// At least one, at most [`crate::limits::BACKENDS_PER_UPSTREAM`], no address twice.
    pub backends: Vec<Backend>,
    pub balance: Balance,
    /// Other backends to try before any byte was sent.
    pub retries: u32,
    /// Local address of outgoing connections.
    pub source_address: Option<IpAddr>,
    pub warm: Option<Warm>,
    pub max_connections_per_backend: Option<u32>,
    /// Only with `max_connections_per_backend`.
    pub queue: Option<Queue>,
    pub on_down: OnDown,
    pub health: Option<Health>,
    pub outlier: Option<Outlier>,
    pub resolve: Resolve,
    /// Sent first of all, before a TLS handshake.
    pub send_proxy: SendProxy,
    /// `None`: what was received is sent as it is.
    pub tls: Option<TlsOut>,
    pub line: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    pub address: Address,
    /// 1..=256.
    pub weight: u16,
    /// Used only while no other backend of the upstream can be.
    pub backup: bool,
}

/// Where a backend is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Endpoint(Endpoint),
    /// A host name, lower case, without a trailing dot.
    Host {
        host: Name,
        port: u16,
    },
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Endpoint(endpoint) => endpoint.fmt(f),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastConnections,
    /// Best of two drawn at random.
    Random,
    /// Consistent: a change of backends moves only the sources of those that changed.
    SourceHash,
}

impl Balance {
    pub const ALL: [Self; 4] = [Self::RoundRobin, Self::LeastConnections, Self::Random, Self::SourceHash];

    /// As the configuration says it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastConnections => "least_connections",
            Self::Random => "random",
            Self::SourceHash => "source_hash",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warm {
    /// Connections made ahead, per backend and shard.
    pub connections: u16,
    /// A connection that waited longer is closed and made anew.
    pub idle: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Connections of the whole process that may wait.
    pub size: u32,
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDown {
    Keep,
    Close,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub interval: Duration,
    pub timeout: Duration,
    pub rise: u32,
    pub fall: u32,
    pub send: Option<Vec<u8>>,
    /// The answer must contain these bytes; without `send` they are awaited from a backend that speaks first.
    pub expect: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlier {
    /// Consecutive failed connects.
    pub failures: u32,
    pub eject: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolve {
    pub ttl_min: Duration,
    pub ttl_max: Duration,
}

/// A C plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugin {
    pub name: Name,
    /// Absolute, or relative to where arus was started; as the other paths.
    pub path: PathBuf,
    /// Handed to the plugin as is; without NUL.
    pub config: String,
    pub on_fault: OnFault,
    /// A call longer than this is logged and counted.
    pub max_call: Duration,
    pub line: u32,
    /// Where its `path` stands.
    pub path_at: Place,
    /// Where its `config` stands, or else its `path`.
    pub config_at: Place,
}

/// What happens when a plugin is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFault {
    /// The connection is closed.
    Close,
    /// The rest of the connection passes untouched.
    Bypass,
    /// The same, and no connection sees the plugin until a reload.
    Disable,
}

impl OnFault {
    pub const ALL: [Self; 3] = [Self::Close, Self::Bypass, Self::Disable];

    /// As the configuration says it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Bypass => "bypass",
            Self::Disable => "disable",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demo {
    /// Where the demo backend listens.
    pub hello: SocketAddr,
    /// A PROXY header is mandatory there, and says who the client is.
    pub accept_proxy: bool,
}
