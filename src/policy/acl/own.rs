//! Addresses of this machine: what it serves to itself and its neighbours is no more for clients than what it serves on its
//! loopback.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::net::{IpAddr, SocketAddr};

use super::index::Quick;
use crate::policy::host;

/// Destinations that are this machine itself, in their one form.
#[derive(Debug, Default)]
pub struct Own {
    addresses: HashSet<IpAddr, BuildHasherDefault<Quick>>,
    /// Where arus listens; an address need be none of this machine's (IP_FREEBIND, one that has gone).
    sockets: Vec<SocketAddr>,
}

impl Own {
    /// `addresses`: those of the machine's interfaces. `sockets`: those that arus listens on.
    #[must_use]
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>, sockets: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            addresses: addresses.into_iter().map(host::canonical).collect(),
            sockets: sockets
                .into_iter()
                .map(|socket| SocketAddr::new(host::canonical(socket.ip()), socket.port()))
                .collect(),
        }
    }

    pub(super) fn has(&self, ip: IpAddr, port: u16) -> bool {
        self.addresses.contains(&ip) || self.sockets.contains(&SocketAddr::new(ip, port))
    }
}
