//! TLS at a listener: against openssl, curl and rustls as clients, with the certificates of an authority of the test.
//! How connections end is in `ends`, odd handshakes and tickets in `handshake`, certificates that change in `swap`, routes by ClientHello in `routes`, TLS to
//! backends in `upstream`.

mod ends;
mod handshake;
mod routes;
mod swap;
mod upstream;

use rustls::{AlertDescription, ProtocolVersion};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::tls_openssl::{handshake as shake_hands, s_client};
use crate::harness::*;
use crate::hello::Demo;
use crate::ops::{has, listener, reload, text, upstream};

/// An authority and a directory for what it signs.
pub(crate) struct Scene {
    pub(crate) directory: TempDir,
    pub(crate) authority: Authority,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("arus-tls-").tempdir().unwrap();
        let authority = Authority::new(directory.path(), "ca");
        Self { directory, authority }
    }

    /// A certificate for one name, and for 127.0.0.1.
    pub(crate) fn server(&self, name: &str) -> Pair {
        self.authority.server(&name.replace('*', "any"), &[name, "127.0.0.1"], Key::Ecdsa)
    }

    pub(crate) fn client(&self, name: &str) -> TlsClient {
        TlsClient::new(&self.authority, name)
    }

    /// The authority's certificate for a command line.
    pub(crate) fn ca(&self) -> &str {
        self.authority.cert().to_str().unwrap()
    }
}

/// A `[listener.tls]`, for the end of a listener's keys.
pub(crate) fn tls_table(certificates: &[&Pair], keys: &str) -> String {
    let certificates: Vec<String> = certificates.iter().map(|pair| pair.toml()).collect();
    format!("[listener.tls]\ncertificates = [{}]\n{keys}\n", certificates.join(", "))
}

/// arus with a listener `tls` before one backend.
pub(crate) fn terminator(backend: &Address, certificates: &[&Pair], keys: &str) -> Setup {
    Setup::new(terminator_body(backend, certificates, keys))
}

pub(crate) fn terminator_body(backend: &Address, certificates: &[&Pair], keys: &str) -> String {
    let upstream = format!("[[upstream]]\nname = \"app\"\nbackends = [\"{backend}\"]\n");
    upstream + &listener("tls", "127.0.0.1:0", "app", &tls_table(certificates, keys))
}

/// Sends some bytes and reads them back.
pub(crate) fn check_echo(stream: &mut TlsStream, seed: u64) {
    stream.send(seed, 0, 5000);
    stream.expect(seed, 0, 5000);
}

/// What came of a client whose refusal may show only after its own part of the handshake.
pub(crate) fn fate(client: &TlsClient, address: &Address) -> Result<TlsStream, TlsEnd> {
    let mut stream = client.try_connect(address)?;
    stream.try_write_all(b"?")?;
    let mut byte = [0];
    stream.read_some(&mut byte)?;
    Ok(stream)
}

fn alert(what: AlertDescription) -> Option<TlsEnd> {
    Some(TlsEnd::Alert(what))
}

/// Whether all of these lines blame the client for an end in the handshake.
pub(crate) fn assert_client_failed_at(stage: &str, lines: &[Value]) {
    for line in lines {
        assert_eq!((&line["stage"], &line["blame"]), (&stage.into(), &"client".into()), "{line}");
        assert_ne!(line["state"], "closed", "{line}");
    }
}

