//! Version 1: `PROXY TCP4 192.0.2.1 198.51.100.2 56324 443` and CR LF, by the letter of the grammar.
//!
//! One thing is taken that the grammar has no words for: an IPv6 address that ends in dotted IPv4 (`::ffff:192.0.2.1`),
//! because that is how inet_ntop(3), and so every sender in C, writes a mapped one.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::str::FromStr;

use super::{Addresses, Command, Header, Malformed, Tlvs, Version, after};
use crate::codec::Parsed;
use crate::limits;

pub(super) fn parse(bytes: &[u8]) -> Parsed<Header<'_>, Malformed> {
    // What lies behind the longest line cannot belong to it.
    let bytes = &bytes[..bytes.len().min(limits::PROXY_LINE_BYTES)];
    let Some(rest) = after(bytes, b"PROXY ")? else { return Ok(None) };
    // `None` in all of these: the line is not whole yet.
    let addresses = if let Ok(fields) = after(rest, b"TCP4 ") {
        let Some(fields) = fields else { return Ok(None) };
        let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
        endpoints::<Ipv4Addr>(Fields::new(bytes, fields)?, is_part)?.map(|[source, destination]| Addresses::Tcp4 {
            source: SocketAddrV4::new(source.0, source.1),
            destination: SocketAddrV4::new(destination.0, destination.1),
        })
    } else if let Ok(fields) = after(rest, b"TCP6 ") {
        let Some(fields) = fields else { return Ok(None) };
        let is_part = |byte: &u8| byte.is_ascii_hexdigit() || *byte == b':' || *byte == b'.';
        endpoints::<Ipv6Addr>(Fields::new(bytes, fields)?, is_part)?.map(|[source, destination]| Addresses::Tcp6 {
            source: SocketAddrV6::new(source.0, source.1, 0, 0),
            destination: SocketAddrV6::new(destination.0, destination.1, 0, 0),
        })
    } else if let Ok(fields) = after(rest, b"UNKNOWN") {
        let Some(fields) = fields else { return Ok(None) };
        let fields = Fields::new(bytes, fields)?;
        // The rest of the line means nothing, but the word must end before it.
        if fields.text.first().is_some_and(|byte| *byte != b' ') {
            return Err(Malformed::Character);
        }
        fields.line_ended.then_some(Addresses::Unknown)
    } else {
        return Err(Malformed::Protocol);
    };
    let Some(addresses) = addresses else { return Ok(None) };
    let used = line_end(bytes)?.map_or(bytes.len(), |end| end + 2);
    let header = Header { version: Version::V1, command: Command::Proxy, addresses, tlvs: Tlvs::EMPTY };
    Ok(Some((header, used)))
}

/// Where the line's CR LF begins, if it is there.
fn line_end(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        // The CR must come before the last byte that the longest line has.
        return if bytes.len() + 1 < limits::PROXY_LINE_BYTES { Ok(None) } else { Err(Malformed::LineTooLong) };
    };
    match &bytes[end..] {
        [b'\r', b'\n', ..] => Ok(Some(end)),
        [b'\r'] if bytes.len() < limits::PROXY_LINE_BYTES => Ok(None),
        [b'\r'] => Err(Malformed::LineTooLong),
        _ => Err(Malformed::Character),
    }
}

/// What there is of a line behind its first words.
struct Fields<'a> {
    text: &'a [u8],
    /// The CR is there.
    line_ends: bool,
    /// And the LF.
    line_ended: bool,
}

impl<'a> Fields<'a> {
    /// `fields` is the end of `bytes`, which begins with the line.
    fn new(bytes: &'a [u8], fields: &'a [u8]) -> Result<Self, Malformed> {
        let begin = bytes.len() - fields.len();
        let end = line_end(bytes)?;
        let half_ended = fields.strip_suffix(b"\r");
        let text = end.map_or(half_ended.unwrap_or(fields), |end| &bytes[begin..end]);
        Ok(Self { text, line_ends: end.is_some() || half_ended.is_some(), line_ended: end.is_some() })
    }

    /// The next field that a space ends, when it is whole.
    fn field(&mut self, is_part: fn(&u8) -> bool) -> Result<Option<&'a str>, Malformed> {
        let end = self.text.iter().position(|byte| *byte == b' ');
        let (field, rest) = self.text.split_at(end.unwrap_or(self.text.len()));
        if !field.iter().all(is_part) || (end.is_none() && self.line_ends) {
            return Err(Malformed::Character);
        }
        self.text = rest.strip_prefix(b" ").unwrap_or(rest);
        Ok(end.and(str::from_utf8(field).ok()))
    }

    /// The field that the line's end ends.
    fn last_field(&self) -> Result<Option<&'a str>, Malformed> {
        if !self.text.iter().all(u8::is_ascii_digit) {
            return Err(Malformed::Character);
        }
        Ok(str::from_utf8(self.text).ok().filter(|_| self.line_ended))
    }
}

/// Source and destination from `ADDRESS ADDRESS PORT PORT`.
fn endpoints<A: FromStr>(mut fields: Fields<'_>, is_part: fn(&u8) -> bool) -> Result<Option<[(A, u16); 2]>, Malformed> {
    let address = |text: &str| text.parse::<A>().map_err(|_| Malformed::Address);
    let Some(source) = fields.field(is_part)?.map(address).transpose()? else { return Ok(None) };
    let Some(destination) = fields.field(is_part)?.map(address).transpose()? else { return Ok(None) };
    let Some(source_port) = fields.field(u8::is_ascii_digit)?.map(port).transpose()? else { return Ok(None) };
    let Some(destination_port) = fields.last_field()?.map(port).transpose()? else { return Ok(None) };
    Ok(Some([(source, source_port), (destination, destination_port)]))
}

fn port(digits: &str) -> Result<u16, Malformed> {
    let is_canonical = digits == "0" || !digits.starts_with('0');
    digits.parse().ok().filter(|_| is_canonical).ok_or(Malformed::Port)
}
