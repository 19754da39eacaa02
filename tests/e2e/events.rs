//! What an operator must hear of is an event, in the API and on the command line, and a line of the log. Reloads, health
//! checks that fail, and the database of sessions are in `store`.

use std::time::Duration;

use serde_json::Value;

use crate::harness::*;
use crate::ops;
use crate::plugins::{hostile, line_with, through};

/// Waits for an event of the category in whose message all words stand.
fn event(arus: &Arus, category: &str, words: &[&str]) -> Value {
    event_within(DEADLINE, arus, category, words)
}

fn event_within(limit: Duration, arus: &Arus, category: &str, words: &[&str]) -> Value {
    within(limit, &format!("an event about {category} with {words:?}"), || {
        let (code, page) = arus.request("GET", &format!("/api/v1/events?category={category}&limit=1000"));
        assert_eq!(code, 200, "{page}");
        let has_all = |event: &&Value| words.iter().all(|word| event["message"].as_str().unwrap().contains(word));
        page["data"].as_array().unwrap().iter().find(has_all).cloned()
    })
}

#[test]
fn an_ejection_and_its_end_are_told() {
    let (closed, echo) = (Closed::new(), Backend::start(behaviour::echo));
    let backends = [closed.address().to_string(), echo.address().to_string()];
    let keys = "retries = 1\noutlier = { failures = 1, eject = \"200ms\" }";
    let arus = Setup::to("127.0.0.1:0", &backends, "", keys).start();
    // In turns: one of two finds the one that is closed, and goes on to the other.
    for n in 0..2 {
        let mut client = Stream::connect(&arus.address("web"));
        client.send(n, 0, 10);
        client.expect(n, 0, 10);
    }
    let ejected = event(&arus, "backend", &["ejected after failed connects"]);
    assert_eq!(
        (&ejected["severity"], &ejected["details"]["upstream"], &ejected["details"]["backend"]),
        (&"warning".into(), &"app".into(), &Value::from(closed.address().to_string()))
    );
    line_with(&arus, 0, &["backend ejected", &closed.address().to_string()]);
    let back = event(&arus, "backend", &["is tried again after its ejection"]);
    assert_eq!(back["details"]["backend"], closed.address().to_string());
    line_with(&arus, 0, &["backend is tried again after its ejection"]);
}

#[test]
fn a_backend_that_comes_back_is_told() {
    let echo = Backend::start(behaviour::echo);
    let address = echo.address().to_string();
    drop(echo);
    let keys = "health = { interval = \"50ms\", timeout = \"1s\", rise = 1, fall = 1 }";
    let arus = Setup::to("127.0.0.1:0", std::slice::from_ref(&address), "", keys).start();
    let down = event(&arus, "backend", &["is down"]);
    assert!(down["severity"] == "warning" && down["details"]["reason"].is_string(), "{down}");
    let _again = std::net::TcpListener::bind(&address).unwrap();
    assert_eq!(event(&arus, "backend", &["is up"])["severity"], "info");
    line_with(&arus, 0, &["backend is up", &address]);
}

#[test]
fn faults_and_hangs_of_plugins_are_told() {
    let echo = Backend::start(behaviour::echo);
    let body = ops::upstream("app", &[&echo], "")
        + &hostile("wrong", "error:1@boom", "on_fault = \"close\"")
        + &through("a", &["wrong"])
        + &hostile("once", "error:1@boom", "on_fault = \"disable\"")
        + &through("b", &["once"])
        + &hostile("slow", "hang:600000@boom", "max_call = \"50ms\"")
        + &through("c", &["slow"]);
    let arus = Setup::new(body).start();
    let boom = |listener: &str| {
        let mut client = Stream::connect(&arus.address(listener));
        client.write_all(b"boom");
        client
    };
    let _clients = [boom("a"), boom("b")];
    let failed = event(&arus, "plugin", &["plugin wrong has failed"]);
    assert_eq!((&failed["severity"], &failed["details"]["total"]), (&"warning".into(), &1.into()), "{failed}");
    let disabled = event(&arus, "plugin", &["plugin once has failed, and is disabled"]);
    assert_eq!((&disabled["severity"], &disabled["details"]["disabled"]), (&"error".into(), &true.into()));
    line_with(&arus, 0, &["wrong", "answered ERROR"]);
    let _client = boom("c");
    let hangs = event(&arus, "plugin", &["plugin slow hangs"]);
    assert_eq!((&hangs["severity"], &hangs["details"]["function"].is_string()), (&"error".into(), &true), "{hangs}");
    assert!(hangs["details"]["session"].is_string() && hangs["details"]["shard"].is_number(), "{hangs}");
}

#[test]
fn what_an_operator_does_is_told() {
    let echo = Backend::start(behaviour::echo);
    let arus = Setup::one("127.0.0.1:0", &[&echo]).start();
    let mut client = Stream::connect(&arus.address("web"));
    client.send(1, 0, 10);
    client.expect(1, 0, 10);
    let id = arus.sessions()[0]["id"].as_str().unwrap().to_owned();
    let (said, is_ok) = arus.command(&["kill", &id]);
    assert!(is_ok, "{said}");
    assert_eq!(event(&arus, "admin", &["an operator cut a session"])["details"]["session"], id);
    line_with(&arus, 0, &["an operator cut a session", &id]);
    let path = format!("/api/v1/upstreams/app/backends/{}/drain", echo.address());
    assert_eq!(arus.request("POST", &path).0, 200);
    let order = event(&arus, "admin", &["order drain"]);
    assert_eq!(order["details"]["backend"], echo.address().to_string(), "{order}");
    line_with(&arus, 0, &["an operator gave an order", "drain"]);
}

