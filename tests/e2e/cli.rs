//! The command line on configurations, without a running arus, and the demo backend. `tests/cli.rs` has the commands that
//! talk to one.

use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{Address, Setup, Stream};
use crate::ops::{Running, arus_command, ask, generation, listener, tagged, text, upstream};

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("ended by a signal: {output:?}"))
}

fn file(content: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("proxy.toml");
    std::fs::write(&path, content).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}

const GOOD: &str = "[[listener]]
name = \"web\"
listen = \"127.0.0.1:0\"
upstream = \"app\"
allow_sources = [\"10.0.0.0/8\", \"192.0.2.0/24\"]
[[listener.route]]
source = [\"10.1.0.0/16\"]
upstream = \"inner\"

[[upstream]]
name = \"app\"
backends = [\"127.0.0.1:1\"]
[[upstream]]
name = \"inner\"
backends = [\"127.0.0.1:2\", { address = \"127.0.0.1:3\", backup = true }]
";

#[test]
fn check_exits_with_0_or_2_and_shows_all_errors_at_once() {
    let (_directory, good) = file(GOOD);
    let output = arus_command(&["check", "-c", &good]);
    assert_eq!((code(&output), text(&output.stderr).as_str()), (0, ""));
    assert_eq!(text(&output.stdout), format!("{good}: ok, 1 listener, 2 upstreams, 0 warnings\n"));

    let (_directory, bad) = file(
        "[engine]\nshard = 2\nbuffers = 3\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:99999\"\nupstream = \
         \"ap\"\n[[upstream]]\nname = \"app\"\nbackends = [\"127.0.0.1:1\"]\nretries = -1\n",
    );
    let output = arus_command(&["check", "-c", &bad]);
    let said = text(&output.stderr);
    assert_eq!((code(&output), text(&output.stdout).as_str()), (2, ""));
    let lines: Vec<&str> = said.lines().collect();
    for (line, part) in [
        (2, "did you mean `shards`?"),
        (3, "power of two"),
        (6, "99999"),
        (7, "did you mean `app`?"),
        (11, "`retries`"),
    ] {
        let place = format!("{bad}:{line}:");
        let found = lines.iter().any(|said| said.starts_with(&place) && said.contains(part));
        assert!(found, "no {place} ... {part} in\n{said}");
    }
    assert!(lines.last().unwrap().contains("certificates, keys, plugins) were not looked at"), "{said}");
    let errors = lines[..lines.len() - 1].iter().filter(|line| !line.contains(": warning: ")).count();
    assert_eq!(errors, 5, "{said}");

    let (_directory, torn) = file("[[listener]\nname");
    let output = arus_command(&["check", "-c", &torn]);
    assert_eq!(code(&output), 2);
    assert!(text(&output.stderr).starts_with(&format!("{torn}:1:")), "{output:?}");
    let output = arus_command(&["run", "-c", &torn]);
    assert_eq!(code(&output), 2, "what cannot be checked cannot be run: {output:?}");
    assert_eq!(code(&arus_command(&["check", "-c", "/nonexistent/proxy.toml"])), 2);
}

#[test]
fn a_hostile_file_is_refused_and_cannot_forge_lines() {
    let (_directory, path) = file("[engine]\nuser = \"\\n\\u001b[31mFORGED: all is well\"\n\"a\\nb\" = 1\n");
    let output = arus_command(&["check", "-c", &path]);
    assert_eq!(code(&output), 2);
    let said = text(&output.stderr);
    assert!(said.lines().all(|line| line.starts_with(&path)), "{said:?}");
    assert!(!said.contains('\u{1b}'), "{said:?}");
    for content in [&[0xff, 0xfe, 0][..], &[b'['; 100_000], b"\0"] {
        std::fs::write(&path, content).unwrap();
        let output = arus_command(&["check", "-c", &path]);
        assert_eq!(code(&output), 2, "{:?}", text(&output.stderr).chars().take(300).collect::<String>());
        assert!(text(&output.stderr).len() < 2000);
    }
}

#[test]
fn explain_tells_what_live_traffic_would_get() {
    let (_directory, path) = file(GOOD);
    let explain = |source: &str| {
        let output = arus_command(&["explain", "-c", &path, "--listener", "web", "--source", source, "--json"]);
        assert_eq!(code(&output), 0, "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let routed = explain("10.1.2.3");
    assert_eq!((&routed["upstream"]["name"], &routed["rejected"]), (&"inner".into(), &Value::Null), "{routed}");
    assert_eq!(routed["upstream"]["backends"][1]["backup"], true);
    assert!(routed["route_at"].as_str().unwrap().ends_with("proxy.toml:6"), "{routed}");
    let default = explain("192.0.2.7");
    assert_eq!((&default["upstream"]["name"], &default["route_at"]), (&"app".into(), &Value::Null), "{default}");
    let stranger = explain("203.0.113.1");
    assert_eq!((&stranger["rejected"], &stranger["upstream"]), (&"source_not_allowed".into(), &Value::Null));

    let words = text(&arus_command(&["explain", "-c", &path, "--listener", "web", "--source", "10.1.2.3"]).stdout);
    assert!(words.contains("admitted") && words.contains("inner"), "{words}");
    let unknown = arus_command(&["explain", "-c", &path, "--listener", "wep"]);
    assert_eq!(code(&unknown), 2);
    assert!(text(&unknown.stderr).contains("did you mean `web`?"), "{unknown:?}");
}

#[test]
fn what_it_prints_for_packages_is_what_it_says() {
    let example = arus_command(&["example-config"]);
    assert_eq!(code(&example), 0);
    // The file in the repository is the example, with the listener through a plugin put in.
    let (example_text, file_text) = (text(&example.stdout), include_str!("../../proxy.toml"));
    assert_eq!(example_text.lines().count(), file_text.lines().count());
    let differs = |(example, file): &(&str, &str)| example != file;
    let block: Vec<_> = example_text.lines().zip(file_text.lines()).filter(differs).collect();
    assert!(block.iter().any(|(_, file)| *file == "name = \"upper\"") && block.len() < 12, "{block:?}");
    for (example, file) in block {
        // The comments behind settings stay in their column.
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(example.strip_prefix('#').map(words), Some(words(file)));
    }
    let (_directory, path) = file(&text(&example.stdout));
    assert_eq!(code(&arus_command(&["check", "-c", &path])), 0);

    let bash = arus_command(&["completions", "bash"]);
    assert_eq!(code(&bash), 0);
    let checked = Command::new("bash").arg("-nc").arg(text(&bash.stdout)).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let output = arus_command(&["completions", shell]);
        assert!(code(&output) == 0 && text(&output.stdout).contains("example-config"), "{shell}");
    }
    let man = text(&arus_command(&["man"]).stdout);
    assert!(man.starts_with(".ie") || man.starts_with(".TH") || man.contains("\n.TH arus 1"), "{man:.200}");
    for command in ["run", "check", "explain", "reload", "status", "sessions", "kill", "drain", "top", "hello"] {
        assert!(man.contains(&format!(".SH \"arus {command}\"")), "{command} is not in the manual");
    }
}

#[test]
fn wrong_command_lines_exit_with_2_and_a_missing_arus_with_1() {
    for line in [&["--nonsense"][..], &["nonsense"], &["run", "--shards", "0"], &["kill", "x"], &["explain"]] {
        let output = arus_command(line);
        assert_eq!(code(&output), 2, "{line:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{line:?}");
    }
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let socket = socket.to_str().unwrap();
    for command in ["reload", "status", "sessions", "drain", "top"] {
        let mut line = vec![command, "--socket", socket];
        line.extend((command == "top").then_some("--once"));
        let output = arus_command(&line);
        assert_eq!(code(&output), 1, "{command}: {output:?}");
        let said = text(&output.stderr);
        assert!(said.starts_with("arus: no arus is running here") && said.lines().count() == 1, "{said}");
    }
    assert_eq!(code(&arus_command(&["--version"])), 0);
    assert_eq!(code(&arus_command(&["--help"])), 0);
}

#[test]
fn an_operators_view_of_a_busy_arus() {
    let a = tagged("a");
    let arus = Setup::new(upstream("app", &[&a], "") + &listener("web", "127.0.0.1:0", "app", "")).start();
    let web = arus.address("web");
    let live: Vec<(Stream, String)> = (0..25).map(|_| ask(&web)).collect();
    arus.wait_active(25);
    let (status, _) = arus.command(&["status"]);
    assert!(status.contains("connections 25 of ") && status.contains(&web.to_string()), "{status}");
    let (sessions, _) = arus.command(&["sessions"]);
    for (stream, _) in &live {
        assert!(sessions.contains(&stream.local().to_string()), "{sessions}");
    }
    let (json, _) = arus.command(&["sessions", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["total"], json["data"].as_array().unwrap().len()), (&25.into(), 25));
    let (top, ok) = arus.command(&["top", "--once"]);
    assert!(ok && top.contains(&a.address().to_string()), "{top}");
    let (said, ok) = arus.command(&["kill", "0190ffff-0000-7000-8000-000000000000"]);
    assert_eq!((said.as_str(), ok), ("arus: there is no live session 0190ffff-0000-7000-8000-000000000000\n", false));
    assert_eq!(generation(&arus), 1);
    let (path, answer) = arus.request("GET", "/api/v1/nonsense");
    assert_eq!(path, 404, "{answer}");
    let (code, _) = arus.request("DELETE", "/api/v1/status");
    assert_eq!(code, 405);
}

#[test]
fn the_demo_backend_runs_by_itself() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arus"));
    command.args(["hello", "--listen", "127.0.0.1:0"]);
    let mut hello = Running::start(command);
    let address = hello.log.wait(crate::harness::DEADLINE, "where it listens", |lines| {
        let line = lines.first()?.as_str()?;
        line.rsplit_once("address=").map(|(_, address)| Address::parse(address))
    });
    let mut stream = Stream::connect(&address);
    // Two requests on one connection.
    for _ in 0..2 {
        stream.write_all(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n");
        let mut answer = Vec::new();
        while !answer.ends_with(format!("proxy {}\r\n", stream.local()).as_bytes()) {
            answer.extend(stream.read_exactly(1));
        }
        let answer = text(&answer);
        let body = format!("hello client {0}, you were served by tls terminator proxy {0}\r\n", stream.local());
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(&body), "{answer}");
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(hello.child.id() as i32), nix::sys::signal::Signal::SIGTERM)
        .unwrap();
    assert_eq!(hello.child.wait().unwrap().code(), Some(0));
}
