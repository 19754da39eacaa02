//! `[admin]`: who may ask a running arus, and where.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::Place;
use crate::types::Name;

#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// `None`: off.
    pub listen: Option<AdminListen>,
    /// Control socket, absolute (already joined to `state_dir`).
    pub socket: PathBuf,
    /// Whether the dashboard is served at `/`.
    pub dashboard: bool,
    /// Whether `/metrics` needs a credential as everything else does.
    pub protect_metrics: bool,
    /// Names, in lower case, by which browsers may call arus, besides `localhost` and IP addresses.
    pub hosts: Vec<Name>,
    pub users: Vec<AdminUser>,
    pub tokens: Vec<AdminToken>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminListen {
    pub address: SocketAddr,
    /// The file says so. The default gives way to whoever has its port.
    pub is_given: bool,
    pub at: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminUser {
    pub name: Name,
    pub password_hash: PasswordHash,
    pub scope: Scope,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminToken {
    pub name: Name,
    pub digest: TokenDigest,
    pub scope: Scope,
}

/// What a credential is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Read,
    Write,
}

impl Scope {
    /// As the configuration says it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// An argon2id hash in PHC form or a bcrypt hash, well-formed. Debug shows nothing of it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PasswordHash(pub Box<str>);

/// SHA-256 of a token. Debug shows nothing of it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TokenDigest(pub [u8; 32]);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(..)")
    }
}
