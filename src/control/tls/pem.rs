//! PEM files: certificates, keys, authorities.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::problem;
use crate::config::plan::File;
use crate::control::prepare::Problem;
use crate::limits;

/// The certificates of a file, at least one.
pub(super) fn certificates(file: &File) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let text = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(wrong(file, "has no certificate (a PEM file begins with -----BEGIN CERTIFICATE-----)"))
        }
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(file, torn(&error))),
    }
}

/// A key, and a warning where others than its owner could read it.
pub(super) fn key(file: &File) -> Result<(PrivateKeyDer<'static>, Option<Problem>), Problem> {
    const OTHERS_READ: u32 = 0o004;
    let text = read(file)?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound if contains(&text, b"ENCRYPTED PRIVATE KEY") => {
            wrong(file, "has a key that needs a password (openssl pkey writes it without one)")
        }
        pem::Error::NoItemsFound => wrong(file, "has no private key"),
        error => wrong(file, torn(&error)),
    })?;
    let mode = fs::metadata(&file.path).map_or(0, |metadata| metadata.mode());
    let is_open = mode & OTHERS_READ != 0;
    Ok((
        key,
        is_open.then(|| {
            wrong(file, format!("has a private key and mode {:o}: everybody may read it (chmod o-r)", mode & 0o777))
        }),
    ))
}

/// The authorities of a file, with what a change of them would change.
pub(super) fn authorities(file: &File) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), Problem> {
    let certificates = certificates(file)?;
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates.iter().enumerate() {
        roots.add(certificate.clone()).map_err(|error| {
            wrong(file, format!("has a certificate, number {}, that cannot be an authority: {error}", index + 1))
        })?;
    }
    Ok((roots, certificates))
}

pub(super) fn wrong(file: &File, what: impl std::fmt::Display) -> Problem {
    problem(file.at, format!("{} {what}", file.path.display().to_string().escape_debug()))
}

fn torn(error: &pem::Error) -> String {
    let what = match error {
        pem::Error::MissingSectionEnd { .. } => "a part without its -----END line",
        pem::Error::IllegalSectionStart { .. } => "a -----BEGIN line that is not one",
        pem::Error::Base64Decode(_) => "a part that is not base64",
        _ => "a part that cannot be read",
    };
    format!("is torn: it has {what}")
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn read(file: &File) -> Result<Vec<u8>, Problem> {
    let unreadable = |error: std::io::Error| wrong(file, format_args!("cannot be read: {error}"));
    // Opening a pipe would wait for somebody who writes to it.
    if !fs::metadata(&file.path).map_err(unreadable)?.is_file() {
        return Err(wrong(file, "is not a file"));
    }
    let mut text = Vec::new();
    let opened = fs::File::open(&file.path).map_err(unreadable)?;
    opened.take(limits::PEM_BYTES + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > limits::PEM_BYTES {
        return Err(wrong(file, format_args!("is larger than {}", bytesize::ByteSize(limits::PEM_BYTES))));
    }
    Ok(text)
}
