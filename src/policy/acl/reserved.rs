//! Destinations that only a rule which names them opens: what lies behind arus itself, not behind the network that it is
//! a way into.

use std::net::{IpAddr, Ipv4Addr};

/// Loopback, link-local (metadata services among it), unspecified, multicast, broadcast. `ip` is in its one form.
pub(super) fn is_reserved(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip == Ipv4Addr::BROADCAST
                // "This network", which Linux takes for the host itself.
                || ip.octets()[0] == 0
                // The metadata services of Alibaba and Oracle.
                || ip == Ipv4Addr::new(100, 100, 100, 200)
                || ip == Ipv4Addr::new(192, 0, 0, 192)
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unicast_link_local()
                // AWS.
                || ip.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]
        }
    }
}

/// Names that are this machine wherever they are asked for (RFC 6761 section 6.3).
pub(super) fn is_reserved_name(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}
