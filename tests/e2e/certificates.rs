//! Certificates without a handshake: what `arus check` says of files, which routes `arus explain` shows, what status
//! says, what a reload with a bad file changes, and the certificate that arus makes itself.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::*;
use crate::ops::{Running, arus_command, generation, has, reload, text};

/// A directory with an authority and `proxy.toml`.
struct Desk {
    directory: tempfile::TempDir,
    authority: Authority,
}

impl Desk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new(directory.path(), "ca");
        Self { directory, authority }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn server(&self, file: &str, key: Key) -> Pair {
        self.authority.server(file, &["a.test"], key)
    }

    /// What `arus check` says of a listener with these keys, and whether it is content. The keys begin on line 6.
    fn check(&self, listener: &str, upstream: &str) -> (bool, String) {
        let path = self.path().join("proxy.toml");
        let text_of = format!(
            "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nupstream = \"app\"\n[listener.tls]\n{listener}\n\
             [[upstream]]\nname = \"app\"\nbackends = [\"127.0.0.1:1\"]\n{upstream}\n"
        );
        fs::write(&path, text_of).unwrap();
        let output = arus_command(&["check", "-c", path.to_str().unwrap()]);
        let said = text(&output.stderr).replace(&format!("{}/", self.path().display()), "");
        match output.status.code() {
            Some(0) => (true, said),
            Some(2) => (false, said),
            code => panic!("{code:?}: {said}"),
        }
    }
}

