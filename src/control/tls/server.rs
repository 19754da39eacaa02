//! TLS that is terminated: the configuration of a listener.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ServerConfig, version};

use super::{Store, identity, pem, problem, provider, self_signed};
use crate::config::plan::{ClientAuth, Identity, KeyPair, TlsIn, TlsVersion, UnknownSni};
use crate::control::prepare::Problem;
use crate::tls::certificates::{Certificate, Certificates, Unknown};
use crate::tls::terms::ListenerTls;
use crate::tls::tickets::Tickets;

/// Tickets after a handshake of TLS 1.3: a client that opens two connections at once can resume both.
const TICKETS: usize = 2;

/// `before`: the ticket keys that the listener has, which stay if its policy does.
///
/// # Errors
/// Everything that cannot be used.
pub(super) fn terms(
    tls: &TlsIn,
    before: Option<&Arc<Tickets>>,
    store: Store<'_>,
    warnings: &mut Vec<Problem>,
) -> Result<ListenerTls, Vec<Problem>> {
    let (all, verifier) = match (certificates(tls, store, warnings), verifier(tls, warnings)) {
        (Ok(all), Ok(verifier)) => (all, verifier),
        (all, verifier) => return Err(all.err().into_iter().flatten().chain(verifier.err()).collect()),
    };
    let unknown = match tls.unknown_sni {
        UnknownSni::Default => Unknown::First,
        UnknownSni::Reject => Unknown::Refused,
    };
    let certificates = Arc::new(Certificates::new(all, unknown));
    let policy = verifier.policy;
    let kept = before.filter(|tickets| *tickets.policy() == policy).map(Arc::clone);
    let no_random = |_| vec![problem(tls.at, "this system gives no random bytes")];
    let tickets = kept.map_or_else(|| Tickets::new(policy).map(Arc::new).map_err(no_random), Ok)?;

    let versions: &[_] = match tls.min_version {
        TlsVersion::V1_2 => &[&version::TLS13, &version::TLS12],
        TlsVersion::V1_3 => &[&version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| vec![problem(tls.at, error.to_string())])?;
    let builder = match verifier.verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::clone(&certificates) as _);
    config.alpn_protocols = tls.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config.ignore_client_order = true;
    // The shards encrypt and decrypt records themselves once the handshake is over.
    config.enable_secret_extraction = true;
    // Sessions are in their tickets: a table of them would need a lock.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::clone(&tickets) as _;
    config.send_tls13_tickets = TICKETS;
    config.max_early_data_size = 0;
    Ok(ListenerTls { config: Arc::new(config), certificates, tickets })
}

fn certificates(tls: &TlsIn, store: Store<'_>, warnings: &mut Vec<Problem>) -> Result<Vec<Certificate>, Vec<Problem>> {
    match &tls.identity {
        Identity::SelfSigned(names) => {
            let own = self_signed::obtain(store, names);
            own.map(|own| vec![own]).map_err(|wrong| vec![problem(tls.at, wrong)])
        }
        Identity::Files(pairs) => {
            let (mut all, mut problems) = (Vec::with_capacity(pairs.len()), Vec::new());
            for pair in pairs {
                match identity::load(pair, warnings) {
                    Ok(certificate) => {
                        warnings.extend(doubts(&certificate, pair, &all));
                        all.push(certificate);
                    }
                    Err(mut wrong) => problems.append(&mut wrong),
                }
            }
            if problems.is_empty() { Ok(all) } else { Err(problems) }
        }
    }
}

/// What makes a certificate useless beside those `before` it, or at all.
fn doubts(certificate: &Certificate, pair: &KeyPair, before: &[Certificate]) -> Option<Problem> {
    let subject = &certificate.facts.subject;
    let own = certificate.key.cert.first();
    let what = if before.iter().any(|before| before.key.cert.first() == own) {
        format!("has a certificate ({subject}) that stands before it in `certificates` already")
    } else if certificate.facts.names.is_empty() {
        format!("has a certificate ({subject}) without names (subjectAltName): clients believe it for none")
    } else {
        return None;
    };
    Some(pem::wrong(&pair.certificates, what))
}

struct Verifier {
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// Who may resume a session may have begun it: this changes when that does.
    policy: [u8; 32],
}

fn verifier(tls: &TlsIn, warnings: &mut Vec<Problem>) -> Result<Verifier, Problem> {
    let mut policy = Context::new(&SHA256);
    policy.update(tls.min_version.word().as_bytes());
    policy.update(tls.client_auth.word().as_bytes());
    let verifier = match &tls.client_auth {
        ClientAuth::Off => None,
        ClientAuth::Request(ca) | ClientAuth::Require(ca) => {
            let (roots, certificates) = pem::authorities(ca)?;
            certificates.iter().for_each(|certificate| policy.update(certificate));
            warnings.extend(certificates.iter().filter_map(identity::no_authority).map(|what| pem::wrong(ca, what)));
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            let builder = match &tls.client_auth {
                ClientAuth::Request(_) => builder.allow_unauthenticated(),
                ClientAuth::Off | ClientAuth::Require(_) => builder,
            };
            Some(builder.build().map_err(|error| pem::wrong(ca, format!("cannot be used: {error}")))?)
        }
    };
    let policy = policy.finish();
    Ok(Verifier { verifier, policy: policy.as_ref().try_into().unwrap_or([0; 32]) })
}
