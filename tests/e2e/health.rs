//! Backends that fall ill and recover: active checks, ejection, and an operator's orders.

use serde_json::Value;

use crate::harness::{Address, Arus, Backend, Closed, End, Setup, Stream, eventually};
use crate::ops::{Patient, ask, backend_status, check_echo, listener, tag_and_echo, tagged, upstream, visit};

const CHECKS: &str =
    "health = { interval = \"40ms\", timeout = \"20s\", rise = 3, fall = 4, send = \"PING\\r\\n\", expect = \"PONG\" }";

fn with_checks(backends: &[&Backend], keys: &str) -> Arus {
    Setup::new(upstream("app", backends, &format!("{CHECKS}\n{keys}")) + &listener("web", "127.0.0.1:0", "app", ""))
        .start()
}

fn await_state(arus: &Arus, address: &Address, state: &str) {
    eventually(&format!("{address} is {state}"), || (backend_status(arus, address)["state"] == state).then_some(()));
}

/// Who answers so many new connections; each must be answered.
fn who_answers(web: &Address, connections: usize) -> Vec<String> {
    (0..connections).map(|_| visit(web).1).collect()
}

/// A connection that nobody answers; how the log tells it.
fn refused(arus: &Arus, web: &Address) -> Value {
    let mut stream = Stream::connect(web);
    stream.end();
    arus.session_of(stream.local())
}

#[test]
fn checks_take_a_backend_down_after_fall_failures_and_up_after_rise_passes() {
    let (ill, well) = (Patient::start("ill"), Patient::start("well"));
    let arus = with_checks(&[&ill.backend, &well.backend], "");
    let (web, address) = (arus.address("web"), ill.backend.address().clone());
    eventually("both are checked", || (ill.passed() > 0 && well.passed() > 0).then_some(()));
    let both = who_answers(&web, 8);
    assert!(both.contains(&"ill".into()) && both.contains(&"well".into()), "{both:?}");

    for _ in 0..2 {
        ill.set_well(false);
        await_state(&arus, &address, "down");
        assert!(ill.failed() >= 4, "down after {} failures, of 4", ill.failed());
        assert_eq!(who_answers(&web, 8), ["well"; 8]);
        let shown = backend_status(&arus, &address);
        assert!(shown["last_check"]["error"].as_str().unwrap().contains("ILL"), "{shown}");
        let down_since = shown["since"].as_str().unwrap().to_owned();

        ill.set_well(true);
        await_state(&arus, &address, "up");
        assert!(ill.passed() >= 3, "up after {} passes, of 3", ill.passed());
        let both = who_answers(&web, 8);
        assert!(both.contains(&"ill".into()), "{both:?}");
        let shown = backend_status(&arus, &address);
        assert!(shown["last_check"]["error"].is_null() && shown["last_check"]["took_ms"].is_number(), "{shown}");
        assert!(*shown["since"].as_str().unwrap() > *down_since, "{down_since} {shown}");
    }
    let log = arus.log.message("backend is down");
    assert_eq!((&log["upstream"], &log["backend"]), (&"app".into(), &address.to_string().into()));
    let reason = log["reason"].as_str().unwrap();
    assert!(reason.contains("not the expected one") && reason.contains("ILL"), "{reason}");
    arus.log.message("backend is up");
}

#[test]
fn with_no_backend_up_a_connection_ends_cleanly_with_its_reason() {
    let only = Patient::start("only");
    let arus = with_checks(&[&only.backend], "");
    let web = arus.address("web");
    only.set_well(false);
    await_state(&arus, only.backend.address(), "down");
    let line = refused(&arus, &web);
    assert_eq!((&line["reason"], &line["blame"]), (&"no_backend".into(), &"upstream".into()), "{line}");
    only.set_well(true);
    await_state(&arus, only.backend.address(), "up");
    assert_eq!(visit(&web).1, "only");
}

#[test]
fn live_connections_of_a_backend_that_goes_down_are_kept() {
    let patient = Patient::start("ill");
    let arus = with_checks(&[&patient.backend], "on_down = \"keep\"");
    let (mut live, _) = visit(&arus.address("web"));
    check_echo(&mut live, 1);
    patient.set_well(false);
    await_state(&arus, patient.backend.address(), "down");
    check_echo(&mut live, 2);
    drop(live);
    assert_eq!(arus.finished(1)[0]["reason"], "done");
}

