//! `[listener.tls]` and `[upstream.tls]`. Files are only named here; `control::tls` loads them.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use toml::Spanned;

use super::super::address;
use super::super::error::{Report, Wrong, quote};
use super::super::plan::{
    Address, Backend, ClientAuth, File, Identity, KeyPair, TlsIn, TlsOut, TlsVersion, UnknownSni,
};
use super::super::raw;
use super::super::read::{Head, List, Text};
use super::{required, word};
use crate::limits;
use crate::types::{Endpoint, Name};

pub(super) fn listener_tls(raw: &raw::TlsIn<'_>, base: &Path, report: &mut Report<'_>) -> Option<TlsIn> {
    let versions = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    let unknown = [("default", UnknownSni::Default), ("reject", UnknownSni::Reject)];
    let unknown_sni = word(raw.unknown_sni.as_ref(), "unknown_sni", &unknown, UnknownSni::Default, report);
    let alpn = raw.alpn.as_ref().map(|list| protocols(list, report)).unwrap_or_default();
    let min_version = word(raw.min_version.as_ref(), "min_version", &versions, TlsVersion::V1_2, report);
    let client_auth = raw.client_auth.as_ref().and_then(|raw| client_auth(raw, base, report));
    let identity = identity(raw, base, report)?;
    Some(TlsIn {
        identity,
        unknown_sni,
        alpn,
        min_version,
        client_auth: client_auth.unwrap_or(ClientAuth::Off),
        at: report.at(&raw.head.span),
    })
}

fn identity(raw: &raw::TlsIn<'_>, base: &Path, report: &mut Report<'_>) -> Option<Identity> {
    match (&raw.certificates, &raw.self_signed) {
        (Some(list), Some(names)) => {
            let _ = (certificates(list, base, report), own_names(names, report));
            let wrong = Wrong::new("`self_signed` beside `certificates`");
            report.error(&names.span, wrong.hint("remove one: arus shows its own certificate or yours"));
            None
        }
        (Some(list), None) => Some(Identity::Files(certificates(list, base, report))),
        (None, Some(list)) => Some(Identity::SelfSigned(own_names(list, report))),
        (None, None) => {
            let head = &raw.head;
            if head.lacks(raw.certificates.as_ref(), "certificates")
                && head.lacks(raw.self_signed.as_ref(), "self_signed")
            {
                let wrong = Wrong::new("`[listener.tls]` has neither `certificates` nor `self_signed`");
                report
                    .error(&head.span, wrong.hint("such as `certificates = [{ cert = \"a.pem\", key = \"a.key\" }]`"));
            }
            None
        }
    }
}

fn certificates(list: &List<raw::Certificate<'_>>, base: &Path, report: &mut Report<'_>) -> Vec<KeyPair> {
    if list.is_empty {
        let wrong = Wrong::new("`certificates` is empty");
        report.error(&list.span, wrong.hint("such as [{ cert = \"a.pem\", key = \"a.key\" }]"));
    }
    if list.items.len() > limits::CERTIFICATES_PER_LISTENER {
        let most = limits::CERTIFICATES_PER_LISTENER;
        report.error(&list.span, format!("more than {most} certificates in one listener"));
        return Vec::new();
    }
    let pair = |raw: &raw::Certificate<'_>| {
        let certificates = required(raw.cert.as_ref(), "cert", &raw.head, report);
        let key = required(raw.key.as_ref(), "key", &raw.head, report);
        let certificates = certificates.and_then(|text| file(text, base, report));
        let key = key.and_then(|text| file(text, base, report));
        Some(KeyPair { certificates: certificates?, key: key? })
    };
    list.items.iter().filter_map(pair).collect()
}

/// What a certificate of arus's own is for.
fn own_names(list: &List<Text<'_>>, report: &mut Report<'_>) -> Vec<Name> {
    if list.is_empty {
        let wrong = Wrong::new("`self_signed` is empty");
        report.error(&list.span, wrong.hint("such as [\"localhost\", \"127.0.0.1\"]"));
    }
    let read = |text: &str| match text.strip_prefix("*.") {
        Some(rest) => address::host_name(rest).map(|rest| format!("*.{rest}").as_str().into()).map_err(|_| {
            let wrong = Wrong::new(format!("{} is neither a host name nor a wildcard", quote(text)));
            wrong.hint("such as \"example.com\" or \"*.example.com\"")
        }),
        None => subject(text),
    };
    names(list, "self_signed", read, report)
}

/// A host name or an IP address, in the one form in which arus keeps it.
fn subject(text: &str) -> Result<Name, Wrong> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(ip.to_canonical().to_string().as_str().into()),
        Err(_) => address::host_name(text).map(|name| name.as_str().into()),
    }
}

