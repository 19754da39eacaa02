//! Where a connection goes: the one routing function, for live traffic and for `arus explain`. It allocates nothing
//! (`tests/alloc.rs` counts).

use std::net::IpAddr;

use super::plan::{Listener, Route, ServerNames};
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

    /// Whether a peer may send a PROXY header here: only where one is required, and only those that are trusted.
    #[must_use]
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        let Some(accept_proxy) = &self.accept_proxy else { return false };
        match peer {
            Some(peer) => accept_proxy.trusted.iter().any(|net| net.contains(&peer)),
            None => accept_proxy.trusts_unix,
        }
    }

    /// The upstream for a source, as in [`Listener::admits`], that asked for a server name and offered protocols in its
    /// ClientHello: `None` and nothing where there was no hello.
    #[must_use]
    pub fn route<'h>(
        &self,
        source: Option<IpAddr>,
        server_name: Option<&str>,
        alpn: impl Iterator<Item = &'h [u8]> + Clone,
    ) -> Routed<'_> {
        self.routes
            .iter()
            .find(|route| route.matches(source, server_name, alpn.clone()))
            .map(Routed::Route)
            .or_else(|| self.upstream.map(Routed::Default))
            .unwrap_or(Routed::Refused)
    }
}

impl Route {
    fn matches<'h>(
        &self,
        source: Option<IpAddr>,
        server_name: Option<&str>,
        mut alpn: impl Iterator<Item = &'h [u8]>,
    ) -> bool {
        let fits_source = self
            .sources
            .as_ref()
            .is_none_or(|nets| source.is_some_and(|source| nets.iter().any(|net| net.contains(&source))));
        let fits_name = || {
            self.server_names
                .as_ref()
                .is_none_or(|known| server_name.is_some_and(|name| known.iter().any(|names| names.match_name(name))))
        };
        let mut fits_alpn = || {
            self.alpn
                .as_ref()
                .is_none_or(|wanted| alpn.any(|offered| wanted.iter().any(|wanted| wanted.as_bytes() == offered)))
        };
        fits_source && fits_name() && fits_alpn()
    }
}

impl ServerNames {
    /// Whether a name is one of these; in whatever case, with or without a dot at its end.
    #[must_use]
    pub fn match_name(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact.eq_ignore_ascii_case(name),
            Self::Below(domain) => {
                name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && domain.eq_ignore_ascii_case(rest))
            }
        }
    }
}
