//! Who comes in over TCP, and who does not.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use super::*;
use crate::config::plan::{Admin, AdminToken, AdminUser, PasswordHash, Scope};

const READER: &str = "a-token-that-may-read";
const WRITER: &str = "a-token-that-may-write";
const PASSWORD: &str = "correct horse";

/// Two tokens and a user.
pub(super) fn admin(admin: &Admin) -> Admin {
    let token = |text: &str, scope| AdminToken { name: text.into(), digest: secret::digest_of(text), scope };
    let hash = bcrypt::hash(PASSWORD, 4).unwrap();
    Admin {
        hosts: vec!["arus.example".into()],
        users: vec![AdminUser { name: "ann".into(), password_hash: PasswordHash(hash.into()), scope: Scope::Write }],
        tokens: vec![token(READER, Scope::Read), token(WRITER, Scope::Write)],
        ..admin.clone()
    }
}

/// An answer over TCP.
#[derive(Debug)]
struct Answer {
    code: u16,
    head: String,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl Stage {
    fn raw(&self, text: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let _ = stream.write_all(text.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {text}: {answer:?}"));
        let body = serde_json::from_str(body).unwrap_or(Value::Null);
        Answer { code: head[9..12].parse().unwrap(), head: head.to_owned(), body }
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut text = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            text += "host: 127.0.0.1:9090\r\n";
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            text += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        }
        self.raw(&format!("{text}\r\n{body}"))
    }

    fn as_token(&self, token: &str, method: &str, path: &str) -> Answer {
        self.ask(method, path, &[("authorization", &format!("Bearer {token}"))], "")
    }

    fn login(&self, body: &Value) -> Answer {
        self.ask("POST", "/api/v1/login", &[], &body.to_string())
    }

    /// Cookie and CSRF word of a login.
    fn logged_in(&self) -> (String, String) {
        let answer = self.login(&json!({ "user": "ann", "password": PASSWORD }));
        assert_eq!(answer.code, 200, "{answer:?}");
        let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        (cookie, answer.body["csrf"].as_str().unwrap().to_owned())
    }
}

/// Every endpoint, with something in place of its parameters.
pub(super) fn everything() -> Vec<(String, String, bool)> {
    let (_, document) = endpoints().split_for_parts();
    let document = serde_json::to_value(document).unwrap();
    let mut all = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let path = path.replace("{id}", &LIVE.to_string()).replace("{order}", "up").replace("{", "").replace("}", "");
        for (method, operation) in operations.as_object().unwrap() {
            let is_public = operation["security"][0].as_object().is_some_and(serde_json::Map::is_empty);
            all.push((method.to_uppercase(), path.clone(), is_public));
        }
    }
    assert!(all.len() > 15, "{all:?}");
    all
}

#[test]
fn nothing_is_told_to_whoever_shows_no_credential() {
    let stage = Stage::answering();
    let mut refused = 0;
    for (method, path, is_public) in everything() {
        let answer = stage.ask(&method, &path, &[], "");
        if is_public {
            assert_ne!(answer.code, 401, "{method} {path}");
        } else {
            refused += 1;
            assert_eq!(answer.code, 401, "{method} {path}: {answer:?}");
            assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
        }
    }
    assert!(refused > 12);
    // Also of what does not exist.
    assert_eq!(stage.ask("GET", "/api/v1/nothing", &[], "").code, 401);
    assert_eq!(stage.ask("GET", "/api/v1/status", &[("authorization", "Basic YTpi")], "").code, 401);
    assert_eq!(stage.ask("GET", "/api/v1/status", &[("cookie", "arus_session=x")], "").code, 401);
    assert_eq!(stage.ask("GET", "/health", &[], "").code, 200);
}

#[test]
fn tokens_have_scopes() {
    let stage = Stage::answering();
    assert_eq!(stage.as_token(READER, "GET", "/api/v1/status").code, 200);
    let me = stage.as_token(READER, "GET", "/api/v1/me");
    assert_eq!(me.body, json!({ "user": READER, "scope": "read", "csrf": null }));
    let refused = stage.as_token(READER, "POST", "/api/v1/drain");
    assert_eq!(refused.code, 403, "{refused:?}");
    assert_eq!(stage.as_token(READER, "DELETE", &format!("/api/v1/sessions/{LIVE}")).code, 403);
    assert!(stage.heard().is_empty());
    assert_eq!(stage.as_token(WRITER, "POST", "/api/v1/drain").code, 202);
    assert_eq!(stage.as_token("wrong", "GET", "/api/v1/status").code, 401);
    // The control socket needs none.
    assert_eq!(stage.call("GET", "/api/v1/me").1["scope"], "write");
}

