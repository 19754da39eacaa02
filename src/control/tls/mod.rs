//! TLS on the control side: what the plan names is loaded, checked and made into what the shards use (`crate::tls`),
//! and kept up to date while arus runs.
//!
//! - `pem` reads files, `identity` makes certificates of them, `self_signed` makes its own.
//! - `server` and `client` build the configurations of the two directions; `shown` says what a client would see.
//! - `care` watches files, changes ticket keys and looks at expiry.

mod care;
mod client;
mod identity;
mod pem;
pub(super) mod self_signed;
mod server;
mod shown;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};

pub(super) use care::{Care, Changed, Pending};
pub(super) use identity::date;
pub use shown::{Shown, shown};

use super::prepare::Problem;
use super::watch::Content;
use crate::config::plan::{File, Identity, Place, Plan};
use crate::config::{Finding, Severity};
use crate::shard::command::Snapshot;
use crate::tls::terms::{ListenerTls, UpstreamTls};

/// Fastest first; all have forward secrecy and authenticate what they encrypt. A server's processor has AES in hardware,
/// and 128 bits cost less than 256. The first of them that a client has is taken, whatever its own order.
const CIPHER_SUITES: [SupportedCipherSuite; 9] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider { cipher_suites: CIPHER_SUITES.to_vec(), ..aws_lc_rs::default_provider() })
    });
    Arc::clone(&PROVIDER)
}

/// Whether a certificate that arus makes itself is kept.
#[derive(Debug, Clone, Copy)]
pub(super) enum Store<'a> {
    /// In this directory.
    Kept(&'a Path),
    /// It is only made to see whether it can be.
    Forgotten,
}

/// What a plan needs for TLS.
#[derive(Debug, Default)]
pub(super) struct Acquired {
    /// In the order of the plan's listeners.
    pub listeners: Vec<Option<Arc<ListenerTls>>>,
    /// In the order of the plan's upstreams.
    pub upstreams: Vec<Option<Arc<UpstreamTls>>>,
    /// Nothing that keeps it from working today.
    pub warnings: Vec<Problem>,
    /// Every file, as it was before it was read.
    pub files: Vec<Content>,
}

/// Loads everything that a plan names. Ticket keys of `before` stay where nothing changed that they depend on.
///
/// # Errors
/// Everything that cannot be used.
pub(super) fn acquire(plan: &Plan, before: Option<&Snapshot>, store: Store<'_>) -> Result<Acquired, Vec<Problem>> {
    let paths: BTreeSet<&Path> = files(plan).map(|file| &*file.path).collect();
    let mut acquired = Acquired { files: paths.into_iter().map(Content::of).collect(), ..Acquired::default() };
    let mut problems = Vec::new();
    for listener in &plan.listeners {
        let terms = listener.tls.as_ref().map(|tls| {
            let same = before.and_then(|before| {
                let old = before.plan.listeners.iter().position(|old| old.name == listener.name)?;
                before.tls.get(old)?.as_deref()
            });
            server::terms(tls, same.map(|same| &same.tickets), store, &mut acquired.warnings)
        });
        let terms = sort_out(terms, &mut problems).map(Arc::new);
        if let Some(terms) = &terms {
            acquired.warnings.extend(shown::never_reached(listener, &terms.certificates));
        }
        acquired.listeners.push(terms);
    }
    let mut roots = client::SystemRoots::default();
    for upstream in &plan.upstreams {
        let terms = upstream.tls.as_ref().map(|tls| client::terms(tls, upstream, &mut roots, &mut acquired.warnings));
        acquired.upstreams.push(sort_out(terms, &mut problems).map(Arc::new));
    }
    if problems.is_empty() { Ok(acquired) } else { Err(problems) }
}

fn sort_out<T>(terms: Option<Result<T, Vec<Problem>>>, problems: &mut Vec<Problem>) -> Option<T> {
    terms?.map_err(|mut wrong| problems.append(&mut wrong)).ok()
}

/// The files that a plan names for TLS.
pub(super) fn files(plan: &Plan) -> impl Iterator<Item = &File> {
    let listeners = plan.listeners.iter().filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| {
        let pairs = match &tls.identity {
            Identity::Files(pairs) => pairs.as_slice(),
            Identity::SelfSigned(_) => &[],
        };
        pairs.iter().flat_map(|pair| [&pair.certificates, &pair.key]).chain(tls.client_auth.ca())
    });
    let upstreams =
        plan.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref()).flat_map(|tls| {
            tls.ca.iter().chain(tls.certificate.iter().flat_map(|pair| [&pair.certificates, &pair.key]))
        });
    listeners.chain(upstreams)
}

/// What `arus check` says of a plan's certificates, keys and authorities, in the order of the file. Nothing is kept.
#[must_use]
pub fn check(plan: &Plan, file: &str) -> Vec<Finding> {
    let (problems, severity) = match acquire(plan, None, Store::Forgotten) {
        Ok(acquired) => (acquired.warnings, Severity::Warning),
        Err(problems) => (problems, Severity::Error),
    };
    let finding = |problem: Problem| Finding {
        file: file.into(),
        line: problem.line,
        column: problem.column,
        severity,
        message: problem.message,
        hint: None,
    };
    let mut findings: Vec<Finding> = problems.into_iter().map(finding).collect();
    findings.sort_by_key(|finding| (finding.line, finding.column));
    findings
}

fn problem(at: Place, message: impl Into<String>) -> Problem {
    Problem { line: at.line, column: at.column, message: message.into(), is_in_use: false, is_configuration: true }
}