#[test]
fn curl_with_every_version_and_protocol() {
    if !has("curl") {
        return;
    }
    let (scene, demo) = (Scene::new(), Demo::start(&[]));
    let pair = scene.server("a.test");
    let arus = terminator(&demo.address, &[&pair], "alpn = [\"h2\", \"http/1.1\"]").start();
    let address = arus.address("tls").ip();
    let url = format!("https://a.test:{}/", address.port());
    let resolve = format!("a.test:{}:127.0.0.1", address.port());
    let versions = [["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3", "--tls-max", "1.3"]];
    for (version, (protocol, name)) in
        versions.iter().flat_map(|version| [("--http1.1", "1.1"), ("--http2", "2")].map(|protocol| (version, protocol)))
    {
        let mut command = std::process::Command::new("curl");
        command.args(["-sS", "--max-time", "30", "--noproxy", "*", "--cacert", scene.ca(), "--resolve", &resolve]);
        command.args(version).args([protocol, "-w", "%{http_version} %{ssl_verify_result}", &url]);
        let output = command.output().unwrap();
        let answer = text(&output.stdout);
        assert!(output.status.success(), "{version:?} {protocol}: {}", text(&output.stderr));
        assert!(answer.starts_with("hello client 127.0.0.1:"), "{answer}");
        assert!(answer.ends_with(&format!("\r\n{name} 0")), "{answer}");
    }
    for line in arus.finished(4) {
        assert_eq!((&line["sni"], &line["state"]), (&"a.test".into(), &"closed".into()), "{line}");
    }
}

#[test]
fn keys_of_every_form_serve() {
    if !has("openssl") {
        return;
    }
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    for (number, key) in [Key::Ecdsa, Key::EcdsaSec1, Key::Rsa, Key::RsaPkcs1].into_iter().enumerate() {
        let pair = scene.authority.server(&format!("server{number}"), &["a.test"], key);
        let arus = terminator(echo.address(), &[&pair], "").start();
        let mut stream = scene.client("a.test").connect(&arus.address("tls"));
        assert_eq!(stream.peer_certificate().unwrap(), pair.der(), "{key:?}");
        check_echo(&mut stream, 1);
    }
}

#[test]
fn every_cipher_suite_carries_bytes_both_ways() {
    const BYTES: u64 = 5 << 20;
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let ecdsa = terminator(echo.address(), &[&scene.server("a.test")], "").start();
    let rsa = terminator(echo.address(), &[&scene.authority.server("rsa", &["a.test"], Key::Rsa)], "").start();
    let suites = rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
    assert!(suites.len() >= 9, "{suites:?}");
    for suite in suites {
        let is_rsa = format!("{:?}", suite.suite()).contains("ECDHE_RSA");
        let arus = if is_rsa { &rsa } else { &ecdsa };
        let client = TlsClient::only(&scene.authority, "a.test", *suite);
        let stream = client.connect(&arus.address("tls"));
        echo_at_once(stream, BYTES);
    }
    for arus in [&ecdsa, &rsa] {
        arus.wait_active(0);
        for line in arus.log.access() {
            // The payload, not the records.
            assert_eq!((&line["bytes_up"], &line["bytes_down"]), (&BYTES.into(), &BYTES.into()), "{line}");
        }
        arus.wait_buffers_whole();
    }
}

/// Sends and reads back so much that neither end may wait for the other, in pieces of many sizes.
fn echo_at_once(mut stream: TlsStream, bytes: u64) {
    let (mut sent, mut seen, mut random) = (0, 0, Random::new(bytes));
    // What is on its way stays below what the socket buffers, arus and the echo hold at the least.
    while seen < bytes {
        while sent < bytes && sent - seen < 128 * 1024 {
            let piece = (1 + random.below(40_000)).min(bytes - sent);
            stream.send(3, sent, piece);
            sent += piece;
        }
        let piece = (1 + random.below(60_000)).min(sent - seen);
        stream.expect(3, seen, piece);
        seen += piece;
    }
    stream.close_notify();
    assert_eq!(stream.read_to_end(), (Vec::new(), TlsEnd::CloseNotify));
}

