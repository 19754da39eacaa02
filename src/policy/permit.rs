//! The permission to dial. Only policy makes one and dialling takes it by value, so that forgetting the check does not
//! compile.

use std::net::IpAddr;

use ipnet::IpNet;

use super::acl::Decision;
use crate::types::Reason;

/// Proof that policy has let a connection through.
#[derive(Debug)]
pub struct Permit(());

impl Permit {
    /// Judges by `allow_sources`: an empty list lets everybody in; a client without an address (a unix socket) only
    /// passes an empty list.
    ///
    /// # Errors
    /// When the source is not allowed.
    pub fn for_source(allowed: &[IpNet], source: Option<IpAddr>) -> Result<Self, Reason> {
        let admitted = allowed.is_empty() || source.is_some_and(|ip| allowed.iter().any(|net| net.contains(&ip)));
        if admitted { Ok(Self(())) } else { Err(Reason::SourceNotAllowed) }
    }

    /// By what the rules of `[acl]` say.
    ///
    /// # Errors
    /// When they block it.
    pub fn of(decision: &Decision) -> Result<Self, Reason> {
        if decision.is_allowed() { Ok(Self(())) } else { Err(Reason::AclBlocked) }
    }

    /// For a connection that is made before there is a client: nothing passes it until a client with a permit of its
    /// own is given it.
    #[must_use]
    pub fn ahead_of_client() -> Self {
        Self(())
    }
}
