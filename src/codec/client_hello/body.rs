//! The fields and extensions of a ClientHello (RFC 8446 section 4.1.2, RFC 5246 section 7.4.1.2).

use std::borrow::Cow;

use super::{ClientHello, Malformed, ServerName, TlsVersion, server_name};
use crate::codec::reader::Reader;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;

const RANDOM_BYTES: usize = 32;
const SESSION_ID_BYTES: usize = 32;

/// What is wanted of the extensions.
#[derive(Default)]
struct Extensions<'a> {
    server_name: Option<&'a [u8]>,
    alpn: Option<&'a [u8]>,
    /// Bytes of the message behind it.
    behind_alpn: usize,
    supported_versions: Option<&'a [u8]>,
}

pub(super) fn parse(message: Cow<'_, [u8]>) -> Result<ClientHello<'_>, Malformed> {
    let (legacy_version, extensions) = fields(&message).ok_or(Malformed::Length)?;
    if legacy_version.0 >> 8 != 3 {
        return Err(Malformed::Version);
    }
    let extensions = Extensions::read(extensions)?;
    let server_name: Option<ServerName> = extensions.server_name.map_or(Ok(None), server_name::parse)?;
    let version = match extensions.supported_versions {
        Some(list) => highest(list)?.unwrap_or(legacy_version),
        // Who offers more than 1.2 says so in the extension; the old place ends there.
        None => legacy_version.min(TlsVersion(0x0303)),
    };
    // The extensions are the end of the message.
    let alpn_end = message.len() - extensions.behind_alpn;
    let alpn_bytes = extensions.alpn.map_or(Ok(0), protocols)?;
    let alpn = alpn_end - alpn_bytes..alpn_end;
    Ok(ClientHello { server_name, version, legacy_version, message, alpn })
}

/// The version and the extensions, which are empty if there are none; `None` if a length is wrong.
fn fields(message: &[u8]) -> Option<(TlsVersion, &[u8])> {
    let mut reader = Reader::new(message);
    let version = TlsVersion(reader.u16()?);
    reader.take(RANDOM_BYTES)?;
    reader.vector8().filter(|session| session.len() <= SESSION_ID_BYTES)?;
    reader.vector16().filter(|suites| !suites.is_empty() && suites.len().is_multiple_of(2))?;
    reader.vector8().filter(|compressions| !compressions.is_empty())?;
    // Before TLS 1.3 a hello may end here.
    let extensions = if reader.is_empty() { &[] } else { reader.vector16()? };
    reader.is_empty().then_some((version, extensions))
}

impl<'a> Extensions<'a> {
    fn read(list: &'a [u8]) -> Result<Self, Malformed> {
        let mut found = Self::default();
        let mut reader = Reader::new(list);
        while !reader.is_empty() {
            let kind = reader.u16().ok_or(Malformed::Length)?;
            let value = reader.vector16().ok_or(Malformed::Length)?;
            let place = match kind {
                SERVER_NAME => &mut found.server_name,
                ALPN => &mut found.alpn,
                SUPPORTED_VERSIONS => &mut found.supported_versions,
                _ => continue,
            };
            if place.replace(value).is_some() {
                return Err(Malformed::Twice);
            }
            if kind == ALPN {
                found.behind_alpn = reader.rest().len();
            }
        }
        Ok(found)
    }
}

/// The highest version of a list that belongs to TLS: drafts and GREASE (RFC 8701) do not.
fn highest(extension: &[u8]) -> Result<Option<TlsVersion>, Malformed> {
    let mut reader = Reader::new(extension);
    let list = reader.vector8().filter(|list| reader.is_empty() && !list.is_empty() && list.len().is_multiple_of(2));
    let versions = list.ok_or(Malformed::Length)?.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    Ok(versions.filter(|version| version >> 8 == 3).max().map(TlsVersion))
}

/// The length of the list of protocols that ends an ALPN extension, once it is checked.
fn protocols(extension: &[u8]) -> Result<usize, Malformed> {
    let mut reader = Reader::new(extension);
    let list = reader.vector16().filter(|_| reader.is_empty()).ok_or(Malformed::Length)?;
    if list.is_empty() {
        return Err(Malformed::Alpn);
    }
    let mut names = Reader::new(list);
    while !names.is_empty() {
        if names.vector8().ok_or(Malformed::Length)?.is_empty() {
            return Err(Malformed::Alpn);
        }
    }
    Ok(list.len())
}