#[test]
fn openssl_versions_and_ciphers() {
    if !has("openssl") {
        return;
    }
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let pair = scene.server("a.test");
    let arus = terminator(echo.address(), &[&pair], "").start();
    let modern = terminator(echo.address(), &[&pair], "min_version = \"1.3\"").start();
    let common = ["-CAfile", scene.ca(), "-servername", "a.test", "-verify_return_error"];
    let with = |words: &[&str], address: &Address| shake_hands(address, &[&common, words].concat());
    let chosen = [
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"],
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
        ["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
        ["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"],
        ["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
    ];
    for words in chosen {
        let (printed, is_well) = with(&words, &arus.address("tls"));
        assert!(is_well && printed.contains(&format!("Cipher is {}", words[2])), "{words:?}:\n{printed}");
        assert!(printed.contains("Verification: OK"), "{printed}");
    }
    for group in ["X25519", "P-256"] {
        assert!(with(&["-groups", group], &arus.address("tls")).1, "{group}");
    }
    for (arus, words) in [(&arus, ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]), (&modern, ["-tls1_2", "-cipher", "ALL"])]
    {
        let (printed, is_well) = with(&words, &arus.address("tls"));
        assert!(!is_well && printed.contains("SSL alert number 70"), "{words:?}:\n{printed}");
    }
    // A suite that is not served: CBC.
    let (printed, is_well) = with(&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], &arus.address("tls"));
    assert!(!is_well && printed.contains("alert handshake failure"), "{printed}");
    assert!(with(&["-tls1_3"], &modern.address("tls")).1);
    let mut dialogue = s_client(&arus.address("tls"), &common);
    dialogue.say(b"to and fro\n");
    dialogue.wait_for("\nto and fro\n");
    modern.wait_active(0);
    assert_client_failed_at("tls", &modern.finished(2)[..1]);
}

