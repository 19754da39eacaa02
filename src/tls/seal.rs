//! Sealing: plaintext in, TLS records out, in the shard's own buffers.

use std::rc::Rc;

use super::control::{Control, Owed};
use super::keys::Keys;
use super::{Alert, Flaw, HEADER, KIND_ALERT, KIND_DATA, KIND_HANDSHAKE, Turn};
use crate::ring::{Buffers, Chain, PRIVATE_BUFFER};
use crate::types::Reason;

/// Most bytes of plaintext in one record (RFC 8446 section 5.1).
const PLAIN_MAX: usize = 16 * 1024;
/// Pieces smaller than this are put together where there are several: a record costs more than a copy of so much.
const GATHER: usize = 4 * 1024;
/// More than any cipher adds to a record.
const OVERHEAD: usize = 64;

const _: () = assert!(PLAIN_MAX + HEADER + OVERHEAD <= PRIVATE_BUFFER);

/// The sending direction of a TLS connection.
pub struct Sealer {
    keys: Keys,
    control: Rc<Control>,
    /// The other side was told that nothing more will come.
    ended: bool,
    /// Bytes of payload that were sealed since they were last asked for.
    payload: usize,
}

impl Sealer {
    pub(super) fn new(keys: Keys, control: Rc<Control>) -> Self {
        Self { keys, control, ended: false, payload: 0 }
    }

    /// Seals what is in the inbox, as far as there is `room`. `ended` says that nothing comes after it: then
    /// close_notify is the last record.
    pub fn run(&mut self, pool: &Buffers, inbox: &mut Chain, ended: bool, outbox: &mut Chain, room: usize) -> Turn {
        let most = outbox.len() + room;
        loop {
            if self.ended {
                pool.release(std::mem::take(inbox));
                return Turn::Ended;
            }
            let sealed = match self.pay_debts(pool, outbox) {
                Ok(true) if inbox.is_empty() && ended => self.say_goodbye(pool, outbox),
                Ok(true) if inbox.is_empty() => return Turn::Wants,
                Ok(true) if outbox.len() >= most => return Turn::Full,
                Ok(true) => self.seal_front(pool, inbox, outbox),
                other => other,
            };
            match sealed {
                Ok(true) => {}
                Ok(false) => return Turn::NoBuffer,
                Err(_) => return Turn::Broken(Reason::TlsRecord),
            }
        }
    }

    /// Tells the other side that nothing more will come, or why; false when there is no buffer for it.
    pub fn finish(&mut self, pool: &Buffers, outbox: &mut Chain) -> bool {
        if self.ended {
            return true;
        }
        matches!(self.pay_debts(pool, outbox), Ok(true)) && (self.ended || self.say_goodbye(pool, outbox) == Ok(true))
    }

    /// Whether it has something to tell the other side.
    #[must_use]
    pub fn owes(&self) -> bool {
        !self.ended && self.control.owes()
    }

    /// Bytes of payload sealed since the last call.
    pub fn take_payload(&mut self) -> usize {
        std::mem::take(&mut self.payload)
    }

    /// False when there is no buffer.
    fn seal_front(&mut self, pool: &Buffers, inbox: &mut Chain, outbox: &mut Chain) -> Result<bool, Flaw> {
        if self.keys.is_worn() {
            if !self.control.is_tls13() {
                return Err(Flaw(Alert::InternalError));
            }
            self.control.owe_key_update();
            return self.pay_debts(pool, outbox);
        }
        let front = pool.front(inbox);
        if front.len() < GATHER && inbox.count() > 1 {
            let Some(mut gathered) = pool.take() else { return Ok(false) };
            let len = pool.copy_front_into(inbox, &mut gathered.spare()[..PLAIN_MAX]);
            gathered.commit(len);
            let sealed = self.push(KIND_DATA, gathered.filled(), pool, outbox)?;
            return Ok(self.done(sealed, pool, inbox, len));
        }
        let plain = &front[..front.len().min(PLAIN_MAX)];
        let len = plain.len();
        let sealed = self.push(KIND_DATA, plain, pool, outbox)?;
        Ok(self.done(sealed, pool, inbox, len))
    }

    fn done(&mut self, sealed: bool, pool: &Buffers, inbox: &mut Chain, len: usize) -> bool {
        if sealed {
            pool.advance(inbox, len);
            self.payload += len;
        }
        sealed
    }

    /// Sends what the receiving direction wants to be said; false when there is no buffer, and it stays owed.
    fn pay_debts(&mut self, pool: &Buffers, outbox: &mut Chain) -> Result<bool, Flaw> {
        while let Some(owed) = self.control.owed() {
            let pushed = match owed {
                Owed::Alert(alert) => self.push(KIND_ALERT, &[2, alert as u8], pool, outbox)?,
                Owed::NoRenegotiation => self.push(KIND_ALERT, &[1, 100], pool, outbox)?,
                // key_update, 1 byte: update_not_requested (RFC 8446 section 4.6.3).
                Owed::KeyUpdate => self.push(KIND_HANDSHAKE, &[24, 0, 0, 1, 0], pool, outbox)?,
            };
            if !pushed {
                return Ok(false);
            }
            self.control.paid(owed);
            match owed {
                Owed::Alert(_) => {
                    self.ended = true;
                    return Ok(true);
                }
                Owed::KeyUpdate => self.keys = self.control.next_send_keys()?,
                Owed::NoRenegotiation => {}
            }
        }
        Ok(true)
    }

    fn say_goodbye(&mut self, pool: &Buffers, outbox: &mut Chain) -> Result<bool, Flaw> {
        // A warning with close_notify (RFC 8446 section 6.1).
        self.ended = self.push(KIND_ALERT, &[1, 0], pool, outbox)?;
        Ok(self.ended)
    }

    /// Seals one record into a buffer of its own; false when there is none.
    fn push(&mut self, kind: u8, plain: &[u8], pool: &Buffers, outbox: &mut Chain) -> Result<bool, Flaw> {
        let Some(mut buffer) = pool.take() else { return Ok(false) };
        let len = self.keys.seal_into(kind, plain, buffer.spare())?;
        buffer.commit(len);
        pool.push(outbox, buffer);
        Ok(true)
    }
}