#[test]
fn check_takes_every_kind_of_key() {
    let desk = Desk::new();
    let mut keys = vec![Key::Ecdsa, Key::Rsa];
    if has("openssl") {
        keys.extend([Key::EcdsaSec1, Key::RsaPkcs1]);
    }
    for (number, key) in keys.into_iter().enumerate() {
        let pair = desk.server(&format!("k{number}"), key);
        fs::set_permissions(&pair.key, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(desk.check(&format!("certificates = {}", pair.toml()), ""), (true, String::new()), "{key:?}");
    }
}

#[test]
fn check_says_what_is_wrong_with_which_file() {
    let desk = Desk::new();
    let (a, b) = (desk.server("a", Key::Ecdsa), desk.server("b", Key::Ecdsa));
    for pair in [&a, &b] {
        fs::set_permissions(&pair.key, fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::write(desk.path().join("garbage.pem"), "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n").unwrap();
    let both = |cert: &str, key: &str| format!("certificates = [{{ cert = \"{cert}\", key = \"{key}\" }}]");
    for (listener, upstream, place, what) in [
        (both("a.pem", "b.key"), "", "6:41", "b.key has a key that is not the certificate's"),
        (both("garbage.pem", "a.key"), "", "6:26", "garbage.pem is torn"),
        (both("a.pem", "none.key"), "", "6:41", "none.key cannot be read: No such file or directory"),
        (both("none.pem", "a.key"), "", "6:26", "none.pem cannot be read: No such file or directory"),
        (both("a.pem", "a.key") + "\nself_signed = [\"x\"]", "", "7:15", "`self_signed` beside `certificates`"),
        (both("a.pem", "a.key") + "\nalpn = [\"h2\", \"\"]", "", "7:15", "`` is not a protocol"),
        (
            both("a.pem", "a.key") + "\nclient_auth = { mode = \"require\", ca = \"none.pem\" }",
            "",
            "7:40",
            "none.pem cannot be read",
        ),
        (both("a.pem", "a.key"), "tls = { ca = \"none.pem\" }", "10:14", "none.pem cannot be read"),
        (both("a.pem", "a.key"), "tls = { cert = \"a.pem\", key = \"b.key\" }", "10:31", "b.key has a key that is not"),
    ] {
        let (ok, said) = desk.check(&listener, upstream);
        assert!(!ok && said.starts_with(&format!("proxy.toml:{place}: {what}")), "{listener}{upstream}:\n{said}");
        let found = said.lines().filter(|line| !line.ends_with("were not looked at, because of these errors"));
        assert_eq!(found.count(), 1, "{said}");
        let config = desk.path().join("proxy.toml");
        let run = arus_command(&["run", "-c", config.to_str().unwrap()]);
        assert_eq!(run.status.code(), Some(2), "what cannot be checked cannot be run: {run:?}");
    }
    let (ok, said) =
        desk.check(&both("a.pem", "a.key"), "tls = { ca = \"ca.pem\", cert = \"b.pem\", key = \"b.key\" }");
    assert!(ok && said.is_empty(), "{said}");
}

#[test]
fn check_warns_of_what_works_and_should_not_stay() {
    let desk = Desk::new();
    let pair = desk.authority.expired("old", &["a.test"]);
    fs::set_permissions(&pair.key, fs::Permissions::from_mode(0o644)).unwrap();
    let (ok, said) = desk.check(&format!("certificates = {}", pair.toml()), "tls = { verify = false }");
    assert!(ok, "{said}");
    for part in
        ["old.pem has a certificate", "that expired on", "everybody may read it (chmod o-r)", "`verify = false`"]
    {
        assert!(said.contains(part), "no {part} in\n{said}");
    }
    assert!(said.lines().all(|line| line.contains(": warning: ")) && said.lines().count() == 3, "{said}");
}

#[test]
fn a_certificate_of_its_own_is_made_by_the_first_start_and_kept() {
    let desk = Desk::new();
    let keys = "self_signed = [\"localhost\", \"127.0.0.1\", \"*.x.test\"]";
    let state = desk.path().join("state");
    let (ok, said) = desk.check(keys, &format!("[engine]\nstate_dir = {state:?}"));
    assert!(ok && !state.exists(), "a check leaves nothing behind: {said}");

    let mut arus = Setup::to("127.0.0.1:0", &["127.0.0.1:1".into()], &format!("[listener.tls]\n{keys}"), "").start();
    let state = arus.directory().join("state");
    let kept = || {
        let entries = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "pem")).collect::<Vec<_>>()
    };
    let files = kept();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(files[0].metadata().unwrap().mode() & 0o777, 0o600);
    let made = fs::read(&files[0]).unwrap();
    let shown = certificate(&arus);
    assert_eq!(shown["names"], serde_json::json!(["localhost", "127.0.0.1", "*.x.test"]), "{shown}");
    assert_eq!(reload(&arus), Ok(2));
    assert_eq!(certificate(&arus), shown);

    let config = arus.config().to_owned();
    arus.signal(Signal::SIGTERM);
    arus.wait_exit(DEADLINE);
    let mut again = Command::new(env!("CARGO_BIN_EXE_arus"));
    again.args(["run", "--log-format", "json", "--config"]).arg(config);
    let again = Running::start(again);
    again.log.message("ready");
    assert_eq!(fs::read(&files[0]).unwrap(), made, "made once");
}

#[test]
fn explain_shows_the_route_of_a_server_name() {
    let desk = Desk::new();
    let path = desk.path().join("proxy.toml");
    let upstream = |name: &str| format!("[[upstream]]\nname = \"{name}\"\nbackends = [\"127.0.0.1:1\"]\n");
    fs::write(
        &path,
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nupstream = \"rest\"\n\
         [[listener.route]]\nsni = [\"db.test\", \"*.db.test\"]\nupstream = \"db\"\n\
         [[listener.route]]\nalpn = [\"h2\"]\nsni = \"*\"\nupstream = \"web\"\n"
            .to_owned()
            + &upstream("rest")
            + &upstream("db")
            + &upstream("web"),
    )
    .unwrap();
    let explain = |arguments: &[&str]| {
        let all = ["explain", "-c", path.to_str().unwrap(), "--listener", "web", "--json"];
        let output = arus_command(&[&all[..], arguments].concat());
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        (
            answer["upstream"]["name"].clone(),
            answer["route_at"].as_str().map(|at| at.rsplit(':').next().unwrap().to_owned()),
        )
    };
    assert_eq!(explain(&["--sni", "db.test"]), ("db".into(), Some("5".into())));
    assert_eq!(explain(&["--sni", "X.DB.test"]), ("db".into(), Some("5".into())));
    assert_eq!(explain(&["--sni", "y.x.db.test"]), ("rest".into(), None));
    assert_eq!(explain(&["--sni", "w.test", "--alpn", "http/1.1", "--alpn", "h2"]), ("web".into(), Some("8".into())));
    assert_eq!(explain(&["--alpn", "h2"]), ("rest".into(), None));
    let words = arus_command(&[
        "explain",
        "-c",
        path.to_str().unwrap(),
        "--listener",
        "web",
        "--sni",
        "db.test",
        "--alpn",
        "h2",
    ]);
    let words = text(&words.stdout);
    assert!(words.contains("sni        db.test\n") && words.contains("alpn       h2\n"), "{words}");
}

/// The certificate that status shows for the listener `web`.
fn certificate(arus: &Arus) -> Value {
    let status = arus.status();
    let listeners = status["listeners"].as_array().unwrap();
    listeners.iter().find(|listener| listener["name"] == "web").unwrap()["certificates"][0].clone()
}

#[test]
fn status_shows_certificates_and_a_reload_with_a_bad_file_changes_nothing() {
    let desk = Desk::new();
    let (live, other) = (desk.server("live", Key::Ecdsa), desk.authority.server("other", &["b.test"], Key::Ecdsa));
    let listener = format!("[listener.tls]\ncertificates = {}", live.toml());
    let arus = Setup::to("127.0.0.1:0", &["127.0.0.1:1".into()], &listener, "").start();
    let before = certificate(&arus);
    assert_eq!(before["names"], serde_json::json!(["a.test"]), "{before}");
    assert!(before["not_after"].as_str().unwrap().ends_with('Z'), "{before}");

    // A key of another pair: neither the watch nor a reload takes it.
    fs::copy(&other.key, &live.key).unwrap();
    arus.log.wait(DEADLINE, "the warning", |lines| {
        lines
            .iter()
            .find(|line| line["message"].as_str().unwrap().starts_with("changed certificate not usable"))
            .cloned()
    });
    let refused = reload(&arus).unwrap_err();
    assert!(refused.contains("live.key has a key that is not the certificate's"), "{refused}");
    assert!(refused.contains("proxy.toml:"), "{refused}");
    let mut now = certificate(&arus);
    let pending = now.as_object_mut().unwrap().remove("pending_error").unwrap();
    assert!(pending.as_str().unwrap().contains("live.key has a key that is not the certificate's"), "{pending}");
    assert_eq!((generation(&arus), now), (1, before));

    // With its certificate beside it, it is taken: no reload is needed.
    fs::copy(&other.cert, &live.cert).unwrap();
    eventually("the new pair is in use", || (certificate(&arus)["names"][0] == "b.test").then_some(()));
    assert_eq!(generation(&arus), 1);
    let said = arus.log.wait(DEADLINE, "the line", |lines| {
        lines.iter().find(|line| line["message"] == "new certificate in use").cloned()
    });
    assert_eq!((&said["listener"], &said["names"]), (&"web".into(), &"b.test".into()));
    assert_eq!(certificate(&arus)["pending_error"], serde_json::Value::Null);
    let lost = arus.log.wait(DEADLINE, "the warning", |lines| {
        lines.iter().find(|line| line["message"] == "no certificate has these names any more").cloned()
    });
    assert_eq!(lost["names"], "a.test");
}

#[test]
fn a_changed_authority_is_a_reload_and_a_torn_one_is_refused() {
    let desk = Desk::new();
    let live = desk.server("live", Key::Ecdsa);
    let ca = desk.path().join("clients.pem");
    fs::copy(desk.authority.cert(), &ca).unwrap();
    let listener = format!(
        "[listener.tls]\ncertificates = {}\nclient_auth = {{ mode = \"request\", ca = \"{}\" }}",
        live.toml(),
        ca.display()
    );
    let arus = Setup::to("127.0.0.1:0", &["127.0.0.1:1".into()], &listener, "").start();
    fs::write(&ca, "torn").unwrap();
    arus.log.wait(DEADLINE, "the refusal", |lines| {
        lines.iter().find(|line| line["message"] == "reload refused; nothing has changed").cloned()
    });
    assert_eq!(generation(&arus), 1);
    fs::copy(Desk::new().authority.cert(), &ca).unwrap();
    eventually("the authority is taken up", || (generation(&arus) == 2).then_some(()));
}
