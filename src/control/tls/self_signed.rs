//! Certificates that arus makes for itself, kept in the state directory: a file for each set of names, with the
//! certificate and its key, so that the two are always of one piece.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Store;
use super::identity::{self, join, seconds};
use crate::config::plan::{Identity, Plan};
use crate::tls::certificates::Certificate;
use crate::types::Name;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Browsers take no certificate that is good for longer than 398 days.
const VALID: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// A new one is made when less is left.
pub(super) const RENEWED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The files in which a plan's own certificates are kept.
pub(in crate::control) fn paths(plan: &Plan) -> impl Iterator<Item = PathBuf> {
    plan.listeners.iter().filter_map(|listener| match &listener.tls.as_ref()?.identity {
        Identity::SelfSigned(names) => Some(path(&plan.engine.state_dir, names)),
        Identity::Files(_) => None,
    })
}

/// Where the certificate for a set of names is kept; their order makes no difference.
pub(super) fn path(state_dir: &Path, names: &[Name]) -> PathBuf {
    let mut sorted: Vec<&str> = names.iter().map(|name| &**name).collect();
    sorted.sort_unstable();
    let hash = digest(&SHA256, sorted.join("\n").as_bytes());
    let hash: String = hash.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    state_dir.join(format!("self-signed-{hash}.pem"))
}

/// The certificate for a set of names: the one that is kept while it is good, else a new one.
///
/// # Errors
/// One line, when none can be made or kept.
pub(super) fn obtain(store: Store<'_>, names: &[Name]) -> Result<Certificate, String> {
    let Store::Kept(state_dir) = store else { return parse(make(names)?.as_bytes()) };
    let path = path(state_dir, names);
    // What cannot be read, or ends soon, is made anew.
    let kept = fs::read(&path).ok().and_then(|text| parse(&text).ok());
    if let Some(kept) = kept.filter(|kept| !is_due(kept, SystemTime::now())) {
        return Ok(kept);
    }
    write(&path, make(names)?.as_bytes()).map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    // Another arus may have written one just now: both use what is there.
    let text = fs::read(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    parse(&text).map_err(|wrong| format!("{} {wrong}", path.display()))
}

/// Whether it is time for a new one.
pub(super) fn is_due(certificate: &Certificate, now: SystemTime) -> bool {
    let now = seconds(now);
    identity::left(&certificate.facts, now) < RENEWED || certificate.facts.not_before > now
}

fn parse(text: &[u8]) -> Result<Certificate, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let chain = chain.map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(text).map_err(|error| error.to_string())?;
    join(chain, key).map_err(|wrong| wrong.what)
}

/// Certificate and key, ECDSA on P-256.
fn make(names: &[Name]) -> Result<String, String> {
    let wrong = |error: rcgen::Error| format!("a certificate for {} cannot be made: {error}", names.join(", "));
    let key = KeyPair::generate().map_err(wrong)?;
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names.clone()).map_err(wrong)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, names.first().map_or("arus", String::as_str));
    params.distinguished_name.push(DnType::OrganizationName, "arus self-signed");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    // A day's grace for clients whose clock is slow.
    params.not_before = epoch + now.saturating_sub(DAY);
    params.not_after = epoch + now + VALID;
    let certificate = params.self_signed(&key).map_err(wrong)?;
    Ok(certificate.pem() + &key.serialize_pem())
}

/// Writes a file that only its owner may read, whole or not at all.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut random = [0; 8];
    rand::fill(&mut random).map_err(io::Error::other)?;
    let temporary = path.with_extension(format!("{:016x}.tmp", u64::from_ne_bytes(random)));
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).and_then(|mut file| {
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
