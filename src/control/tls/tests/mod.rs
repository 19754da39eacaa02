//! TLS as control prepares it, proven by handshakes in memory: which certificate, whose sessions, which clients. In
//! `files` what is wrong with files, and files that change.
#![allow(clippy::unwrap_used)]

mod files;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Error, HandshakeKind, RootCertStore, ServerConnection, version};

use super::*;
use crate::config::{self, Environment};
use crate::control::fixture;
use crate::tls::certificates::Facts;

const DAY: u64 = 24 * 60 * 60;

/// A directory with files, and an authority that signs certificates.
struct Desk {
    directory: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Desk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let desk = Self { directory, ca };
        desk.write("ca.pem", desk.ca.as_ref().pem());
        desk
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// Writes NAME.pem and NAME.key; `days` are left.
    fn issue_for(&self, name: &str, names: &[&str], days: i64, key: &KeyPair) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let epoch = date_time_ymd(1970, 1, 1);
        params.not_before = epoch + now - Duration::from_secs(100 * DAY);
        params.not_after =
            epoch + (now + Duration::from_secs((1000 + days) as u64 * DAY)) - Duration::from_secs(1000 * DAY);
        let certificate = params.signed_by(key, &self.ca).unwrap();
        self.write(&format!("{name}.pem"), certificate.pem());
        let path = self.path().join(format!("{name}.key"));
        std::fs::write(&path, key.serialize_pem()).unwrap();
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    fn issue(&self, name: &str, names: &[&str]) {
        self.issue_for(name, names, 300, &KeyPair::generate().unwrap());
    }

    /// A listener with these keys in `[listener.tls]`, before an upstream with those in `[upstream.tls]`, or without.
    fn plan(&self, tls: &str, upstream: Option<&str>) -> Plan {
        let upstream = upstream.map_or_else(String::new, |keys| format!("\ntls = {{ {keys} }}"));
        let text = format!(
            "engine = {{ state_dir = \"state\" }}\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:1\"\nupstream = \"u\"\n\
             [listener.tls]\n{tls}\n[[upstream]]\nname = \"u\"\nbackends = [\"127.0.0.1:2\", \"db.test:3\"]{upstream}\n"
        );
        let environment = Environment { is_root: true, home: None, xdg_state_home: None, directory: "/".into() };
        config::parse(&text, "f", self.path(), &environment).unwrap_or_else(|errors| panic!("{errors}")).plan
    }

    /// A snapshot of a plan, after `before`.
    fn in_force(&self, tls: &str, before: Option<&Snapshot>) -> Arc<Snapshot> {
        let plan = self.plan(tls, None);
        let acquired = acquire(&plan, before, Store::Forgotten).unwrap_or_else(|problems| panic!("{problems:?}"));
        let mut snapshot = fixture::snapshot(plan);
        Arc::get_mut(&mut snapshot).unwrap().tls = acquired.listeners;
        snapshot
    }

    /// A client that trusts the authority, and shows NAME.pem where a name is given.
    fn client(&self, own: Option<&str>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.as_ref().der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .unwrap()
            .with_root_certificates(roots);
        let Some(own) = own else { return builder.with_no_client_auth() };
        let chain = CertificateDer::from_pem_file(self.path().join(format!("{own}.pem"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.path().join(format!("{own}.key"))).unwrap();
        builder.with_client_auth_cert(vec![chain], key).unwrap()
    }
}

fn certificates(names: &[&str]) -> String {
    let pairs: Vec<String> =
        names.iter().map(|name| format!("{{ cert = \"{name}.pem\", key = \"{name}.key\" }}")).collect();
    format!("certificates = [{}]", pairs.join(", "))
}

fn terms(snapshot: &Snapshot) -> &ListenerTls {
    snapshot.tls[0].as_ref().unwrap()
}

/// Both sides to the end of the handshake and of what follows it, in memory.
fn shake(
    client: &ClientConfig,
    name: &str,
    snapshot: &Snapshot,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client.clone()), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(&terms(snapshot).config)).unwrap();
    loop {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut moved = wire.len();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        moved += wire.len();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
        if moved == 0 {
            return Ok((client, server));
        }
    }
}

