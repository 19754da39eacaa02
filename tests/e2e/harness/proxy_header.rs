//! The PROXY protocol as the tests see it: written from the specification, and not with arus' own codec, so that the
//! two can disagree.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Stream;

pub(crate) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
pub(crate) const ALPN: u8 = 0x01;
pub(crate) const AUTHORITY: u8 = 0x02;
pub(crate) const CRC32C: u8 = 0x03;
pub(crate) const UNIQUE_ID: u8 = 0x05;
pub(crate) const SSL: u8 = 0x20;
pub(crate) const SSL_VERSION: u8 = 0x21;
pub(crate) const SSL_CN: u8 = 0x22;
pub(crate) const SSL_CIPHER: u8 = 0x23;

/// Types and values in their order.
pub(crate) type Tlvs = Vec<(u8, Vec<u8>)>;

/// A header that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProxyHeader {
    pub(crate) bytes: Vec<u8>,
    /// 1, 2, or 0: the connection began with something else, which is in `bytes`.
    pub(crate) version: u8,
    /// It speaks for the connection itself: v2's LOCAL.
    pub(crate) is_local: bool,
    /// Source and destination; `None` for UNKNOWN, UNSPEC and LOCAL.
    pub(crate) addresses: Option<(SocketAddr, SocketAddr)>,
    pub(crate) tlvs: Tlvs,
    /// How many bytes the first read brought.
    pub(crate) first_read: usize,
}

impl ProxyHeader {
    /// Reads a header and nothing beyond it, whichever version it is; `None` when the connection ended before.
    pub(crate) fn read(stream: &mut Stream) -> Option<Self> {
        let first_read = peek(stream)?;
        let mut bytes = vec![take(stream)?];
        match bytes[0] {
            b'\r' => {
                while bytes.len() < 16 {
                    bytes.push(take(stream)?);
                }
                let rest = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
                for _ in 0..rest {
                    bytes.push(take(stream)?);
                }
                Some(Self::decode(bytes, first_read))
            }
            b'P' => {
                while !bytes.ends_with(b"\r\n") && bytes.len() < 107 {
                    bytes.push(take(stream)?);
                }
                Some(Self::decode(bytes, first_read))
            }
            _ => Some(Self::none(bytes, first_read)),
        }
    }

    fn none(bytes: Vec<u8>, first_read: usize) -> Self {
        Self { bytes, version: 0, is_local: false, addresses: None, tlvs: Vec::new(), first_read }
    }

    /// Panics where the header breaks the specification.
    pub(crate) fn decode(bytes: Vec<u8>, first_read: usize) -> Self {
        let mut header = Self::none(bytes, first_read);
        if header.bytes.first() == Some(&b'P') {
            header.version = 1;
            header.addresses = decode_v1(&header.bytes);
            return header;
        }
        let bytes = &header.bytes;
        assert!(bytes.starts_with(SIGNATURE), "no signature: {bytes:02x?}");
        assert_eq!(usize::from(u16::from_be_bytes([bytes[14], bytes[15]])), bytes.len() - 16);
        header.version = bytes[12] >> 4;
        header.is_local = bytes[12] & 15 == 0;
        let body = &bytes[16..];
        let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        let v4 = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&body[at..at + 4]).unwrap());
        let v6 = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&body[at..at + 16]).unwrap());
        let (addresses, used) = match bytes[13] {
            0x11 => (Some((SocketAddr::from((v4(0), port(8))), SocketAddr::from((v4(4), port(10))))), 12),
            0x21 => (Some((SocketAddr::from((v6(0), port(32))), SocketAddr::from((v6(16), port(34))))), 36),
            0x31 => (None, 216),
            0x00 => (None, 0),
            other => panic!("family and protocol {other:#04x}"),
        };
        header.addresses = addresses.filter(|_| !header.is_local);
        header.tlvs = decode_tlvs(&body[used..]);
        header
    }

    pub(crate) fn source(&self) -> SocketAddr {
        self.addresses.unwrap_or_else(|| panic!("no addresses in {self:?}")).0
    }

    pub(crate) fn destination(&self) -> SocketAddr {
        self.addresses.unwrap_or_else(|| panic!("no addresses in {self:?}")).1
    }

    pub(crate) fn tlv(&self, kind: u8) -> Option<&[u8]> {
        self.tlvs.iter().find(|(own, _)| *own == kind).map(|(_, value)| value.as_slice())
    }

    /// The TLV as text.
    pub(crate) fn text(&self, kind: u8) -> Option<String> {
        self.tlv(kind).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// The SSL TLV: client bits, verify, and what is nested in it.
    pub(crate) fn ssl(&self) -> Option<(u8, u32, Tlvs)> {
        let value = self.tlv(SSL)?;
        let verify = u32::from_be_bytes(value[1..5].try_into().unwrap());
        Some((value[0], verify, decode_tlvs(&value[5..])))
    }

    /// Whether the checksum is there and right.
    pub(crate) fn is_checksum_right(&self) -> Option<bool> {
        let said = u32::from_be_bytes(self.tlv(CRC32C)?.try_into().unwrap());
        let mut bytes = self.bytes.clone();
        let at = checksum_place(&bytes).expect("it has one");
        bytes[at..at + 4].fill(0);
        Some(crc32c(&bytes) == said)
    }
}

