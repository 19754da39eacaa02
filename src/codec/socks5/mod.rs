//! SOCKS version 5 (RFC 1928) with username and password (RFC 1929): what a client says to arus, and what arus answers.
//! What arus says to a proxy of its own is in [`client`], the header of datagrams in [`datagram`].

use std::net::{IpAddr, SocketAddr};

use super::reader::Reader;
use super::{Parsed, Progress};

pub mod client;
pub mod datagram;
mod invariants;
mod reply;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

#[doc(hidden)]
pub use invariants::check as fuzz_invariants;
pub use reply::Reply;

/// First byte of every message of the protocol.
pub const VERSION: u8 = 5;
/// First byte of what RFC 1929 negotiates.
const PASSWORD_VERSION: u8 = 1;

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// A way to authenticate (RFC 1928 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Method {
    None = 0,
    /// Username and password.
    Password = 2,
}

/// What the server says where none of the client's methods will do.
const NO_ACCEPTABLE_METHOD: u8 = 0xff;

/// The methods that a client offers; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting<'a> {
    methods: &'a [u8],
}

impl Greeting<'_> {
    #[must_use]
    pub fn offers(&self, method: Method) -> bool {
        self.methods.contains(&(method as u8))
    }
}

/// A username and a password of 0 to 255 bytes each, of any value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Credentials<'a> {
    pub user: &'a [u8],
    pub password: &'a [u8],
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// What a client may ask for (RFC 1928 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    Connect = 1,
    Bind = 2,
    UdpAssociate = 3,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    pub command: Command,
    pub destination: Destination<'a>,
}

/// A host and a port, as they stand in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination<'a> {
    Ip(SocketAddr),
    /// 1 to 255 bytes of any value; what they mean is not judged here.
    Name(&'a [u8], u16),
}

impl Destination<'_> {
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Name(_, port) => *port,
        }
    }
}

/// Why bytes are no message of SOCKS 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("version {0} instead of {expected}", expected = VERSION)]
    Version(u8),
    #[error("version {0} of the password negotiation instead of {expected}", expected = PASSWORD_VERSION)]
    PasswordVersion(u8),
    #[error("no method is offered")]
    NoMethods,
    #[error("command {0} is unknown")]
    Command(u8),
    #[error("address type {0} is unknown")]
    AddressType(u8),
    #[error("the name is empty")]
    EmptyName,
    #[error("the datagram ends within its header")]
    ShortDatagram,
    #[error("method {0} was not offered")]
    Method(u8),
    #[error("reply {0} is unknown")]
    Reply(u8),
}

/// Parses the methods that a client offers.
#[must_use]
pub fn parse_greeting(bytes: &[u8]) -> Progress<Greeting<'_>> {
    greeting(bytes).into()
}

fn greeting(bytes: &[u8]) -> Parsed<Greeting<'_>, Malformed> {
    let mut reader = Reader::new(bytes);
    let Some(version) = reader.u8() else { return Ok(None) };
    if version != VERSION {
        return Err(Malformed::Version(version));
    }
    match reader.rest().first() {
        Some(0) => Err(Malformed::NoMethods),
        _ => Ok(reader.vector8().map(|methods| (Greeting { methods }, used(bytes, &reader)))),
    }
}

/// Parses a username and a password (RFC 1929 section 2).
#[must_use]
pub fn parse_credentials(bytes: &[u8]) -> Progress<Credentials<'_>> {
    credentials(bytes).into()
}

fn credentials(bytes: &[u8]) -> Parsed<Credentials<'_>, Malformed> {
    let mut reader = Reader::new(bytes);
    let Some(version) = reader.u8() else { return Ok(None) };
    if version != PASSWORD_VERSION {
        return Err(Malformed::PasswordVersion(version));
    }
    let Some(user) = reader.vector8() else { return Ok(None) };
    let Some(password) = reader.vector8() else { return Ok(None) };
    Ok(Some((Credentials { user, password }, used(bytes, &reader))))
}

