//! The ClientHello of TLS, looked at without terminating TLS, to route by the name and the protocols that it asks for.
//!
//! With Encrypted Client Hello it is the outer hello that is seen, with the public name; that is the name to route by.
//! Nothing else of TLS is known here, and nothing is verified: what the backend makes of the same bytes is its business.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use super::Progress;
use super::reader::Reader;

mod body;
mod invariants;
mod records;
mod server_name;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

#[doc(hidden)]
pub use invariants::check as fuzz_invariants;
pub use server_name::ServerName;

/// What a client wants, as far as routing goes.
#[derive(Debug, Clone)]
pub struct ClientHello<'a> {
    /// The host name; absent as well when the client gave an IP address, which RFC 6066 does not permit as a name but
    /// some clients send.
    pub server_name: Option<ServerName>,
    /// The highest version that is offered.
    pub version: TlsVersion,
    /// The version in the hello's old place, 1.2 for every newer one.
    pub legacy_version: TlsVersion,
    /// Borrowed if the hello came in one record, as nearly all do.
    message: Cow<'a, [u8]>,
    /// Where in it the list of protocols lies, checked.
    alpn: Range<usize>,
}

impl ClientHello<'_> {
    /// The protocols that the client offers (ALPN), in its order; none if it does not use ALPN.
    #[must_use]
    pub fn alpn(&self) -> Protocols<'_> {
        Protocols(Reader::new(&self.message[self.alpn.clone()]))
    }
}

/// Names of protocols (RFC 7301), as `h2`.
#[derive(Debug, Clone, Copy)]
pub struct Protocols<'a>(Reader<'a>);

impl<'a> Iterator for Protocols<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.0.vector8()
    }
}

/// A version as it is on the wire: 0x0303 is TLS 1.2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TlsVersion(pub u16);

impl TlsVersion {
    pub const TLS12: Self = Self(0x0303);

    /// Its name, "unknown" for one that is not of TLS or SSL 3.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self.0 {
            0x0300 => "SSLv3",
            0x0301 => "TLSv1.0",
            0x0302 => "TLSv1.1",
            0x0303 => "TLSv1.2",
            0x0304 => "TLSv1.3",
            _ => "unknown",
        }
    }
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl fmt::Debug for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:#06x})", self.label(), self.0)
    }
}

/// Why bytes are no ClientHello that could be routed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Other protocols end here, with their first byte or two; SSL 2 as well.
    #[error("this is not TLS")]
    NotTls,
    #[error("a record of another kind before the ClientHello is whole")]
    Interrupted,
    #[error("a record that is empty or longer than 16384 bytes")]
    RecordLength,
    #[error("the first message is not a ClientHello")]
    NotClientHello,
    #[error("it is longer than 16 KiB, or than 32 KiB with its records")]
    TooLong,
    #[error("a length in it is wrong")]
    Length,
    #[error("its version is not one of TLS")]
    Version,
    #[error("an extension comes twice")]
    Twice,
    #[error("the server name is not a host name")]
    ServerName,
    #[error("the list of protocols is empty, or has an empty one")]
    Alpn,
}

/// Looks for a ClientHello, in any number of records, at the beginning of `bytes`.
///
/// The bytes it used are those up to its end. They are the client's first words to whoever terminates TLS, so a router
/// hands them on with the rest.
#[must_use]
pub fn parse(bytes: &[u8]) -> Progress<ClientHello<'_>> {
    let parsed = records::message(bytes).and_then(|message| {
        let Some((message, used)) = message else { return Ok(None) };
        Ok(Some((body::parse(message)?, used)))
    });
    parsed.into()
}
