//! The client's side, for arus behind another SOCKS proxy.

use std::net::SocketAddr;

use super::{
    Command, Credentials, Destination, Malformed, Method, NO_ACCEPTABLE_METHOD, PASSWORD_VERSION, Reader, Reply,
    VERSION, destination, encode_destination, used,
};
use crate::codec::{Parsed, Progress};

/// What another proxy answered to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub reply: Reply,
    /// Where it connects from; `None` where it says so by a name.
    pub bound: Option<SocketAddr>,
}

/// The greeting; with a password to show, both methods are offered.
#[must_use]
pub fn encode_greeting(has_password: bool) -> Vec<u8> {
    match has_password {
        true => vec![VERSION, 2, Method::None as u8, Method::Password as u8],
        false => vec![VERSION, 1, Method::None as u8],
    }
}

/// `None` where a part is longer than the 255 bytes that its length counts.
#[must_use]
pub fn encode_credentials(credentials: &Credentials<'_>) -> Option<Vec<u8>> {
    let mut out = vec![PASSWORD_VERSION];
    for part in [credentials.user, credentials.password] {
        out.push(u8::try_from(part.len()).ok()?);
        out.extend_from_slice(part);
    }
    Some(out)
}

/// `None` where a name is empty or longer than 255 bytes.
#[must_use]
pub fn encode_request(command: Command, to: &Destination<'_>) -> Option<Vec<u8>> {
    let mut out = vec![VERSION, command as u8, 0];
    encode_destination(to, &mut out).then_some(out)
}

/// The method that the proxy chose; `None`: none will do.
#[must_use]
pub fn parse_choice(bytes: &[u8]) -> Progress<Option<Method>> {
    choice(bytes).into()
}

fn choice(bytes: &[u8]) -> Parsed<Option<Method>, Malformed> {
    match *bytes {
        [version, ..] if version != VERSION => Err(Malformed::Version(version)),
        [_, 0, ..] => Ok(Some((Some(Method::None), 2))),
        [_, 2, ..] => Ok(Some((Some(Method::Password), 2))),
        [_, NO_ACCEPTABLE_METHOD, ..] => Ok(Some((None, 2))),
        [_, other, ..] => Err(Malformed::Method(other)),
        _ => Ok(None),
    }
}

/// Whether the proxy accepted username and password.
#[must_use]
pub fn parse_verdict(bytes: &[u8]) -> Progress<bool> {
    verdict(bytes).into()
}

fn verdict(bytes: &[u8]) -> Parsed<bool, Malformed> {
    match *bytes {
        [version, ..] if version != PASSWORD_VERSION => Err(Malformed::PasswordVersion(version)),
        [_, status, ..] => Ok(Some((status == 0, 2))),
        _ => Ok(None),
    }
}

/// What came of the request.
#[must_use]
pub fn parse_answer(bytes: &[u8]) -> Progress<Answer> {
    answer(bytes).into()
}

fn answer(bytes: &[u8]) -> Parsed<Answer, Malformed> {
    let mut reader = Reader::new(bytes);
    let Some(version) = reader.u8() else { return Ok(None) };
    if version != VERSION {
        return Err(Malformed::Version(version));
    }
    let Some(code) = reader.u8() else { return Ok(None) };
    let reply = Reply::ALL.into_iter().find(|reply| *reply as u8 == code).ok_or(Malformed::Reply(code))?;
    let Some(_reserved) = reader.u8() else { return Ok(None) };
    let Some(bound) = destination(&mut reader)? else { return Ok(None) };
    let bound = match bound {
        Destination::Ip(address) => Some(address),
        Destination::Name(..) => None,
    };
    Ok(Some((Answer { reply, bound }, used(bytes, &reader))))
}