#[test]
fn a_login_is_a_cookie_and_changes_need_its_word() {
    let stage = Stage::answering();
    let answer = stage.login(&json!({ "user": "ann", "password": PASSWORD }));
    let cookie = answer.header("set-cookie").unwrap();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Secure"), "{cookie}");
    let https = [("origin", "https://127.0.0.1:9090")];
    let body = json!({ "token": WRITER }).to_string();
    assert!(stage.ask("POST", "/api/v1/login", &https, &body).header("set-cookie").unwrap().ends_with("; Secure"));

    let (cookie, csrf) = stage.logged_in();
    assert_eq!(stage.ask("GET", "/api/v1/me", &[("cookie", &cookie)], "").body["user"], "ann");
    let drain = |headers: &[(&str, &str)]| stage.ask("POST", "/api/v1/drain", headers, "").code;
    assert_eq!(drain(&[("cookie", &cookie)]), 403);
    assert_eq!(drain(&[("cookie", &cookie), ("x-arus-csrf", "wrong")]), 403);
    let foreign = [("cookie", &*cookie), ("x-arus-csrf", &csrf), ("origin", "http://evil.example")];
    assert_eq!(drain(&foreign), 403, "another site's page");
    assert_eq!(drain(&[("cookie", &cookie), ("x-arus-csrf", &csrf), ("sec-fetch-site", "cross-site")]), 403);
    assert!(stage.heard().is_empty());
    assert_eq!(drain(&[("cookie", &format!("a=b; {cookie}")), ("x-arus-csrf", &csrf)]), 202);
    assert_eq!(stage.ask("POST", "/api/v1/logout", &[("cookie", &cookie), ("x-arus-csrf", &csrf)], "").code, 204);
    assert_eq!(stage.ask("GET", "/api/v1/me", &[("cookie", &cookie)], "").code, 401);
}

