//! TLS, routes by ClientHello and the PROXY protocol: what files mean, and every error that must come out.

use std::net::IpAddr;

use super::*;
use crate::config::diff::diff;
use crate::config::plan::{ClientAuth, Identity, ProxyTlvs, SendProxy, TlsVersion, UnknownSni};

/// A listener with these keys before an upstream with those.
fn with(listener: &str, upstream: &str) -> String {
    format!("{}{upstream}", MINIMAL.replace("[[upstream]]", &format!("{listener}\n[[upstream]]")))
}

/// Each line of findings must begin with its line of `expected`; the listener's keys begin on line 5, the upstream's one
/// on the fourth line after these.
#[track_caller]
fn expect(text: &str, expected: &[&str]) {
    let found = read(text).expect_err(text).to_string();
    let lines: Vec<&str> = found.lines().map(|line| line.strip_prefix("f:").unwrap()).collect();
    let all = lines.len() == expected.len() && lines.iter().zip(expected).all(|(found, part)| found.starts_with(part));
    assert!(all, "found:\n{found}\nexpected:\n{}", expected.join("\n"));
}

#[test]
fn values_arrive_in_the_plan() {
    let everything = plan(&uncommented());
    let tls = everything.listeners[1].tls.as_ref().unwrap();
    assert_eq!(tls.identity, Identity::SelfSigned(vec!["localhost".into(), "127.0.0.1".into()]));
    assert_eq!((&*tls.alpn[0], &*tls.alpn[1], tls.min_version), ("h2", "http/1.1", TlsVersion::V1_2));
    assert_eq!((tls.unknown_sni, &tls.client_auth), (UnknownSni::Default, &ClientAuth::Off));
    let https = everything.listeners[2].tls.as_ref().unwrap();
    let Identity::Files(pairs) = &https.identity else { panic!("{https:?}") };
    assert_eq!((pairs.len(), pairs[1].key.path.as_path()), (2, Path::new("/etc/arus/b.key")));
    assert_eq!(pairs[0].certificates.at.column, 26);
    let ClientAuth::Require(ca) = &https.client_auth else { panic!("{https:?}") };
    assert_eq!(ca.path, Path::new("/etc/arus/clients.pem"));
    assert!(everything.listeners[0].peeks && !everything.listeners[1].peeks);
    assert_eq!(everything.listeners[0].accept_proxy.as_ref().unwrap().trusted.len(), 1);

    let all = ProxyTlvs { alpn: true, authority: true, ssl: true, unique_id: true, crc32c: true };
    assert_eq!(everything.upstreams[0].send_proxy, SendProxy::V2(all));
    assert!(everything.demo.unwrap().accept_proxy);
    let out = everything.upstreams[1].tls.as_ref().unwrap();
    assert_eq!((out.server_name.as_deref(), out.verify), (Some("db.internal"), true));
    assert!(out.ca.is_some() && out.certificate.is_some() && out.alpn.len() == 1);

    let minimal = plan(&with("tls = { self_signed = \"A.Example.\" }", "tls = {}\nsend_proxy = \"v1\""));
    let tls = minimal.listeners[0].tls.as_ref().unwrap();
    assert_eq!(tls.identity, Identity::SelfSigned(vec!["a.example".into()]));
    assert!(tls.alpn.is_empty());
    let out = minimal.upstreams[0].tls.as_ref().unwrap();
    assert!(out.verify && out.ca.is_none() && out.certificate.is_none() && out.server_name.is_none());
    assert_eq!(minimal.upstreams[0].send_proxy, SendProxy::V1);
}

#[test]
fn routes_look_at_the_hello() {
    let text = with(
        "[[listener.route]]\nsni = [\"A.example\", \"*.example.com\"]\nalpn = \"h2\"\nupstream = \"u\"\n\
         [[listener.route]]\nalpn = [\"acme-tls/1\"]\nupstream = \"v\"\n\
         [[listener.route]]\nsni = \"*\"\nsource = \"10.0.0.0/8\"\nupstream = \"w\"",
        "[[upstream]]\nname = \"v\"\nbackends = [\"127.0.0.1:3\"]\n[[upstream]]\nname = \"w\"\nbackends = [\"127.0.0.1:4\"]\n",
    )
    .replacen("upstream = \"u\"\n", "", 1);
    let plan = plan(&text);
    let listener = &plan.listeners[0];
    assert!(listener.peeks);
    let route = |source: &str, name: Option<&str>, alpn: &[&'static str]| {
        let source: Option<IpAddr> = Some(source.parse().unwrap());
        let found = listener.route(source, name, alpn.iter().map(|protocol| protocol.as_bytes()));
        found.upstream().map(|index| &*plan.upstreams[usize::from(index.0)].name)
    };
    let far = "192.0.2.1";
    assert_eq!(route(far, Some("a.example"), &["http/1.1", "h2"]), Some("u"));
    assert_eq!(route(far, Some("A.EXAMPLE."), &["h2"]), Some("u"));
    assert_eq!(route(far, Some("x.Example.com"), &["h2"]), Some("u"));
    for name in ["example.com", "x.y.example.com", ".example.com", "xexample.com", "b.a.example"] {
        assert_eq!(route(far, Some(name), &["h2"]), None, "{name}");
    }
    assert_eq!(route(far, Some("a.example"), &["http/1.1"]), None, "both conditions must hold");
    assert_eq!(route(far, None, &["h2"]), None);
    assert_eq!(route(far, None, &["x", "acme-tls/1"]), Some("v"));
    assert_eq!(route("10.1.1.1", Some("anything"), &[]), Some("w"));
    assert_eq!(route("10.1.1.1", None, &[]), None, "`*` asks for a name");
}

