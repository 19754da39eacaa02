//! Reloads that are asked for: what they change, what they leave alone, and files that are refused.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Address, Arus, DEADLINE, Setup, Stream, eventually};
use crate::ops::{addresses, ask, check_echo, configure, generation, listener, reload, tagged, upstream, with_body};

/// The first line after `from` lines of the log that says that a reload has changed something. (The watcher may find a
/// new file before the request does; then it is the request that changes nothing.)
fn changed(arus: &Arus, from: usize) -> Value {
    let is_it = |line: &&Value| line["message"] == "reloaded" && line["changes"] != "";
    arus.log.wait(DEADLINE, "a reload with changes", |lines| lines[from..].iter().find(is_it).cloned())
}

/// Puts a new body into force; gives what the log says of it.
fn change(arus: &Arus, body: &str) -> Value {
    let from = arus.log.lines().len();
    configure(arus, body);
    reload(arus).unwrap_or_else(|refused| panic!("{refused}"));
    changed(arus, from)
}

fn counts(line: &Value) -> [u64; 3] {
    ["addresses_new", "addresses_kept", "addresses_retired"].map(|key| line[key].as_u64().unwrap())
}

/// Waits until nobody listens there.
fn wait_closed(address: &Address) {
    eventually("the address is closed", || Stream::try_connect(address).is_err().then_some(()));
}

#[test]
fn listeners_and_backends_come_change_and_go_while_connections_live_on() {
    let (a, b) = (tagged("a"), tagged("b"));
    let first = upstream("app", &[&a], "")
        + &listener("web", "127.0.0.1:0", "app", "")
        + &listener("old", "127.0.0.2:0", "app", "");
    let arus = Setup::new(&first).start();
    let (web, old) = (arus.address("web"), arus.address("old"));
    let (mut on_web, tag) = ask(&web);
    assert_eq!(tag, "a");
    let (mut on_old, _) = ask(&old);

    let second = upstream("app", &[&b], "")
        + &upstream("other", &[&a], "")
        + &listener("web", "127.0.0.1:0", "app", "")
        + &listener("new", "127.0.0.1:0", "other", "");
    let line = change(&arus, &second);
    assert_eq!(counts(&line), [1, 1, 1], "{line}");
    assert!(line["changes"].as_str().unwrap().contains("listener new: added"), "{line}");

    assert_eq!(addresses(&arus, "web"), std::slice::from_ref(&web), "port 0 stays the port it got");
    assert_eq!(ask(&web).1, "b");
    // The log says where a new one listens, as at the start.
    let new = arus.address("new");
    assert_eq!(ask(&new).1, "a");
    wait_closed(&old);

    check_echo(&mut on_web, 1);
    check_echo(&mut on_old, 2);
    let generations = |number: u64| arus.sessions().iter().filter(|session| session["generation"] == number).count();
    assert_eq!(generations(1), 2, "what began on the old generation ends on it");

    change(&arus, &first);
    assert_eq!((ask(&web).1.as_str(), addresses(&arus, "web")), ("a", vec![web]));
    wait_closed(&new);
    check_echo(&mut on_web, 3);
    check_echo(&mut on_old, 4);
}

#[test]
fn a_signal_and_a_request_do_the_same() {
    let (a, b) = (tagged("a"), tagged("b"));
    let body = |backend| upstream("app", &[backend], "") + &listener("web", "127.0.0.1:0", "app", "");
    let arus = Setup::new(body(&a)).start();
    let web = arus.address("web");
    let from = arus.log.lines().len();
    configure(&arus, &body(&b));
    arus.signal(Signal::SIGHUP);
    changed(&arus, from);
    assert_eq!(ask(&web).1, "b");
    configure(&arus, &body(&a));
    let (code, answer) = arus.request("POST", "/api/v1/reload");
    // The watcher may have been first.
    assert_eq!(code, 200, "{answer}");
    assert_eq!(ask(&web).1, "a");
}

