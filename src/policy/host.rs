//! The one form of a host that rules are held against and that is looked up, whatever a client has made of it.
//!
//! What resolvers take for an address though it looks like a name (`127.1`, `0x7f000001`, `017700000001`) is an address
//! here too, so that no rule about addresses is got round by a spelling.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits;

/// A host as a client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host<'a> {
    /// IPv4-mapped ones are IPv4.
    Ip(IpAddr),
    /// Lower case, without a trailing dot; letters, digits, `-` and `_` only.
    Name(Cow<'a, str>),
}

/// Why a text is no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the name is empty")]
    Empty,
    #[error("the name is longer than {} bytes", limits::HOST_BYTES)]
    Long,
    #[error("the name has a byte that no host name has")]
    Byte,
    #[error("a part of the name is empty, or longer than 63 bytes")]
    Label,
    #[error("the name ends in a number and is no address")]
    Number,
}

impl<'a> Host<'a> {
    /// Reads what a client gave as a name, which may be an address in any spelling.
    ///
    /// # Errors
    /// When it can be neither.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed::Byte)?;
        let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(ip) = inner.unwrap_or(text).parse::<Ipv6Addr>() {
            return Ok(Self::Ip(canonical(ip.into())));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(Malformed::Empty);
        }
        if name.len() > limits::HOST_BYTES {
            return Err(Malformed::Long);
        }
        if let Some(ip) = numeric(name) {
            return Ok(Self::Ip(ip.into()));
        }
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
            return Err(Malformed::Byte);
        }
        if !name.split('.').all(|label| (1..=63).contains(&label.len())) {
            return Err(Malformed::Label);
        }
        // No top-level domain is a number (RFC 3696 section 2); some resolver might take it for an address all the same.
        if name.rsplit('.').next().is_some_and(|label| number(label).is_some() || is_digits(label)) {
            return Err(Malformed::Number);
        }
        let name = match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(name.to_ascii_lowercase()),
            false => Cow::Borrowed(name),
        };
        Ok(Self::Name(name))
    }
}

/// An address as the one that is reached by it: an IPv4-mapped one is IPv4 to every socket.
#[must_use]
pub fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// The IPv4 address that an IPv6 address may lead to by way of a translator or tunnel: IPv4-compatible (RFC 4291 section
/// 2.5.5.1), NAT64 (RFC 6052 section 2.1, RFC 8215) and 6to4 (RFC 3056). What a rule says of that one counts as well.
#[must_use]
pub fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    let octets = ip.octets();
    let low = Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]);
    match ip.segments() {
        // ::, ::1 and their like are what they are.
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => Some(low),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => Some(low),
        [0x2002, ..] => Some(Ipv4Addr::new(octets[2], octets[3], octets[4], octets[5])),
        _ => None,
    }
}

/// As inet_aton(3) has it: one to four numbers, decimal, octal or hexadecimal, of which the last fills what is left.
fn numeric(text: &str) -> Option<Ipv4Addr> {
    let mut address: u32 = 0;
    let count = text.split('.').count();
    if count > 4 {
        return None;
    }
    for (index, part) in text.split('.').enumerate() {
        let value = number(part)?;
        let is_last = index + 1 == count;
        let bits = if is_last { 8 * (5 - count as u32) } else { 8 };
        if u64::from(value) >= 1 << bits {
            return None;
        }
        address |= if is_last { value } else { value << (24 - 8 * index as u32) };
    }
    Some(Ipv4Addr::from(address))
}

fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    // `0x` alone is 0 to some.
    if digits.is_empty() {
        return (radix == 16).then_some(0);
    }
    let is_digit = |byte: u8| char::from(byte).is_digit(radix);
    if digits.bytes().all(is_digit) { u32::from_str_radix(digits, radix).ok() } else { None }
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        match Host::parse(text.as_bytes()) {
            Ok(Host::Ip(ip)) => ip,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn names_have_one_form() {
        for text in ["Example.COM", "example.com.", "EXAMPLE.com."] {
            assert_eq!(Host::parse(text.as_bytes()), Ok(Host::Name("example.com".into())), "{text}");
        }
        assert!(matches!(Host::parse(b"a_b.x-1.org"), Ok(Host::Name(Cow::Borrowed("a_b.x-1.org")))));
        assert_eq!(Host::parse(b"localhost."), Ok(Host::Name("localhost".into())));
    }

    #[test]
    fn addresses_in_every_spelling_are_addresses() {
        for text in [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0x7F.1",
            "0177.0.0.1",
            "017700000001",
            "127.0.0.1.",
            "0x7f.0x0.0x0.0x1",
            "::ffff:127.0.0.1",
            "[::ffff:127.0.0.1]",
            "::ffff:7f00:1",
        ] {
            assert_eq!(ip(text), IpAddr::from([127, 0, 0, 1]), "{text}");
        }
        assert_eq!((ip("0"), ip("0x")), (IpAddr::from([0; 4]), IpAddr::from([0; 4])));
        assert_eq!((ip("[::1]"), ip("::1")), (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()));
        assert_eq!(ip("255.255.65535"), IpAddr::from([255; 4]));
    }

    #[test]
    fn what_is_neither_is_refused() {
        for (text, malformed) in [
            (&b""[..], Malformed::Empty),
            (b".", Malformed::Empty),
            (b"a..b", Malformed::Label),
            (b".a", Malformed::Label),
            (b"a..", Malformed::Label),
            (b"localhost\0.example", Malformed::Byte),
            (b"user@host", Malformed::Byte),
            (b"host:80", Malformed::Byte),
            (b"h\xc3\xb6st", Malformed::Byte),
            (b"\xff", Malformed::Byte),
            (b"a b", Malformed::Byte),
            (b"127.0.0.256", Malformed::Number),
            (b"1.2.3.4.5", Malformed::Number),
            (b"4294967296", Malformed::Number),
            (b"a.0x7f", Malformed::Number),
            (b"a.09", Malformed::Number),
            (b"fe80::1%eth0", Malformed::Byte),
        ] {
            assert_eq!(Host::parse(text), Err(malformed), "{}", text.escape_ascii());
        }
        let long = format!("{}.example", "a.".repeat(125));
        assert_eq!(Host::parse(long.as_bytes()), Err(Malformed::Long));
        assert_eq!(Host::parse("a".repeat(64).as_bytes()), Err(Malformed::Label));
    }

    #[test]
    fn addresses_behind_translators() {
        let embedded = |text: &str| embedded(text.parse().unwrap());
        let loopback = Some(Ipv4Addr::LOCALHOST);
        assert_eq!([embedded("64:ff9b::7f00:1"), embedded("2002:7f00:1::"), embedded("::7f00:1")], [loopback; 3]);
        assert_eq!([embedded("::"), embedded("::1"), embedded("2001:db8::7f00:1"), embedded("127.0.0.1")], [None; 4]);
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        let mut bytes = Vec::new();
        for seed in 0..50_000u64 {
            bytes.clear();
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            for _ in 0..seed % 12 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                bytes.push(b"0123456789abcdefxX.-_[]:%\0\xff"[(state % 27) as usize]);
            }
            match Host::parse(&bytes) {
                Ok(Host::Name(name)) => assert_eq!(Host::parse(name.as_bytes()), Ok(Host::Name(name.clone()))),
                Ok(Host::Ip(ip)) => assert_eq!(Host::parse(ip.to_string().as_bytes()), Ok(Host::Ip(ip))),
                Err(_) => {}
            }
        }
    }
}
