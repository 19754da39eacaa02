//! Logins over SOCKS: right, wrong, banned, and what is offered where a password is needed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::harness::*;

const METHODS: [u8; 2] = [5, 0xff];

/// Sends a greeting, and gives the choice of the server.
fn greet(arus: &Arus, methods: &[u8]) -> (TcpStream, [u8; 2]) {
    greet_over(TcpStream::connect(arus.address("socks").to_string()).unwrap(), methods)
}

fn greet_over(mut stream: TcpStream, methods: &[u8]) -> (TcpStream, [u8; 2]) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut greeting = vec![5, methods.len() as u8];
    greeting.extend(methods);
    stream.write_all(&greeting).unwrap();
    let mut choice = [0; 2];
    stream.read_exact(&mut choice).unwrap();
    (stream, choice)
}

/// Whether a user and a password are let in.
fn log_in(arus: &Arus, user: &str, password: &str) -> bool {
    log_in_over(TcpStream::connect(arus.address("socks").to_string()).unwrap(), user, password)
}

fn log_in_over(stream: TcpStream, user: &str, password: &str) -> bool {
    let (mut stream, choice) = greet_over(stream, &[0, 2]);
    assert_eq!(choice, [5, 2]);
    let mut credentials = vec![1, user.len() as u8];
    credentials.extend(user.as_bytes());
    credentials.push(password.len() as u8);
    credentials.extend(password.as_bytes());
    stream.write_all(&credentials).unwrap();
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], 1);
    if answer[1] != 0 {
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "and the connection ends");
    }
    answer[1] == 0
}

fn setup(auth: &str) -> Setup {
    Setup::new(format!("[[listener]]\nname = \"socks\"\nlisten = \"127.0.0.1:0\"\nservice = \"socks5\"\n{auth}"))
}

const ALICE: &str = "[auth]\nmethods = [\"password\"]\nfailures = { limit = 3, window = \"10m\", ban = \"10m\" }\n\
                     [[auth.user]]\nname = \"alice\"\npassword = \"right\"\n";

#[test]
fn passwords_are_checked_and_whoever_fails_too_often_is_banned() {
    let arus = setup(ALICE).start();
    assert_eq!(greet(&arus, &[0]).1, METHODS, "nobody comes in without a password");
    assert!(log_in(&arus, "alice", "right"));
    assert!(!log_in(&arus, "alice", "wrong"));
    assert!(!log_in(&arus, "bob", "right"));
    assert!(log_in(&arus, "alice", "right"));
    assert!(!log_in(&arus, "alice", "Right"));
    assert!(!log_in(&arus, "alice", "right"), "banned");
    let elsewhere = Stream::connect_from([127, 0, 0, 2].into(), &arus.address("socks"));
    assert!(log_in_over(elsewhere.0.into(), "alice", "right"), "and nobody else");
    let mut reasons: Vec<String> =
        arus.finished(8).iter().map(|line| line["reason"].as_str().unwrap().to_owned()).collect();
    reasons.sort();
    assert_eq!(reasons[..5], ["auth_failed", "auth_failed", "auth_failed", "banned", "client_gone"], "{reasons:?}");
    let (status, events) = arus.request("GET", "/api/v1/events?category=auth");
    assert_eq!(status, 200);
    assert_eq!(events["data"][0]["details"]["source"], "127.0.0.1", "{events}");
}

#[test]
fn a_reload_changes_who_may_log_in() {
    let arus = setup(ALICE).start();
    assert!(log_in(&arus, "alice", "right"));
    let text = std::fs::read_to_string(arus.config()).unwrap();
    std::fs::write(arus.config(), text.replace("\"right\"", "\"new\"")).unwrap();
    let (said, is_ok) = arus.command(&["reload"]);
    assert!(is_ok, "{said}");
    assert!(!log_in(&arus, "alice", "right"));
    assert!(log_in(&arus, "alice", "new"));
}

