//! A shard that is busy when it is asked: it sits in a plugin that hangs, and whoever asks has an answer all the same,
//! which says what is missing.

use std::collections::BTreeSet;

use super::*;
use crate::ops;
use crate::plugins::{hostile, line_with, through};

#[test]
fn a_shard_that_hangs_is_missed_by_name_and_nobody_waits_for_it() {
    let echo = Backend::start(behaviour::echo);
    // It hangs to the end of the test: every answer comes meanwhile, or not at all.
    let body = ops::upstream("app", &[&echo], "")
        + &hostile("slow", "hang:600000@boom", "max_call = \"50ms\"")
        + &through("web", &["slow"]);
    let arus = Setup::new(body).admin(&format!("listen = \"127.0.0.1:0\"\ntokens = [{TEST_TOKEN}]")).start();
    let to = address(&arus);

    // Until both shards have sessions.
    let mut clients = Vec::new();
    let live = eventually("sessions on both shards", || {
        let mut client = Stream::connect(&arus.address("web"));
        client.write_all(b"hello");
        assert_eq!(client.read_exactly(5), b"hello");
        clients.push(client);
        let live = arus.sessions();
        let shards: BTreeSet<u64> = live.iter().map(|session| session["shard"].as_u64().unwrap()).collect();
        (shards.len() == 2).then_some(live)
    });
    let shard_of = |client: &Stream| {
        let source = Value::from(client.local().to_string());
        let session = live.iter().find(|session| session["source"] == source).expect("its session");
        (session["shard"].as_u64().unwrap(), session["id"].as_str().unwrap().to_owned())
    };
    let (stuck, id) = shard_of(&clients[0]);
    clients[0].write_all(b"boom");
    line_with(&arus, 0, &["hangs", "slow"]);

    let missing = serde_json::json!([stuck]);
    let elsewhere = live.iter().filter(|session| session["shard"] != stuck).count();
    for path in ["/api/v1/sessions", "/api/v1/sessions?state=active", "/api/v1/sessions?state=active&page_size=1"] {
        let (code, body) = get(to, path);
        let page: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (code, &page["missing_shards"], &page["total"]),
            (200, &missing, &elsewhere.into()),
            "{path}: {page}"
        );
        assert!(page["data"].as_array().unwrap().iter().all(|session| session["shard"] != stuck), "{page}");
    }
    // Nobody is asked for those that have ended.
    let (_, ended) = arus.request("GET", "/api/v1/sessions?state=closed");
    assert_eq!((&ended["missing_shards"], &ended["total"]), (&serde_json::json!([]), &0.into()));
    for path in ["/api/v1/sessions/stats", "/api/v1/sessions/verdicts"] {
        let (code, body) = arus.request("GET", path);
        assert_eq!((code, &body["missing_shards"]), (200, &missing), "{path}: {body}");
    }
    for method in ["GET", "DELETE"] {
        let (code, body) = arus.request(method, &format!("/api/v1/sessions/{id}"));
        let said = body["error"].as_str().unwrap_or_default();
        assert!(code == 504 && said.contains(&format!("[{stuck}]")), "{method}: {code} {body}");
    }

    // What is read from counters has all of it, and tells that some of it stands still.
    eventually("the status says so", || (arus.status()["missing_shards"] == missing).then_some(()));
    let status = arus.status();
    assert_eq!(
        (&status["totals"]["active"], &status["shards"][stuck as usize]["stuck"]),
        (&live.len().into(), &true.into())
    );
    let (code, metrics) = get(to, "/metrics");
    let series = format!("arus_connections_active{{listener=\"web\"}} {}\n", live.len());
    assert!(code == 200 && metrics.contains(&series), "{metrics}");
    assert!(metrics.contains(&format!("arus_shard_stuck{{shard=\"{stuck}\"}} 1\n")), "{metrics}");

    // The command line says the same.
    let (text, ok) = arus.command(&["sessions"]);
    assert!(ok && text.contains(&format!("shards [{stuck}] did not answer")), "{text}");
    assert_eq!(text.matches(" web ").count(), elsewhere, "{text}");
    let (text, ok) = arus.command(&["sessions", "--json"]);
    let page: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((ok, &page["missing_shards"]), (true, &missing));
    let (text, ok) = arus.command(&["status"]);
    assert!(ok && text.contains(&format!("NOT ANSWERING: shard {stuck}")), "{text}");
    let (text, ok) = arus.command(&["top", "--once"]);
    assert!(ok && text.contains(&format!("SHARD {stuck} STUCK")), "{text}");
    let (text, ok) = arus.command(&["kill", &id]);
    assert!(!ok && text.contains(&format!("[{stuck}]")), "{text}");
    let events = arus.request("GET", "/api/v1/events?category=shard&severity=error").1;
    assert_eq!(events["data"][0]["details"]["shard"], stuck, "{events}");

    // The other shard has served its sessions all the while, and the first one hangs still.
    let other = clients.iter_mut().find(|client| shard_of(client).0 != stuck).expect("one elsewhere");
    other.write_all(b"hello");
    assert_eq!(other.read_exactly(5), b"hello");
    clients[0].0.set_nonblocking(true).unwrap();
    let nothing = clients[0].read_some(&mut [0; 4]);
    assert!(nothing.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "it came back too early");
}
