//! Clients that others have made, with a user and a password: curl, dante's socksify, PySocks and python-socks; and ssh,
//! which comes through netcat.

use std::process::{Command, Stdio};

use super::clients::{python, run, socksify, web};
use super::*;
use crate::ops::{has, is_root, text};

const USERS: &str = "[auth]\nmethods = [\"password\"]\nfailures = { limit = 0 }\n\
                     [[auth.user]]\nname = \"alice\"\npassword = \"secret:123\"\n";

/// The reasons of the sessions so far, whose order is nobody's affair.
fn reasons(arus: &Arus, count: usize) -> Vec<String> {
    let mut reasons: Vec<String> =
        arus.finished(count).iter().map(|line| line["reason"].as_str().unwrap().to_owned()).collect();
    reasons.sort();
    reasons
}

#[test]
fn curl() {
    if !has("curl") {
        return;
    }
    let web = web();
    let arus = setup("", USERS).start();
    let (proxy, port) = (arus.address("socks").to_string(), web.address().ip().port());
    let ask = |words: &[&str], host: &str| {
        let url = format!("http://{host}:{port}/");
        let common = ["--silent", "--show-error", "--noproxy", "", "--max-time", "30", "--ipv4"];
        let words: Vec<&str> = common.iter().chain(words).copied().chain([&*url]).collect();
        let output = run("curl", &words);
        (text(&output.stdout), output.status.code(), text(&output.stderr))
    };
    let in_url = |scheme: &str, who: &str| format!("{scheme}://{who}@{proxy}");
    let [url, url_with_name] = ["socks5", "socks5h"].map(|scheme| in_url(scheme, "alice:secret%3A123"));
    for (words, host) in [
        (&["--socks5", &proxy, "--proxy-user", "alice:secret:123"][..], "127.0.0.1"),
        (&["--socks5", &proxy, "--proxy-user", "alice:secret:123"], "localhost"),
        (&["--socks5-hostname", &proxy, "--proxy-user", "alice:secret:123"], "localhost"),
        (&["--proxy", &url], "localhost"),
        (&["--proxy", &url_with_name], "localhost"),
    ] {
        let (said, _, error) = ask(words, host);
        assert_eq!(said, "world\n", "{words:?}: {error}");
    }
    let sessions = arus.finished(5);
    assert!(sessions.iter().all(|line| line["user"] == "alice" && line["reason"] == "done"), "{sessions:?}");
    let unknown = in_url("socks5h", "bob:secret%3A123");
    for words in [
        &["--socks5", &proxy, "--proxy-user", "alice:wrong"][..],
        &["--socks5-hostname", &proxy, "--proxy-user", "alice:"],
        &["--socks5-hostname", &proxy, "--proxy-user", "bob:secret:123"],
        &["--proxy", &unknown],
    ] {
        let (said, code, error) = ask(words, "localhost");
        assert_eq!((&*said, code), ("", Some(97)), "{words:?}: {error}");
        assert!(error.contains("rejected"), "{words:?}: {error}");
    }
    // Without a user it offers no password.
    let (_, code, error) = ask(&["--socks5-hostname", &proxy], "localhost");
    assert_eq!(code, Some(97), "{error}");
    assert_eq!(web.accepted(), 5);
    let expected = [&["auth_failed"; 4][..], &["done"; 5], &["socks_method"]].concat();
    assert_eq!(reasons(&arus, 10), expected);
}

#[test]
fn dante() {
    if !has("socksify") || !has("curl") {
        return;
    }
    let web = web();
    let arus = setup("", USERS).start();
    for (password, expected) in [("secret:123", "world\n"), ("wrong", "")] {
        let login = [("SOCKS_USERNAME", "alice"), ("SOCKS_PASSWORD", password)];
        let (printed, error) = socksify(&arus.address("socks"), web.address(), "username", &login);
        assert_eq!(printed, expected, "{password}: {error}");
    }
    assert_eq!(reasons(&arus, 2), ["auth_failed", "done"]);
}

const SCRIPT: &str = r#"
import asyncio, socket, sys
import socks
import python_socks
from python_socks.sync import Proxy
from python_socks.async_.asyncio import Proxy as AsyncProxy
host, proxy_port, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def ask(sock):
    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
    answer = b""
    while piece := sock.recv(4096):
        answer += piece
    assert answer.endswith(b"world\n"), answer
    sock.close()
