//! What TLS is to be like, in both directions: files by their paths, nothing loaded.

use std::path::PathBuf;

use crate::types::Name;

/// Where in the configuration something stands, both from 1: what it names is opened later, and may not be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

/// A file that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Absolute.
    pub path: PathBuf,
    pub at: Place,
}

/// TLS that is terminated: `[listener.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsIn {
    pub identity: Identity,
    /// What a client gets that asks for a name which no certificate has. One that asks for none gets the first.
    pub unknown_sni: UnknownSni,
    /// In order of preference; empty: none is negotiated.
    pub alpn: Vec<Name>,
    pub min_version: TlsVersion,
    pub client_auth: ClientAuth,
    pub at: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// At least one, at most [`crate::limits::CERTIFICATES_PER_LISTENER`]; the first is the default.
    Files(Vec<KeyPair>),
    /// The names of a certificate that arus makes itself: DNS names in lower case, wildcards, IP addresses.
    SelfSigned(Vec<Name>),
}

/// A certificate chain and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    pub certificates: File,
    pub key: File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownSni {
    Default,
    Reject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

impl TlsVersion {
    /// As the configuration says it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }
}

/// Whether clients show certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuth {
    Off,
    /// Those that have one may; one that does not verify ends the handshake.
    Request(File),
    Require(File),
}

impl ClientAuth {
    /// As the configuration says it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Request(_) => "request",
            Self::Require(_) => "require",
        }
    }

    /// The authorities that sign client certificates.
    #[must_use]
    pub fn ca(&self) -> Option<&File> {
        match self {
            Self::Off => None,
            Self::Request(ca) | Self::Require(ca) => Some(ca),
        }
    }
}

/// TLS to the backends: `[upstream.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOut {
    /// The name that their certificates must have, and that is sent as SNI unless it is an IP address; `None`: the
    /// host or address of each backend. A unix path has neither, so there it is given.
    pub server_name: Option<Name>,
    /// The authorities that sign their certificates; `None`: those of the system.
    pub ca: Option<File>,
    /// What arus shows them.
    pub certificate: Option<KeyPair>,
    /// In order of preference; empty: none is offered.
    pub alpn: Vec<Name>,
    /// False: any certificate will do, whoever signed it and whatever name it has.
    pub verify: bool,
    pub at: Place,
}