#[test]
fn an_address_moves_between_listeners_and_a_socket_file_goes_with_its_listener() {
    let (a, b) = (tagged("a"), tagged("b"));
    let pools = upstream("a", &[&a], "") + &upstream("b", &[&b], "");
    let arus = Setup::new(format!("{pools}{}", listener("one", "unix:{dir}/one.sock", "a", ""))).start();
    let one = arus.address("one");
    assert_eq!(ask(&one).1, "a");
    let path = format!("unix:{}/one.sock", arus.directory().display());
    assert_eq!(counts(&change(&arus, &format!("{pools}{}", listener("two", &path, "b", "")))), [0, 1, 0]);
    assert_eq!((ask(&one).1.as_str(), arus.address("two")), ("b", one));

    assert_eq!(counts(&change(&arus, &format!("{pools}{}", listener("three", "127.0.0.1:0", "b", "")))), [1, 0, 1]);
    assert!(!arus.directory().join("one.sock").exists());
    assert_eq!(ask(&arus.address("three")).1, "b");
}

/// Everything by which a refused reload could be noticed.
fn shape(arus: &Arus) -> (u64, Value) {
    let status = arus.status();
    let listeners: Vec<Value> =
        status["listeners"].as_array().unwrap().iter().map(|each| each["addresses"].clone()).collect();
    let config = arus.request("GET", "/api/v1/config").1;
    (generation(arus), Value::from(vec![Value::from(listeners), config]))
}

#[test]
fn a_bad_file_of_any_kind_changes_nothing_and_is_reported_with_its_places() {
    let (a, b) = (tagged("a"), tagged("b"));
    let body = |backend| upstream("app", &[backend], "") + &listener("web", "127.0.0.1:0", "app", "");
    let arus = Setup::new(body(&a)).start();
    let web = arus.address("web");
    let (mut live, _) = ask(&web);
    let file = arus.config().display().to_string();
    shape(&arus);
    // One may be opened late, once; a leak would be one for each kind of file below.
    let descriptors = settled_descriptors(&arus) + 1;
    let head = with_body(&arus, "").lines().count();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let more = |keys: &str| body(&b) + &listener("more", "127.0.0.1:0", "app", keys);
    // The keys of `more` stand on line 14 of the body, and what is added behind it begins on line 15.
    let kinds: [(&str, String, Vec<String>); 6] = [
        ("syntax", more("max_connections = ="), vec![format!("{file}:{}:19: ", head + 14)]),
        (
            "several at once",
            more("retrys = 1\nbacklog = \"x\"\naccept_rate = 0"),
            (14..17).map(|line| format!("{file}:{}:", head + line)).collect(),
        ),
        ("a name that is not there", more("route = [{ upstream = \"nope\" }]"), vec![format!("{file}:{}:", head + 14)]),
        (
            "an address of nobody here",
            more("") + &listener("bad", "192.0.2.77:80", "app", ""),
            vec![format!("{file}:{}:1: listener `bad`: 192.0.2.77:80 cannot be bound: ", head + 15)],
        ),
        (
            "an address of somebody else",
            more("") + &listener("bad", &taken, "app", ""),
            vec![format!("{file}:{}:1: listener `bad`: {taken} cannot be bound: ", head + 15)],
        ),
        ("nothing", String::new(), vec![format!("{file}:")]),
    ];
    for (number, (kind, bad, places)) in kinds.into_iter().enumerate() {
        let before = shape(&arus);
        configure(&arus, &bad);
        let said = reload(&arus).expect_err(kind);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.last(), Some(&"arus: nothing was changed"), "{kind}: {said}");
        for place in &places {
            assert!(lines.iter().any(|line| line.starts_with(place)), "{kind}: no {place} in\n{said}");
        }
        // Here a place, and in the log as well.
        let is_it = |line: &Value| line["message"].as_str().is_some_and(|line| line.starts_with(&places[0]));
        arus.log.wait(DEADLINE, "the error", |lines| lines.iter().any(is_it).then_some(()));
        assert_eq!(shape(&arus), before, "{kind}");
        eventually("nothing is left open", || (arus.process().descriptors() <= descriptors).then_some(()));
        assert_eq!(ask(&web).1, "a", "{kind}");
        check_echo(&mut live, number as u64);
    }
    // Between good ones.
    change(&arus, &body(&b));
    let good = generation(&arus);
    assert_eq!(ask(&web).1, "b");
    configure(&arus, &more("backlog = \"x\""));
    reload(&arus).unwrap_err();
    assert_eq!(ask(&web).1, "b");
    change(&arus, &body(&a));
    assert!(generation(&arus) > good);
    assert_eq!((ask(&web).1.as_str(), addresses(&arus, "web")), ("a", vec![web]));
    assert!(arus.status()["totals"]["reloads_refused"].as_u64().unwrap() >= 7);
    check_echo(&mut live, 99);
}

