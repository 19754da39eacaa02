//! What addresses this machine has.

use std::io;
use std::net::IpAddr;

/// The addresses of all interfaces, whether they are up or not, of every namespace's view that this process has.
///
/// # Errors
/// As getifaddrs(3): among others where netlink sockets are not allowed.
pub fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => Some(v4.ip().into()),
            (_, Some(v6)) => Some(v6.ip().into()),
            _ => None,
        }
    };
    Ok(nix::ifaddrs::getifaddrs()?.filter_map(address).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    #[test]
    fn every_address_of_this_machine_is_among_them() {
        let own = own_addresses().unwrap();
        assert!(own.contains(&Ipv4Addr::LOCALHOST.into()), "{own:?}");
        // And whatever packets to elsewhere would come from.
        let outside = UdpSocket::bind("0.0.0.0:0").unwrap();
        if outside.connect("192.0.2.1:9").is_ok() {
            assert!(own.contains(&outside.local_addr().unwrap().ip()), "{own:?}");
        }
    }
}