/// The values of a list of words, each once.
pub(super) fn names<T: Eq + std::hash::Hash + Clone>(
    list: &List<Text<'_>>,
    key: &str,
    read: impl Fn(&str) -> Result<T, Wrong>,
    report: &mut Report<'_>,
) -> Vec<T> {
    if list.items.len() > limits::NAMES_PER_LIST {
        report.error(&list.span, format!("`{key}` has more than {} values", limits::NAMES_PER_LIST));
        return Vec::new();
    }
    let mut seen = HashSet::new();
    let mut names = Vec::with_capacity(list.items.len());
    for text in &list.items {
        let Some(name) = report.accept(&text.span(), read(text.get_ref())) else { continue };
        if seen.insert(name.clone()) {
            names.push(name);
        } else {
            report.error(&text.span(), format!("{} is in `{key}` already", quote(text.get_ref())));
        }
    }
    names
}

/// The list of an `alpn` key.
pub(super) fn protocols(list: &List<Text<'_>>, report: &mut Report<'_>) -> Vec<Name> {
    names(list, "alpn", protocol, report)
}

fn protocol(text: &str) -> Result<Name, Wrong> {
    // RFC 7301 allows any bytes; those that are registered are ASCII, and logs and headers repeat them.
    // None has a comma: that is how other programs write lists.
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b',';
    if (1..=limits::ALPN_BYTES).contains(&text.len()) && text.bytes().all(fits) {
        return Ok(text.into());
    }
    let wrong = Wrong::new(format!("{} is not a protocol", quote(text)));
    Err(if text.contains([',', ' ']) {
        wrong.hint("several are a list, such as [\"h2\", \"http/1.1\"]")
    } else {
        wrong.hint("such as \"h2\" or \"http/1.1\"")
    })
}

fn client_auth(raw: &raw::ClientAuth<'_>, base: &Path, report: &mut Report<'_>) -> Option<ClientAuth> {
    type Mode = fn(File) -> ClientAuth;
    let modes: [(&str, Option<Mode>); 3] =
        [("off", None), ("request", Some(ClientAuth::Request)), ("require", Some(ClientAuth::Require))];
    let mode = required(raw.mode.as_ref(), "mode", &raw.head, report)?;
    let ca = raw.ca.as_ref().and_then(|text| file(text, base, report));
    let Some(mode) = word(Some(mode), "mode", &modes, None, report) else { return Some(ClientAuth::Off) };
    if raw.head.lacks(raw.ca.as_ref(), "ca") {
        let wrong = Wrong::new("`ca` is missing").hint("the authorities that sign client certificates");
        report.error(&raw.head.span, wrong);
    }
    ca.map(mode)
}

fn file(text: &Text<'_>, base: &Path, report: &mut Report<'_>) -> Option<File> {
    let path = report.accept(&text.span(), address::path(text.get_ref(), base))?;
    Some(File { path, at: report.at(&text.span()) })
}

pub(super) fn upstream_tls(
    raw: &raw::TlsOut<'_>,
    backends: &[Backend],
    base: &Path,
    report: &mut Report<'_>,
) -> TlsOut {
    let server_name = raw.server_name.as_ref();
    let name = server_name.and_then(|text| report.accept(&text.span(), subject(text.get_ref())));
    let is_unix = |backend: &Backend| matches!(backend.address, Address::Endpoint(Endpoint::Unix(_)));
    if raw.head.lacks(server_name, "server_name") && backends.iter().any(is_unix) {
        let wrong = Wrong::new("`server_name` is missing, and a backend is a unix socket, which has no name");
        report.error(&raw.head.span, wrong.hint("the name that its certificate has"));
    }
    let verify = raw.verify.as_ref().is_none_or(|verify| *verify.get_ref());
    if let (false, Some(flag)) = (verify, &raw.verify) {
        let wrong =
            Wrong::new("with `verify = false` anybody on the way can pass for the backend, and read everything");
        report.warning(&flag.span(), wrong.hint("give the backend's authority as `ca` instead"));
        if let Some(ca) = &raw.ca {
            report.warning(&ca.span(), "`ca` does nothing with `verify = false`");
        }
    }
    TlsOut {
        server_name: name,
        ca: raw.ca.as_ref().and_then(|text| file(text, base, report)),
        certificate: own_pair(&raw.head, raw.cert.as_ref(), raw.key.as_ref(), base, report),
        alpn: raw.alpn.as_ref().map(|list| protocols(list, report)).unwrap_or_default(),
        verify,
        at: report.at(&raw.head.span),
    }
}

/// Both a certificate and its key, or neither.
fn own_pair(
    head: &Head,
    cert: Option<&Text<'_>>,
    key: Option<&Text<'_>>,
    base: &Path,
    report: &mut Report<'_>,
) -> Option<KeyPair> {
    for (given, missing, name) in [(cert, key, "key"), (key, cert, "cert")] {
        if let Some(given) = given
            && head.lacks(missing, name)
        {
            report.error(&Spanned::span(given), format!("`{name}` is missing beside this"));
        }
    }
    let certificates = cert.and_then(|text| file(text, base, report));
    let key = key.and_then(|text| file(text, base, report));
    Some(KeyPair { certificates: certificates?, key: key? })
}