/// The common name of the certificate that a client is shown.
fn shown(client: &ClientConfig, name: &str, snapshot: &Snapshot) -> String {
    let (client, _) = shake(client, name, snapshot).unwrap_or_else(|error| panic!("{name}: {error}"));
    let der = client.peer_certificates().unwrap()[0].clone();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    parsed.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
}

/// Takes every certificate.
fn credulous(desk: &Desk) -> ClientConfig {
    let plan = desk.plan("self_signed = \"x\"", Some("verify = false"));
    let acquired = acquire(&plan, None, Store::Forgotten).unwrap();
    (*acquired.upstreams[0].as_ref().unwrap().config).clone()
}

#[test]
fn the_name_chooses_the_certificate() {
    let desk = Desk::new();
    desk.issue("first", &["first.test"]);
    desk.issue("wild", &["*.a.test", "*.b.test"]);
    desk.issue("exact", &["x.a.test", "127.0.0.1"]);
    let all = certificates(&["first", "wild", "exact"]);
    let snapshot = desk.in_force(&all, None);
    let client = credulous(&desk);
    for (asked, answered) in [
        ("first.test", "first"),
        ("y.a.test", "wild"),
        ("Y.B.test", "wild"),
        ("x.a.test", "exact"),
        ("a.test", "first"),
        ("z.y.a.test", "first"),
        ("unknown.test", "first"),
        ("127.0.0.1", "first"),
    ] {
        assert_eq!(shown(&client, asked, &snapshot), answered, "{asked}");
    }
    assert!(!terms(&snapshot).certificates.refuses(Some("unknown.test")));

    let strict = desk.in_force(&format!("{all}\nunknown_sni = \"reject\""), None);
    assert_eq!(shown(&client, "y.a.test", &strict), "wild");
    assert_eq!(shown(&client, "127.0.0.1", &strict), "first", "no name is no unknown name");
    assert!(shake(&client, "unknown.test", &strict).is_err());
    let refuses = |name| terms(&strict).certificates.refuses(name);
    assert!(refuses(Some("unknown.test")) && refuses(Some("z.y.a.test")));
    assert!(!refuses(Some("y.a.test")) && !refuses(Some("first.test")) && !refuses(None));
}