/// Parses a request. The reserved byte may have any value, as dante and others have it. What is wrong is told apart, as
/// there is a reply for it: [`Reply::of_malformed`].
#[must_use]
pub fn parse_request(bytes: &[u8]) -> Progress<Request<'_>> {
    request(bytes).into()
}

fn request(bytes: &[u8]) -> Parsed<Request<'_>, Malformed> {
    let mut reader = Reader::new(bytes);
    let Some(version) = reader.u8() else { return Ok(None) };
    if version != VERSION {
        return Err(Malformed::Version(version));
    }
    let Some(command) = reader.u8() else { return Ok(None) };
    let command = match command {
        1 => Command::Connect,
        2 => Command::Bind,
        3 => Command::UdpAssociate,
        other => return Err(Malformed::Command(other)),
    };
    let Some(_reserved) = reader.u8() else { return Ok(None) };
    let Some(destination) = destination(&mut reader)? else { return Ok(None) };
    Ok(Some((Request { command, destination }, used(bytes, &reader))))
}

/// Takes an address type, an address and a port; `None` where they have not all come.
fn destination<'a>(reader: &mut Reader<'a>) -> Result<Option<Destination<'a>>, Malformed> {
    let Some(kind) = reader.u8() else { return Ok(None) };
    let destination = match kind {
        IPV4 => reader.array::<4>().zip(reader.u16()).map(|(ip, port)| ip_destination(IpAddr::from(ip), port)),
        IPV6 => reader.array::<16>().zip(reader.u16()).map(|(ip, port)| ip_destination(IpAddr::from(ip), port)),
        NAME if reader.rest().first() == Some(&0) => return Err(Malformed::EmptyName),
        NAME => reader.vector8().zip(reader.u16()).map(|(name, port)| Destination::Name(name, port)),
        other => return Err(Malformed::AddressType(other)),
    };
    Ok(destination)
}

fn ip_destination<'a>(ip: IpAddr, port: u16) -> Destination<'a> {
    Destination::Ip(SocketAddr::new(ip, port))
}

/// Bytes of the message that `reader` has gone through.
fn used(bytes: &[u8], reader: &Reader<'_>) -> usize {
    bytes.len() - reader.rest().len()
}

/// The server's choice of a method; `None`: none will do, and the connection ends.
#[must_use]
pub fn encode_choice(method: Option<Method>) -> [u8; 2] {
    [VERSION, method.map_or(NO_ACCEPTABLE_METHOD, |method| method as u8)]
}

/// The server's answer to a username and a password.
#[must_use]
pub fn encode_verdict(accepted: bool) -> [u8; 2] {
    [PASSWORD_VERSION, u8::from(!accepted)]
}

/// Appends the answer to a request. `bound` is BND.ADDR and BND.PORT; a failure tells none, which is 0.0.0.0:0.
pub fn encode_reply(reply: Reply, bound: Option<SocketAddr>, out: &mut Vec<u8>) {
    out.extend([VERSION, reply as u8, 0]);
    encode_address(bound.unwrap_or(SocketAddr::from(([0; 4], 0))), out);
}

/// Appends an address with its type; an IPv4-mapped one as the IPv4 address that it is.
fn encode_address(address: SocketAddr, out: &mut Vec<u8>) {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            out.push(IPV4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(IPV6);
            out.extend(ip.octets());
        }
    }
    out.extend(address.port().to_be_bytes());
}

/// As [`encode_address`], or a name; false, and nothing is appended, where the name does not fit.
fn encode_destination(destination: &Destination<'_>, out: &mut Vec<u8>) -> bool {
    match destination {
        Destination::Ip(address) => encode_address(*address, out),
        Destination::Name(name, port) => {
            let Ok(length @ 1..) = u8::try_from(name.len()) else { return false };
            out.extend([NAME, length]);
            out.extend_from_slice(name);
            out.extend(port.to_be_bytes());
        }
    }
    true
}
