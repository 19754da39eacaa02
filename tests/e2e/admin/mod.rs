//! The admin API over TCP, on the real binary: where it listens and who may ask, across reloads; the rest by real
//! peers in `prometheus` and `schemathesis`.

mod prometheus;
mod reload;
mod schemathesis;
mod slow;
mod stuck;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::harness::*;

/// SHA-256 of `test`.
pub(crate) const TEST_TOKEN: &str = "{ name = \"tester\", hash = \"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\", scope = \"write\" }";
/// An argon2id hash of `secret` that costs little.
const USER: &str =
    "{ name = \"ann\", password_hash = \"$2b$04$abcdefghijklmnopqrstuuDmUpKx1pO1H8NMZbZbNmBkVwZ9UuK5W\" }";

/// Where the admin API of an arus listens.
pub(crate) fn address(arus: &Arus) -> SocketAddr {
    let is_it = |line: &&Value| line["message"] == "admin API listening";
    arus.log.wait(DEADLINE, "the admin API", |lines| {
        lines.iter().rev().find(is_it).map(|line| line["address"].as_str().unwrap().parse().unwrap())
    })
}

/// One request, headers as they are given; code, head and body.
pub(crate) fn ask(to: SocketAddr, method: &str, path: &str, headers: &[&str], body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n");
    for header in headers {
        text += &format!("{header}\r\n");
    }
    if !body.is_empty() {
        text += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    }
    stream.write_all(format!("{text}\r\n{body}").as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    (head[9..12].parse().unwrap(), head.to_owned(), body.to_owned())
}

/// With the token `test`.
pub(crate) fn get(to: SocketAddr, path: &str) -> (u16, String) {
    let (code, _, body) = ask(to, "GET", path, &["authorization: Bearer test"], "");
    (code, body)
}

/// An arus with an echo behind `web`, and an admin API.
fn start(admin: &str) -> (Arus, Backend) {
    let backend = Backend::start(behaviour::echo);
    let setup = Setup::one("127.0.0.1:0", &[&backend]).admin(&format!("listen = \"127.0.0.1:0\"\n{admin}"));
    (setup.start(), backend)
}

#[test]
fn without_users_and_tokens_there_is_a_token_and_it_is_said_once() {
    let (arus, _backend) = start("");
    let to = address(&arus);
    let lines = arus.log.lines();
    let said = lines.iter().find(|line| line["token"].is_string()).expect("the token in the log");
    let token = said["token"].as_str().unwrap();
    assert_eq!(said["url"], format!("http://{to}/"));
    let file = arus.directory().join("state/admin.token");
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), token);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    assert_eq!(ask(to, "GET", "/api/v1/status", &[], "").0, 401);
    let bearer = format!("authorization: Bearer {token}");
    let (code, _, body) = ask(to, "GET", "/api/v1/status", &[&bearer], "");
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &status["listeners"][0]["name"]), (200, &"web".into()));
    assert_eq!(ask(to, "GET", "/health", &[], "").0, 200);

    // A reload does not say it again; one without the file makes another.
    assert!(arus.command(&["reload"]).1);
    let said = |arus: &Arus| arus.log.lines().iter().filter(|line| line["token"].is_string()).count();
    assert_eq!(said(&arus), 1);
    std::fs::remove_file(&file).unwrap();
    assert!(arus.command(&["reload"]).1);
    arus.log.wait(DEADLINE, "another token", |lines| {
        (lines.iter().filter(|line| line["token"].is_string()).count() == 2).then_some(())
    });
    assert_eq!(ask(to, "GET", "/api/v1/status", &[&bearer], "").0, 401);
}

#[test]
fn a_taken_port_is_an_error_with_a_hint() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = Backend::start(behaviour::echo);
    let admin = format!("listen = \"{}\"", taken.local_addr().unwrap());
    let mut arus = Setup::one("127.0.0.1:0", &[&backend]).admin(&admin).launch();
    assert_eq!(arus.wait_exit(DEADLINE).code(), Some(1));
    arus.log.wait(DEADLINE, "why it does not start", |lines| {
        let is_said = |line: &Value| {
            let line = line.to_string();
            line.contains("cannot be bound") && line.contains("choose another port")
        };
        lines.iter().any(is_said).then_some(())
    });
}

#[test]
fn no_secret_of_any_section_is_shown() {
    let secret = "sup3r-s3cr3t-w0rd";
    let backend = Backend::start(behaviour::echo);
    // Health checks may log in somewhere.
    let health = format!("health = {{ interval = \"1h\", send = \"{secret}\" }}");
    let arus = Setup::to("127.0.0.1:0", &[backend.address().to_string()], "", &health)
        .also(&format!(
            "[socks]\nupstream_proxy = \"socks5://someone:{secret}@127.0.0.1:1\"\n\
             [auth]\nmethods = [\"password\"]\n[[auth.user]]\nname = \"bob\"\npassword = \"{secret}\"\n"
        ))
        .admin(&format!("listen = \"127.0.0.1:0\"\nusers = [{USER}]\ntokens = [{TEST_TOKEN}]"))
        .start();
    assert!(arus.command(&["reload"]).1);
    for path in ["/api/v1/config", "/api/v1/status", "/openapi.json", "/metrics"] {
        let (code, body) = get(address(&arus), path);
        assert_eq!(code, 200);
        assert!(!body.is_empty());
        for word in [secret, "9f86d081", "$2b$04", "abcdefghijkl"] {
            assert!(!body.contains(word), "{path} shows {word}");
        }
    }
    let (_, config) = get(address(&arus), "/api/v1/config");
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["admin"]["users"][0]["name"], "ann");
    assert_eq!(config["admin"]["tokens"][0]["scope"], "write");
}
