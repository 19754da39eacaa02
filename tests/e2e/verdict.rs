//! Who keeps a session waiting, as arus tells it of real connections: readers that stall, backends that say nothing,
//! plugins that hold back.

use serde_json::Value;

use crate::harness::*;
use crate::plugins::cc;

/// Waits for this verdict on the one live session; gives the session.
fn wait_verdict(arus: &Arus, who: &str, word: &str) -> Value {
    let mut seen = Value::Null;
    let deadline = std::time::Instant::now() + DEADLINE;
    while std::time::Instant::now() < deadline {
        let sessions = arus.sessions();
        let Some(id) = sessions.first().and_then(|session| session["id"].as_str()) else { continue };
        let (code, session) = arus.request("GET", &format!("/api/v1/sessions/{id}"));
        seen = session;
        let verdict = &seen["verdict"];
        if code == 200 && verdict["who"] == who && verdict["why"].as_str().unwrap().contains(word) {
            return seen;
        }
    }
    panic!("no verdict {who} with {word:?}: {seen:#}");
}

#[test]
fn a_client_that_stops_reading_is_slow() {
    let backend = Backend::start(behaviour::source(1 << 30));
    let arus = Setup::one("127.0.0.1:0", &[&backend]).start();
    let mut client = Stream::connect(&arus.address("web"));
    client.read_exactly(1000);
    let session = wait_verdict(&arus, "client", "receive window is closed");
    assert!(session["tcp"]["client"]["send_queue_bytes"].as_u64().unwrap() > 0, "{session:#}");
    assert!(session["tcp"]["client"]["rwnd_limited_share"].as_f64().unwrap() > 0.5, "{session:#}");
    assert!(session["held"]["down_bytes"].as_u64().unwrap() > 0, "{session:#}");
    let (text, ok) = arus.command(&["sessions", session["id"].as_str().unwrap()]);
    assert!(ok && text.contains("client") && text.contains("receive window is closed"), "{text}");
    let (code, all) = arus.request("GET", "/api/v1/sessions/verdicts");
    assert_eq!((code, &all["counts"]["client"], &all["live"]), (200, &1.into(), &1.into()), "{all:#}");
    assert_eq!(all["data"][0]["id"], session["id"]);
    assert_eq!(arus.request("GET", "/api/v1/sessions/verdicts?ids=x").0, 400);
}

#[test]
fn a_backend_that_stops_reading_is_slow() {
    let backend = Backend::start(behaviour::silent);
    let arus = Setup::one("127.0.0.1:0", &[&backend]).start();
    let client = Stream::connect(&arus.address("web"));
    let mut writer = client.try_clone();
    let flood = std::thread::spawn(move || writer.send_until_error(1, 1 << 30));
    let session = wait_verdict(&arus, "backend", "receive window is closed");
    assert!(session["tcp"]["upstream"]["send_queue_bytes"].as_u64().unwrap() > 0, "{session:#}");
    let (_, code) = (arus.request("DELETE", &format!("/api/v1/sessions/{}", session["id"].as_str().unwrap())), 0);
    assert_eq!(code, 0);
    flood.join().unwrap();
}

#[test]
fn a_backend_that_does_not_answer_is_slow_and_one_that_did_is_not() {
    let backend = Backend::start(|mut stream: Stream, _| {
        let question = stream.read_exactly(5);
        stream.write_all(&question);
        let _ = stream.read_exactly(4);
        behaviour::silent(stream, 0);
    });
    let arus = Setup::one("127.0.0.1:0", &[&backend]).start();
    let mut client = Stream::connect(&arus.address("web"));
    wait_verdict(&arus, "idle", "neither side");
    client.write_all(b"hello");
    client.read_exactly(5);
    wait_verdict(&arus, "idle", "nothing to do");
    client.write_all(b"more");
    let session = wait_verdict(&arus, "backend", "has not answered since");
    assert!(session["tcp"]["upstream"]["rtt_ms"].as_f64().unwrap() > 0.0, "{session:#}");
}

#[test]
fn what_a_plugin_holds_back_is_ours() {
    let backend = Backend::start(behaviour::echo);
    let library = cc::example("filter");
    let body = format!(
        "[[upstream]]\nname = \"app\"\nbackends = [\"{}\"]\n[[plugin]]\nname = \"filter\"\npath = \"{}\"\n\
         config = \"block:SECRET\"\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nupstream = \"app\"\n\
         plugins = [\"filter\"]\n",
        backend.address(),
        library.display()
    );
    let arus = Setup::new(body).start();
    let mut client = Stream::connect(&arus.address("web"));
    client.write_all(b"hello SECR");
    client.read_exactly(6);
    wait_verdict(&arus, "us", "a plugin holds 4 B from the client back");
    client.write_all(b"ETLY not");
}

#[test]
fn a_client_that_is_in_no_hurry_is_waited_for() {
    let backend = Backend::start(behaviour::echo);
    let address = backend.address().to_string();
    let arus = Setup::to("127.0.0.1:0", &[address], "[listener.tls]\nself_signed = [\"localhost\"]", "").start();
    let _client = Stream::connect(&arus.address("web"));
    let session = wait_verdict(&arus, "client", "TLS handshake");
    assert_eq!(session["stage"], "tls");
}
