//! In which order the addresses of a host are tried.

use std::net::IpAddr;

use crate::limits;

/// Addresses of both families as one list: those that this machine has a route to before those it has not (RFC 6724
/// rule 1), global ones before link-local ones, and within each group the families by turns with IPv6 first (RFC 8305
/// section 4).
pub(in crate::control) fn order(v6: &[IpAddr], v4: &[IpAddr], is_reachable: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
    let ranked = |addresses: &[IpAddr]| -> Vec<((bool, bool), IpAddr)> {
        let rank = |address: IpAddr| (!is_reachable(address), is_link_local(address));
        unique(addresses).into_iter().map(|address| (rank(address), address)).collect()
    };
    let (v6, v4) = (ranked(v6), ranked(v4));
    let mut ordered = Vec::with_capacity(v6.len() + v4.len());
    for group in [(false, false), (false, true), (true, false), (true, true)] {
        let of_group = |family: &[((bool, bool), IpAddr)]| -> Vec<IpAddr> {
            family.iter().filter(|(rank, _)| *rank == group).map(|(_, address)| *address).collect()
        };
        ordered.extend(interleave(&of_group(&v6), &of_group(&v4)));
    }
    ordered.truncate(limits::ADDRESSES_PER_HOST);
    ordered
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn unique(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut seen = Vec::with_capacity(addresses.len());
    for address in addresses {
        if !seen.contains(address) {
            seen.push(*address);
        }
    }
    seen
}

fn interleave(first: &[IpAddr], second: &[IpAddr]) -> Vec<IpAddr> {
    let longer = first.len().max(second.len());
    (0..longer).flat_map(|i| [first.get(i), second.get(i)]).flatten().copied().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_and_ipv6_begins() {
        let v6 = addresses(&["2001:db8::1", "2001:db8::2", "2001:db8::1"]);
        let v4 = addresses(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let expected = addresses(&["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3"]);
        assert_eq!(order(&v6, &v4, |_| true), expected);
    }

    #[test]
    fn what_cannot_be_reached_comes_last_and_link_local_after_global() {
        let v6 = addresses(&["fe80::1", "2001:db8::1"]);
        let v4 = addresses(&["192.0.2.1"]);
        assert_eq!(order(&v6, &v4, |_| true), addresses(&["2001:db8::1", "192.0.2.1", "fe80::1"]));
        assert_eq!(order(&v6, &v4, |a| a.is_ipv4()), addresses(&["192.0.2.1", "2001:db8::1", "fe80::1"]));
    }

    #[test]
    fn a_host_with_too_many_addresses_keeps_both_families() {
        let many: Vec<IpAddr> = (0..40u8).map(|i| IpAddr::from([192, 0, 2, i])).collect();
        let ordered = order(&addresses(&["2001:db8::1"]), &many, |_| true);
        assert_eq!(ordered.len(), limits::ADDRESSES_PER_HOST);
        assert!(ordered[0].is_ipv6());
    }
}
