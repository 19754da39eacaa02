//! The whole program by its command line: started on port 0, asked, reloaded, drained.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

/// A running arus with the demo backend in it; ends with the test.
struct Arus {
    directory: tempfile::TempDir,
    child: Child,
    log: Receiver<Value>,
    /// Where its listener is.
    address: String,
}

fn configuration(backend: &str) -> String {
    format!(
        "[engine]\nstate_dir = \"state\"\nshards = 2\nbuffers = 64\n[log]\naccess = \"off\"\n[[listener]]\nname = \
         \"web\"\nlisten = \"127.0.0.1:0\"\nupstream = \"pool\"\n[[upstream]]\nname = \"pool\"\nbackends = [\"{backend}\"]\n"
    )
}

fn arus(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arus"));
    command.current_dir(directory).stdin(Stdio::null());
    command
}

/// The log of a child, a value a line.
fn follow(child: &mut Child) -> Receiver<Value> {
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (lines, log) = channel();
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            let Ok(line) = serde_json::from_str(&line) else { panic!("not a line of JSON: {line}") };
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    log
}

impl Arus {
    fn start(backend: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("proxy.toml"), configuration(backend)).unwrap();
        let mut command = arus(directory.path());
        let mut child = command.args(["--log-format", "json"]).stderr(Stdio::piped()).spawn().unwrap();
        let log = follow(&mut child);
        let mut arus = Self { directory, child, log, address: String::new() };
        arus.address = arus.await_line("listening")["address"].as_str().unwrap().into();
        arus.await_line("ready");
        arus
    }

    fn await_line(&self, message: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.log.recv_timeout(left).unwrap_or_else(|_| panic!("no line `{message}`"));
            if line["message"] == message {
                return line;
            }
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        arus(self.directory.path()).args(arguments).output().unwrap()
    }

    /// What a command printed that ended well.
    fn ask(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, command: &str) -> Value {
        serde_json::from_str(&self.ask(&[command, "--json"])).unwrap()
    }

    fn rewrite(&self, change: impl FnOnce(String) -> String) {
        let file = self.directory.path().join("proxy.toml");
        let text = change(std::fs::read_to_string(&file).unwrap());
        std::fs::write(file, text).unwrap();
    }
}

impl Drop for Arus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `arus hello` on a port of its own.
struct Hello(Child, String);

impl Hello {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_arus"));
        let mut child = command.args(["hello", "--listen", "127.0.0.1:0"]).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit_once("address=").expect("where it listens").1.to_owned();
        Self(child, address)
    }
}

impl Drop for Hello {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A connection through arus that has had an answer, and stays open.
fn connect(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: arus\r\n\r\n").unwrap();
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    stream
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_operator_sees_changes_and_stops_a_running_arus() {
    let hello = Hello::start();
    let mut arus = Arus::start(&hello.1);
    let mut stream = connect(&arus.address);

    let status = arus.json("status");
    assert_eq!(status["listeners"][0]["addresses"][0], *arus.address);
    assert_eq!((&status["generation"], &status["totals"]["active"]), (&1.into(), &1.into()));
    assert_eq!(status["upstreams"][0]["backends"][0]["state"], "up");
    assert!(arus.ask(&["status"]).contains(&arus.address));
    let frame = arus.ask(&["top", "--once"]);
    assert!(frame.contains("generation 1") && frame.contains(&hello.1), "{frame}");

    let sessions = arus.json("sessions");
    let id = sessions["data"][0]["id"].as_str().unwrap();
    assert_eq!(sessions["data"][0]["source"], stream.local_addr().unwrap().to_string());
    assert!(arus.ask(&["sessions"]).contains(id));
    assert_eq!(arus.ask(&["kill", id]), format!("killed {id}\n"));
    let ended = stream.read_to_end(&mut Vec::new());
    assert!(!matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock), "it was not cut");
    let again = arus.run(&["kill", id]);
    assert_eq!((again.status.code(), errors(&again)), (Some(1), format!("arus: there is no live session {id}\n")));

    let again = arus.run(&["kill", id, "--json"]);
    let said: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((again.status.code(), said["error"].is_string()), (Some(1), true), "{said}");
    let mut other = connect(&arus.address);
    let id = arus.json("sessions")["data"][0]["id"].as_str().unwrap().to_owned();
    let killed: Value = serde_json::from_str(&arus.ask(&["kill", &id, "--json"])).unwrap();
    assert_eq!(killed, serde_json::json!({ "id": id, "killed": true }));
    let _ = other.read_to_end(&mut Vec::new());
    assert_eq!(arus.json("top")["status"]["generation"], 1);
    assert_eq!(arus.json("events")["data"][0]["category"], "admin");
    assert_eq!(arus.json("users")["total"], 0);

    assert_eq!(arus.ask(&["drain"]), "draining: arus exits when the last session has ended\n");
    assert_eq!(arus.child.wait().unwrap().code(), Some(0));
    let gone = arus.run(&["status"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(errors(&gone).starts_with("arus: no arus is running here: nothing listens on "), "{}", errors(&gone));
}

#[test]
fn a_reload_prints_the_generation_or_every_error() {
    let hello = Hello::start();
    let arus = Arus::start(&hello.1);
    // The file is not changed: no watcher races with this.
    assert_eq!(arus.json("reload")["generation"], 2);
    arus.rewrite(|text| format!("{text}retrys = 1\nbalance = \"fair\"\n"));
    let refused = arus.run(&["reload"]);
    let text = errors(&refused);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("`retrys`") && text.contains("fair") && text.ends_with("nothing was changed\n"), "{text}");
    let refused = arus.run(&["reload", "--json"]);
    let said: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!((refused.status.code(), said["errors"].as_array().map(Vec::len)), (Some(1), Some(2)), "{said}");
    let checked = arus.run(&["check"]);
    assert_eq!(checked.status.code(), Some(2));
    connect(&arus.address);
    // A file with errors still leads to the running arus.
    assert_eq!(arus.json("status")["generation"], 2);
}

#[test]
fn a_wrong_command_line_or_configuration_ends_with_2() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["--nonsense"][..], &["-c", "missing.toml"], &["check", "-c", "missing.toml"]] {
        let output = arus(directory.path()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", errors(&output));
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn the_log_level_of_the_command_line_stands_over_reloads() {
    let hello = Hello::start();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("proxy.toml"), configuration(&hello.1)).unwrap();
    let mut command = arus(directory.path());
    command.args(["run", "--log-level", "error", "--log-format", "json"]).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let log = follow(&mut child);
    let deadline = Instant::now() + PATIENCE;
    while !arus(directory.path()).arg("reload").output().unwrap().status.success() {
        assert!(Instant::now() < deadline, "it did not start");
        std::thread::yield_now();
    }
    assert!(arus(directory.path()).arg("drain").output().unwrap().status.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(log.iter().count(), 0, "nothing went wrong, so nothing was logged");
}