#[test]
fn of_two_certificates_for_a_name_a_client_gets_the_one_it_can_check() {
    let desk = Desk::new();
    desk.issue("ecdsa", &["a.test"]);
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    desk.issue_for("rsa", &["a.test"], 300, &rsa);
    let snapshot = desk.in_force(&certificates(&["ecdsa", "rsa"]), None);
    let modern = credulous(&desk);
    assert_eq!(shown(&modern, "a.test", &snapshot), "ecdsa");
    let mut old = (*provider()).clone();
    let is_rsa = |scheme: &rustls::SignatureScheme| format!("{scheme:?}").starts_with("RSA");
    let mapping: Vec<_> =
        old.signature_verification_algorithms.mapping.iter().filter(|(scheme, _)| is_rsa(scheme)).copied().collect();
    old.signature_verification_algorithms.mapping = Box::leak(mapping.into_boxed_slice());
    let old = ClientConfig::builder_with_provider(Arc::new(old)).with_safe_default_protocol_versions().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(desk.ca.as_ref().der().clone()).unwrap();
    let old = old.with_root_certificates(roots).with_no_client_auth();
    // The authority signed with ECDSA, which this client cannot check: what it was shown is enough.
    let name = ServerName::try_from("a.test").unwrap();
    let mut client = ClientConnection::new(Arc::new(old), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut acceptor = rustls::server::Acceptor::default();
    acceptor.read_tls(&mut hello.as_slice()).unwrap();
    let accepted = acceptor.accept().unwrap().unwrap();
    use rustls::server::ResolvesServerCert;
    let chosen = terms(&snapshot).certificates.resolve(accepted.client_hello()).unwrap();
    assert_eq!(chosen.key.algorithm(), rustls::SignatureAlgorithm::RSA);
}

#[test]
fn a_certificate_is_replaced_under_a_live_configuration() {
    let desk = Desk::new();
    desk.issue("a", &["a.test"]);
    desk.issue("b", &["b.test"]);
    let snapshot = desk.in_force(&certificates(&["a", "b"]), None);
    let (control, _requests, _shards) = fixture::control(snapshot.plan.clone());
    let client = credulous(&desk);
    let serial = |snapshot: &Snapshot| {
        let (client, _) = shake(&client, "a.test", snapshot).unwrap();
        client.peer_certificates().unwrap()[0].clone()
    };
    let before = serial(&snapshot);
    let path = |name: &str| desk.path().join(name);
    let (old, old_key) = (std::fs::read(path("a.pem")).unwrap(), std::fs::read(path("a.key")).unwrap());
    desk.issue("a", &["a.test"]);
    let (new, new_key) = (std::fs::read(path("a.pem")).unwrap(), std::fs::read(path("a.key")).unwrap());

    // The certificate comes first, its key later; then something torn.
    desk.write("a.key", &old_key);
    assert!(!care::take_up(&control, &snapshot, &[path("a.pem")]));
    assert_eq!(serial(&snapshot), before, "a pair that does not fit changes nothing");
    let pending: Vec<String> = control.pending().values().cloned().collect();
    assert!(pending.len() == 1 && pending[0].contains("a.key has a key that is not the certificate's"), "{pending:?}");
    desk.write("a.key", &new_key);
    assert!(!care::take_up(&control, &snapshot, &[path("a.key")]));
    let after = serial(&snapshot);
    assert_ne!(after, before);
    assert!(control.pending().is_empty());
    desk.write("a.pem", &new[..new.len() / 2]);
    assert!(!care::take_up(&control, &snapshot, &[path("a.pem")]));
    assert_eq!(serial(&snapshot), after);
    desk.write("a.pem", &old);
    desk.write("a.key", &old_key);
    assert!(!care::take_up(&control, &snapshot, &[path("a.pem"), path("a.key")]));
    assert_eq!(serial(&snapshot), before);
    assert_eq!(shown(&client, "b.test", &snapshot), "b", "the others stay");
}

#[test]
fn names_that_a_new_certificate_has_lost_are_found() {
    let set = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let before = set(&["a.test", "b.test", "*.c.test", "::1"]);
    assert_eq!(care::lost(&before, &before), [""; 0]);
    assert_eq!(care::lost(&before, &set(&["*.test", "x.c.test"])), ["*.c.test", "::1"]);
}

/// How the second of two handshakes went.
fn second(client: &ClientConfig, first: &Snapshot, then: &Snapshot) -> HandshakeKind {
    shake(client, "a.test", first).unwrap();
    shake(client, "a.test", then).unwrap().1.handshake_kind().unwrap()
}

#[test]
fn sessions_resume_on_any_shard_and_over_reloads_until_the_policy_changes() {
    let desk = Desk::new();
    desk.issue("a", &["a.test"]);
    desk.issue("me", &["me.test"]);
    let keys = certificates(&["a"]);
    for version in [&version::TLS13, &version::TLS12] {
        let client = || {
            let mut client = desk.client(Some("me"));
            client.resumption = Resumption::in_memory_sessions(8);
            let mut only = ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(&[version])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::clone(&credulous_verifier(&desk)))
                .with_client_cert_resolver(Arc::clone(&client.client_auth_cert_resolver));
            only.resumption = client.resumption.clone();
            only
        };
        let before = desk.in_force(&keys, None);
        // Each shard makes connections from the same configuration; tickets are all they share.
        assert_eq!(second(&client(), &before, &before), HandshakeKind::Resumed);
        let reloaded = desk.in_force(&format!("{keys}\nalpn = [\"h2\"]"), Some(&before));
        assert!(Arc::ptr_eq(&terms(&before).tickets, &terms(&reloaded).tickets));
        assert!(!Arc::ptr_eq(&terms(&before).config, &terms(&reloaded).config));
        assert_eq!(second(&client(), &before, &reloaded), HandshakeKind::Resumed);
        terms(&before).tickets.rotate().unwrap();
        assert_eq!(second(&client(), &before, &reloaded), HandshakeKind::Resumed);

        let strict = format!("{keys}\nclient_auth = {{ mode = \"require\", ca = \"ca.pem\" }}");
        let required = desk.in_force(&strict, Some(&reloaded));
        assert_eq!(second(&client(), &reloaded, &required), HandshakeKind::Full, "client certificates are wanted now");
        assert_eq!(second(&client(), &required, &desk.in_force(&strict, Some(&required))), HandshakeKind::Resumed);
        let two = desk.ca.as_ref().pem() + &std::fs::read_to_string(desk.path().join("a.pem")).unwrap();
        desk.write("ca.pem", two);
        let other = desk.in_force(&strict, Some(&required));
        assert_eq!(second(&client(), &required, &other), HandshakeKind::Full, "other authorities");
        desk.write("ca.pem", desk.ca.as_ref().pem());
        assert_eq!(second(&client(), &before, &desk.in_force(&keys, None)), HandshakeKind::Full, "another process");
    }
}

