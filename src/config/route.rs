//! Where a connection goes: the one routing function, for live traffic and for `arus explain`. It allocates nothing
//! (`tests/alloc.rs` counts).

use std::net::IpAddr;

use super::plan::{Listener, Route};
use crate::types::UpstreamIndex;

/// What was found for a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Routed<'p> {
    /// The first route that matches.
    Route(&'p Route),
    /// No route matches; the listener's own upstream.
    Default(UpstreamIndex),
    /// No route matches, and the listener has no upstream: the connection is refused.
    Refused,
}

impl Routed<'_> {
    #[must_use]
    pub fn upstream(self) -> Option<UpstreamIndex> {
        match self {
            Self::Route(route) => Some(route.upstream),
            Self::Default(upstream) => Some(upstream),
            Self::Refused => None,
        }
    }
}

impl Listener {
    /// Whether `allow_sources` admits a source. `None` is a unix-socket client, which has no address and so is in no
    /// network. An IPv4-mapped address must be in its IPv4 form, as [`crate::types::Client::ip`] gives it.
    #[must_use]
    pub fn admits(&self, source: Option<IpAddr>) -> bool {
        self.allow_sources.is_empty()
            || source.is_some_and(|source| self.allow_sources.iter().any(|net| net.contains(&source)))
    }

    /// The upstream for a source, as in [`Listener::admits`].
    #[must_use]
    pub fn route(&self, source: Option<IpAddr>) -> Routed<'_> {
        self.routes
            .iter()
            .find(|route| route.matches(source))
            .map(Routed::Route)
            .or_else(|| self.upstream.map(Routed::Default))
            .unwrap_or(Routed::Refused)
    }
}

impl Route {
    fn matches(&self, source: Option<IpAddr>) -> bool {
        let Some(sources) = &self.sources else { return true };
        source.is_some_and(|source| sources.iter().any(|net| net.contains(&source)))
    }
}
