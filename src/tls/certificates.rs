//! The certificates of a listener, chosen by the name that a client asks for, and replaced while handshakes go on.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// A certificate with its key, and what it says of itself.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub key: Arc<CertifiedKey>,
    pub facts: Arc<Facts>,
}

/// What a certificate says of itself, printable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub subject: String,
    /// The DNS names and IP addresses of its subjectAltName, in lower case.
    pub names: Vec<String>,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
}

/// What a client gets that asks for a name which no certificate has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    First,
    Refused,
}

/// The certificates in use.
#[derive(Debug)]
pub struct Certificates {
    set: ArcSwap<Set>,
    unknown: Unknown,
}

/// Certificates with an index of their names; never changed, only replaced.
#[derive(Debug)]
struct Set {
    /// As configured.
    all: Vec<Certificate>,
    /// Positions in `all`, by name.
    exact: HashMap<Box<str>, Vec<usize>>,
    /// By wildcard, without its `*.`.
    below: HashMap<Box<str>, Vec<usize>>,
    /// Every position: for a client that asks for no name.
    every: Vec<usize>,
}

impl Set {
    fn new(all: Vec<Certificate>) -> Self {
        let (mut exact, mut below) = (HashMap::<Box<str>, Vec<usize>>::new(), HashMap::<Box<str>, Vec<usize>>::new());
        for (position, certificate) in all.iter().enumerate() {
            for name in &certificate.facts.names {
                let (index, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut below, rest),
                    None => (&mut exact, name.as_str()),
                };
                index.entry(name.into()).or_default().push(position);
            }
        }
        let every = (0..all.len()).collect();
        Self { all, exact, below, every }
    }

    /// Those that have a name, which must be in lower case.
    fn named(&self, name: &str) -> Option<&[usize]> {
        let wildcard = || name.split_once('.').and_then(|(_, rest)| self.below.get(rest));
        self.exact.get(name).or_else(wildcard).map(Vec::as_slice)
    }
}

impl Certificates {
    #[must_use]
    pub fn new(all: Vec<Certificate>, unknown: Unknown) -> Self {
        Self { set: ArcSwap::from_pointee(Set::new(all)), unknown }
    }

    /// The next handshake gets these; those under way keep what they have.
    pub fn replace(&self, all: Vec<Certificate>) {
        self.set.store(Arc::new(Set::new(all)));
    }

    /// As configured.
    #[must_use]
    pub fn all(&self) -> Vec<Certificate> {
        self.set.load().all.clone()
    }

    /// Whether a client that asks for this name (in lower case) is to be refused, with the alert `unrecognized_name`.
    /// rustls would send another alert, so whoever sees the hello first asks here.
    #[must_use]
    pub fn refuses(&self, name: Option<&str>) -> bool {
        self.unknown == Unknown::Refused && name.is_some_and(|name| self.set.load().named(name).is_none())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let set = self.set.load();
        let named = hello.server_name().map(|name| set.named(name));
        let fitting = match (named, self.unknown) {
            (Some(Some(named)), _) => named,
            (Some(None), Unknown::Refused) => return None,
            (Some(None), Unknown::First) | (None, _) => &set.every,
        };
        let mut candidates = fitting.iter().filter_map(|position| set.all.get(*position));
        let first = candidates.clone().next()?;
        let schemes = hello.signature_schemes();
        let fits = |candidate: &&Certificate| candidate.key.key.choose_scheme(schemes).is_some();
        // Of an ECDSA and an RSA certificate for a name, some clients can check only one.
        let chosen = if fitting.len() == 1 { None } else { candidates.find(fits) };
        Some(Arc::clone(&chosen.unwrap_or(first).key))
    }
}
