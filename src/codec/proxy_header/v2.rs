//! Version 2: a signature, four bytes of meaning and length, addresses, TLVs.
//!
//! The family says how many bytes the addresses take, the protocol whether they count: with UNSPEC in either place they
//! do not. A LOCAL header is skipped unread, as the specification has it, but for values that are nobody's.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use super::{Addresses, Command, Header, Malformed, Tlvs, Version, after, tlv};
use crate::codec::Parsed;
use crate::codec::reader::Reader;

pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes before the addresses; the last two of them are the length of what follows.
pub(super) const FIXED_BYTES: usize = 16;

/// The high half of the 14th byte.
#[derive(Clone, Copy)]
enum Family {
    Unspec,
    Inet,
    Inet6,
    Unix,
}

impl Family {
    fn address_bytes(self) -> usize {
        match self {
            Self::Unspec => 0,
            Self::Inet => 2 * (4 + 2),
            Self::Inet6 => 2 * (16 + 2),
            Self::Unix => 2 * 108,
        }
    }
}

/// The low half of the 14th byte, less the datagrams.
#[derive(Clone, Copy, PartialEq)]
enum Transport {
    Unspec,
    Stream,
}

pub(super) fn parse(bytes: &[u8]) -> Parsed<Header<'_>, Malformed> {
    let Some(rest) = after(bytes, SIGNATURE)? else { return Ok(None) };
    let mut fixed = Reader::new(rest);
    let Some(byte) = fixed.u8() else { return Ok(None) };
    let command = match (byte >> 4, byte & 0xf) {
        (2, 0) => Command::Local,
        (2, 1) => Command::Proxy,
        (2, _) => return Err(Malformed::Command),
        _ => return Err(Malformed::Version),
    };
    let Some(byte) = fixed.u8() else { return Ok(None) };
    let family = match byte >> 4 {
        0 => Family::Unspec,
        1 => Family::Inet,
        2 => Family::Inet6,
        3 => Family::Unix,
        _ => return Err(Malformed::Family),
    };
    let transport = match (byte & 0xf, command) {
        (0, _) => Transport::Unspec,
        // LOCAL: whatever it says, it says nothing about this connection.
        (1, _) | (2, Command::Local) => Transport::Stream,
        (2, Command::Proxy) => return Err(Malformed::Datagram),
        _ => return Err(Malformed::Family),
    };
    let Some(length) = fixed.u16() else { return Ok(None) };
    if command == Command::Proxy && usize::from(length) < family.address_bytes() {
        return Err(Malformed::Length);
    }
    let used = FIXED_BYTES + usize::from(length);
    let Some(header) = bytes.get(..used) else { return Ok(None) };
    let (addresses, tlvs) = match command {
        Command::Local => (Addresses::Unspec, Tlvs::EMPTY),
        Command::Proxy => {
            let (addresses, rest) = header[FIXED_BYTES..].split_at(family.address_bytes());
            let addresses = read(family, addresses).filter(|_| transport == Transport::Stream);
            let tlvs = Tlvs::checked(rest)?;
            tlv::verify_checksum(header, tlvs)?;
            (addresses.unwrap_or(Addresses::Unspec), tlvs)
        }
    };
    Ok(Some((Header { version: Version::V2, command, addresses, tlvs }, used)))
}

/// The addresses of a block that has the family's length; `None` for UNSPEC, which has none.
fn read(family: Family, block: &[u8]) -> Option<Addresses> {
    let mut block = Reader::new(block);
    match family {
        Family::Unspec => None,
        Family::Unix => Some(Addresses::Unix),
        Family::Inet => {
            let (source, destination) = (Ipv4Addr::from(block.u32()?), Ipv4Addr::from(block.u32()?));
            Some(Addresses::Tcp4 {
                source: SocketAddrV4::new(source, block.u16()?),
                destination: SocketAddrV4::new(destination, block.u16()?),
            })
        }
        Family::Inet6 => {
            let (source, destination) = (Ipv6Addr::from(block.array::<16>()?), Ipv6Addr::from(block.array::<16>()?));
            Some(Addresses::Tcp6 {
                source: SocketAddrV6::new(source, block.u16()?, 0, 0),
                destination: SocketAddrV6::new(destination, block.u16()?, 0, 0),
            })
        }
    }
}
