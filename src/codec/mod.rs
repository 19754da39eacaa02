//! Sans-I/O codecs: what a peer says before its bytes are only relayed. They read from slices and write into vectors;
//! who fills and empties those, and how long a peer may take, is not known here.
//!
//! A parser gets everything that was received so far, from the first byte, and is called again when there is more. It
//! decides as early as it can: bytes that cannot become a message are refused at once, and a message is done with its
//! last byte, whatever follows it.

pub mod client_hello;
pub mod proxy_header;
mod reader;
pub mod socks4;
pub mod socks5;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

/// How far a parser has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress<T> {
    /// The message, and how many bytes it took: those behind it belong to whatever comes next.
    Done(T, usize),
    /// Everything so far can still become a message. Never the answer once the codec's limit has been received.
    NeedMore,
    /// No bytes that may follow can make a message of these.
    Bad(Error),
}

impl<T> Progress<T> {
    /// Makes something else of the message.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Progress<U> {
        match self {
            Self::Done(message, used) => Progress::Done(make(message), used),
            Self::NeedMore => Progress::NeedMore,
            Self::Bad(error) => Progress::Bad(error),
        }
    }
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("PROXY header: {0}")]
    ProxyHeader(#[from] proxy_header::Malformed),
    #[error("ClientHello: {0}")]
    ClientHello(#[from] client_hello::Malformed),
    #[error("SOCKS: {0}")]
    Socks5(#[from] socks5::Malformed),
    #[error("SOCKS 4: {0}")]
    Socks4(#[from] socks4::Malformed),
}

/// [`Progress`] within the parsers, where `?` is wanted: `None` asks for more.
type Parsed<T, E> = Result<Option<(T, usize)>, E>;

impl<T, E: Into<Error>> From<Parsed<T, E>> for Progress<T> {
    fn from(parsed: Parsed<T, E>) -> Self {
        match parsed {
            Ok(Some((message, used))) => Self::Done(message, used),
            Ok(None) => Self::NeedMore,
            Err(error) => Self::Bad(error.into()),
        }
    }
}