#[test]
fn a_foreign_page_cannot_log_in() {
    let stage = Stage::answering();
    let body = json!({ "token": WRITER }).to_string();
    assert_eq!(stage.ask("POST", "/api/v1/login", &[("origin", "http://evil.example")], &body).code, 403);
    let form = format!(
        "POST /api/v1/login HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: text/plain\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(stage.raw(&form).code, 415);
}

#[test]
fn what_a_reload_takes_away_counts_no_more() {
    let stage = Stage::answering();
    let (cookie, _) = stage.logged_in();
    let mut plan = stage.control.view().snapshot.plan.clone();
    plan.admin.users[0].password_hash = PasswordHash(bcrypt::hash("another", 4).unwrap().into());
    plan.admin.tokens.remove(0);
    let binds = stage.control.view().binds.clone();
    stage.control.set_view(View { snapshot: fixture::snapshot(plan.clone()), binds: binds.clone(), draining: false });
    assert_eq!(stage.ask("GET", "/api/v1/me", &[("cookie", &cookie)], "").code, 401);
    assert_eq!(stage.as_token(READER, "GET", "/api/v1/status").code, 401);
    assert_eq!(stage.as_token(WRITER, "GET", "/api/v1/status").code, 200);

    // The token of arus's own counts while there is nothing else.
    stage.control.set_generated_token(Some(secret::digest_of("made")));
    assert_eq!(stage.as_token("made", "GET", "/api/v1/status").code, 401);
    (plan.admin.users, plan.admin.tokens) = (Vec::new(), Vec::new());
    stage.control.set_view(View { snapshot: fixture::snapshot(plan), binds, draining: false });
    assert_eq!(stage.as_token("made", "GET", "/api/v1/status").code, 200);
    assert_eq!(stage.login(&json!({ "token": "made" })).body["scope"], "write");
}

#[test]
fn guessing_is_slowed_down_and_only_guessing() {
    let stage = Stage::answering();
    let guess = |user: &str| stage.login(&json!({ "user": user, "password": "x" }));
    let codes: Vec<u16> = ["ann", "bob", "", "ann", "ann"].iter().map(|user| guess(user).code).collect();
    assert_eq!(codes, [401; 5]);
    let limited = guess("ann");
    assert_eq!(limited.code, 429);
    assert!((1..=13).contains(&limited.header("retry-after").unwrap().parse::<u32>().unwrap()));
    assert_eq!(stage.login(&json!({ "user": "ann", "password": PASSWORD })).code, 429, "not even looked at");
    // Logins and tokens are told apart.
    assert_eq!(stage.as_token(READER, "GET", "/api/v1/status").code, 200);
    let codes: Vec<u16> = (0..40).map(|n| stage.as_token(&n.to_string(), "GET", "/api/v1/status").code).collect();
    assert_eq!((codes[0], codes[39]), (401, 429));
    assert_eq!(stage.as_token(READER, "GET", "/api/v1/status").code, 429);
}

#[test]
fn names_that_are_not_ours_are_not_answered() {
    let stage = Stage::answering();
    let bearer = format!("Bearer {READER}");
    let code = |host: &str| stage.ask("GET", "/api/v1/status", &[("host", host), ("authorization", &bearer)], "").code;
    assert_eq!((code("evil.example"), code("127.0.0.1.evil.example:9090")), (421, 421));
    assert_eq!((code("localhost:9090"), code("[::1]"), code("arus.example")), (200, 200, 200));
    assert_eq!(stage.ask("GET", "/health", &[("host", "evil.example")], "").code, 421);
    assert_eq!(stage.raw("GET /health HTTP/1.1\r\nconnection: close\r\n\r\n").code, 400);
}

#[test]
fn metrics_are_protected_where_wanted_and_answers_are_for_nobody_else() {
    let stage = Stage::answering();
    let open = stage.ask("GET", "/metrics", &[], "");
    assert_eq!(open.code, 200);
    assert!(open.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("cache-control", "no-store"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(open.header(name), Some(value), "{name}");
    }
    assert!(open.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
    assert!(open.header("access-control-allow-origin").is_none());
    let mut plan = stage.control.view().snapshot.plan.clone();
    plan.admin.protect_metrics = true;
    plan.admin.dashboard = false;
    stage.control.set_view(View { snapshot: fixture::snapshot(plan), binds: Vec::new(), draining: false });
    assert_eq!(stage.ask("GET", "/metrics", &[], "").code, 401);
    assert_eq!(stage.as_token(READER, "GET", "/metrics").code, 200);
    assert_eq!(stage.ask("GET", "/", &[], "").code, 404);
}

#[test]
fn bodies_are_bounded_in_size() {
    let stage = Stage::answering();
    let large = format!("{{\"token\":\"{}\"}}", "x".repeat(70_000));
    assert_eq!(stage.ask("POST", "/api/v1/login", &[], &large).code, 413);
    let bodies = ["", "{", "[]", "{}", "{\"user\":1}", "{\"token\":\"a\",\"more\":1}", "null"];
    for body in bodies {
        let code = stage.ask("POST", "/api/v1/login", &[("content-type", "application/json")], body).code;
        assert!(code == 400 || code == 415, "{body}: {code}");
    }
}

#[test]
fn every_refusal_has_the_same_shape() {
    let stage = Stage::answering();
    for (method, path) in [
        ("GET", "/api/v1/sessions/%ff"),
        ("GET", "/api/v1/sessions/1"),
        ("POST", "/api/v1/upstreams/%ff/backends/x/up"),
        ("GET", "/api/v1/sessions?page=%ff"),
        ("GET", "/nothing"),
        ("PUT", "/api/v1/status"),
        ("POST", "/api/v1/diagnostics/connect"),
    ] {
        let answer = stage.as_token(WRITER, method, path);
        assert!((400..500).contains(&answer.code) && answer.body["error"].is_string(), "{method} {path}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
}

#[test]
fn one_address_does_not_take_every_place() {
    let bounds = Bounds { connections: 8, per_source: 3, ..SOCKET };
    let stage = Stage::new([Manner::Answers, Manner::Answers], bounds);
    let held: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(stage.address).unwrap()).collect();
    let mut refused = TcpStream::connect(stage.address).unwrap();
    refused.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert_eq!(refused.read(&mut [0]).unwrap_or(0), 0, "closed at once");
    held.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    drop(held);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut stream = TcpStream::connect(stage.address).unwrap();
        let _ = stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        if answer.starts_with(b"HTTP/1.1 200") {
            return;
        }
        assert!(Instant::now() < deadline, "the places do not come back");
    }
}