#[test]
fn what_only_a_restart_can_change_is_warned_of_and_the_rest_taken() {
    let (a, b) = (tagged("a"), tagged("b"));
    let body = |backend| upstream("app", &[backend], "") + &listener("web", "127.0.0.1:0", "app", "");
    let arus = Setup::new(body(&a)).start();
    let text = with_body(&arus, &body(&b)).replace("shards = 2", "shards = 1\nbuffers = 64\nmax_connections = 77");
    std::fs::write(arus.config(), text).unwrap();
    reload(&arus).unwrap();
    let warning = arus.log.message("taken up only by a restart");
    let warning = warning["message"].as_str().unwrap();
    assert!(warning.contains("engine.shards") && warning.contains("engine.buffers"), "{warning}");
    assert!(!warning.contains("max_connections"), "{warning}");
    let status = arus.status();
    assert_eq!(status["shards"].as_array().unwrap().len(), 2);
    assert_eq!(status["limits"]["connections"]["limit"], 77);
    assert_eq!(ask(&arus.address("web")).1, "b");
}

#[test]
fn connections_in_the_queue_of_a_removed_listener_are_served() {
    let a = tagged("a");
    let rest = upstream("app", &[&a], "") + &listener("stays", "127.0.0.1:0", "app", "");
    let setup = Setup::new(rest.clone() + &listener("goes", "127.0.0.1:0", "app", ""));
    let arus = setup.descriptors(360).start();
    let (stays, goes) = (arus.address("stays"), arus.address("goes"));
    // It keeps some descriptors for itself, and leaves connections in the queue until there are more.
    let mut live = Vec::new();
    let mut next_in_line = loop {
        let mut stream = Stream::connect(&stays);
        stream.0.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        match stream.read_some(&mut [0; 2]) {
            Ok(2) => live.push(stream),
            Ok(count) => panic!("{count} bytes after {} connections", live.len()),
            Err(_) => break stream,
        }
        assert!(live.len() < 360, "it has no end");
    };
    let waiting: Vec<Stream> = (0..10).map(|_| Stream::connect(&goes)).collect();
    let accepted = arus.shard_sum("/accepted");
    change(&arus, &rest);
    for mut stream in waiting {
        assert_eq!(crate::ops::read_tag(&mut stream), "a");
        check_echo(&mut stream, 5);
    }
    wait_closed(&goes);
    assert!(accepted < live.len() as u64 + 10, "they had not been in the queue");
    // The one in front of the other listener waits for its turn, and gets it.
    drop(live);
    next_in_line.0.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(crate::ops::read_tag(&mut next_in_line), "a");
}

#[test]
fn connections_that_come_while_a_listener_is_removed_are_served() {
    let a = tagged("a");
    let rest = upstream("app", &[&a], "") + &listener("stays", "127.0.0.1:0", "app", "");
    let arus = Setup::new(rest.clone() + &listener("goes", "127.0.0.1:0", "app", "")).start();
    let (stays, goes) = (arus.address("stays"), arus.address("goes"));
    for round in 0..5 {
        // While arus stands still, the kernel takes connections in.
        arus.signal(Signal::SIGSTOP);
        let waiting: Vec<Stream> = (0..200).map(|_| Stream::connect(&goes)).collect();
        let from = arus.log.lines().len();
        configure(&arus, &rest);
        arus.signal(Signal::SIGHUP);
        arus.signal(Signal::SIGCONT);
        for mut stream in waiting {
            assert_eq!(crate::ops::read_tag(&mut stream), "a", "round {round}");
            check_echo(&mut stream, 5);
        }
        changed(&arus, from);
        wait_closed(&goes);
        assert_eq!(ask(&stays).1, "a");
        let back = rest.clone() + &listener("goes", &goes.to_string(), "app", "");
        change(&arus, &back);
        assert_eq!(ask(&goes).1, "a");
    }
}

