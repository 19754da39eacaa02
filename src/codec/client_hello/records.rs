//! From TLS records to the one handshake message that they carry.

use std::borrow::Cow;

use super::Malformed;
use crate::codec::Parsed;
use crate::limits;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Every TLS, and SSL 3, says 3 in the first byte of a record's version; the second one is not to be relied on.
const MAJOR: u8 = 3;
const RECORD_HEADER_BYTES: usize = 5;
/// Of plaintext (RFC 8446 section 5.1).
const RECORD_BYTES: usize = 1 << 14;
/// Type and length of a handshake message.
const MESSAGE_HEADER_BYTES: usize = 4;

/// The ClientHello without its own header, and the bytes that it took; copied only if it came in several records.
///
/// Going through the records again on each call costs a step for each of them; nothing is copied before all are there.
pub(super) fn message(bytes: &[u8]) -> Parsed<Cow<'_, [u8]>, Malformed> {
    let is_all = bytes.len() >= limits::CLIENT_HELLO_WIRE_BYTES;
    let bytes = &bytes[..bytes.len().min(limits::CLIENT_HELLO_WIRE_BYTES)];
    let more = if is_all { Err(Malformed::TooLong) } else { Ok(None) };

    let mut header = Header::default();
    let mut begin = 0;
    loop {
        let Some((payload, length)) = record(bytes, begin)? else { return more };
        let length_before = header.seen;
        header.read(payload)?;
        if let Some(whole) = header.message_bytes()?.filter(|whole| header.seen >= *whole) {
            let used = begin + RECORD_HEADER_BYTES + (whole - length_before);
            let message = if begin == 0 { Cow::Borrowed(&payload[..whole]) } else { Cow::Owned(join(bytes, whole)) };
            return Ok(Some((without_header(message), used)));
        }
        if payload.len() < length {
            return more;
        }
        begin += RECORD_HEADER_BYTES + length;
    }
}

/// What there is of the payload of the record that begins at `begin`, and its length when whole.
fn record(bytes: &[u8], begin: usize) -> Result<Option<(&[u8], usize)>, Malformed> {
    let record = &bytes[begin..];
    match record {
        [kind, ..] if *kind != HANDSHAKE => Err(if begin == 0 { Malformed::NotTls } else { Malformed::Interrupted }),
        [_, major, ..] if *major != MAJOR => Err(Malformed::NotTls),
        [_, _, _, high, low, payload @ ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            // RFC 8446 forbids empty ones of this kind; somebody could send them for ever.
            if length == 0 || length > RECORD_BYTES {
                return Err(Malformed::RecordLength);
            }
            Ok(Some((&payload[..payload.len().min(length)], length)))
        }
        _ => Ok(None),
    }
}

/// The header of the handshake message, which may lie in several records itself.
#[derive(Default)]
struct Header {
    bytes: [u8; MESSAGE_HEADER_BYTES],
    /// Bytes of the message, header and all, that the records so far carry.
    seen: usize,
}

impl Header {
    fn read(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        if let Some(missing) = self.bytes.get_mut(self.seen..) {
            missing.iter_mut().zip(payload).for_each(|(place, byte)| *place = *byte);
        }
        self.seen += payload.len();
        if self.seen > 0 && self.bytes[0] != CLIENT_HELLO {
            return Err(Malformed::NotClientHello);
        }
        Ok(())
    }

    /// Length of the message with its header, once known.
    fn message_bytes(&self) -> Result<Option<usize>, Malformed> {
        if self.seen < MESSAGE_HEADER_BYTES {
            return Ok(None);
        }
        let [_, high, middle, low] = self.bytes;
        let whole = MESSAGE_HEADER_BYTES + u32::from_be_bytes([0, high, middle, low]) as usize;
        if whole > limits::CLIENT_HELLO_BYTES { Err(Malformed::TooLong) } else { Ok(Some(whole)) }
    }
}

/// The first `whole` bytes that the records carry, which are there.
fn join(bytes: &[u8], whole: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(whole);
    let mut begin = 0;
    while message.len() < whole {
        let Ok(Some((payload, length))) = record(bytes, begin) else { break };
        message.extend_from_slice(&payload[..payload.len().min(whole - message.len())]);
        begin += RECORD_HEADER_BYTES + length;
    }
    message
}

fn without_header(message: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    match message {
        Cow::Borrowed(message) => Cow::Borrowed(&message[MESSAGE_HEADER_BYTES..]),
        Cow::Owned(mut message) => {
            message.drain(..MESSAGE_HEADER_BYTES);
            Cow::Owned(message)
        }
    }
}
