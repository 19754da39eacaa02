//! The server_name extension (RFC 6066 section 3).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::Malformed;
use crate::codec::reader::Reader;
use crate::limits;

const HOST_NAME: u8 = 0;
const LABEL_BYTES: usize = 63;

/// A host name in lower case, without a trailing dot: letters, digits, hyphens and underscores between dots.
#[derive(Clone, Copy)]
pub struct ServerName {
    /// Behind `length`, zeros.
    bytes: [u8; limits::HOST_BYTES],
    length: u8,
}

const _: () = assert!(limits::HOST_BYTES <= u8::MAX as usize);

impl ServerName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..usize::from(self.length)]).expect("host names are ASCII")
    }

    /// `None` if `name` is not a host name. Underscores are taken, as names in use have them.
    fn new(name: &[u8]) -> Option<Self> {
        let name = name.strip_suffix(b".").unwrap_or(name);
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let is_label = |label: &[u8]| (1..=LABEL_BYTES).contains(&label.len()) && label.iter().all(is_part);
        if name.len() > limits::HOST_BYTES || !name.split(|byte| *byte == b'.').all(is_label) {
            return None;
        }
        let mut bytes = [0; limits::HOST_BYTES];
        bytes[..name.len()].copy_from_slice(name);
        bytes.make_ascii_lowercase();
        Some(Self { bytes, length: u8::try_from(name.len()).ok()? })
    }
}

impl PartialEq for ServerName {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for ServerName {}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// The host name in an extension's value.
///
/// An IP address, which may not be there, counts as no name, as it does in rustls: clients that are given one to connect
/// to send it. Everything else that is not a host name is refused, a NUL above all: somebody would read on behind it and
/// somebody not.
pub(super) fn parse(extension: &[u8]) -> Result<Option<ServerName>, Malformed> {
    let mut reader = Reader::new(extension);
    let list = reader.vector16().filter(|list| reader.is_empty() && !list.is_empty()).ok_or(Malformed::Length)?;
    let mut entries = Reader::new(list);
    let mut found = None;
    while !entries.is_empty() {
        let kind = entries.u8().ok_or(Malformed::Length)?;
        // Of other types, of which there are none yet, the RFC promises at least this length.
        let value = entries.vector16().ok_or(Malformed::Length)?;
        if kind == HOST_NAME && found.replace(value).is_some() {
            return Err(Malformed::Twice);
        }
    }
    let Some(name) = found.filter(|name| !is_ip_address(name)) else { return Ok(None) };
    ServerName::new(name).map(Some).ok_or(Malformed::ServerName)
}

fn is_ip_address(name: &[u8]) -> bool {
    let text = str::from_utf8(name).unwrap_or_default();
    let text = text.strip_suffix('.').unwrap_or(text);
    text.parse::<Ipv4Addr>().is_ok()
        || text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).parse::<Ipv6Addr>().is_ok()
}
