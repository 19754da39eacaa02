//! Writing a header: what arus says to a backend before the first byte of a connection.

use std::net::{Ipv6Addr, SocketAddr};

use super::tlv::{self, Facts};
use super::{Version, to_canonical, v2};
use crate::limits;

/// Whom a header speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Ourselves, as in a health check. Version 2 says LOCAL and nothing else. Version 1 has no word for it but UNKNOWN,
    /// which some receivers refuse: the specification would rather have a `Proxy` with our own two addresses there.
    Local,
    /// A client that connected from `source` to `destination`; `None` for one without an IP address (a unix socket).
    /// If either is `None`, the header says UNKNOWN or AF_UNSPEC, for receivers to use the connection's own.
    Proxy { source: Option<SocketAddr>, destination: Option<SocketAddr> },
}

/// A header to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outgoing<'a> {
    pub version: Version,
    pub origin: Origin,
    /// Version 1 has no place for them.
    pub facts: Facts<'a>,
    /// Adds a CRC32C of the header to version 2.
    pub checksum: bool,
}

/// The facts do not fit into a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the facts are too long for a PROXY header")]
pub struct TooLong;

/// Both addresses in one family.
enum Pair {
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
}

impl Outgoing<'_> {
    /// Appends the header to `out`, whole, for one write before anything else.
    ///
    /// IPv4-mapped addresses are written as IPv4. Of an IPv4 and an IPv6 address the first is written as a mapped one,
    /// so that mixed families, as a header of somebody else's can give them, lose nothing.
    ///
    /// # Errors
    /// When a fact is too long, or all together are; `out` is then as it was. Cannot happen with version 1.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let begin = out.len();
        let result = match self.version {
            Version::V1 => {
                self.line(out);
                Ok(())
            }
            Version::V2 => self.binary(out),
        };
        if result.is_err() {
            out.truncate(begin);
        }
        result
    }

    /// Source and destination with their ports, `None` when there is nothing to tell.
    fn endpoints(&self) -> Option<(Pair, u16, u16)> {
        let Origin::Proxy { source: Some(source), destination: Some(destination) } = self.origin else { return None };
        let pair = match (to_canonical(source), to_canonical(destination)) {
            (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
                Pair::V4(source.ip().octets(), destination.ip().octets())
            }
            (source, destination) => Pair::V6(in_v6(source), in_v6(destination)),
        };
        Some((pair, source.port(), destination.port()))
    }

    fn line(&self, out: &mut Vec<u8>) {
        let line = match self.endpoints() {
            None => "PROXY UNKNOWN\r\n".to_owned(),
            Some((Pair::V4(source, destination), from, to)) => {
                let [source, destination] = [source, destination].map(std::net::Ipv4Addr::from);
                format!("PROXY TCP4 {source} {destination} {from} {to}\r\n")
            }
            Some((Pair::V6(source, destination), from, to)) => {
                let [source, destination] = [source, destination].map(hexadecimal);
                format!("PROXY TCP6 {source} {destination} {from} {to}\r\n")
            }
        };
        out.extend_from_slice(line.as_bytes());
    }

    fn binary(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let begin = out.len();
        out.extend_from_slice(v2::SIGNATURE);
        if self.origin == Origin::Local {
            out.extend_from_slice(&[0x20, 0x00, 0, 0]);
            return Ok(());
        }
        out.push(0x21);
        match self.endpoints() {
            None => out.extend_from_slice(&[0x00, 0, 0]),
            Some((pair, from, to)) => {
                match pair {
                    Pair::V4(source, destination) => {
                        out.extend_from_slice(&[0x11, 0, 0]);
                        out.extend_from_slice(&source);
                        out.extend_from_slice(&destination);
                    }
                    Pair::V6(source, destination) => {
                        out.extend_from_slice(&[0x21, 0, 0]);
                        out.extend_from_slice(&source);
                        out.extend_from_slice(&destination);
                    }
                }
                out.extend_from_slice(&from.to_be_bytes());
                out.extend_from_slice(&to.to_be_bytes());
            }
        }
        self.tlvs(out)?;
        if self.checksum {
            put(out, tlv::CRC32C, &[0; 4])?;
        }
        let length = u16::try_from(out.len() - begin - v2::FIXED_BYTES).map_err(|_| TooLong)?;
        out[begin + v2::FIXED_BYTES - 2..begin + v2::FIXED_BYTES].copy_from_slice(&length.to_be_bytes());
        if self.checksum {
            // It is the last four bytes, and over everything, the length too.
            let at = out.len() - 4;
            let checksum = tlv::checksum_with_zeros(&out[begin..], at - begin);
            out[at..].copy_from_slice(&checksum.to_be_bytes());
        }
        Ok(())
    }

    fn tlvs(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let Facts { alpn, authority, unique_id, ssl } = self.facts;
        if unique_id.is_some_and(|id| id.len() > limits::UNIQUE_ID_BYTES) {
            return Err(TooLong);
        }
        for (kind, value) in [(tlv::ALPN, alpn), (tlv::AUTHORITY, authority), (tlv::UNIQUE_ID, unique_id)] {
            value.map_or(Ok(()), |value| put(out, kind, value))?;
        }
        let Some(ssl) = ssl else { return Ok(()) };
        let begin = out.len();
        put(out, tlv::SSL, &[])?;
        out.push(ssl.client);
        out.extend_from_slice(&ssl.verify.to_be_bytes());
        for (kind, value) in ssl.fields() {
            value.map_or(Ok(()), |value| put(out, kind, value))?;
        }
        let length = u16::try_from(out.len() - begin - 3).map_err(|_| TooLong)?;
        out[begin + 1..begin + 3].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }
}

fn put(out: &mut Vec<u8>, kind: u8, value: &[u8]) -> Result<(), TooLong> {
    let length = u16::try_from(value.len()).map_err(|_| TooLong)?;
    out.push(kind);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
    Ok(())
}

/// The address as IPv6, mapped if it is IPv4.
fn in_v6(address: SocketAddr) -> [u8; 16] {
    match address {
        SocketAddr::V4(address) => address.ip().to_ipv6_mapped().octets(),
        SocketAddr::V6(address) => address.ip().octets(),
    }
}

/// The address as text. A mapped one, which Rust would end in dotted IPv4, is all hexadecimal, as the grammar of version 1
/// knows nothing else.
fn hexadecimal(octets: [u8; 16]) -> String {
    let address = Ipv6Addr::from(octets);
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => format!("::ffff:{high:x}:{low:x}"),
        _ => address.to_string(),
    }
}
