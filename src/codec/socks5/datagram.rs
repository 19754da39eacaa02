//! The header of datagrams that go through an association (RFC 1928 section 7).

use std::net::SocketAddr;

use super::{Destination, Malformed, Reader, destination, encode_address, used};

/// Bytes of the longest header that arus makes: two reserved, fragment, type, an IPv6 address, port.
pub const LONGEST: usize = 4 + 16 + 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// 0 for a datagram that stands alone.
    pub fragment: u8,
    pub destination: Destination<'a>,
}

/// Parses the header of a datagram, and says where its payload begins. The reserved bytes may have any value.
///
/// # Errors
/// When the datagram has no whole header.
pub fn parse(bytes: &[u8]) -> Result<(Header<'_>, usize), Malformed> {
    let mut reader = Reader::new(bytes);
    let header = |reader: &mut Reader<'_>| -> Option<u8> {
        reader.u16()?;
        reader.u8()
    };
    let fragment = header(&mut reader).ok_or(Malformed::ShortDatagram)?;
    let destination = destination(&mut reader)?.ok_or(Malformed::ShortDatagram)?;
    Ok((Header { fragment, destination }, used(bytes, &reader)))
}

/// Appends the header of a datagram that came from `source`.
pub fn encode(source: SocketAddr, out: &mut Vec<u8>) {
    out.extend([0; 3]);
    encode_address(source, out);
}
