//! The TLVs of version 2: type, length of two bytes, value; some hold TLVs of their own.

use super::Malformed;
use crate::codec::reader::Reader;
use crate::limits;

pub(super) const ALPN: u8 = 0x01;
pub(super) const AUTHORITY: u8 = 0x02;
pub(super) const CRC32C: u8 = 0x03;
pub(super) const UNIQUE_ID: u8 = 0x05;
pub(super) const SSL: u8 = 0x20;
pub(super) const SSL_VERSION: u8 = 0x21;
pub(super) const SSL_CN: u8 = 0x22;
pub(super) const SSL_CIPHER: u8 = 0x23;
pub(super) const SSL_SIG_ALG: u8 = 0x24;
pub(super) const SSL_KEY_ALG: u8 = 0x25;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tlv<'a> {
    pub kind: u8,
    pub value: &'a [u8],
}

/// TLVs in the order of the header, every length of them checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tlvs<'a> {
    rest: &'a [u8],
}

impl<'a> Tlvs<'a> {
    pub(super) const EMPTY: Self = Self { rest: &[] };

    /// Refuses a TLV that is torn, here or within SSL, or whose value cannot be what its type says.
    pub(super) fn checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let tlvs = Self::whole(bytes)?;
        for tlv in tlvs {
            match tlv.kind {
                UNIQUE_ID if tlv.value.len() > limits::UNIQUE_ID_BYTES => return Err(Malformed::UniqueId),
                SSL => _ = Ssl::parse(tlv.value).ok_or(Malformed::TornTlv)?,
                _ => {}
            }
        }
        Ok(tlvs)
    }

    fn whole(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut tlvs = Self { rest: bytes };
        while tlvs.next().is_some() {}
        if tlvs.rest.is_empty() { Ok(Self { rest: bytes }) } else { Err(Malformed::TornTlv) }
    }

    /// What arus knows how to read of them. Of a type that comes twice the first counts.
    #[must_use]
    pub fn facts(self) -> Facts<'a> {
        let mut facts = Facts::default();
        for tlv in self {
            match tlv.kind {
                ALPN => _ = facts.alpn.get_or_insert(tlv.value),
                AUTHORITY => _ = facts.authority.get_or_insert(tlv.value),
                UNIQUE_ID => _ = facts.unique_id.get_or_insert(tlv.value),
                SSL => facts.ssl = facts.ssl.or_else(|| Ssl::parse(tlv.value)),
                _ => {}
            }
        }
        facts
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Tlv<'a>;

    fn next(&mut self) -> Option<Tlv<'a>> {
        let mut reader = Reader::new(self.rest);
        let tlv = Tlv { kind: reader.u8()?, value: reader.vector16()? };
        self.rest = reader.rest();
        Some(tlv)
    }
}

/// What a header says of a connection beside its addresses; the same for reading and writing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The application protocol that was agreed on, as in TLS: `h2`.
    pub alpn: Option<&'a [u8]>,
    /// The host name that the client asked for; with TLS, its SNI.
    pub authority: Option<&'a [u8]>,
    /// At most 128 bytes.
    pub unique_id: Option<&'a [u8]>,
    pub ssl: Option<Ssl<'a>>,
}

/// How the client's TLS stands. Who sets [`Ssl::CLIENT_SSL`] gives the version too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ssl<'a> {
    /// Bits of [`Ssl::CLIENT_SSL`], [`Ssl::CLIENT_CERT_CONN`] and [`Ssl::CLIENT_CERT_SESS`].
    pub client: u8,
    /// 0 when the client presented a certificate that was verified.
    pub verify: u32,
    pub version: Option<&'a [u8]>,
    /// Common name of the client's certificate.
    pub cn: Option<&'a [u8]>,
    pub cipher: Option<&'a [u8]>,
    /// What signed the server's certificate: `RSA-SHA256`.
    pub sig_alg: Option<&'a [u8]>,
    /// The key of the server's certificate: `RSA2048`.
    pub key_alg: Option<&'a [u8]>,
}

impl<'a> Ssl<'a> {
    /// The client came over TLS.
    pub const CLIENT_SSL: u8 = 0x01;
    /// It presented a certificate on this connection.
    pub const CLIENT_CERT_CONN: u8 = 0x02;
    /// It presented one at least once in the TLS session that this connection belongs to.
    pub const CLIENT_CERT_SESS: u8 = 0x04;

    /// Types and values of what is known, in the order in which they are written.
    pub(super) fn fields(&self) -> [(u8, Option<&'a [u8]>); 5] {
        [
            (SSL_VERSION, self.version),
            (SSL_CN, self.cn),
            (SSL_CIPHER, self.cipher),
            (SSL_SIG_ALG, self.sig_alg),
            (SSL_KEY_ALG, self.key_alg),
        ]
    }

    /// `None` when it is torn.
    fn parse(value: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(value);
        let mut ssl = Self { client: reader.u8()?, verify: reader.u32()?, ..Self::default() };
        for tlv in Tlvs::whole(reader.rest()).ok()? {
            let field = match tlv.kind {
                SSL_VERSION => &mut ssl.version,
                SSL_CN => &mut ssl.cn,
                SSL_CIPHER => &mut ssl.cipher,
                SSL_SIG_ALG => &mut ssl.sig_alg,
                SSL_KEY_ALG => &mut ssl.key_alg,
                _ => continue,
            };
            field.get_or_insert(tlv.value);
        }
        Some(ssl)
    }
}

/// Checks the checksum among `tlvs`, which are the end of `header`; most headers have none. Two are refused, as each would
/// have to count as zeros for the other.
pub(super) fn verify_checksum(header: &[u8], tlvs: Tlvs<'_>) -> Result<(), Malformed> {
    let Some((at, given)) = checksum(header, tlvs)? else { return Ok(()) };
    if checksum_with_zeros(header, at) == given { Ok(()) } else { Err(Malformed::Checksum) }
}

/// Where the checksum lies, and its value.
fn checksum(header: &[u8], mut tlvs: Tlvs<'_>) -> Result<Option<(usize, u32)>, Malformed> {
    let mut found = None;
    while let Some(tlv) = tlvs.next() {
        if tlv.kind != CRC32C {
            continue;
        }
        let value = tlv.value.try_into().map_err(|_| Malformed::Checksum)?;
        if found.replace((header.len() - tlvs.rest.len() - 4, u32::from_be_bytes(value))).is_some() {
            return Err(Malformed::Checksum);
        }
    }
    Ok(found)
}

/// The checksum of a header whose four bytes from `at` count as zeros.
pub(super) fn checksum_with_zeros(header: &[u8], at: usize) -> u32 {
    let before = crc32c::crc32c(&header[..at]);
    crc32c::crc32c_append(crc32c::crc32c_append(before, &[0; 4]), &header[at + 4..])
}
