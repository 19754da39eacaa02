//! Certificates with their keys: loaded, checked against each other and the calendar.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::extensions::GeneralName;

use super::{pem, provider};
use crate::config::plan::KeyPair;
use crate::control::prepare::Problem;
use crate::tls::certificates::{Certificate, Facts};

/// So long before a certificate ends arus begins to say so.
pub(super) const NOTICE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Loads a pair.
///
/// # Errors
/// Everything that is wrong with its files.
pub(super) fn load(pair: &KeyPair, warnings: &mut Vec<Problem>) -> Result<Certificate, Vec<Problem>> {
    let (chain, key) = match (pem::certificates(&pair.certificates), pem::key(&pair.key)) {
        (Ok(chain), Ok((key, warning))) => {
            warnings.extend(warning);
            (chain, key)
        }
        (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
    };
    let certificate = join(chain, key).map_err(|wrong| {
        let file = if wrong.is_of_key { &pair.key } else { &pair.certificates };
        vec![pem::wrong(file, wrong.what)]
    })?;
    if let Some(warning) = expiry(&certificate.facts, SystemTime::now()) {
        warnings.push(pem::wrong(&pair.certificates, warning));
    }
    Ok(certificate)
}

/// Why a chain and a key are no certificate.
#[derive(Debug)]
pub(super) struct Wrong {
    pub what: String,
    is_of_key: bool,
}

/// Puts a chain and its key together.
pub(super) fn join(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Certificate, Wrong> {
    let facts = chain.first().ok_or_else(|| "has no certificate".to_owned()).and_then(|first| facts(first));
    let facts = facts.map_err(|what| Wrong { what, is_of_key: false })?;
    let of_key = |what: String| Wrong { what, is_of_key: true };
    let key = provider().key_provider.load_private_key(key).map_err(|error| match error {
        Error::General(why) => of_key(format!("has a key that cannot be used: {why}")),
        error => of_key(format!("has a key that cannot be used: {error}")),
    })?;
    let key = CertifiedKey::new(chain, key);
    match key.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Certificate { key: Arc::new(key), facts: Arc::new(facts) }),
        Err(Error::InconsistentKeys(_)) => Err(of_key(
            "has a key that is not the certificate's (of several certificates in its file the server's own comes first)".into(),
        )),
        Err(error) => Err(Wrong { what: format!("has a certificate that cannot be used: {error}"), is_of_key: false }),
    }
}

/// What a certificate says of itself.
fn facts(certificate: &CertificateDer<'_>) -> Result<Facts, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| "has a certificate that is not one (X.509)".to_owned())?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|extension| &extension.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) if name.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Some(name.to_ascii_lowercase())
        }
        GeneralName::IPAddress(bytes) => match **bytes {
            [a, b, c, d] => Some(IpAddr::from([a, b, c, d]).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    });
    Ok(Facts {
        names: names.collect(),
        subject: parsed.subject().to_string().escape_debug().to_string(),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
    })
}

/// Why a certificate that is to sign others cannot. One that is signed by itself stands for itself.
pub(super) fn no_authority(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    (!parsed.is_ca() && subject != parsed.issuer())
        .then(|| format!("has a certificate ({}) that is no authority", subject.to_string().escape_debug()))
}

/// Why a certificate is, or soon will be, of no use.
pub(super) fn expiry(facts: &Facts, now: SystemTime) -> Option<String> {
    let now = seconds(now);
    let Facts { subject, not_before, not_after, .. } = facts;
    if now < *not_before {
        return Some(format!("has a certificate ({subject}) that is not valid before {}", date(*not_before)));
    }
    if now > *not_after {
        return Some(format!("has a certificate ({subject}) that expired on {}", date(*not_after)));
    }
    let left = left(facts, now);
    let days = left.as_secs() / (24 * 60 * 60);
    (left < NOTICE)
        .then(|| format!("has a certificate ({subject}) that expires in {days} days, on {}", date(*not_after)))
}

/// Seconds since 1970 as a date, RFC 3339.
pub(in crate::control) fn date(seconds: i64) -> String {
    // The last second that humantime can write.
    const LAST: u64 = 253_402_300_799;
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(LAST));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

/// How long a certificate is good for.
pub(super) fn left(facts: &Facts, now: i64) -> Duration {
    Duration::from_secs(u64::try_from(facts.not_after.saturating_sub(now)).unwrap_or(0))
}

pub(super) fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(0)
}
