//! Real programs on both sides: curl, HAProxy, nginx, and the example configuration.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::{Address, Setup, Stream, eventually};
use crate::ops::{Running, has, listener, text};

/// A port that nobody has and that the kernel gives to nobody else for a minute: it is in TIME_WAIT, which only those
/// who bind it with SO_REUSEADDR get over, as servers do.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    drop(listener.accept().unwrap());
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    address.port()
}

fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl").args(["-sS", "--max-time", "60"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "curl {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn the_example_configuration_answers_curl() {
    if !has("curl") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let example = include_str!("../../proxy.toml");
    assert!(example.contains("127.0.0.1:8080") && example.contains("\n#state_dir = "));
    let state = format!("\nstate_dir = \"{}/state\" #", directory.path().display());
    let config = directory.path().join("proxy.toml");
    let demo = format!("127.0.0.1:{}", free_port());
    let text = example
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:8443", "127.0.0.1:0")
        .replace("127.0.0.1:8081", "127.0.0.1:0")
        .replace("127.0.0.1:62801", &demo)
        .replace("\n#state_dir = ", &state);
    std::fs::write(&config, text).unwrap();
    build_filter(directory.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_arus"));
    command.arg("--config").arg(&config).args(["--log-format", "json"]);
    let arus = Running::start(command);
    arus.log.message("ready");
    let lines = arus.log.lines();
    let address = |name: &str| {
        let line = lines.iter().find(|line| line["listener"] == name).expect("a listener");
        line["address"].as_str().unwrap().to_owned()
    };
    let web = address("web");
    let answer = curl(&[&format!("http://{web}/")]);
    let (client, proxy) = answer
        .trim_end()
        .strip_prefix("hello client ")
        .and_then(|rest| rest.split_once(", you were served by tls terminator proxy "))
        .unwrap_or_else(|| panic!("{answer:?}"));
    assert!(client.starts_with("127.0.0.1:") && proxy.starts_with("127.0.0.1:"), "{answer:?}");
    // h2c, and many requests over one connection.
    let answer = curl(&["--http2-prior-knowledge", "-w", "%{http_version}", &format!("http://{web}/")]);
    assert!(answer.ends_with("\r\n2"), "{answer:?}");
    let url = format!("http://{web}/[1-200]");
    assert_eq!(curl(&[&url]).lines().count(), 200);
    let answer = curl(&[&format!("http://{}/", address("upper"))]);
    assert!(answer.starts_with("HELLO CLIENT 127.0.0.1:"), "{answer:?}");
}

/// The plugin that the example names, as `make build-plugin` makes it.
fn build_filter(directory: &Path) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("c_plugins");
    std::fs::create_dir(directory.join("c_plugins")).unwrap();
    let mut command = Command::new("cc");
    command.args(["-std=c99", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-o"]);
    command.arg(directory.join("c_plugins/filter.so")).arg(sources.join("filter.c"));
    assert!(command.status().unwrap().success());
}

/// A foreign server, ended when dropped.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ =
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0.id() as i32), nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn start_peer(mut command: Command, socket: &Path) -> Peer {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let peer = Peer(command.spawn().unwrap());
    let address = Address::Unix(socket.into());
    eventually(&format!("{command:?} listens"), || Stream::try_connect(&address).ok());
    peer
}

fn write(path: PathBuf, content: &str) -> PathBuf {
    std::fs::File::create(&path).unwrap().write_all(content.as_bytes()).unwrap();
    path
}

/// nginx, in the foreground and in a directory of its own, as a server of `servers`.
fn nginx(directory: &Path, name: &str, servers: &str, socket: &Path) -> Peer {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {}/{name}-{kind};\n", directory.display()))
        .collect();
    let user = if nix::unistd::geteuid().is_root() { "user root;\n" } else { "" };
    let config = format!(
        "daemon off;\nmaster_process off;\n{user}pid {0}/{name}.pid;\nerror_log {0}/{name}.log;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_max_body_size 1g;\n{temporary}{servers}\n}}\n",
        directory.display()
    );
    let config = write(directory.join(format!("{name}.conf")), &config);
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-p").arg(directory).arg("-e").arg(directory.join("start.log")).arg("-c").arg(config);
    start_peer(command, socket)
}

/// HAProxy in TCP mode from one unix socket to another.
fn haproxy(directory: &Path, from: &Path, to: &Path) -> Peer {
    let config = format!(
        "defaults\n  mode tcp\n  timeout connect 50s\n  timeout client 50s\n  timeout server 50s\n\
         frontend f\n  bind unix@{}\n  default_backend b\nbackend b\n  server s unix@{}\n",
        from.display(),
        to.display()
    );
    let config = write(directory.join("haproxy.cfg"), &config);
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-db").arg("-f").arg(config);
    start_peer(command, from)
}

const MEGABYTES: usize = 20;

/// Fetches a large file, a small one, and sends a large one, through `front`.
fn exchange(front: &Path, directory: &Path, file: &[u8]) {
    let socket = ["--unix-socket", front.to_str().unwrap()];
    let got = directory.join("got");
    curl(&[socket[0], socket[1], "-o", got.to_str().unwrap(), "http://arus/big"]);
    assert!(std::fs::read(&got).unwrap() == file, "a large answer came through changed");
    let many = curl(&[socket[0], socket[1], "http://arus/small[1-100]"]);
    assert_eq!(many, "small".repeat(100));
    let sent = directory.join("sent");
    std::fs::write(&sent, file).unwrap();
    let upload = format!("@{}", sent.display());
    let code = curl(&[
        socket[0],
        socket[1],
        "-w",
        "%{http_code}",
        "-o",
        "/dev/null",
        "--data-binary",
        &upload,
        "http://arus/sink",
    ]);
    assert_eq!(code, "204");
}

fn site(directory: &Path, socket: &Path) -> String {
    format!(
        "server {{ listen unix:{};\n location = /big {{ root {}; }}\n location /small {{ return 200 small; }}\n\
         location /sink {{ client_body_in_file_only off; return 204; }} }}",
        socket.display(),
        directory.display()
    )
}

#[test]
fn haproxy_in_front_and_nginx_behind() {
    if !has("curl") || !has("haproxy") || !has("nginx") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let file = crate::harness::pattern(1, 0, MEGABYTES << 20);
    std::fs::write(at("big"), &file).unwrap();
    let _site = nginx(directory.path(), "site", &site(directory.path(), &at("site.sock")), &at("site.sock"));
    let backend = format!("[[upstream]]\nname = \"site\"\nbackends = [\"unix:{}\"]\n", at("site.sock").display());
    let listen = format!("unix:{}", at("arus.sock").display());
    let arus = Setup::new(backend + &listener("web", &listen, "site", "")).start();
    // Without anybody in front, too.
    exchange(&at("arus.sock"), directory.path(), &file);
    let _front = haproxy(directory.path(), &at("front.sock"), &at("arus.sock"));
    exchange(&at("front.sock"), directory.path(), &file);
    arus.wait_active(0);
    let failed: Vec<_> = arus.log.access().into_iter().filter(|line| line["state"] == "failed").collect();
    assert!(failed.iter().all(|line| line["reason"] == "reset"), "{failed:?}");
}

#[test]
fn nginx_in_front_and_haproxy_behind() {
    if !has("curl") || !has("haproxy") || !has("nginx") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let file = crate::harness::pattern(2, 0, MEGABYTES << 20);
    std::fs::write(at("big"), &file).unwrap();
    let _site = nginx(directory.path(), "site", &site(directory.path(), &at("site.sock")), &at("site.sock"));
    let _behind = haproxy(directory.path(), &at("behind.sock"), &at("site.sock"));
    let backend = format!("[[upstream]]\nname = \"site\"\nbackends = [\"unix:{}\"]\n", at("behind.sock").display());
    let arus = Setup::new(backend + &listener("web", "127.0.0.1:0", "site", "")).start();
    let front = format!(
        "server {{ listen unix:{}; location / {{ proxy_pass http://{}; proxy_request_buffering off; proxy_buffering off; \
         proxy_http_version 1.1; }} }}",
        at("front.sock").display(),
        arus.address("web")
    );
    let _front = nginx(directory.path(), "front", &front, &at("front.sock"));
    exchange(&at("front.sock"), directory.path(), &file);
    assert!(arus.status()["totals"]["bytes_down"].as_u64().unwrap() > (MEGABYTES << 20) as u64);
}