#[test]
fn live_connections_of_a_backend_that_goes_down_are_cut_where_asked() {
    let (ill, well) = (Patient::start("ill"), Patient::start("well"));
    let arus = with_checks(&[&ill.backend, &well.backend], "on_down = \"close\"");
    let web = arus.address("web");
    let mut live: Vec<(Stream, String)> = (0..20).map(|_| visit(&web)).collect();
    let on_ill = live.iter().filter(|(_, tag)| tag == "ill").count();
    assert!((1..20).contains(&on_ill), "{on_ill} of 20");
    ill.set_well(false);
    for (stream, tag) in &mut live {
        if tag == "ill" {
            stream.discard();
            let line = arus.session_of(stream.local());
            let told = ["reason", "blame", "state"].map(|key| line[key].as_str().unwrap());
            assert_eq!(told, ["backend_down", "upstream", "failed"], "{line}");
        }
    }
    for (number, (stream, _)) in live.iter_mut().filter(|(_, tag)| tag == "well").enumerate() {
        check_echo(stream, number as u64);
    }
    assert_eq!(arus.active() as usize, 20 - on_ill);
}

#[test]
fn a_backend_that_refuses_is_ejected_and_returns() {
    let (dead, alive) = (Closed::new(), tagged("alive"));
    let address = dead.address();
    let backends = format!("backends = [\"{address}\", \"{}\"]", alive.address());
    let body = format!("[[upstream]]\nname = \"app\"\n{backends}\noutlier = {{ failures = 3, eject = \"1500ms\" }}\n")
        + &listener("web", "127.0.0.1:0", "app", "");
    let arus = Setup::new(body).start();
    let web = arus.address("web");
    // Nobody notices: a refused connect goes to the other backend.
    eventually("the dead one is ejected", || {
        assert_eq!(ask(&web).1, "alive");
        (backend_status(&arus, &address)["state"] == "ejected").then_some(())
    });
    let status = backend_status(&arus, &address);
    assert_eq!((&status["ejections"], &status["connect_failures"]), (&1.into(), &3.into()), "{status}");
    arus.log.message("backend ejected");
    for _ in 0..10 {
        assert_eq!(ask(&web).1, "alive");
    }
    if backend_status(&arus, &address)["state"] == "ejected" {
        assert_eq!(backend_status(&arus, &address)["connect_failures"], 3, "nobody goes there meanwhile");
    }
    await_state(&arus, &address, "up");
    drop(dead);
    let _back = Backend::listen(&address, tag_and_echo("back"));
    eventually("it serves again", || (ask(&web).1 == "back").then_some(()));
}

#[test]
fn an_operator_drains_a_backend_and_brings_it_back() {
    let (a, b) = (tagged("a"), tagged("b"));
    let arus =
        Setup::new(upstream("app", &[&a, &b], "on_down = \"close\"") + &listener("web", "127.0.0.1:0", "app", ""))
            .start();
    let web = arus.address("web");
    let order = |order: &str, backend: &Address| {
        arus.request("POST", &format!("/api/v1/upstreams/app/backends/{backend}/{order}"))
    };
    let (mut on_a, _) = eventually("a connection to a", || Some(ask(&web)).filter(|(_, tag)| tag == "a"));

    assert_eq!(order("drain", a.address()).0, 200);
    assert_eq!(backend_status(&arus, a.address())["state"], "drained");
    assert!((0..10).all(|_| ask(&web).1 == "b"));
    check_echo(&mut on_a, 1);

    assert_eq!(order("up", a.address()).0, 200);
    let answers: Vec<String> = (0..10).map(|_| ask(&web).1).collect();
    assert!(answers.contains(&"a".into()), "{answers:?}");
    check_echo(&mut on_a, 2);

    assert_eq!(order("down", a.address()).0, 200);
    assert!(matches!(on_a.end(), End::Fin | End::Reset));
    assert_eq!(arus.session_of(on_a.local())["reason"], "backend_down");
    assert!((0..10).all(|_| ask(&web).1 == "b"));

    assert_eq!(order("up", &Closed::new().address()).0, 404);
    assert_eq!(order("sideways", a.address()).0, 404);
    assert_eq!(arus.request("POST", "/api/v1/upstreams/nope/backends/x/up").0, 404);
}

#[test]
fn backups_serve_only_while_nobody_else_can() {
    let (main, spare) = (tagged("main"), tagged("spare"));
    let body = format!(
        "[[upstream]]\nname = \"app\"\nbackends = [\"{}\", {{ address = \"{}\", backup = true }}]\n",
        main.address(),
        spare.address()
    ) + &listener("web", "127.0.0.1:0", "app", "");
    let arus = Setup::new(body).start();
    let web = arus.address("web");
    assert!((0..10).all(|_| ask(&web).1 == "main"));
    let order = |order| arus.request("POST", &format!("/api/v1/upstreams/app/backends/{}/{order}", main.address())).0;
    assert_eq!(order("drain"), 200);
    assert!((0..10).all(|_| ask(&web).1 == "spare"));
    assert_eq!(order("up"), 200);
    assert!((0..10).all(|_| ask(&web).1 == "main"));
}
