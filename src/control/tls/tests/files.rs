//! Files that are wrong, files that change, files that arus writes.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Instant;

use tokio::sync::mpsc;

use super::*;
use crate::control::events::{Category, Events};
use crate::types::Name;

/// What `arus check` says, without the file's name.
fn said(desk: &Desk, tls: &str, upstream: Option<&str>) -> Vec<String> {
    let directory = format!("{}/", desk.path().display());
    let findings = check(&desk.plan(tls, upstream), "f");
    findings.iter().map(|finding| finding.to_string().replace(&directory, "")).collect()
}

#[test]
fn every_file_that_cannot_be_used_is_named_at_its_place() {
    let desk = Desk::new();
    desk.issue("a", &["a.test"]);
    desk.issue("b", &["b.test"]);
    desk.write("garbage.pem", "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n");
    desk.write("torn.pem", &std::fs::read(desk.path().join("a.pem")).unwrap()[..200]);
    desk.write("junk.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    desk.write("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    desk.write("bad.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    desk.write("empty", "");
    nix::unistd::mkfifo(&desk.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let pair = |cert: &str, key: &str| format!("{{ cert = \"{cert}\", key = \"{key}\" }},\n");
    let tls = format!(
        "certificates = [\n{}{}{}{}{}{}{}{}{}]\nclient_auth = {{ mode = \"request\", ca = \"junk.pem\" }}",
        pair("a.pem", "a.key"),
        pair("a.pem", "b.key"),
        pair("missing.pem", "empty"),
        pair("garbage.pem", "a.pem"),
        pair("torn.pem", "a.key"),
        pair("junk.pem", "a.key"),
        pair("a.pem", "locked.key"),
        pair("a.pem", "bad.key"),
        pair(".", "pipe"),
    );
    let found = said(&desk, &tls, Some("ca = \"empty\", cert = \"b.pem\", key = \"a.key\""));
    let expected = [
        "f:9:25: b.key has a key that is not the certificate's",
        "f:10:10: missing.pem cannot be read: No such file",
        "f:10:31: empty has no private key",
        "f:11:10: garbage.pem is torn: it has a part that is not base64",
        "f:11:31: a.pem has no private key",
        "f:12:10: torn.pem is torn: it has a part without its -----END line",
        "f:13:10: junk.pem has a certificate that is not one (X.509)",
        "f:14:25: locked.key has a key that needs a password",
        "f:15:25: bad.key has a key that cannot be used: failed to parse",
        "f:16:10: . is not a file",
        "f:16:21: pipe is not a file",
        "f:18:40: junk.pem has a certificate, number 1, that cannot be an authority",
        "f:22:14: empty has no certificate",
        "f:22:45: a.key has a key that is not the certificate's",
    ];
    let all = found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
    assert!(all, "found:\n{}\nexpected:\n{}", found.join("\n"), expected.join("\n"));
    assert_eq!(
        said(&desk, &certificates(&["a", "b"]), Some("ca = \"ca.pem\", cert = \"b.pem\", key = \"b.key\"")),
        [""; 0]
    );
}

#[test]
fn what_works_and_may_not_for_long_is_a_warning() {
    let desk = Desk::new();
    desk.issue("good", &["a.test"]);
    for (name, days) in [("old", -1), ("ending", 13), ("fine", 15)] {
        desk.issue_for(name, &["b.test"], days, &KeyPair::generate().unwrap());
    }
    std::fs::set_permissions(desk.path().join("good.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let found = said(&desk, &certificates(&["good", "old", "ending", "fine"]), None);
    let expected = [
        "f:7:44: warning: good.key has a private key and mode 644: everybody may read it (chmod o-r)",
        "f:7:67: warning: old.pem has a certificate (CN=old) that expired on 20",
        "f:7:106: warning: ending.pem has a certificate (CN=ending) that expires in 1",
    ];
    let all = found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
    assert!(all, "found:\n{}\nexpected:\n{}", found.join("\n"), expected.join("\n"));

    desk.issue("bare", &[]);
    let route = "[[listener.route]]\nsni = [\"a.test\", \"c.test\", \"*.c.test\"]\nupstream = \"u\"";
    let tls = |unknown: &str| {
        let ca = "client_auth = { mode = \"request\", ca = \"bare.pem\" }";
        format!("{}\n{ca}\nunknown_sni = \"{unknown}\"\n{route}", certificates(&["fine", "good", "bare", "fine"]))
    };
    let found = said(&desk, &tls("reject"), None);
    let expected = [
        "f:7:85: warning: good.key has a private key",
        "f:7:108: warning: bare.pem has a certificate (CN=bare) without names (subjectAltName): clients believe it for none",
        "f:7:149: warning: fine.pem has a certificate (CN=fine) that stands before it in `certificates` already",
        "f:8:40: warning: bare.pem has a certificate (CN=bare) that is no authority",
        "f:10:1: warning: no certificate has the name `c.test`: `unknown_sni = \"reject\"` refuses it before this route",
    ];
    let all = found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
    assert!(all, "found:\n{}\nexpected:\n{}", found.join("\n"), expected.join("\n"));
    assert_eq!(said(&desk, &tls("default"), None).len(), expected.len() - 1, "there it gets the first one");

    let facts = |not_before, not_after| Facts { subject: "x".into(), names: Vec::new(), not_before, not_after };
    let now = SystemTime::now();
    let early = identity::expiry(&facts(i64::MAX, i64::MAX), now).unwrap();
    assert!(early.contains("not valid before 9999-12-31T23:59:59Z"), "{early}");
    assert_eq!(identity::expiry(&facts(0, i64::MAX), now), None);
    assert!(identity::expiry(&facts(i64::MIN, i64::MIN), now).unwrap().contains("expired on 1970"));
}

#[test]
fn backends_are_known_by_their_names() {
    let desk = Desk::new();
    let names = |keys: &str| {
        let acquired = acquire(&desk.plan("self_signed = \"x\"", Some(keys)), None, Store::Forgotten).unwrap();
        let names = acquired.upstreams[0].as_ref().unwrap().names.clone();
        names.iter().map(|name| name.to_str().into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("ca = \"ca.pem\""), ["127.0.0.1", "db.test"]);
    assert_eq!(names("ca = \"ca.pem\", server_name = \"x.test\""), ["x.test", "x.test"]);
    let acquired =
        acquire(&desk.plan("self_signed = \"x\"", Some("ca = \"ca.pem\", alpn = \"h2\"")), None, Store::Forgotten);
    let config = Arc::clone(&acquired.unwrap().upstreams[0].as_ref().unwrap().config);
    desk.issue("a", &["db.test"]);
    let snapshot = desk.in_force(&certificates(&["a"]), None);
    assert!(shake(&config, "db.test", &snapshot).is_ok());
    let wrong = shake(&config, "other.test", &snapshot).unwrap_err();
    assert!(matches!(wrong, Error::InvalidCertificate(_)), "{wrong:?}");
}

#[test]
fn a_self_signed_certificate_is_made_once_and_renewed_in_time() {
    let desk = Desk::new();
    let names = |names: &[&str]| names.iter().map(|name| Name::from(*name)).collect::<Vec<_>>();
    let (one, turned, other) =
        (names(&["localhost", "127.0.0.1"]), names(&["127.0.0.1", "localhost"]), names(&["localhost", "*.x.test"]));
    let store = Store::Kept(desk.path());
    let first = self_signed::obtain(store, &one).unwrap();
    assert_eq!(first.facts.names, ["localhost", "127.0.0.1"]);
    let days = identity::left(&first.facts, identity::seconds(SystemTime::now())).as_secs() / DAY;
    assert!((360..=365).contains(&days), "{days}");
    let path = self_signed::path(desk.path(), &one);
    assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    let again = self_signed::obtain(store, &turned).unwrap();
    assert_eq!(again.key.cert, first.key.cert, "the same names are the same certificate");
    assert_eq!(self_signed::obtain(store, &other).unwrap().facts.names, ["localhost", "*.x.test"]);
    assert_eq!(self_signed::obtain(store, &one).unwrap().key.cert, first.key.cert);

    let now = SystemTime::now();
    let later = |days: u64| now + Duration::from_secs(days * DAY);
    assert!(!self_signed::is_due(&first, now) && !self_signed::is_due(&first, later(330)));
    assert!(self_signed::is_due(&first, later(336)));
    for content in ["", "garbage", &std::fs::read_to_string(&path).unwrap()[..400]] {
        std::fs::write(&path, content).unwrap();
        let made = self_signed::obtain(store, &one).unwrap();
        assert_ne!(made.key.cert, first.key.cert);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    }
    let left: Vec<_> = std::fs::read_dir(desk.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "the authority and two certificates: {left:?}");

    // Two that start at once: both get one that works.
    let fresh = names(&["fresh.test"]);
    let made: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| self_signed::obtain(store, &fresh).unwrap())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert!(made.iter().all(|made| made.facts.names == ["fresh.test"]));
    let wrong = self_signed::obtain(Store::Kept(&desk.path().join("missing")), &one).unwrap_err();
    assert!(wrong.contains("cannot be written: No such file"), "{wrong}");
    assert!(self_signed::obtain(Store::Forgotten, &one).is_ok());
}

#[test]
fn the_daily_look_renews_what_arus_made_itself() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path().join("state")).unwrap();
    let snapshot = desk.in_force("self_signed = [\"localhost\"]", None);
    let before = terms(&snapshot).certificates.all();
    let events = Events::new(snapshot.plan.telemetry);
    let said = || events.newest(9, |event| event.category == Category::Certificate);
    care::look_at_expiry(&snapshot, SystemTime::now(), &events);
    assert_eq!(said(), []);
    assert_eq!(terms(&snapshot).certificates.all()[0].key.cert, before[0].key.cert);
    care::look_at_expiry(&snapshot, SystemTime::now() + Duration::from_secs(350 * DAY), &events);
    assert_eq!(said()[0].message, "self-signed certificate renewed");
    assert_ne!(terms(&snapshot).certificates.all()[0].key.cert, before[0].key.cert);
}

#[tokio::test]
async fn changed_files_are_taken_up_within_a_second_and_authorities_ask_for_a_reload() {
    let desk = Desk::new();
    desk.issue("a", &["a.test"]);
    let tls = format!("{}\nclient_auth = {{ mode = \"request\", ca = \"ca.pem\" }}", certificates(&["a"]));
    let plan = desk.plan(&tls, None);
    let acquired = acquire(&plan, None, Store::Forgotten).unwrap();
    let mut snapshot = fixture::snapshot(plan.clone());
    Arc::get_mut(&mut snapshot).unwrap().tls = acquired.listeners;
    let (control, _requests, _shards) = fixture::control(plan);
    let (sender, mut changes) = mpsc::channel(1);
    let mut care = Care::new(control, sender);
    care.follow(&snapshot, &acquired.files);
    for round in 0..3 {
        let before = terms(&snapshot).certificates.all()[0].key.cert.clone();
        // The last time in the way of certbot: new files, renamed over the old.
        if round == 2 {
            let work = Desk { directory: tempfile::tempdir_in(desk.path()).unwrap(), ca: Desk::new().ca };
            work.issue("a", &["a.test"]);
            for name in ["a.pem", "a.key"] {
                std::fs::rename(work.path().join(name), desk.path().join(name)).unwrap();
            }
        } else {
            desk.issue("a", &["a.test"]);
        }
        let begun = Instant::now();
        while terms(&snapshot).certificates.all()[0].key.cert == before {
            assert!(begun.elapsed() < Duration::from_secs(20), "round {round}: not taken up");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(changes.try_recv().is_err(), "nothing else was touched");
    desk.write("ca.pem", Desk::new().ca.as_ref().pem());
    let change = tokio::time::timeout(Duration::from_secs(20), changes.recv()).await.unwrap();
    assert_eq!(change, Some(Changed::Files));
}