#[test]
fn only_trusted_peers_send_a_header() {
    let text = |trusted: &str| with(&format!("accept_proxy = {{ mode = \"require\", trusted = {trusted} }}"), "");
    let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    let some = plan(&text("[\"10.0.0.0/8\", \"unix\"]"));
    let some = &some.listeners[0];
    assert!(some.trusts(ip("10.1.1.1")) && some.trusts(None) && !some.trusts(ip("192.0.2.1")));
    let all = plan(&text("[\"0.0.0.0/0\", \"::/0\"]"));
    assert!(all.listeners[0].trusts(ip("192.0.2.1")) && all.listeners[0].trusts(ip("::1")));
    assert!(!all.listeners[0].trusts(None), "a unix client is in no network");
    let off = plan(&with("accept_proxy = { mode = \"off\", trusted = [\"0.0.0.0/0\"] }", ""));
    assert!(off.listeners[0].accept_proxy.is_none() && !off.listeners[0].trusts(ip("10.1.1.1")));
}

#[test]
fn errors_of_listeners() {
    expect(
        &with(
            "accept_proxy = { mode = \"require\" }\n[listener.tls]\ncertificates = [{ cert = \"a.pem\" }, { cert = \"\", key = 1 }]\n\
             self_signed = [\"x\"]\nunknown_sni = \"drop\"\nalpn = [\"h2\", \"h2\", \"\", \"h 2\"]\nmin_version = \"1.1\"\nclient_auth = { mode = \"require\" }\n\
             [[listener.route]]\nsni = []\nalpn = []\nupstream = \"u\"\n[[listener.route]]\nsni = [\"*.*.a\", \"a b\", \"b*\", \"1.2.3.4\", \"a.b\", \"A.b\"]\nupstream = \"u\"",
            "",
        ),
        &[
            "5:16: `trusted` is missing, so nobody may send a PROXY header (the networks of your load balancers; to believe everybody write [\"0.0.0.0/0\", \"::/0\"])",
            "7:17: `key` is missing",
            "7:46: the path is empty",
            "7:56: `key` must be a string",
            "8:15: `self_signed` beside `certificates` (remove one",
            "9:15: `unknown_sni` cannot be `drop` (one of \"default\", \"reject\")",
            "10:15: `h2` is in `alpn` already",
            "10:21: `` is not a protocol (such as",
            "10:25: `h 2` is not a protocol (several are a list, such as",
            "11:15: `min_version` cannot be `1.1` (one of \"1.2\", \"1.3\")",
            "12:15: `ca` is missing (the authorities that sign client certificates)",
            "14:7: `sni` is empty, so the route would match nobody",
            "15:8: `alpn` is empty, so the route would match nobody",
            "18:8: `*.*.a` is neither a host name nor a wildcard (such as",
            "18:17: `a b` is not a host name",
            "18:24: `b*` is neither a host name nor a wildcard (such as",
            "18:30: `1.2.3.4` is an IP address, and clients send no server name for one",
            "18:48: `A.b` is in `sni` already",
        ],
    );
    expect(
        &with("accept_proxy = { trusted = [\"10.0.0.0/8\"] }\n[listener.tls]\nclient_auth = { ca = \"x\" }", ""),
        &[
            "5:16: `mode` is missing",
            "6:1: `[listener.tls]` has neither `certificates` nor `self_signed` (such as",
            "7:15: `mode` is missing",
        ],
    );
    expect(
        &with(
            "accept_proxy = { mode = \"require\", trusted = [] }\n[listener.tls]\ncertificates = [{ key = \"k\" }, { cert = \"\", key = \"k\" }]",
            "",
        ),
        &[
            "5:46: `trusted` is empty, so nobody may send a PROXY header",
            "7:17: `cert` is missing",
            "7:41: the path is empty",
        ],
    );
    expect(
        &with("[listener.tls]\nself_signed = [\"*\", \"a_b.example\", \"::1\", \"*.example\", \"*.*.x\"]", ""),
        &["6:16: `*` is not a host name", "6:56: `*.*.x` is neither a host name nor a wildcard"],
    );
    expect(&with("tls = { certificates = [] }", ""), &["5:24: `certificates` is empty"]);
}

