//! Keys of one direction of a TLS connection: how a record is sealed and opened (RFC 8446 section 5, RFC 5246 section
//! 6.2.3.3, RFC 5288, RFC 7905).

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};

use super::{Alert, Flaw, HEADER, KIND_DATA, TAG};

/// Bytes of the explicit part of a nonce in TLS 1.2 with GCM.
const EXPLICIT: usize = 8;
const NONCE: usize = 12;
/// Records that one GCM key may seal or open: 2^24.5 is the bound for full-sized records (RFC 8446 section 5.5).
const GCM_RECORDS: u64 = 1 << 24;

/// How records look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The kind of a record is sealed with it, behind its bytes.
    Tls13,
    /// Each record begins with a part of its nonce.
    Tls12Gcm,
    Tls12ChaCha,
}

/// The key of one direction, and the number of its next record.
pub(super) struct Keys {
    key: LessSafeKey,
    iv: [u8; NONCE],
    sequence: u64,
    form: Form,
    /// Records until the key is worn out.
    records: u64,
}

impl Keys {
    /// # Errors
    /// For a cipher that arus has no AEAD for, which it never offers.
    pub(super) fn new(
        secrets: &ConnectionTrafficSecrets,
        sequence: u64,
        version: ProtocolVersion,
    ) -> Result<Self, Flaw> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Flaw(Alert::InternalError)),
        };
        let is_gcm = !matches!(secrets, ConnectionTrafficSecrets::Chacha20Poly1305 { .. });
        let form = match (version, is_gcm) {
            (ProtocolVersion::TLSv1_3, _) => Form::Tls13,
            (_, true) => Form::Tls12Gcm,
            (_, false) => Form::Tls12ChaCha,
        };
        let unbound = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Flaw(Alert::InternalError))?;
        let iv = iv.as_ref().try_into().map_err(|_| Flaw(Alert::InternalError))?;
        let records = if is_gcm { GCM_RECORDS } else { u64::MAX };
        Ok(Self { key: LessSafeKey::new(unbound), iv, sequence, form, records })
    }

    /// Whether the key has sealed so much that it should be replaced.
    pub(super) fn is_worn(&self) -> bool {
        self.sequence >= self.records
    }

    /// Where in a sealed record of `len` bytes behind its header the ciphertext lies, without the tag.
    ///
    /// # Errors
    /// When it is too short to hold anything.
    fn ciphertext(&self, len: usize) -> Result<std::ops::Range<usize>, Flaw> {
        let start = if self.form == Form::Tls12Gcm { EXPLICIT } else { 0 };
        let kind = usize::from(self.form == Form::Tls13);
        match len.checked_sub(TAG) {
            Some(end) if end >= start + kind => Ok(start..end),
            _ => Err(Flaw(Alert::DecodeError)),
        }
    }

    /// Opens a record in place: `record` begins with its header. Gives its kind and where in it the plaintext lies.
    ///
    /// # Errors
    /// When it was not sealed with this key, or is malformed.
    pub(super) fn open_in_place(&mut self, record: &mut [u8]) -> Result<(u8, std::ops::Range<usize>), Flaw> {
        let (header, sealed) = record.split_at_mut(HEADER);
        let range = self.ciphertext(sealed.len())?;
        let (nonce, aad, aad_len) = self.opening(header, &sealed[..range.start], range.len());
        self.key
            .open_in_place(nonce, Aad::from(&aad[..aad_len]), &mut sealed[range.start..])
            .map_err(|_| Flaw(Alert::BadRecordMac))?;
        self.sequence += 1;
        let (kind, len) = self.unwrap(header[0], &sealed[range.clone()])?;
        let start = HEADER + range.start;
        Ok((kind, start..start + len))
    }

    /// Opens a record into other memory, at least as long as the record. Gives its kind and the bytes of plaintext.
    ///
    /// # Errors
    /// As [`Keys::open_in_place`].
    pub(super) fn open_into(&mut self, record: &[u8], out: &mut [u8]) -> Result<(u8, usize), Flaw> {
        let (header, sealed) = record.split_at(HEADER);
        let range = self.ciphertext(sealed.len())?;
        let (nonce, aad, aad_len) = self.opening(header, &sealed[..range.start], range.len());
        let out = out.get_mut(..range.len()).ok_or(Flaw(Alert::RecordOverflow))?;
        self.key
            .open_separate_gather(nonce, Aad::from(&aad[..aad_len]), &sealed[range.clone()], &sealed[range.end..], out)
            .map_err(|_| Flaw(Alert::BadRecordMac))?;
        self.sequence += 1;
        self.unwrap(header[0], out)
    }

    /// Nonce and additional data of the next record to be opened.
    fn opening(&self, header: &[u8], explicit: &[u8], len: usize) -> (Nonce, [u8; 13], usize) {
        let mut nonce = self.iv;
        match self.form {
            Form::Tls12Gcm => nonce[NONCE - EXPLICIT..].copy_from_slice(explicit),
            Form::Tls13 | Form::Tls12ChaCha => nonce = self.nonce(),
        }
        let (aad, aad_len) = self.additional(header[0], header, len);
        (Nonce::assume_unique_for_key(nonce), aad, aad_len)
    }

    /// The inner kind and length of opened bytes.
    fn unwrap(&self, outer: u8, plain: &[u8]) -> Result<(u8, usize), Flaw> {
        if self.form != Form::Tls13 {
            return Ok((outer, plain.len()));
        }
        // RFC 8446 section 5.4: zeros behind the kind are padding; without a kind the record is malformed.
        match plain.iter().rposition(|byte| *byte != 0) {
            Some(at) => Ok((plain[at], at)),
            None => Err(Flaw(Alert::UnexpectedMessage)),
        }
    }

    /// Bytes that sealing `len` bytes makes, with header.
    pub(super) fn sealed_len(&self, len: usize) -> usize {
        let explicit = if self.form == Form::Tls12Gcm { EXPLICIT } else { 0 };
        HEADER + explicit + len + usize::from(self.form == Form::Tls13) + TAG
    }

    /// Seals `plain` as one record of a kind at the front of `out`; gives its length.
    ///
    /// # Errors
    /// When `out` is too small.
    pub(super) fn seal_into(&mut self, kind: u8, plain: &[u8], out: &mut [u8]) -> Result<usize, Flaw> {
        let total = self.sealed_len(plain.len());
        let record = out.get_mut(..total).ok_or(Flaw(Alert::InternalError))?;
        let (header, sealed) = record.split_at_mut(HEADER);
        let nonce = self.nonce();
        let is_13 = self.form == Form::Tls13;
        let len = (total - HEADER) as u16;
        header.copy_from_slice(&[if is_13 { KIND_DATA } else { kind }, 3, 3, (len >> 8) as u8, len as u8]);
        let (aad, aad_len) = self.additional(kind, header, plain.len());
        let sealed = match self.form {
            Form::Tls12Gcm => {
                let (explicit, sealed) = sealed.split_at_mut(EXPLICIT);
                explicit.copy_from_slice(&nonce[NONCE - EXPLICIT..]);
                sealed
            }
            Form::Tls13 | Form::Tls12ChaCha => sealed,
        };
        let (ciphertext, rest) = sealed.split_at_mut(plain.len());
        let kind = [kind];
        let extra = if is_13 { &kind[..] } else { &[] };
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_out_of_place_scatter(nonce, Aad::from(&aad[..aad_len]), plain, ciphertext, extra, rest)
            .map_err(|_| Flaw(Alert::InternalError))?;
        self.sequence += 1;
        Ok(total)
    }

    /// The nonce of the next record: the IV with the sequence number laid over its end.
    fn nonce(&self) -> [u8; NONCE] {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }

    /// TLS 1.3: the header. TLS 1.2: the sequence number, and the header with the plaintext's length.
    fn additional(&self, kind: u8, header: &[u8], len: usize) -> ([u8; 13], usize) {
        let mut aad = [0; 13];
        if self.form == Form::Tls13 {
            aad[..HEADER].copy_from_slice(header);
            return (aad, HEADER);
        }
        aad[..8].copy_from_slice(&self.sequence.to_be_bytes());
        aad[8..].copy_from_slice(&[kind, 3, 3, (len >> 8) as u8, len as u8]);
        (aad, 13)
    }
}
