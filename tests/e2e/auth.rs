//! Logins over SOCKS: right, wrong, banned, and what is offered where a password is needed.

use std::io::{Read, Write};
use std::net::TcpStream;
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
