//! Clients that others have made: curl, netcat, dante's socksify, PySocks and python-socks.

use std::path::PathBuf;
use std::process::{Command, Output};

use super::*;
use crate::ops::{has, text};

const PACKAGES: [&str; 2] = ["PySocks==1.7.1", "python-socks==2.7.1"];

/// An HTTP server that says one word.
pub(super) fn web() -> Backend {
    Backend::start(|mut stream: Stream, _| {
        let mut seen: Vec<u8> = Vec::new();
        let mut buffer = [0; 4096];
        while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
            match stream.read_some(&mut buffer) {
                Ok(count @ 1..) => seen.extend(&buffer[..count]),
                _ => return,
            }
        }
        stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nworld\n");
    })
}

pub(super) fn run(program: &str, words: &[&str]) -> Output {
    Command::new(program).args(words).output().unwrap()
}

#[test]
fn curl() {
    if !has("curl") {
        return;
    }
    let web = web();
    let arus = setup("", "[socks]\nsocks4 = true").start();
    let (proxy, port) = (arus.address("socks").to_string(), web.address().ip().port());
    for (option, host) in [
        ("--socks5", "127.0.0.1"),
        ("--socks5", "localhost"),
        ("--socks5-hostname", "localhost"),
        ("--socks4", "127.0.0.1"),
        ("--socks4a", "localhost"),
    ] {
        let url = format!("http://{host}:{port}/");
        let words = ["--silent", "--show-error", "--noproxy", "", "--max-time", "30", "--ipv4", option, &proxy, &url];
        let output = run("curl", &words);
        assert_eq!(text(&output.stdout), "world\n", "{option} {host}: {}", text(&output.stderr));
    }
    // What it is told of a refusal, it tells.
    let url = format!("http://{}/", Closed::new().address());
    let output = run("curl", &["--silent", "--show-error", "--noproxy", "", "--socks5-hostname", &proxy, &url]);
    assert_eq!(output.status.code(), Some(97), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("(5)"), "{}", text(&output.stderr));
}

/// As ssh does with `ProxyCommand nc -X 5 -x proxy host port`.
#[test]
fn netcat() {
    if !has("nc")
        || !text(&run("nc", &["-h"]).stderr).contains("-X proto") && !text(&run("nc", &["-h"]).stdout).contains("-X")
    {
        return;
    }
    let backend = Backend::start(|mut stream: Stream, _| {
        stream.write_all(b"SSH-2.0-test\r\n");
        behaviour::echo(stream, 0);
    });
    let arus = setup("", "[socks]\nsocks4 = true").start();
    let (proxy, port) = (arus.address("socks").to_string(), backend.address().ip().port().to_string());
    for (version, host) in [("5", "localhost"), ("5", "127.0.0.1"), ("4", "127.0.0.1")] {
        let mut command = Command::new("nc");
        command.args(["-X", version, "-x", &proxy, host, &port]);
        let mut program = Program::start(command);
        program.wait_for("SSH-2.0-test");
        program.say(b"over and out\n");
        program.wait_for("over and out");
        program.kill();
    }
}

/// What curl prints that dante's client leads through `socks` to `web`, by this method; `environment` tells it the user.
pub(super) fn socksify(socks: &Address, web: &Address, method: &str, environment: &[(&str, &str)]) -> (String, String) {
    let (Address::Ip(proxy), Address::Ip(web)) = (socks, web) else { panic!("no address") };
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("socks.conf");
    let route = format!(
        "route {{\n from: 0.0.0.0/0 to: 127.0.0.0/8 port = {} via: {} port = {}\n proxyprotocol: socks_v5\n \
         method: {method}\n}}\n",
        web.port(),
        proxy.ip(),
        proxy.port()
    );
    std::fs::write(&config, route).unwrap();
    let mut command = Command::new("socksify");
    // It would go to addresses of this machine directly.
    command.env("SOCKS_AUTOADD_LANROUTES", "no").env("SOCKS_CONF", &config).envs(environment.iter().copied());
    command.args(["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "30"]);
    let output = command.arg(format!("http://{web}/")).output().unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn dante() {
    if !has("socksify") || !has("curl") {
        return;
    }
    let web = web();
    let arus = setup("", "").start();
    let (printed, error) = socksify(&arus.address("socks"), web.address(), "none", &[]);
    assert_eq!(printed, "world\n", "{error}");
    assert_eq!(arus.finished(1)[0]["target"], web.address().to_string());
}

/// A Python that has [`PACKAGES`]; `None` where PyPI cannot be reached.
pub(super) fn python() -> Option<PathBuf> {
    let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("socks-clients");
    let python = home.join("bin/python");
    let has_all = || run(python.to_str().unwrap(), &["-c", "import socks, python_socks"]).status.success();
    if python.exists() && has_all() {
        return Some(python);
    }
    let made =
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home).status().is_ok_and(|made| made.success());
    let got = made
        && Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(PACKAGES)
            .status()
            .is_ok_and(|got| got.success());
    got.then_some(python)
}

const SCRIPT: &str = r#"
import socket, sys
import socks
from python_socks.sync import Proxy
proxy_host, proxy_port, port, closed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
def ask(sock):
    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
    answer = b""
    while True:
        piece = sock.recv(4096)
        if not piece:
            break
        answer += piece
    assert answer.endswith(b"world\n"), answer
    sock.close()
for kind in (socks.SOCKS5, socks.SOCKS4):
    for remote in (True, False):
        s = socks.socksocket(socket.AF_INET)
        s.settimeout(30)
        s.set_proxy(kind, proxy_host, proxy_port, rdns=remote)
        s.connect(("localhost", port))
        ask(s)
s = socks.socksocket()
s.set_proxy(socks.SOCKS5, proxy_host, proxy_port)
try:
    s.connect(("127.0.0.1", closed))
    raise SystemExit("connected to nobody")
except socks.ProxyConnectionError as error:
    raise
except socks.ProxyError as error:
    assert "0x05" in str(error), error
for scheme, remote in (("socks5", True), ("socks5", False), ("socks4", True)):
    proxy = Proxy.from_url(f"{scheme}://{proxy_host}:{proxy_port}", rdns=remote)
    ask(proxy.connect("localhost" if remote else "127.0.0.1", port, timeout=30))
print("well")
"#;

#[test]
fn python_clients() {
    let Some(python) = python() else { return };
    let web = web();
    let arus = setup("", "[socks]\nsocks4 = true").start();
    let Address::Ip(proxy) = arus.address("socks") else { panic!("no address") };
    let closed = Closed::new();
    let words = [
        proxy.ip().to_string(),
        proxy.port().to_string(),
        web.address().ip().port().to_string(),
        closed.address().ip().port().to_string(),
    ];
    let output = Command::new(python).args(["-c", SCRIPT]).args(words).output().unwrap();
    assert_eq!(text(&output.stdout), "well\n", "{}", text(&output.stderr));
}
