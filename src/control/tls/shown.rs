//! What a client of a listener would see, without one: for `arus explain` and `arus check`.

use std::sync::Arc;

use super::{Store, problem, server};
use crate::config::plan::{Listener, Place, ServerNames, TlsIn};
use crate::control::prepare::Problem;
use crate::tls::certificates::{Certificate, Certificates, Facts};

/// What a handshake gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// No certificate has the name, and `unknown_sni` refuses it.
    Refused,
    /// The first of these whose signatures the client can check.
    Certificates(Vec<Arc<Facts>>),
}

/// What a client gets that asks for `name`. The files are read for it, and nothing is kept.
///
/// # Errors
/// Why the files cannot be used.
pub fn shown(tls: &TlsIn, name: Option<&str>) -> Result<Shown, Vec<String>> {
    let terms = server::terms(tls, None, Store::Forgotten, &mut Vec::new());
    let terms = terms.map_err(|problems| problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>())?;
    let name = name.map(normal);
    if terms.certificates.refuses(name.as_deref()) {
        return Ok(Shown::Refused);
    }
    let all = terms.certificates.all();
    let has = |name: &str| all.iter().filter(|own| own.facts.names.iter().any(|own| own == name)).collect::<Vec<_>>();
    // As `Certificates` chooses: those with the name itself, else with its wildcard, else all in their order.
    let exact = name.as_deref().map(has).unwrap_or_default();
    let below = name.as_deref().and_then(|name| name.split_once('.')).map(|(_, rest)| has(&format!("*.{rest}")));
    let fitting = [exact, below.unwrap_or_default(), all.iter().collect()];
    let fitting = fitting.into_iter().find(|fitting| !fitting.is_empty()).unwrap_or_default();
    Ok(Shown::Certificates(fitting.into_iter().map(|Certificate { facts, .. }| Arc::clone(facts)).collect()))
}

/// A server name as ClientHellos are read.
fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// The names of routes that no client can ask for, as no certificate has them and `unknown_sni` refuses such clients.
pub(super) fn never_reached(listener: &Listener, certificates: &Certificates) -> Vec<Problem> {
    let names = listener.routes.iter().flat_map(|route| {
        route.server_names.iter().flatten().filter_map(move |names| match names {
            ServerNames::Exact(name) => Some((route.line, name)),
            ServerNames::Any | ServerNames::Below(_) => None,
        })
    });
    let refused = names.filter(|(_, name)| certificates.refuses(Some(name)));
    let warning = |(line, name)| {
        let what =
            format!("no certificate has the name `{name}`: `unknown_sni = \"reject\"` refuses it before this route");
        problem(Place { line, column: 1 }, what)
    };
    refused.map(warning).collect()
}