fn credulous_verifier(desk: &Desk) -> Arc<dyn rustls::client::danger::ServerCertVerifier> {
    let mut roots = RootCertStore::empty();
    roots.add(desk.ca.as_ref().der().clone()).unwrap();
    rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap()
}

#[test]
fn clients_show_certificates_where_they_must() {
    let desk = Desk::new();
    desk.issue("a", &["a.test"]);
    desk.issue("me", &["me.test"]);
    let stranger = Desk::new();
    stranger.issue("me", &["me.test"]);
    std::fs::copy(stranger.path().join("me.pem"), desk.path().join("stranger.pem")).unwrap();
    std::fs::copy(stranger.path().join("me.key"), desk.path().join("stranger.key")).unwrap();
    let keys = certificates(&["a"]);
    let ok = |mode: &str, own: Option<&str>| {
        let auth = format!("{keys}\nclient_auth = {{ mode = \"{mode}\", ca = \"ca.pem\" }}");
        let result = shake(&desk.client(own), "a.test", &desk.in_force(&auth, None));
        result.map(|(_, server)| server.peer_certificates().is_some())
    };
    assert_eq!(ok("off", Some("me")), Ok(false));
    assert_eq!((ok("request", None), ok("request", Some("me"))), (Ok(false), Ok(true)));
    assert_eq!(ok("require", Some("me")), Ok(true));
    assert!(ok("require", None).is_err() && ok("require", Some("stranger")).is_err());
    assert!(ok("request", Some("stranger")).is_err());
}

#[test]
fn what_is_negotiated() {
    let desk = Desk::new();
    desk.issue("a", &["a.test"]);
    let keys = certificates(&["a"]);
    let snapshot = desk.in_force(&format!("{keys}\nalpn = [\"h2\", \"http/1.1\"]"), None);
    let offering = |protocols: &[&str]| {
        let mut client = desk.client(None);
        client.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        shake(&client, "a.test", &snapshot).map(|(client, _)| client.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(offering(&["http/1.1", "h2"]).unwrap().as_deref(), Some(&b"h2"[..]));
    assert_eq!(offering(&[]), Ok(None));
    assert!(offering(&["imap"]).is_err());
    let (_, server) = shake(&desk.client(None), "a.test", &snapshot).unwrap();
    let suite = server.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert!(server.dangerous_extract_secrets().is_ok());

    let mut old = (*provider()).clone();
    old.cipher_suites.reverse();
    let old = ClientConfig::builder_with_provider(Arc::new(old)).with_protocol_versions(&[&version::TLS12]).unwrap();
    let old = old.dangerous().with_custom_certificate_verifier(credulous_verifier(&desk)).with_no_client_auth();
    let (_, server) = shake(&old, "a.test", &snapshot).unwrap();
    let suite = server.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "whatever the client prefers");
    assert!(shake(&old, "a.test", &desk.in_force(&format!("{keys}\nmin_version = \"1.3\""), None)).is_err());
}
