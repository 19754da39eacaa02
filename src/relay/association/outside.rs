//! The side of an association that faces its targets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::ring::{DatagramSocket, Ring};

/// Whether a datagram to this address reaches one host at most, and the one that is named. (The kernel takes 0.0.0.0 for
/// this machine.)
pub(super) fn is_one_host(ip: IpAddr) -> bool {
    !ip.is_multicast() && !ip.is_unspecified() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// A socket to the outside, for both families where there are two.
pub(super) fn open(ring: &Ring) -> io::Result<DatagramSocket> {
    let both = || {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_only_v6(false)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
        Ok(socket)
    };
    let socket = both().or_else(|error: io::Error| match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => Err(error),
        // A machine without IPv6.
        _ => {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
            Ok(socket)
        }
    })?;
    ring.datagram_socket(socket.into())
}
