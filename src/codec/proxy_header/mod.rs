//! The PROXY protocol, versions 1 and 2 (HAProxy's specification of 2020/03/05): what a proxy in front says about a
//! connection, before its first byte.
//!
//! Only a peer that is trusted may say it; that is for the caller to know, as is the time that it may take.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::Progress;

mod encode;
mod invariants;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod tlv;
mod v1;
mod v2;

pub use encode::{Origin, Outgoing, TooLong};
#[doc(hidden)]
pub use invariants::check as fuzz_invariants;
pub use tlv::{Facts, Ssl, Tlv, Tlvs};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One line of text; addresses and ports only.
    V1,
    /// Binary, with TLVs.
    V2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// The sender speaks for itself, as in a health check: the connection's own endpoints hold.
    Local,
    Proxy,
}

/// The endpoints of the connection that the header speaks for, as it gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    Tcp4 {
        source: SocketAddrV4,
        destination: SocketAddrV4,
    },
    Tcp6 {
        source: SocketAddrV6,
        destination: SocketAddrV6,
    },
    /// AF_UNIX; the paths mean nothing on this machine and are not kept.
    Unix,
    /// A family or protocol of UNSPEC, and every LOCAL header of version 2.
    Unspec,
    /// UNKNOWN of version 1.
    Unknown,
}

/// A header that was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    pub version: Version,
    pub command: Command,
    pub addresses: Addresses,
    /// Empty for version 1 and for LOCAL.
    pub tlvs: Tlvs<'a>,
}

impl Header<'_> {
    /// Source and destination to go on with, IPv4-mapped addresses as IPv4; `None`: the connection's own.
    #[must_use]
    pub fn endpoints(&self) -> Option<(SocketAddr, SocketAddr)> {
        let (source, destination) = match self.addresses {
            Addresses::Tcp4 { source, destination } => (source.into(), destination.into()),
            Addresses::Tcp6 { source, destination } => (source.into(), destination.into()),
            Addresses::Unix | Addresses::Unspec | Addresses::Unknown => return None,
        };
        Some((to_canonical(source), to_canonical(destination)))
    }
}

/// The same address with an IPv4-mapped one (`::ffff:192.0.2.1`) as the IPv4 address that it stands for.
#[must_use]
pub fn to_canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, address.port())),
        IpAddr::V6(_) => address,
    }
}

/// Why bytes are no PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the first bytes are not those of a PROXY header")]
    Beginning,
    #[error("v1: the protocol is none of TCP4, TCP6 and UNKNOWN")]
    Protocol,
    #[error("v1: a character, space or line end where none may be")]
    Character,
    #[error("v1: an address is not written as one of its family")]
    Address,
    #[error("v1: a port is not a number from 0 to 65535 without leading zeros")]
    Port,
    #[error("v1: no CR LF in the first 107 bytes")]
    LineTooLong,
    #[error("v2: the version is not 2")]
    Version,
    #[error("v2: the command is neither LOCAL nor PROXY")]
    Command,
    #[error("v2: the address family or the transport protocol is not one of the specification's")]
    Family,
    #[error("v2: a datagram protocol on a stream")]
    Datagram,
    #[error("v2: the length is less than the addresses take")]
    Length,
    #[error("v2: a TLV reaches past the end of what it is in")]
    TornTlv,
    #[error("v2: the checksum is wrong, or not one of 4 bytes")]
    Checksum,
    #[error("v2: the unique id is longer than 128 bytes")]
    UniqueId,
}

/// Looks for a header, of either version, at the beginning of `bytes`.
///
/// The first byte tells the versions apart. Of version 1 every field is judged when it is whole and every character when
/// it is there; of version 2 the sixteen bytes before the addresses as they come, and then nothing until the last byte
/// that they announce.
#[must_use]
pub fn parse(bytes: &[u8]) -> Progress<Header<'_>> {
    match bytes.first() {
        None => Progress::NeedMore,
        Some(b'P') => v1::parse(bytes).into(),
        Some(_) => v2::parse(bytes).into(),
    }
}

/// What follows `literal`, or `None` while `bytes` is only a part of it.
fn after<'a>(bytes: &'a [u8], literal: &[u8]) -> Result<Option<&'a [u8]>, Malformed> {
    match bytes.strip_prefix(literal) {
        Some(rest) => Ok(Some(rest)),
        None if literal.starts_with(bytes) => Ok(None),
        None => Err(Malformed::Beginning),
    }
}
