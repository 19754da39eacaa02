//! What stands before the payload of each datagram between a SOCKS5 client and arus (RFC 1928 section 7):
//! `RSV(2) FRAG(1) ATYP(1) ADDR PORT(2)`.

use std::net::{IpAddr, SocketAddr};

/// Bytes of a header with an address: an IPv6 one is the longest.
pub(super) const MAX_ADDRESS_HEADER: usize = 22;

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header<'a> {
    /// Not 0: a piece of a larger datagram, or its end.
    pub(super) fragment: u8,
    pub(super) host: Host<'a>,
    pub(super) port: u16,
    /// Bytes of it; the rest is payload.
    pub(super) len: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host<'a> {
    Ip(IpAddr),
    /// As the client wrote it, not empty.
    Name(&'a [u8]),
}

/// Reads the header of a datagram; `None` where it has none.
pub(super) fn parse(datagram: &[u8]) -> Option<Header<'_>> {
    let (&[_, _, fragment, kind], rest) = datagram.split_first_chunk()?;
    let (host, rest) = match kind {
        IPV4 => rest.split_first_chunk::<4>().map(|(ip, rest)| (Host::Ip(IpAddr::from(*ip)), rest))?,
        IPV6 => rest.split_first_chunk::<16>().map(|(ip, rest)| (Host::Ip(IpAddr::from(*ip)), rest))?,
        NAME => {
            let (len, rest) = rest.split_first()?;
            let (name, rest) = rest.split_at_checked(usize::from(*len))?;
            (!name.is_empty()).then_some((Host::Name(name), rest))?
        }
        _ => return None,
    };
    let (port, payload) = rest.split_first_chunk::<2>()?;
    Some(Header { fragment, host, port: u16::from_be_bytes(*port), len: datagram.len() - payload.len() })
}

/// Writes the header of a datagram that comes from this address.
pub(super) fn encode(from: SocketAddr, into: &mut [u8; MAX_ADDRESS_HEADER]) -> &[u8] {
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        into[len..len + bytes.len()].copy_from_slice(bytes);
        len += bytes.len();
    };
    match from.ip() {
        IpAddr::V4(ip) => {
            put(&[0, 0, 0, IPV4]);
            put(&ip.octets());
        }
        IpAddr::V6(ip) => {
            put(&[0, 0, 0, IPV6]);
            put(&ip.octets());
        }
    }
    put(&from.port().to_be_bytes());
    &into[..len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_at_every_cut_and_written_alike() {
        for text in ["192.0.2.1:53", "[2001:db8::1]:65535"] {
            let address: SocketAddr = text.parse().expect("an address");
            let mut bytes = [0; MAX_ADDRESS_HEADER];
            let mut datagram = encode(address, &mut bytes).to_vec();
            let len = datagram.len();
            (0..len).for_each(|cut| assert_eq!(parse(&datagram[..cut]), None));
            datagram.extend(b"payload");
            let header = Header { fragment: 0, host: Host::Ip(address.ip()), port: address.port(), len };
            assert_eq!(parse(&datagram), Some(header));
        }
        let datagram = b"\0\0\x05\x03\x01a\0\x35";
        assert_eq!(parse(datagram), Some(Header { fragment: 5, host: Host::Name(b"a"), port: 53, len: 8 }));
        (0..datagram.len()).for_each(|cut| assert_eq!(parse(&datagram[..cut]), None));
        assert_eq!(parse(b"\0\0\0\x03\0\0\x35"), None);
        (0..=255u8).filter(|kind| ![1, 3, 4].contains(kind)).for_each(|kind| {
            assert_eq!(parse(&[&[0, 0, 0, kind][..], &[1; 40]].concat()), None);
        });
    }
}
