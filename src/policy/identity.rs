//! Who a client has proved to be.

use std::sync::Arc;

use crate::types::Name;

/// A user that was authenticated, with its groups as they were then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user: Name,
    /// Of the configuration and, where asked for, of the system.
    pub groups: Arc<[Name]>,
}

/// What comes of credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accepted(Arc<Identity>),
    /// Wrong password or unknown user: which of them is not told.
    Refused,
    /// Too many failures from this source.
    Banned,
    /// They cannot be checked now.
    Unavailable,
}

/// What a client attempts, and what is counted by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    Password,
    Pam,
    /// Of its address, before its dialogue.
    Address,
}

impl Attempt {
    pub const ALL: [Self; 3] = [Self::Password, Self::Pam, Self::Address];

    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Pam => "pam",
            Self::Address => "address",
        }
    }
}