#[test]
fn alpn_is_agreed_upon() {
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let pair = scene.server("a.test");
    let arus = terminator(echo.address(), &[&pair], "alpn = [\"h2\", \"http/1.1\"]").start();
    let none = terminator(echo.address(), &[&pair], "").start();
    let asked = |offer: &[&str], arus: &Arus| fate(&scene.client("a.test").alpn(offer), &arus.address("tls"));
    for (offer, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        // The order of the server counts.
        (&["http/1.1", "h2"], Some("h2")),
        (&["x", "http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        assert_eq!(asked(offer, &arus).unwrap_or_else(|end| panic!("{offer:?}: {end:?}")).alpn().as_deref(), chosen);
        assert_eq!(asked(offer, &none).unwrap_or_else(|end| panic!("{offer:?}: {end:?}")).alpn(), None);
    }
    assert_eq!(asked(&["x", "y"], &arus).err(), alert(AlertDescription::NoApplicationProtocol));
}

#[test]
fn certificates_are_chosen_by_name() {
    if !has("openssl") {
        return;
    }
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let [a, b, any] = ["a.test", "b.test", "*.c.test"].map(|name| scene.server(name));
    let exact = scene.authority.server("exact", &["exact.c.test"], Key::Ecdsa);
    let all = [&a, &b, &any, &exact];
    let arus = terminator(echo.address(), &all, "").start();
    let strict = terminator(echo.address(), &all, "unknown_sni = \"reject\"").start();
    for arus in [&arus, &strict] {
        let address = arus.address("tls");
        let shown = |name: &str| scene.client(name).connect(&address).peer_certificate().unwrap();
        assert_eq!(shown("a.test"), a.der());
        assert_eq!(shown("b.test"), b.der());
        assert_eq!(shown("x.c.test"), any.der());
        assert_eq!(shown("exact.c.test"), exact.der(), "an exact name before a wildcard");
        // No name: the first.
        assert_eq!(shown("127.0.0.1"), a.der());
        let (printed, _) = shake_hands(&address, &["-servername", "B.TeSt"]);
        assert!(printed.contains("subject=CN = b.test"), "{printed}");
    }
    for name in ["d.test", "c.test", "x.y.c.test"] {
        let words = ["-servername", name];
        let (printed, is_well) = shake_hands(&arus.address("tls"), &words);
        assert!(is_well && printed.contains("subject=CN = a.test"), "{printed}");
        let (printed, is_well) = shake_hands(&strict.address("tls"), &words);
        assert!(!is_well && printed.contains("unrecognized name"), "{printed}");
    }
}

#[test]
fn client_certificates_off_requested_and_required() {
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let pair = scene.server("a.test");
    let clients = Authority::new(scene.directory.path(), "clients");
    let (alice, mallory) = (clients.client("alice"), scene.authority.client("mallory"));
    let known = TlsClient::identified(&scene.authority, "a.test", &alice);
    let stranger = TlsClient::identified(&scene.authority, "a.test", &mallory);
    let nobody = scene.client("a.test");
    for (mode, nobody_is_welcome, stranger_is_welcome) in
        [("off", true, true), ("request", true, false), ("require", false, false)]
    {
        let keys = match mode {
            "off" => String::new(),
            mode => format!("client_auth = {{ mode = \"{mode}\", ca = {:?} }}", clients.cert()),
        };
        let arus = terminator(echo.address(), &[&pair], &keys).start();
        let address = arus.address("tls");
        let refusal = |client: &TlsClient| fate(client, &address).err();
        assert_eq!(refusal(&known), None, "{mode}");
        let expected = if nobody_is_welcome { None } else { alert(AlertDescription::CertificateRequired) };
        assert_eq!(refusal(&nobody), expected, "{mode}");
        assert_eq!(refusal(&stranger).is_none(), stranger_is_welcome, "{mode}");
        if !stranger_is_welcome {
            assert_eq!(refusal(&stranger), alert(AlertDescription::UnknownCA), "{mode}");
        }
    }
}

#[test]
fn a_server_may_speak_first() {
    let scene = Scene::new();
    let source = Backend::start(behaviour::source(100_000));
    let arus = terminator(source.address(), &[&scene.server("a.test")], "").start();
    for round in 0..3 {
        let mut stream = scene.client("a.test").connect(&arus.address("tls"));
        stream.expect(round, 0, 100_000);
        assert_eq!(stream.read_to_end(), (Vec::new(), TlsEnd::CloseNotify));
    }
}

#[test]
fn facts_of_the_hello_are_told() {
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let arus = terminator(echo.address(), &[&scene.server("a.test")], "alpn = [\"h2\"]").start();
    let mut stream = scene.client("a.test").alpn(&["h2"]).connect(&arus.address("tls"));
    check_echo(&mut stream, 1);
    assert_eq!(stream.version(), ProtocolVersion::TLSv1_3);
    let session = arus.sessions().remove(0);
    assert_eq!((&session["sni"], &session["alpn"]), (&"a.test".into(), &"h2".into()), "{session}");
    assert!(session["tls_version"].as_str().is_some_and(|version| version.contains("1.3")), "{session}");
    let listener = &arus.status()["listeners"][0];
    let handshakes = serde_json::json!([{ "version": "1.3", "result": "full", "count": 1 }]);
    assert_eq!(listener["handshakes"], handshakes, "{listener:#}");
    drop(stream);
    assert_eq!(arus.finished(1)[0]["sni"], "a.test");
}

#[test]
fn a_self_signed_certificate_is_made_once() {
    if !has("openssl") {
        return;
    }
    let (scene, echo) = (Scene::new(), Backend::start(behaviour::echo));
    let body = upstream("app", &[&echo], "")
        + &listener("tls", "127.0.0.1:0", "app", "[listener.tls]\nself_signed = [\"localhost\", \"127.0.0.1\"]");
    let arus = Setup::new(body).start();
    let printed = |arus: &Arus| shake_hands(&arus.address("tls"), &["-servername", "localhost", "-showcerts"]).0;
    let certificate = |printed: &str| {
        let begin = printed.find("-----BEGIN CERTIFICATE-----").expect("a certificate");
        printed[begin..].split("-----END").next().unwrap().to_owned()
    };
    let first = certificate(&printed(&arus));
    let generation = reload(&arus).unwrap();
    assert_eq!(certificate(&printed(&arus)), first, "generation {generation}");
    // Who trusts nobody else does not trust it.
    let refused = scene.client("localhost").try_connect(&arus.address("tls")).err();
    assert!(matches!(refused, Some(TlsEnd::Refused(_))), "{refused:?}");
}
