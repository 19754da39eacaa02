//! SOCKS5 as a client speaks it: one thing said, one answer awaited, nothing sent ahead of its time, so that every proxy
//! takes the same steps.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::socket::Socket;

const VERSION: u8 = 5;
const LOGIN_VERSION: u8 = 1;
const NO_METHOD_NEEDED: u8 = 0;
const PASSWORD: u8 = 2;
const IPV4: u8 = 1;
const IPV6: u8 = 4;
/// A reply up to the end of its IPv4 address; one with an IPv6 address has more.
const REPLY_V4: usize = 10;
const REPLY_V6: usize = 22;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Connect = 1,
    UdpAssociate = 3,
}

/// What every connection asks of the proxy, as bytes that are ready to be sent.
pub(crate) struct Terms {
    greeting: [u8; 3],
    login: Option<Vec<u8>>,
    request: Vec<u8>,
}

impl Terms {
    pub(crate) fn new(command: Command, destination: SocketAddr, login: Option<(&str, &str)>) -> Self {
        let method = if login.is_some() { PASSWORD } else { NO_METHOD_NEEDED };
        let login = login.map(|(user, password)| {
            let mut wire = vec![LOGIN_VERSION];
            for part in [user, password] {
                wire.push(part.len() as u8);
                wire.extend_from_slice(part.as_bytes());
            }
            wire
        });
        let mut request = vec![VERSION, command as u8, 0];
        put_address(&mut request, destination);
        Self { greeting: [VERSION, 1, method], login, request }
    }
}

/// The address as requests and datagrams have it: its type, itself, its port.
pub(crate) fn put_address(wire: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(v4) => {
            wire.push(IPV4);
            wire.extend_from_slice(&v4.ip().octets());
        }
        SocketAddr::V6(v6) => {
            wire.push(IPV6);
            wire.extend_from_slice(&v6.ip().octets());
        }
    }
    wire.extend_from_slice(&address.port().to_be_bytes());
}

/// One connection's way from its first byte to the proxy's reply.
pub(crate) struct Dialogue {
    terms: Arc<Terms>,
    awaited: Awaited,
    heard: [u8; REPLY_V6],
    got: usize,
}

enum Awaited {
    /// Nothing was said yet.
    Nothing,
    Method,
    LoginAnswer,
    Reply,
}

impl Dialogue {
    pub(crate) fn new(terms: Arc<Terms>) -> Self {
        Self { terms, awaited: Awaited::Nothing, heard: [0; REPLY_V6], got: 0 }
    }

    /// Goes on as far as the socket lets it; once the proxy has agreed, the address that it told.
    pub(crate) fn step(&mut self, stream: &mut Socket) -> io::Result<Option<SocketAddr>> {
        loop {
            match self.awaited {
                Awaited::Nothing => {
                    say(stream, &self.terms.greeting)?;
                    self.awaited = Awaited::Method;
                }
                Awaited::Method => {
                    if !self.hear(stream, 2)? {
                        return Ok(None);
                    }
                    if self.heard[..2] != [VERSION, self.terms.greeting[2]] {
                        return Err(bad("the proxy does not want the method"));
                    }
                    self.got = 0;
                    self.awaited = match &self.terms.login {
                        Some(login) => {
                            say(stream, login)?;
                            Awaited::LoginAnswer
                        }
                        None => {
                            say(stream, &self.terms.request)?;
                            Awaited::Reply
                        }
                    };
                }
                Awaited::LoginAnswer => {
                    if !self.hear(stream, 2)? {
                        return Ok(None);
                    }
                    if self.heard[1] != 0 {
                        return Err(bad("the proxy refuses the login"));
                    }
                    self.got = 0;
                    say(stream, &self.terms.request)?;
                    self.awaited = Awaited::Reply;
                }
                Awaited::Reply => return self.hear_reply(stream),
            }
        }
    }

    fn hear_reply(&mut self, stream: &mut Socket) -> io::Result<Option<SocketAddr>> {
        // Nothing follows a reply before the client has said more: to ask for the shortest one takes nothing from others.
        if !self.hear(stream, REPLY_V4)? {
            return Ok(None);
        }
        if self.heard[1] != 0 {
            return Err(io::Error::other(format!("the proxy's reply is {}", self.heard[1])));
        }
        let len = match self.heard[3] {
            IPV4 => REPLY_V4,
            IPV6 => REPLY_V6,
            _ => return Err(bad("a reply without an IP address")),
        };
        Ok(self.hear(stream, len)?.then(|| self.told_address()))
    }

    fn told_address(&self) -> SocketAddr {
        let wire = &self.heard;
        let port = |at: usize| u16::from_be_bytes([wire[at], wire[at + 1]]);
        if wire[3] == IPV4 {
            let ip: [u8; 4] = std::array::from_fn(|index| wire[4 + index]);
            return (Ipv4Addr::from(ip), port(8)).into();
        }
        let ip: [u8; 16] = std::array::from_fn(|index| wire[4 + index]);
        (Ipv6Addr::from(ip), port(20)).into()
    }

    /// Whether the first `len` bytes of the answer are there.
    fn hear(&mut self, stream: &mut Socket, len: usize) -> io::Result<bool> {
        while self.got < len {
            match stream.read(&mut self.heard[self.got..len]) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the proxy ends the dialogue")),
                Ok(read) => self.got += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// What is said is small and finds an empty send buffer.
fn say(stream: &mut Socket, wire: &[u8]) -> io::Result<()> {
    match stream.write(wire)? {
        sent if sent == wire.len() => Ok(()),
        _ => Err(bad("a word of the dialogue was cut")),
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_as_the_rfcs_have_it() {
        let destination = SocketAddr::from(([127, 0, 0, 1], 0x1234));
        let plain = Terms::new(Command::Connect, destination, None);
        assert_eq!(plain.greeting, [5, 1, 0]);
        assert_eq!(plain.login, None);
        assert_eq!(plain.request, [5, 1, 0, 1, 127, 0, 0, 1, 0x12, 0x34]);
        let with_login = Terms::new(Command::UdpAssociate, destination, Some(("me", "pw!")));
        assert_eq!(with_login.greeting, [5, 1, 2]);
        assert_eq!(with_login.login.as_deref(), Some(&b"\x01\x02me\x03pw!"[..]));
        assert_eq!(with_login.request[..3], [5, 3, 0]);
    }
}
