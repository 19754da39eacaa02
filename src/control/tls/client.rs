//! TLS to the backends: the configuration of an upstream.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::{identity, pem, problem, provider};
use crate::config::plan::{Address, Place, TlsOut, Upstream};
use crate::control::prepare::Problem;
use crate::tls::terms::UpstreamTls;
use crate::types::Endpoint;

/// The authorities that this system trusts, read when the first upstream wants them.
#[derive(Debug, Default)]
pub(super) struct SystemRoots(Option<Arc<RootCertStore>>);

impl SystemRoots {
    fn get(&mut self, at: Place) -> Result<Arc<RootCertStore>, Problem> {
        let roots = self.0.get_or_insert_with(|| {
            let mut roots = RootCertStore::empty();
            // Some of a system's list are always too old for webpki.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Arc::new(roots)
        });
        if roots.is_empty() {
            return Err(problem(at, "this system trusts no authorities (install ca-certificates, or give `ca`)"));
        }
        Ok(Arc::clone(roots))
    }
}

/// # Errors
/// Everything that cannot be used.
pub(super) fn terms(
    tls: &TlsOut,
    upstream: &Upstream,
    roots: &mut SystemRoots,
    warnings: &mut Vec<Problem>,
) -> Result<UpstreamTls, Vec<Problem>> {
    let verifier = verifier(tls, roots);
    let own = tls.certificate.as_ref().map(|pair| identity::load(pair, warnings)).transpose();
    let (verifier, own) = match (verifier, own) {
        (Ok(verifier), Ok(own)) => (verifier, own),
        (verifier, own) => return Err(verifier.err().into_iter().chain(own.err().into_iter().flatten()).collect()),
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| vec![problem(tls.at, error.to_string())])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.key))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = tls.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    // The shards encrypt and decrypt records themselves once the handshake is over.
    config.enable_secret_extraction = true;
    // rustls' table of sessions has a lock, which all shards would share.
    config.resumption = Resumption::disabled();
    let names: Result<_, _> = upstream.backends.iter().map(|backend| name(tls, &backend.address)).collect();
    let names = names.map_err(|wrong| vec![problem(tls.at, wrong)])?;
    Ok(UpstreamTls { config: Arc::new(config), names })
}

/// The name that a backend's certificate must have.
fn name(tls: &TlsOut, address: &Address) -> Result<ServerName<'static>, String> {
    let name = match (&tls.server_name, address) {
        (Some(name), _) => name.to_string(),
        (None, Address::Host { host, .. }) => host.to_string(),
        (None, Address::Endpoint(Endpoint::Ip(address))) => return Ok(ServerName::from(address.ip())),
        (None, Address::Endpoint(Endpoint::Unix(_))) => String::new(),
    };
    ServerName::try_from(name)
        .map_err(|_| format!("a certificate cannot have the name of {address} (give `server_name`)"))
}

fn verifier(tls: &TlsOut, roots: &mut SystemRoots) -> Result<Arc<dyn ServerCertVerifier>, Problem> {
    if !tls.verify {
        return Ok(Arc::new(AnyCertificate(provider())));
    }
    let (roots, ca) = match &tls.ca {
        Some(ca) => (Arc::new(pem::authorities(ca)?.0), Some(ca)),
        None => (roots.get(tls.at)?, None),
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
    verifier.map(|verifier| verifier as _).map_err(|error| match ca {
        Some(ca) => pem::wrong(ca, format!("cannot be used: {error}")),
        None => problem(tls.at, error.to_string()),
    })
}

/// `verify = false`: whoever answers is believed to be the backend. That it has the key of the certificate that it
/// shows is still checked, as the handshake must not be torn.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