fn peek(stream: &Stream) -> Option<usize> {
    let mut room = vec![std::mem::MaybeUninit::uninit(); 128 * 1024];
    stream.0.peek(&mut room).ok().filter(|count| *count > 0)
}

fn take(stream: &mut Stream) -> Option<u8> {
    let mut byte = [0];
    matches!(stream.read_some(&mut byte), Ok(1)).then_some(byte[0])
}

fn decode_v1(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let line = std::str::from_utf8(bytes).unwrap();
    let line = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("no end in 107 bytes: {line:?}"));
    let words: Vec<&str> = line.split(' ').collect();
    if words[1] == "UNKNOWN" {
        return None;
    }
    assert!(words.len() == 6 && words[0] == "PROXY" && ["TCP4", "TCP6"].contains(&words[1]), "{line:?}");
    let address = |ip: &str, port: &str| SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap());
    let addresses = (address(words[2], words[4]), address(words[3], words[5]));
    let is_v4 = words[1] == "TCP4";
    assert!(addresses.0.is_ipv4() == is_v4 && addresses.1.is_ipv4() == is_v4, "{line:?}");
    assert_eq!(line, format!("PROXY {} {} {} {} {}", words[1], addresses.0.ip(), addresses.1.ip(), words[4], words[5]));
    Some(addresses)
}

fn decode_tlvs(mut rest: &[u8]) -> Tlvs {
    let mut tlvs = Vec::new();
    while let [kind, high, low, after @ ..] = rest {
        let (value, after) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        tlvs.push((*kind, value.to_vec()));
        rest = after;
    }
    assert!(rest.is_empty(), "a torn TLV: {rest:02x?}");
    tlvs
}

/// Where the value of the checksum lies.
fn checksum_place(header: &[u8]) -> Option<usize> {
    let mut at = 16 + [0, 12, 36, 216][usize::from(header[13] >> 4)];
    while at < header.len() {
        if header[at] == CRC32C {
            return Some(at + 3);
        }
        at += 3 + usize::from(u16::from_be_bytes([header[at + 1], header[at + 2]]));
    }
    None
}

/// Castagnoli, bit by bit.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 * (crc & 1));
        }
    }
    !crc
}

/// A v1 header.
pub(crate) fn v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// A v2 header for addresses of one family. A [`CRC32C`] among the TLVs is computed, whatever value it has; for a
/// wrong one change the result.
pub(crate) fn v2(source: SocketAddr, destination: SocketAddr, tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    let family = match (source, destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            body.extend_from_slice(&source.ip().octets());
            body.extend_from_slice(&destination.ip().octets());
            0x11
        }
        (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
            body.extend_from_slice(&source.ip().octets());
            body.extend_from_slice(&destination.ip().octets());
            0x21
        }
        mixed => panic!("two families: {mixed:?}"),
    };
    body.extend_from_slice(&source.port().to_be_bytes());
    body.extend_from_slice(&destination.port().to_be_bytes());
    for (kind, value) in tlvs {
        body.push(*kind);
        body.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        body.extend_from_slice(value);
    }
    let mut header = raw_v2(0x21, family, &body);
    if let Some(at) = tlvs.iter().any(|(kind, _)| *kind == CRC32C).then(|| checksum_place(&header)).flatten() {
        header[at..at + 4].fill(0);
        let crc = crc32c(&header).to_be_bytes();
        header[at..at + 4].copy_from_slice(&crc);
    }
    header
}

/// A v2 header of whatever version, command, family and content, right or wrong.
pub(crate) fn raw_v2(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([version_and_command, family]);
    header.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
    header.extend_from_slice(body);
    header
}