#[test]
fn thousands_of_live_connections_neither_slow_a_reload_nor_notice_it() {
    const LIVE: usize = 2000;
    // Accepted by the kernel and left there: a connection needs no thread.
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    silent.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    silent.listen(LIVE as i32 + 100).unwrap();
    let backend = silent.local_addr().unwrap().as_socket().unwrap();
    let body = |listen: &str| {
        format!("[[upstream]]\nname = \"app\"\nbackends = [\"{backend}\"]\n{}", listener("web", listen, "app", ""))
    };
    let arus = Setup::new(body("127.0.0.1:0")).log("format = \"json\"\naccess = \"off\"").start();
    let web = arus.address("web");
    let live: Vec<Stream> = (0..LIVE).map(|_| Stream::connect(&web)).collect();
    arus.wait_active(LIVE as u64);
    let mut worst: f64 = 0.0;
    for number in 0..5 {
        let extra = if number % 2 == 0 { listener("extra", "127.0.0.1:0", "app", "") } else { String::new() };
        let line = change(&arus, &(body("127.0.0.1:0") + &extra));
        worst = worst.max(line["took_ms"].as_f64().unwrap());
    }
    println!("reload with {LIVE} live connections: {worst:.1} ms at worst of 5 (debug build)");
    assert!(worst < 2000.0, "{worst} ms");
    assert_eq!(arus.active(), LIVE as u64);
    drop(live);
}

#[test]
fn requests_that_come_together_are_all_answered() {
    let a = tagged("a");
    let arus = Setup::new(upstream("app", &[&a], "") + &listener("web", "127.0.0.1:0", "app", "")).start();
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| assert_eq!(arus.request("POST", "/api/v1/reload").0, 200));
        }
    });
    assert!((2..=25).contains(&generation(&arus)), "{}", generation(&arus));
    assert_eq!(ask(&arus.address("web")).1, "a");
}

/// The descriptors of an arus that has just started, once all of it has: watchers begin after it is ready.
fn settled_descriptors(arus: &Arus) -> usize {
    let mut seen = (0, 0);
    eventually("descriptors have settled", || {
        let now = arus.process().descriptors();
        seen = if seen.0 == now { (now, seen.1 + 1) } else { (now, 0) };
        (seen.1 >= 20).then_some(now)
    })
}

#[test]
fn a_reload_that_would_need_too_many_descriptors_is_refused_whole() {
    let a = tagged("a");
    let body = upstream("app", &[&a], "") + &listener("web", "127.0.0.1:0", "app", "");
    let arus = Setup::new(&body).descriptors(450).start();
    let web = arus.address("web");
    drop(ask(&web));
    let descriptors = settled_descriptors(&arus);
    // A stretch of ports of an address that nobody else uses; each needs a socket per shard.
    let many = listener("many", "127.3.0.1:20000-20399", "app", "");
    configure(&arus, &(body.clone() + &many));
    for asked in 1..4 {
        let refused = reload(&arus).unwrap_err();
        // The watcher asks once, too. Meanwhile there are no descriptors for new connections.
        let count = || arus.status()["totals"]["reloads_refused"].as_u64().unwrap();
        eventually("both are refused", || (count() > asked).then_some(()));
        assert!(refused.contains("listener `many`") && refused.contains("ulimit -n"), "{refused}");
        eventually("nothing is left open", || (arus.process().descriptors() <= descriptors).then_some(()));
        assert_eq!((ask(&web).1.as_str(), generation(&arus)), ("a", 1));
    }
    let line = change(&arus, &(body + &listener("few", "127.3.0.1:20000-20009", "app", "")));
    assert_eq!(counts(&line), [10, 1, 0]);
    assert!(addresses(&arus, "few").iter().all(|few| ask(few).1 == "a"));
}
