//! Opening: TLS records in, plaintext out, in the shard's own buffers.
//!
//! A record that fills a receive buffer alone is opened where it lies. One that shares its buffer is opened into a
//! private buffer, and one that is spread over several is put together there first.

use std::rc::Rc;

use super::control::Control;
use super::keys::Keys;
use super::{Alert, Flaw, HEADER, KIND_ALERT, KIND_CHANGE_CIPHER, KIND_DATA, KIND_HANDSHAKE, Turn};
use crate::limits::TLS_IDLE_RECORDS;
use crate::ring::{Buffer, Buffers, Chain, PRIVATE_BUFFER};
use crate::types::Reason;

/// Bytes behind the header of a record; no cipher of ours adds as many as RFC 8446 section 5.2 allows.
const RECORD_MAX: usize = 16 * 1024 + 256;
const HANDSHAKE_HEADER: usize = 4;
/// Bytes of a message after the handshake: a session ticket with its extensions, a key update.
const POST_HANDSHAKE: usize = 16 * 1024;

const _: () = assert!(HEADER + RECORD_MAX <= PRIVATE_BUFFER);

const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;
const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// The receiving direction of a TLS connection.
pub struct Opener {
    keys: Keys,
    control: Rc<Control>,
    /// The beginning of a record whose rest is awaited, where buffers are scarce.
    stash: Vec<u8>,
    /// A message after the handshake of which a part has come.
    message: Vec<u8>,
    /// Records in a row that brought no payload.
    idle: u32,
    /// close_notify has come: what follows is not looked at.
    ended: bool,
}

impl Opener {
    pub(super) fn new(keys: Keys, control: Rc<Control>) -> Self {
        Self { keys, control, stash: Vec::new(), message: Vec::new(), idle: 0, ended: false }
    }

    /// Opens what has come in full, as far as there is `room`. `ended` says that nothing comes after the inbox.
    pub fn run(&mut self, pool: &Buffers, inbox: &mut Chain, ended: bool, outbox: &mut Chain, room: usize) -> Turn {
        let most = outbox.len() + room;
        if !inbox.is_empty() && !self.unstash(pool, inbox) {
            return Turn::NoBuffer;
        }
        while !self.ended {
            let Some(len) = (match next_record(pool, inbox) {
                Ok(len) => len,
                Err(flaw) => return self.fail(flaw),
            }) else {
                break;
            };
            if outbox.len() >= most {
                return Turn::Full;
            }
            match self.take_record(pool, inbox, len, outbox) {
                Ok(true) => {}
                Ok(false) => return Turn::NoBuffer,
                Err(flaw) => return self.fail(flaw),
            }
        }
        if self.ended {
            pool.release(std::mem::take(inbox));
            return Turn::Ended;
        }
        // RFC 8446 section 6.1: an end without close_notify may be an attacker's.
        if ended {
            return Turn::Broken(Reason::TlsTruncated);
        }
        self.stash(pool, inbox);
        Turn::Wants
    }

    /// Keeps the beginning of a record in memory of its own size, where buffers are scarce: whoever sends one byte of a
    /// record and falls silent holds no buffer.
    fn stash(&mut self, pool: &Buffers, inbox: &mut Chain) {
        if !inbox.is_empty() && pool.is_under_pressure() {
            self.stash.reserve_exact(inbox.len());
            pool.copy_front(inbox, inbox.len(), &mut self.stash);
            pool.release(std::mem::take(inbox));
        }
    }

    /// Puts what was stashed back before what has come; false when there is no buffer for it.
    fn unstash(&mut self, pool: &Buffers, inbox: &mut Chain) -> bool {
        if self.stash.is_empty() {
            return true;
        }
        let Some(mut buffer) = pool.take() else { return false };
        // Less than a record, which fits.
        buffer.extend(&self.stash);
        pool.push_front(inbox, buffer);
        self.stash = Vec::new();
        true
    }

    /// Opens the record of `len` bytes at the front; false when there is no buffer for it, and it stays.
    fn take_record(&mut self, pool: &Buffers, inbox: &mut Chain, len: usize, outbox: &mut Chain) -> Result<bool, Flaw> {
        let front = pool.front(inbox).len();
        let mut buffer = if front == len {
            let Some(mut buffer) = pool.pop(inbox) else { return Ok(false) };
            let (kind, range) = self.keys.open_in_place(buffer.filled_mut())?;
            buffer.truncate(range.end);
            buffer.advance(range.start);
            return self.take(pool, kind, buffer, outbox).map(|()| true);
        } else {
            let Some(buffer) = pool.take() else { return Ok(false) };
            buffer
        };
        if front > len {
            let (kind, plain) = self.keys.open_into(&pool.front(inbox)[..len], buffer.spare())?;
            buffer.commit(plain);
            pool.advance(inbox, len);
            return self.take(pool, kind, buffer, outbox).map(|()| true);
        }
        while buffer.filled().len() < len {
            let wanted = len - buffer.filled().len();
            let piece = pool.front(inbox);
            let taken = buffer.extend(&piece[..wanted.min(piece.len())]);
            pool.advance(inbox, taken);
        }
        let (kind, range) = self.keys.open_in_place(buffer.filled_mut())?;
        buffer.truncate(range.end);
        buffer.advance(range.start);
        self.take(pool, kind, buffer, outbox).map(|()| true)
    }

