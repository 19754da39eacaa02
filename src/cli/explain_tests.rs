//! What `arus explain` answers.

use super::*;

const TEXT: &str = r#"
[[listener]]
name = "web"
listen = "127.0.0.1:1"
upstream = "rest"
plugins = ["filter"]
allow_sources = ["10.0.0.0/8", "192.0.2.0/24"]
[[listener.route]]
source = ["10.1.0.0/16"]
upstream = "near"
[[listener]]
name = "routed"
listen = "127.0.0.1:2"
[[listener.route]]
source = ["10.0.0.0/8"]
upstream = "near"
[[listener]]
name = "tls"
listen = "127.0.0.1:4"
upstream = "rest"
accept_proxy = { mode = "require", trusted = ["127.0.0.1"] }
tls = { self_signed = ["a.test", "*.b.test"], unknown_sni = "reject" }
[[listener]]
name = "unix"
listen = "unix:/run/x"
upstream = "rest"
[[upstream]]
name = "near"
backends = ["127.0.0.1:3", { address = "b:4", weight = 2, backup = true }]
[[upstream]]
name = "rest"
backends = ["127.0.0.1:5"]
[[plugin]]
name = "filter"
path = "/lib/filter.so"
"#;

fn answer(listener: &str, source: Option<&str>) -> Answer {
    answer_to(listener, source, "a")
}

fn answer_to(listener: &str, source: Option<&str>, sni: &str) -> Answer {
    let environment = config::Environment { is_root: true, home: None, xdg_state_home: None, directory: "/".into() };
    let plan = config::parse(TEXT, "f", Path::new("/"), &environment).unwrap().plan;
    let args = Args {
        listener: listener.into(),
        source: source.map(|source| source.parse().unwrap()),
        sni: Some(sni.into()),
        alpn: Vec::new(),
        user: None,
        group: Vec::new(),
        to: None,
        protocol: "tcp".into(),
        json: false,
    };
    let listener = plan.listeners.iter().find(|candidate| *candidate.name == *listener).unwrap();
    explain(&plan, listener, &Source::File("f".into()), &args, None)
}

#[test]
fn says_which_route_and_backends() {
    let near = answer("web", Some("::ffff:10.1.2.3"));
    assert_eq!(
        near.to_string(),
        "listener   web (f:2)\n\
         source     10.1.2.3: admitted\n\
         sni        a\n\
         route      f:8\n\
         upstream   near (f:27), round_robin, 2 retries\n\
         backend    127.0.0.1:3, weight 1\n\
         backend    b:4, weight 2, backup\n\
         plugin     filter (f:33), /lib/filter.so\n\
         timeouts   connect 5s, idle 10m, half_closed 1m\n\
         note       --sni decides nothing: no route of this listener looks at it\n"
    );
    assert_eq!(answer("web", Some("192.0.2.1")).upstream.unwrap().name, "rest");
}

#[test]
fn says_why_not() {
    assert_eq!(answer("web", Some("203.0.113.1")).rejected, Some("source_not_allowed"));
    assert_eq!(answer("web", None).rejected, Some("source_not_allowed"), "a unix client is in no network");
    assert!(answer("web", None).to_string().contains("source     not given: not in allow_sources\n"));
    assert!(answer("web", None).to_string().contains("note       --source was not given, and it decides"));
    assert!(answer("unix", None).to_string().contains("source     none, as of a unix socket: admitted\n"));
    assert_eq!(answer("routed", Some("192.0.2.1")).rejected, Some("no_route"));
    assert_eq!(answer("routed", None).rejected, Some("no_route"));
    let json = serde_json::to_value(answer("web", None)).unwrap();
    assert_eq!(json["upstream"], serde_json::Value::Null);
}

#[test]
fn says_which_certificate_is_shown() {
    for name in ["a.test", "A.test.", "x.b.test"] {
        let shown = answer_to("tls", Some("192.0.2.1"), name);
        assert_eq!((shown.rejected, shown.certificates.as_ref().unwrap().len()), (None, 1), "{name}");
        let text = shown.to_string();
        assert!(
            text.contains("shown      ")
                && text.contains(", for a.test *.b.test\nclient     is asked for no certificate (client_auth off)\n"),
            "{text}"
        );
        assert!(text.contains("timeouts   proxy_header 5s, tls_handshake 10s, connect 5s, "), "{text}");
    }
    for name in ["c.test", "b.test", "y.x.b.test"] {
        let refused = answer_to("tls", Some("192.0.2.1"), name);
        assert_eq!((refused.rejected, refused.upstream.is_none()), (Some("unknown_sni"), true), "{name}");
        assert!(refused.to_string().ends_with(
            "rejected   unknown_sni (no certificate has this name)\n\
             note       the source is the one of the PROXY header, which a trusted peer must send\n"
        ));
    }
    let json = serde_json::to_value(answer_to("tls", Some("192.0.2.1"), "c.test")).unwrap();
    assert_eq!((&json["client_auth"], &json["certificates"]), (&"off".into(), &serde_json::json!([])));
}

#[test]
fn says_which_rule_decides_for_socks() {
    let text = "[[listener]]\nname = \"s\"\nlisten = \"127.0.0.1:1\"\nservice = \"socks5\"\n[[auth.user]]\nname = \"alice\"\ngroups = [\"Dev\"]\n\
                password_hash = \"sha\"\n[acl]\n[[acl.rule]]\naction = \"allow\"\ngroups = [\"dev\"]\ndestinations = [\"*.x.com\"]\n";
    let text = text.replace("password_hash = \"sha\"\n", "password = \"p\"\n");
    let environment = config::Environment { is_root: true, home: None, xdg_state_home: None, directory: "/".into() };
    let plan = config::parse(&text, "f", Path::new("/"), &environment).unwrap().plan;
    let say = |user: Option<&str>, group: &[&str], to: &str| {
        let args = Args {
            listener: "s".into(),
            source: None,
            sni: None,
            alpn: Vec::new(),
            user: user.map(Into::into),
            group: group.iter().map(|group| (*group).into()).collect(),
            to: Some(to.into()),
            protocol: "tcp".into(),
            json: false,
        };
        let access = access(&plan, &plan.listeners[0], to, &args).unwrap();
        explain(&plan, &plan.listeners[0], &Source::File("f".into()), &args, Some(access)).to_string()
    };
    let allowed = say(Some("alice"), &[], "A.x.com.:443");
    assert!(allowed.contains("acl        allow by rule (f:10)") && !allowed.contains("rejected"), "{allowed}");
    assert!(say(Some("bob"), &["DEV"], "a.x.com:443").contains("acl        allow by rule (f:10)"));
    let blocked = say(Some("bob"), &[], "a.x.com:443");
    assert!(blocked.contains("acl        block (default)\nrejected   acl_blocked"), "{blocked}");
    assert!(
        say(Some("alice"), &[], "0x7f.1:80").contains("127.0.0.1:80, tcp\nacl        block (reserved destination)")
    );
}
