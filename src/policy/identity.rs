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