    /// Takes what a record brought.
    fn take(&mut self, pool: &Buffers, kind: u8, plain: Buffer, outbox: &mut Chain) -> Result<(), Flaw> {
        if kind == KIND_DATA && !plain.filled().is_empty() && self.message.is_empty() {
            self.idle = 0;
            pool.push(outbox, plain);
            return Ok(());
        }
        self.idle += 1;
        if self.idle > TLS_IDLE_RECORDS {
            return Err(Flaw(Alert::UnexpectedMessage));
        }
        match kind {
            KIND_DATA if self.message.is_empty() => Ok(()),
            KIND_ALERT => self.take_alert(plain.filled()),
            KIND_HANDSHAKE => self.take_messages(plain.filled()),
            // A change_cipher_spec belongs to the handshake, and so does everything else.
            _ => Err(Flaw(Alert::UnexpectedMessage)),
        }
    }

    fn take_alert(&mut self, alert: &[u8]) -> Result<(), Flaw> {
        match *alert {
            [_, CLOSE_NOTIFY] => {
                self.ended = true;
                Ok(())
            }
            // Says that a close_notify follows; the idle count bounds such warnings.
            [_, USER_CANCELED] => Ok(()),
            // Warnings of TLS 1.2, as no_renegotiation, mean nothing to us; the idle count bounds them too.
            [1, _] if !self.control.is_tls13() => Ok(()),
            [_, _] => Err(Flaw(Alert::Received)),
            _ => Err(Flaw(Alert::DecodeError)),
        }
    }

    /// Messages after the handshake (RFC 8446 section 4.6), which may be cut over records.
    fn take_messages(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        if self.message.len() + bytes.len() > POST_HANDSHAKE + HANDSHAKE_HEADER {
            return Err(Flaw(Alert::DecodeError));
        }
        self.message.extend_from_slice(bytes);
        while let [kind, a, b, c, ..] = self.message[..] {
            let len = HANDSHAKE_HEADER + u32::from_be_bytes([0, a, b, c]) as usize;
            if len > POST_HANDSHAKE + HANDSHAKE_HEADER {
                return Err(Flaw(Alert::DecodeError));
            }
            if self.message.len() < len {
                break;
            }
            let rest = self.message.split_off(len);
            let message = std::mem::replace(&mut self.message, rest);
            self.take_message(kind, &message[HANDSHAKE_HEADER..])?;
        }
        Ok(())
    }

    fn take_message(&mut self, kind: u8, body: &[u8]) -> Result<(), Flaw> {
        match (self.control.is_tls13(), kind) {
            (true, KEY_UPDATE) => {
                // The message must end its record, as the next one is sealed with the new key.
                let asked = match *body {
                    _ if !self.message.is_empty() => return Err(Flaw(Alert::UnexpectedMessage)),
                    [asked @ (0 | 1)] => asked,
                    _ => return Err(Flaw(Alert::IllegalParameter)),
                };
                self.keys = self.control.next_receive_keys()?;
                if asked == 1 {
                    self.control.owe_key_update();
                }
                Ok(())
            }
            (true, NEW_SESSION_TICKET) => self.control.take_ticket(body),
            // Renegotiation is refused (RFC 5746 section 4.5 lets us).
            (false, HELLO_REQUEST | CLIENT_HELLO) => {
                self.control.owe_no_renegotiation();
                Ok(())
            }
            _ => Err(Flaw(Alert::UnexpectedMessage)),
        }
    }

    fn fail(&self, flaw: Flaw) -> Turn {
        self.control.owe_alert(flaw.0);
        Turn::Broken(if flaw.0 == Alert::Received { Reason::TlsAlert } else { Reason::TlsRecord })
    }
}

/// Bytes of the record at the front with its header, where all of it has come.
fn next_record(pool: &Buffers, inbox: &Chain) -> Result<Option<usize>, Flaw> {
    let Some(header) = header(pool, inbox) else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if !(KIND_CHANGE_CIPHER..=KIND_DATA).contains(&header[0]) || header[1] != 3 {
        return Err(Flaw(Alert::UnexpectedMessage));
    }
    if len > RECORD_MAX {
        return Err(Flaw(Alert::RecordOverflow));
    }
    Ok((inbox.len() >= HEADER + len).then_some(HEADER + len))
}

/// The first bytes of what has come.
pub(super) fn header(pool: &Buffers, inbox: &Chain) -> Option<[u8; HEADER]> {
    if inbox.len() < HEADER {
        return None;
    }
    if let Some(header) = pool.front(inbox).first_chunk() {
        return Some(*header);
    }
    let mut header = [0; HEADER];
    pool.copy_front_into(inbox, &mut header);
    Some(header)
}