/// Whoever has connected before a reload logs in after it, as everybody does then: neither what a shard remembers nor
/// what was asked of clients before lets it in.
#[test]
fn a_reload_holds_for_connections_that_have_not_logged_in_yet() {
    let arus = setup(ALICE).shards(1).start();
    assert!(log_in(&arus, "alice", "right"));
    let connect = || Stream::connect(&arus.address("socks"));
    let (silent, mut greeted) = (connect(), connect());
    greeted.write_all(&[5, 1, 2]);
    assert_eq!(greeted.read_exactly(2), [5, 2]);
    let before = std::fs::read_to_string(arus.config()).unwrap();
    let reload = |text: &str| {
        std::fs::write(arus.config(), text).unwrap();
        let (said, is_ok) = arus.command(&["reload"]);
        assert!(is_ok, "{said}");
    };
    reload(&before.replace("alice", "carol"));
    greeted.write_all(b"\x01\x05alice\x05right");
    assert_eq!(greeted.read_exactly(2), [1, 1]);
    assert!(!log_in_over(silent.0.into(), "alice", "right"));
    // Where nobody had to prove anything when it connected.
    reload(&before.replace("methods = [\"password\"]", "methods = [\"none\", \"password\"]"));
    let mut anybody = connect();
    let mut old = connect();
    anybody.write_all(&[5, 1, 0]);
    assert_eq!(anybody.read_exactly(2), [5, 0]);
    reload(&before);
    old.write_all(&[5, 1, 0]);
    assert_eq!(old.read_exactly(2), [5, 0xff]);
}

/// A sample of /metrics.
fn metric(arus: &Arus, sample: &str) -> u64 {
    let mut stream = UnixStream::connect(arus.control_socket()).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: arus\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(sample)).unwrap_or_else(|| panic!("no {sample}"));
    line.trim().parse().unwrap()
}

/// What a shard was told a moment ago it does not ask again; whatever could change the answer makes it ask.
#[test]
fn a_shard_remembers_who_was_right() {
    let arus = setup(ALICE).shards(1).start();
    let counts = || {
        let ok = metric(&arus, "arus_auth_attempts_total{method=\"password\",result=\"ok\"}");
        (ok, metric(&arus, "arus_auth_recalled_total{method=\"password\"}"))
    };
    assert!(log_in(&arus, "alice", "right"));
    assert_eq!(counts(), (1, 0));
    // It may forget in between, on a slow machine.
    eventually("a login is remembered", || {
        assert!(log_in(&arus, "alice", "right"));
        (counts().1 == 1).then_some(())
    });
    assert!(!log_in(&arus, "alice", "wrong") && !log_in(&arus, "alic", "eright"));
    let (ok, _) = counts();
    // Another generation.
    let text = std::fs::read_to_string(arus.config()).unwrap();
    std::fs::write(arus.config(), text.replace("limit = 3", "limit = 4")).unwrap();
    let (said, is_ok) = arus.command(&["reload"]);
    assert!(is_ok, "{said}");
    assert!(log_in(&arus, "alice", "right"));
    assert_eq!(counts(), (ok + 1, 1));
    eventually("a login is remembered", || {
        assert!(log_in(&arus, "alice", "right"));
        (counts().1 == 2).then_some(())
    });
    // From anywhere else as well, as the address does not matter for a password; but not where it is banned.
    assert!(!log_in(&arus, "alice", "wrong") && !log_in(&arus, "alice", "wrong"));
    assert!(!log_in(&arus, "alice", "right"), "banned, though it is remembered");
    assert_eq!(counts().1, 2);
    eventually("a login from elsewhere is remembered", || {
        let elsewhere = Stream::connect_from([127, 0, 0, 2].into(), &arus.address("socks"));
        assert!(log_in_over(elsewhere.0.into(), "alice", "right"));
        (counts().1 == 3).then_some(())
    });
}
