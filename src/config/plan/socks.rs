//! `[socks]`: what SOCKS listeners serve, and how.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::Address;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socks {
    pub commands: Commands,
    /// How long a BIND waits for its peer.
    pub bind_timeout: Duration,
    /// No datagram of an association in either direction.
    pub udp_idle: Duration,
    /// Of a user; where nobody has to prove who it is, of a source address.
    pub udp_max_associations_per_user: u32,
    /// What clients are told to connect or send to, where arus is behind an address translation.
    pub advertise: Option<IpAddr>,
    /// CONNECT of version 4 and 4A, where nobody has to prove who it is.
    pub socks4: bool,
    /// Connections go through this proxy.
    pub upstream_proxy: Option<UpstreamProxy>,
}

/// What is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commands {
    pub connect: bool,
    pub bind: bool,
    pub udp: bool,
}

impl Commands {
    /// As the configuration says them.
    #[must_use]
    pub fn words(self) -> Vec<&'static str> {
        let all = [("connect", self.connect), ("bind", self.bind), ("udp", self.udp)];
        all.into_iter().filter(|(_, served)| *served).map(|(word, _)| word).collect()
    }
}

/// A SOCKS 5 proxy. Debug shows no password.
#[derive(Clone, PartialEq, Eq)]
pub struct UpstreamProxy {
    pub address: Address,
    pub credentials: Option<ProxyCredentials>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct ProxyCredentials {
    pub user: String,
    pub password: String,
}

impl UpstreamProxy {
    /// As the configuration says it, without the password.
    #[must_use]
    pub fn shown(&self) -> String {
        let user = self.credentials.as_ref().map(|credentials| format!("{}:***@", credentials.user));
        format!("socks5://{}{}", user.unwrap_or_default(), self.address)
    }
}

impl fmt::Debug for UpstreamProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}