#[test]
fn values_of_a_wrong_kind_show_a_right_one() {
    expect(
        &with("tls = true\naccept_proxy = true", "send_proxy = true\ntls = true"),
        &[
            "5:7: `tls` must be a table, not true or false (such as `tls = { certificates = [{ cert = \"a.pem\", key",
            "6:16: `accept_proxy` must be a table, not true or false (such as `accept_proxy = { mode = \"require\", tru",
            "10:14: `send_proxy` must be a string, not true or false (such as \"v2\")",
            "11:7: `tls` must be a table, not true or false (such as `tls = { server_name",
        ],
    );
    expect(
        &with("tls = { certificates = [\"a.pem\"], alpn = \"h2,http/1.1\", client_auth = \"require\" }", ""),
        &[
            "5:25: `certificates` must be a table, not a string (such as `{ cert = \"a.pem\", key = \"a.key\" }`)",
            "5:42: `h2,http/1.1` is not a protocol (several are a list, such as [\"h2\", \"http/1.1\"])",
            "5:71: `client_auth` must be a table, not a string (such as `client_auth = {",
        ],
    );
    expect(
        &with("accept_proxy = { mode = \"required\", trusted = [\"10.0.0.0/8\"] }", ""),
        &["5:25: `mode` cannot be `required` (did you mean `require`? one of \"off\", \"require\")"],
    );
}

#[test]
fn peers_that_can_never_come_are_found() {
    let text = |listen: &str, trusted: &str| {
        with(&format!("accept_proxy = {{ mode = \"require\", trusted = {trusted} }}"), "")
            .replace("\"127.0.0.1:1\"", listen)
    };
    let (unix, tcp, both) = ("\"unix:/run/a\"", "\"127.0.0.1:1\"", "[\"unix:/run/a\", \"127.0.0.1:1\"]");
    expect(
        &text(unix, "[\"10.0.0.0/8\"]"),
        &[
            "5:46: a listener with only unix addresses has no peers in `trusted` networks: every connection would be refused (write \"unix\"",
        ],
    );
    expect(
        &text(tcp, "\"unix\""),
        &["5:46: `trusted` has \"unix\", and the listener has no unix address: every connection would be refused"],
    );
    let warnings = |listen, trusted| read(&text(listen, trusted)).unwrap().warnings.len();
    let mixed = "[\"unix\", \"10.0.0.0/8\"]";
    assert_eq!((warnings(unix, mixed), warnings(tcp, mixed), warnings(both, mixed)), (1, 1, 0));
    assert_eq!((warnings(unix, "\"unix\""), warnings(tcp, "\"10.0.0.0/8\"")), (0, 0));
}

#[test]
fn errors_of_upstreams() {
    expect(
        &with(
            "",
            "send_proxy = \"v3\"\nproxy_tlvs = [\"alpn\", \"alpn\", \"alpm\"]\ntls = { server_name = \"a b\", cert = \"c\", alpn = \"\", verify = \"no\" }",
        ),
        &[
            "9:14: `send_proxy` cannot be `v3` (one of \"off\", \"v1\", \"v2\")",
            "10:23: `alpn` is in `proxy_tlvs` already",
            "10:31: `proxy_tlvs` cannot have `alpm` (any of \"alpn\", \"authority\", \"ssl\", \"unique_id\", \"crc32c\")",
            "11:23: `a b` is not a host name",
            "11:37: `key` is missing beside this",
            "11:49: `` is not a protocol",
            "11:62: `verify` must be true or false, not a string",
        ],
    );
    for mode in ["", "send_proxy = \"off\"\n", "send_proxy = \"v1\"\n"] {
        let errors = read(&with("", &format!("{mode}proxy_tlvs = [\"ssl\"]"))).unwrap_err().to_string();
        assert!(errors.contains("`proxy_tlvs` needs `send_proxy = \"v2\"` (only v2 has TLVs)"), "{errors}");
    }
    assert!(read(&with("", "proxy_tlvs = []")).is_ok());
    let unix = with("", "tls = {}").replace("127.0.0.1:2", "unix:/run/x");
    expect(&unix, &["9:7: `server_name` is missing, and a backend is a unix socket"]);
    assert!(read(&unix.replace("{}", "{ server_name = \"x\" }")).is_ok());
}

#[test]
fn no_verification_is_said_loudly_and_changes_are_said() {
    let loaded = read(&with("", "tls = { verify = false, ca = \"a\" }")).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].starts_with("f:9:18: warning: with `verify = false` anybody on the way can pass for"),
        "{warnings:?}"
    );
    let new = plan(&with(
        "tls = { certificates = { cert = \"a\", key = \"b\" }, client_auth = { mode = \"request\", ca = \"c\" } }",
        "tls = { verify = false }\nsend_proxy = \"v2\"\nproxy_tlvs = [\"crc32c\", \"ssl\"]",
    ));
    assert_eq!(
        diff(&plan(MINIMAL), &new),
        [
            "upstream u: send_proxy off -> v2 with ssl, crc32c",
            "upstream u: tls none -> server_name of the backend, ca of the system, cert none, alpn [], verify false",
            "listener a: tls off -> on",
            "listener a: tls.certificates /etc/arus/a with /etc/arus/b added",
            "listener a: tls.unknown_sni added",
            "listener a: tls.alpn added",
            "listener a: tls.min_version added",
            "listener a: tls.client_auth added",
        ]
    );
}