#[test]
fn a_certificate_that_ends_soon_is_told() {
    let (echo, directory) = (Backend::start(behaviour::echo), tempfile::tempdir().unwrap());
    let authority = Authority::new(directory.path(), "authority");
    let pair = authority.ending("server", &["a.test"], 3);
    let listener = format!("[listener.tls]\ncertificates = [{}]", pair.toml());
    let arus = Setup::to("127.0.0.1:0", &[echo.address().to_string()], &listener, "").start();
    let soon = event(&arus, "certificate", &["listener web", "a.test", "expires in 3 days"]);
    assert_eq!((&soon["severity"], &soon["details"]["listener"]), (&"warning".into(), &"web".into()), "{soon}");
    assert!(soon["details"]["not_after"].as_str().unwrap().ends_with('Z'), "{soon}");
    line_with(&arus, 0, &["expires in 3 days"]);
    // One that is put in its place is judged as well.
    pair.become_like(&authority.expired("old", &["b.test"]));
    event(&arus, "certificate", &["new certificate of", "b.test"]);
    event(&arus, "certificate", &["listener web", "b.test", "expired on 2021-01-01"]);
    line_with(&arus, 0, &["b.test", "expired on 2021-01-01"]);
}

#[test]
fn a_limit_that_refuses_is_told_once_with_how_often() {
    let echo = Backend::start(behaviour::echo);
    let backends = [echo.address().to_string()];
    let arus = Setup::to("127.0.0.1:0", &backends, "max_connections = 1", "").start();
    let mut first = Stream::connect(&arus.address("web"));
    first.send(1, 0, 10);
    first.expect(1, 0, 10);
    for n in 1..=20 {
        let mut refused = Stream::connect(&arus.address("web"));
        let _ = refused.read_some(&mut [0; 1]);
        arus.finished(n);
    }
    let limit = event(&arus, "limit", &["listener web refuses connections: listener_max_connections"]);
    assert_eq!(
        (&limit["severity"], &limit["details"]["reason"]),
        (&"warning".into(), &"listener_max_connections".into()),
        "{limit}"
    );
    let total = limit["details"]["total"].as_u64().unwrap();
    assert!((1..=20).contains(&total), "{limit}");
    line_with(&arus, 0, &["listener refuses connections", "max_connections"]);
    let (_, page) = arus.request("GET", "/api/v1/events?category=limit");
    assert_eq!(page["data"].as_array().unwrap().len(), 1, "{page}");
}

#[test]
fn a_ban_is_told() {
    let arus = Setup::new(
        "[[listener]]\nname = \"socks\"\nlisten = \"127.0.0.1:0\"\nservice = \"socks5\"\n\
         [auth]\nmethods = [\"password\"]\nfailures = { limit = 2, window = \"10m\", ban = \"10m\" }\n\
         [[auth.user]]\nname = \"alice\"\npassword = \"right\"\n",
    )
    .start();
    let log_in = |password: &[u8; 5]| {
        let mut client = Stream::connect(&arus.address("socks"));
        client.write_all(&[5, 1, 2]);
        assert_eq!(client.read_exactly(2), [5, 2]);
        client.write_all(&[b"\x01\x05alice\x05", &password[..]].concat());
        client.read_exactly(2)[1]
    };
    assert_ne!((log_in(b"wrong"), log_in(b"wrong")), (0, 0));
    let ban = event(&arus, "auth", &["banned"]);
    assert_eq!((&ban["severity"], &ban["details"]["source"]), (&"warning".into(), &"127.0.0.1".into()));
    line_with(&arus, 0, &["source banned after failed logins", "127.0.0.1"]);
    // Whoever is banned and comes again is a limit that refuses.
    assert_ne!(log_in(b"right"), 0);
    event(&arus, "limit", &["banned"]);
}

#[test]
fn a_shard_with_much_more_to_do_is_told() {
    let echo = Backend::start(behaviour::echo);
    let body = ops::upstream("app", &[&echo], "") + &hostile("busy", "spin:2", "") + &through("web", &["busy"]);
    let arus = Setup::new(body).start();
    let client = Stream::connect(&arus.address("web"));
    let mut writer = client.try_clone();
    let flood = std::thread::spawn(move || while writer.try_write_all(b"x").is_ok() {});
    let mut reader = client.try_clone();
    let read = std::thread::spawn(move || while reader.read_some(&mut [0; 1024]).is_ok_and(|count| count > 0) {});
    // It must be so for ten seconds, on a machine that may have much else to do.
    let skew = event_within(Duration::from_secs(120), &arus, "shard", &["much more to do"]);
    let shard = arus.sessions()[0]["shard"].clone();
    assert_eq!((&skew["severity"], &skew["details"]["shard"]), (&"warning".into(), &shard), "{skew}");
    line_with(&arus, 0, &["shard has much more to do than the others"]);
    let _ = client.0.shutdown(std::net::Shutdown::Both);
    drop(client);
    flood.join().unwrap();
    read.join().unwrap();
    event(&arus, "shard", &["as much to do again"]);
}