def pysocks(user, password, remote):
    s = socks.socksocket(socket.AF_INET)
    s.settimeout(30)
    s.set_proxy(socks.SOCKS5, host, proxy_port, rdns=remote, username=user, password=password)
    s.connect(("localhost", port))
    return s
def refused(attempt, kind, *words):
    try:
        attempt()
    except kind as error:
        assert any(word in str(error) for word in words), error
    else:
        raise SystemExit("let in")
for remote in (True, False):
    ask(pysocks("alice", "secret:123", remote))
for user, password in (("alice", "wrong"), ("bob", "secret:123")):
    refused(lambda: pysocks(user, password, True), socks.ProxyError, "authentication failed")
refused(lambda: pysocks(None, None, True), socks.ProxyError, "authentication methods were rejected")
def proxy(kind, who):
    return kind.from_url(f"socks5://{who}{host}:{proxy_port}", rdns=True)
ask(proxy(Proxy, "alice:secret%3A123@").connect("localhost", port, timeout=30))
for who in ("alice:wrong@", "bob:secret%3A123@"):
    refused(lambda: proxy(Proxy, who).connect("localhost", port, timeout=30), python_socks.ProxyError, "authentication")
refused(lambda: proxy(Proxy, "").connect("localhost", port, timeout=30), python_socks.ProxyError, "method")
async def both():
    sock = await proxy(AsyncProxy, "alice:secret%3A123@").connect("localhost", port, timeout=30)
    sock.setblocking(True)
    await asyncio.to_thread(ask, sock)
asyncio.run(both())
print("well")
"#;

#[test]
fn python_clients() {
    let Some(python) = python() else { return };
    let web = web();
    let arus = setup("", USERS).start();
    let Address::Ip(proxy) = arus.address("socks") else { panic!("no address") };
    let words = [proxy.ip().to_string(), proxy.port().to_string(), web.address().ip().port().to_string()];
    let output = Command::new(python).args(["-c", SCRIPT]).args(words).output().unwrap();
    assert_eq!(text(&output.stdout), "well\n", "{}", text(&output.stderr));
    let expected = [&["auth_failed"; 4][..], &["done"; 4], &["socks_method"; 2]].concat();
    assert_eq!(reasons(&arus, 10), expected);
}

/// ssh with `ProxyCommand nc -X 5`, to a real sshd. That one runs as inetd would start it, one process a connection, so
/// that it needs no port of its own. netcat's SOCKS knows no passwords (its `-P` is for HTTP alone).
#[test]
fn ssh_through_netcat() {
    if !has("sshd") || !has("ssh") || !has("ssh-keygen") || !has("nc") || !is_root() {
        return;
    }
    // What sshd, started by root, gives its unprivileged part as a root directory.
    let _ = std::fs::create_dir("/run/sshd");
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for key in ["host", "user"] {
        let made = run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]);
        assert!(made.status.success(), "{}", text(&made.stderr));
    }
    let config = format!(
        "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
         PermitRootLogin prohibit-password\nPidFile none\n",
        path("host"),
        path("user.pub")
    );
    std::fs::write(path("sshd_config"), config).unwrap();
    let sshd_config = path("sshd_config");
    let server = Backend::start(move |stream: Stream, _| {
        let end = || std::os::fd::OwnedFd::from(stream.0.try_clone().unwrap());
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.args(["-i", "-e", "-f", &sshd_config]).stdin(end()).stdout(end()).stderr(Stdio::null());
        // Where it cannot be started, its client sees the end.
        let _ = sshd.spawn().and_then(|mut sshd| sshd.wait());
    });
    let arus = setup("", "").start();
    let (proxy, port) = (arus.address("socks").to_string(), server.address().ip().port().to_string());
    for host in ["127.0.0.1", "localhost"] {
        let proxy_command = format!("ProxyCommand=nc -X 5 -x {proxy} %h %p");
        let options = [
            "-F",
            "none",
            "-o",
            &*proxy_command,
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "BatchMode=yes",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
            "-o",
            "IdentitiesOnly=yes",
        ];
        let (key, words) = (path("user"), ["-l", "root", "-p", &*port, host, "echo here we are && cat"]);
        let mut ssh = Command::new("ssh");
        ssh.args(options).args(["-i", &*key]).args(words);
        let mut program = Program::start(ssh);
        program.wait_for("here we are");
        program.say(b"over and out\n");
        program.wait_for("over and out");
        program.say_no_more();
        assert!(program.wait_exit().success(), "{}", program.printed());
    }
    for line in arus.finished(2) {
        assert_eq!(line["reason"], "done", "{line}");
    }
}
