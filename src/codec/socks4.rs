//! SOCKS version 4, and 4A, which adds names (the papers of Ying-Da Lee). Only what CONNECT needs.
//!
//! The user that a client names here is not proved by anything, so nothing is made of it.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use super::socks5::Destination;
use super::{Parsed, Progress};

pub const VERSION: u8 = 4;
const CONNECT: u8 = 1;
const BIND: u8 = 2;
/// Bytes of a user or a name without their NUL, as in version 5.
const TEXT: usize = 255;

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    Granted = 0x5a,
    Rejected = 0x5b,
}

/// A CONNECT; nothing else is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    pub destination: Destination<'a>,
}

/// Why bytes are no request that can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("version {0} instead of {expected}", expected = VERSION)]
    Version(u8),
    #[error("command {0} is not served with version 4")]
    Command(u8),
    #[error("the user is longer than {TEXT} bytes")]
    User,
    #[error("the name is empty or longer than {TEXT} bytes")]
    Name,
}

/// Parses a request.
#[must_use]
pub fn parse(bytes: &[u8]) -> Progress<Request<'_>> {
    request(bytes).into()
}

fn request(bytes: &[u8]) -> Parsed<Request<'_>, Malformed> {
    match *bytes {
        [version, ..] if version != VERSION => return Err(Malformed::Version(version)),
        [_, command, ..] if command != CONNECT => return Err(Malformed::Command(command)),
        _ => {}
    }
    let Some((head, rest)) = bytes.split_first_chunk::<8>() else { return Ok(None) };
    let [_, _, high, low, a, b, c, d] = *head;
    let port = u16::from_be_bytes([high, low]);
    let Some((_, behind)) = text(rest, Malformed::User)? else { return Ok(None) };
    // 4A: an address in 0.0.0.0/24 that is not 0.0.0.0 says that a name follows.
    let (destination, behind) = if [a, b, c] == [0; 3] && d != 0 {
        let Some((name, behind)) = text(behind, Malformed::Name)? else { return Ok(None) };
        if name.is_empty() {
            return Err(Malformed::Name);
        }
        (Destination::Name(name, port), behind)
    } else {
        let address = SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port);
        (Destination::Ip(SocketAddr::V4(address)), behind)
    };
    Ok(Some((Request { destination }, bytes.len() - behind.len())))
}

/// A text that ends with NUL, and what follows it.
#[allow(clippy::type_complexity)] // two halves of what came
fn text(bytes: &[u8], too_long: Malformed) -> Result<Option<(&[u8], &[u8])>, Malformed> {
    match bytes.iter().take(TEXT + 1).position(|byte| *byte == 0) {
        Some(end) => Ok(Some((&bytes[..end], &bytes[end + 1..]))),
        None if bytes.len() > TEXT => Err(too_long),
        None => Ok(None),
    }
}

/// Whether a command is one that version 4 knows, though it is not served.
#[must_use]
pub fn is_known(malformed: Malformed) -> bool {
    matches!(malformed, Malformed::Command(BIND))
}

/// The answer. The address in it means nothing for CONNECT; what serves version 5 is told here too.
#[must_use]
pub fn encode_reply(reply: Reply, bound: Option<SocketAddr>) -> [u8; 8] {
    let address = match bound {
        Some(SocketAddr::V4(address)) => address,
        _ => SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
    };
    let [high, low] = address.port().to_be_bytes();
    let [a, b, c, d] = address.ip().octets();
    [0, reply as u8, high, low, a, b, c, d]
}

/// What holds for any bytes.
///
/// # Panics
/// When an invariant does not hold.
#[doc(hidden)]
pub fn fuzz_invariants(bytes: &[u8]) {
    let used = match parse(bytes) {
        Progress::Done(request, used) => {
            if let Destination::Name(name, _) = request.destination {
                assert!((1..=TEXT).contains(&name.len()) && !name.contains(&0));
            }
            used
        }
        Progress::NeedMore => bytes.len() + 1,
        Progress::Bad(_) => return,
    };
    assert!(used <= bytes.len() || bytes.len() < 8 + 2 * (TEXT + 1), "more is wanted than any request has");
    for cut in 0..used.min(bytes.len() + 1) {
        assert!(matches!(parse(&bytes[..cut]), Progress::NeedMore), "decided at {cut} of {used}");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn done(bytes: &[u8]) -> (Destination<'_>, usize) {
        match parse(bytes) {
            Progress::Done(request, used) => (request.destination, used),
            other => panic!("{other:?}"),
        }
    }

    fn bad(bytes: &[u8]) -> Malformed {
        match parse(bytes) {
            Progress::Bad(crate::codec::Error::Socks4(malformed)) => malformed,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn addresses_and_names() {
        let address = Destination::Ip("66.102.7.99:80".parse().unwrap());
        assert_eq!(done(b"\x04\x01\x00\x50\x42\x66\x07\x63Fred\x00rest"), (address, 13));
        let name = Destination::Name(b"example.com", 80);
        assert_eq!(done(b"\x04\x01\x00\x50\x00\x00\x00\x01\x00example.com\x00"), (name, 21));
        // 0.0.0.0 is an address; what is made of it is decided elsewhere.
        let unspecified = Destination::Ip("0.0.0.0:80".parse().unwrap());
        assert_eq!(done(&[4, 1, 0, 80, 0, 0, 0, 0, 0]), (unspecified, 9));
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(bad(&[5]), Malformed::Version(5));
        assert_eq!(
            (bad(&[4, 2]), is_known(bad(&[4, 2])), is_known(bad(&[4, 3]))),
            (Malformed::Command(2), true, false)
        );
        assert_eq!(bad(b"\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00"), Malformed::Name);
        let head = [4, 1, 0, 80, 0, 0, 0, 1];
        let long: Vec<u8> = head.into_iter().chain([b'a'; 256]).collect();
        assert_eq!(bad(&long), Malformed::User);
        assert!(matches!(parse(&long[..8 + 255]), Progress::NeedMore));
        let long: Vec<u8> = head.into_iter().chain([0]).chain([b'a'; 256]).collect();
        assert_eq!(bad(&long), Malformed::Name);
    }

    #[test]
    fn replies() {
        assert_eq!(encode_reply(Reply::Granted, Some("192.0.2.1:80".parse().unwrap())), [0, 90, 0, 80, 192, 0, 2, 1]);
        assert_eq!(encode_reply(Reply::Rejected, Some("[::1]:80".parse().unwrap())), [0, 91, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn invariants_hold_for_all_that_is_near() {
        for vector in
            [&b"\x04\x01\x00\x50\x42\x66\x07\x63Fred\x00"[..], b"\x04\x01\x00\x50\x00\x00\x00\x01\x00example.com\x00"]
        {
            for cut in 0..=vector.len() {
                fuzz_invariants(&vector[..cut]);
            }
            for at in 0..vector.len() {
                for value in 0..=255 {
                    let mut changed = vector.to_vec();
                    changed[at] = value;
                    fuzz_invariants(&changed);
                }
            }
        }
    }
}
