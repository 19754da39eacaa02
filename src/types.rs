//! Identifiers and the closed sets of words that the whole program shares. Nothing here does I/O.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// A name from the configuration, interned once when it is compiled; cloning it never allocates.
pub type Name = Arc<str>;

/// Index of a shard, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// Position of a listener in its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerIndex(pub u16);

/// Position of an upstream in its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamIndex(pub u16);

/// Position of a plugin in its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PluginIndex(pub u16);

/// Counts the configurations that were put into force, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// A session's identity: a UUIDv7 (RFC 9562 section 5.7), so that ids sort by start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u128);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_u128(self.0).hyphenated().fmt(f)
    }
}

impl std::str::FromStr for SessionId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(uuid::Uuid::try_parse(text)?.as_u128()))
    }
}

/// An address that a socket can be bound to or connected to, without any name to resolve.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    Ip(SocketAddr),
    /// `unix:/path`; the path is absolute.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Who connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    Ip(SocketAddr),
    /// A unix-socket client has no address.
    Unix,
}

impl Client {
    /// The address that source rules and source limits look at; an IPv4-mapped IPv6 address counts as IPv4.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// Declares a closed set of words with one fixed label each. The label is the metric label, log field and API value.
macro_rules! labelled {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $label:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }
        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.label()) }
        }
    };
}

labelled! {
    /// Where in its life a session is. At once timeout index, metric label, log field and API column.
    Stage {
        Accept = "accept",
        ProxyHeader = "proxy_header",
        Tls = "tls",
        /// The SOCKS dialogue, up to its request.
        Negotiate = "negotiate",
        Route = "route",
        Queue = "queue",
        Resolve = "resolve",
        Connect = "connect",
        FirstByte = "first_byte",
        Relay = "relay",
    }
}

labelled! {
    /// What a listener does for its clients.
    Service { Tcp = "tcp", Socks5 = "socks5" }
}

labelled! {
    /// What a session carries.
    Protocol { Tcp = "tcp", Udp = "udp" }
}

labelled! {
    /// Why a datagram of a UDP association was not passed on.
    Dropped {
        /// It came to the client's side from somebody else than the client.
        Stranger = "stranger",
        /// It came from an address that the client has not sent to.
        Unasked = "unasked",
        /// It has no proper SOCKS header.
        Malformed = "malformed",
        /// It is part of a larger one (FRAG is not 0).
        Fragment = "fragment",
        /// The ACL blocks it, or its target is no single host.
        Denied = "denied",
        /// Its target's name has no address.
        Unresolved = "unresolved",
        /// Too many wait for names to be looked up.
        Waiting = "waiting",
        /// It is longer than a datagram can be.
        TooLarge = "too_large",
        /// The socket's queue is full.
        NoRoom = "no_room",
        /// A rate is used up.
        Rate = "rate",
        /// The network refuses it.
        Network = "network",
        /// There was no descriptor or memory for a socket to the outside.
        Resources = "resources",
    }
}

labelled! {
    /// Whose doing the end of a session was.
    Blame { Client = "client", Upstream = "upstream", Proxy = "proxy", Policy = "policy" }
}

labelled! {
    /// How a session stands.
    State { Active = "active", Closed = "closed", Failed = "failed", Rejected = "rejected" }
}

labelled! {
    /// Why a session ended.
    Reason {
        /// Both sides sent FIN and everything was delivered.
        Done = "done",
        Reset = "reset",
        IdleTimeout = "idle_timeout",
        HalfClosedTimeout = "half_closed_timeout",
        ConnectRefused = "connect_refused",
        ConnectTimeout = "connect_timeout",
        /// No route to the host (EHOSTUNREACH).
        Unreachable = "unreachable",
        /// No route to its network (ENETUNREACH).
        NetworkUnreachable = "network_unreachable",
        /// The backend's name has no address (yet).
        Unresolved = "unresolved",
        /// Every backend is down, ejected or drained.
        NoBackend = "no_backend",
        /// Every backend is at `max_connections_per_backend` and there is no queue.
        BackendFull = "backend_full",
        QueueFull = "queue_full",
        QueueTimeout = "queue_timeout",
        NoRoute = "no_route",
        SourceNotAllowed = "source_not_allowed",
        /// A PROXY header is required, and the peer is not one that may send it.
        ProxyNotTrusted = "proxy_not_trusted",
        /// What should have been a PROXY header is none.
        ProxyHeader = "proxy_header",
        /// What should have been a ClientHello is none, or an unacceptable one.
        ClientHello = "client_hello",
        /// `unknown_sni = "reject"`, and no certificate has the name.
        UnknownServerName = "unknown_sni",
        /// What should have been SOCKS is not, or is malformed.
        SocksMessage = "socks_message",
        /// The client offers no authentication method that is allowed here.
        SocksMethod = "socks_method",
        /// A command that is not served here.
        SocksCommand = "socks_command",
        /// An address type that SOCKS does not know.
        SocksAddress = "socks_address",
        /// A wrong password or an unknown user.
        AuthFailed = "auth_failed",
        /// Too many failures from this source.
        Banned = "banned",
        /// Credentials cannot be checked now: PAM or the queue of checks failed.
        AuthUnavailable = "auth_unavailable",
        /// The ACL blocks it.
        AclBlocked = "acl_blocked",
        /// The ACL of a later configuration blocks it.
        AclUpdated = "acl_updated",
        /// Nobody connected to a BIND in time.
        BindTimeout = "bind_timeout",
        /// Somebody else than the expected peer connected to a BIND.
        BindPeer = "bind_peer",
        /// The TCP connection of a UDP association was closed: its regular end.
        AssociationClosed = "association_closed",
        UserMaxConnections = "user_max_connections",
        UserMaxAssociations = "user_max_associations",
        /// The user's quota is used up.
        Quota = "quota",
        /// The SOCKS proxy that arus is chained to refused.
        UpstreamProxy = "upstream_proxy",
        /// The client went before a stage was done.
        ClientGone = "client_gone",
        /// A stage took longer than it may.
        StageTimeout = "stage_timeout",
        ProcessMaxConnections = "max_connections",
        ListenerMaxConnections = "listener_max_connections",
        SourceMaxConnections = "source_max_connections",
        AcceptRate = "accept_rate",
        Killed = "killed",
        /// `on_down = "close"` and the backend went down.
        BackendDown = "backend_down",
        /// The other side's handshake failed, or ours with it.
        TlsHandshake = "tls_handshake",
        /// A side that speaks TLS ended without close_notify: something may be missing.
        TlsTruncated = "tls_truncated",
        /// A record that does not open, or breaks the protocol.
        TlsRecord = "tls_record",
        /// The other side sent a fatal alert.
        TlsAlert = "tls_alert",
        /// A plugin said CLOSE.
        PluginClosed = "plugin_closed",
        /// A plugin said RESET.
        PluginReset = "plugin_reset",
        /// A plugin failed or broke the rules, and its `on_fault` is "close".
        PluginFault = "plugin_fault",
        /// Cut when `drain_timeout` ran out.
        Drained = "drained",
        Descriptors = "descriptors",
        Memory = "memory",
        Panic = "panic",
        Io = "io",
    }
}

/// Tells whether a text has changed; not proof against somebody who wants it not to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(u64);

impl Digest {
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// Whether a character does something to a terminal, or to the lines or the order of what is shown, instead of being
/// shown itself: controls (C0, DEL, C1), separators of lines, and those that change the direction of a text.
#[must_use]
pub fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
