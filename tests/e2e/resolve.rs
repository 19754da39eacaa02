//! Backends given by name: the hosts file, DNS that answers late or not at all, several addresses.
//!
//! arus reads /etc/hosts and /etc/resolv.conf; a mount namespace of its own gives it others.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::harness::{Address, Backend, Setup, Stream, eventually};
use crate::ops::{ask, check_echo, has, is_root, listener, read_tag, tag_and_echo, tagged};

/// A name server that knows A records, and nothing else.
pub(crate) struct Dns {
    pub(crate) address: Ipv4Addr,
    names: Arc<Mutex<HashMap<String, Vec<Ipv4Addr>>>>,
    pub(crate) asked: Arc<AtomicU64>,
    /// It hears, and says nothing. Of names in `silent` it never does.
    pub(crate) mute: Arc<AtomicBool>,
}

const TTL_SECONDS: u8 = 1;

impl Dns {
    /// On port 53, the only one that resolv.conf knows, of an address that nobody else uses.
    pub(crate) fn start() -> Self {
        let (address, socket) = (1..250)
            .map(|last| Ipv4Addr::new(127, 53, (std::process::id() % 250) as u8, last))
            .find_map(|address| Some((address, UdpSocket::bind((address, 53)).ok()?)))
            .expect("an address for a name server");
        let dns = Self { address, names: Arc::default(), asked: Arc::default(), mute: Arc::default() };
        let (names, asked, mute) = (Arc::clone(&dns.names), Arc::clone(&dns.asked), Arc::clone(&dns.mute));
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((count, peer)) = socket.recv_from(&mut query) {
                asked.fetch_add(1, Ordering::SeqCst);
                let is_silent = query[..count].windows(6).any(|label| label == b"silent");
                if !mute.load(Ordering::SeqCst) && !is_silent {
                    let answer = answer(&query[..count], &names.lock().unwrap());
                    let _ = socket.send_to(&answer, peer);
                }
            }
        });
        dns
    }

    pub(crate) fn set(&self, name: &str, addresses: &[Ipv4Addr]) {
        self.names.lock().unwrap().insert(name.into(), addresses.to_vec());
    }
}

/// RFC 1035 section 4: the header, the one question, and an A record for each address.
fn answer(query: &[u8], names: &HashMap<String, Vec<Ipv4Addr>>) -> Vec<u8> {
    let mut name = String::new();
    let mut at = 12;
    while query[at] != 0 {
        let label = &query[at + 1..at + 1 + usize::from(query[at])];
        name += &format!("{}.", String::from_utf8_lossy(label).to_lowercase());
        at += 1 + label.len();
    }
    let is_a = query[at + 1..at + 3] == [0, 1];
    let question = &query[12..at + 5];
    let known = names.get(name.trim_end_matches('.'));
    let addresses = if is_a { known.cloned().unwrap_or_default() } else { Vec::new() };
    let code = if known.is_some() { 0 } else { 3 };
    let mut answer = vec![query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0];
    answer.extend_from_slice(question);
    for address in addresses {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, TTL_SECONDS, 0, 4]);
        answer.extend_from_slice(&address.octets());
    }
    answer
}

const RESOLVE: &str = "resolve = { ttl_min = \"50ms\", ttl_max = \"100ms\" }";

fn by_name(host: &str, port: u16, keys: &str) -> Setup {
    Setup::new(
        format!("[[upstream]]\nname = \"app\"\nbackends = [\"{host}:{port}\"]\n{RESOLVE}\n{keys}\n")
            + &listener("web", "127.0.0.1:0", "app", ""),
    )
}

/// Gives arus files of its own for /etc/hosts and /etc/resolv.conf; `None` (said) where that cannot be.
fn with_files(setup: Setup, hosts: &str, name_server: Ipv4Addr) -> Option<Setup> {
    with_patience(setup, hosts, name_server, 1)
}

/// As [`with_files`], with so many seconds for an answer of the name server.
pub(crate) fn with_patience(setup: Setup, hosts: &str, name_server: Ipv4Addr, seconds: u32) -> Option<Setup> {
    with_resolv_conf(setup, hosts, &format!("nameserver {name_server}\noptions timeout:{seconds} attempts:1\n"))
}

pub(crate) fn with_resolv_conf(setup: Setup, hosts: &str, resolv_conf: &str) -> Option<Setup> {
    if !is_root() || !has("unshare") {
        return None;
    }
    let place = |name: &str, text: &str| {
        let path = setup.directory().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let hosts = place("hosts", hosts);
    let resolv = place("resolv.conf", resolv_conf);
    const MOUNT: &str =
        "mount --bind \"$1\" /etc/hosts && mount --bind \"$2\" /etc/resolv.conf && shift 2 && exec \"$@\"";
    Some(setup.wrap(&["unshare", "--mount", "sh", "-c", MOUNT, "sh", &hosts, &resolv]))
}

fn port(address: &Address) -> u16 {
    address.ip().port()
}

#[test]
fn localhost_is_a_name_of_every_machine() {
    let a = tagged("a");
    let arus = by_name("localhost", port(a.address()), "").start();
    let (mut stream, tag) = ask(&arus.address("web"));
    assert_eq!(tag, "a");
    check_echo(&mut stream, 1);
    drop(stream);
    assert_eq!(arus.finished(1)[0]["backend"], format!("localhost:{}", port(a.address())));
}

#[test]
fn a_name_that_does_not_resolve_yet_fails_connections_cleanly_and_works_when_it_does() {
    let dns = Dns::start();
    let a = tagged("a");
    let setup = by_name("late.test", port(a.address()), "");
    let Some(setup) = with_files(setup, "127.0.0.1 localhost\n", dns.address) else { return };
    let begun = std::time::Instant::now();
    let arus = setup.start();
    assert!(begun.elapsed() < Duration::from_secs(20), "the start waits for no name: {:?}", begun.elapsed());
    let web = arus.address("web");
    for _ in 0..3 {
        let mut stream = Stream::connect(&web);
        stream.end();
        let line = arus.session_of(stream.local());
        let told = ["reason", "state", "blame"].map(|key| line[key].as_str().unwrap());
        assert_eq!(told, ["unresolved", "failed", "upstream"], "{line}");
    }
    let warning = arus.log.message("does not resolve");
    assert_eq!((&warning["host"], &warning["level"]), (&"late.test".into(), &"WARN".into()));
    dns.set("late.test", &[Ipv4Addr::LOCALHOST]);
    eventually("the name resolves", || (!matches!(ended_at_once(&web), Some(true))).then_some(()));
    assert_eq!(ask(&web).1, "a");
}

/// Whether a new connection is ended without a byte.
fn ended_at_once(web: &Address) -> Option<bool> {
    let mut stream = Stream::connect(web);
    Some(!matches!(stream.read_some(&mut [0]), Ok(1)))
}

#[test]
fn a_name_that_moves_takes_new_connections_along_and_a_silent_server_changes_nothing() {
    let dns = Dns::start();
    let a = tagged("a");
    let elsewhere = Address::Ip(SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), port(a.address())));
    let _b = Backend::listen(&elsewhere, tag_and_echo("b"));
    dns.set("moves.test", &[Ipv4Addr::LOCALHOST]);
    let setup = by_name("Moves.Test.", port(a.address()), "");
    let Some(setup) = with_files(setup, "", dns.address) else { return };
    let arus = setup.start();
    let web = arus.address("web");
    let (mut before, tag) = ask(&web);
    assert_eq!(tag, "a");

    dns.set("moves.test", &[Ipv4Addr::new(127, 0, 0, 2)]);
    eventually("new connections go to the new address", || (ask(&web).1 == "b").then_some(()));
    check_echo(&mut before, 1);

    dns.mute.store(true, Ordering::SeqCst);
    let asked = dns.asked.load(Ordering::SeqCst);
    eventually("it was asked in vain", || (dns.asked.load(Ordering::SeqCst) > asked + 2).then_some(()));
    assert_eq!(ask(&web).1, "b");
    dns.mute.store(false, Ordering::SeqCst);
    dns.set("moves.test", &[Ipv4Addr::LOCALHOST]);
    eventually("it moves back", || (ask(&web).1 == "a").then_some(()));
}

#[test]
fn a_name_in_the_hosts_file_follows_the_file() {
    let a = tagged("a");
    let dns = Dns::start();
    let Some(setup) = with_files(by_name("db.test", port(a.address()), ""), "127.0.0.9 db.test\n", dns.address) else {
        return;
    };
    let hosts = setup.directory().join("hosts");
    let arus = setup.start();
    let web = arus.address("web");
    assert_eq!(ended_at_once(&web), Some(true), "nobody listens on 127.0.0.9");
    rewrite(&hosts, "127.0.0.1 db.test\n");
    eventually("the new address is in use", || (ended_at_once(&web) == Some(false)).then_some(()));
    assert_eq!(dns.asked.load(Ordering::SeqCst), 0, "a name of the hosts file is not asked of DNS");
}

/// In place: a mounted file cannot be replaced.
fn rewrite(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// Listens, has a full accept queue, and drops whoever else knocks.
pub(crate) struct BlackHole {
    pub(crate) address: SocketAddr,
    /// Who listens, and those that knocked.
    pub(crate) sockets: Vec<Socket>,
}

impl BlackHole {
    pub(crate) fn new(ip: Ipv4Addr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(ip.into(), 0).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut sockets = vec![socket];
        // The queue takes one or two; the first that gets no answer shows that it is full.
        loop {
            let knock = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let answered = knock.connect_timeout(&address.into(), Duration::from_millis(300)).is_ok();
            sockets.push(knock);
            if !answered {
                return Self { address, sockets };
            }
            assert!(sockets.len() < 20, "the queue never fills");
        }
    }
}

#[test]
fn a_dead_first_address_costs_a_moment_and_not_the_connect_timeout() {
    let hole = BlackHole::new(Ipv4Addr::new(127, 0, 0, 7));
    let good = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), hole.address.port());
    let _a = Backend::listen(&Address::Ip(good), tag_and_echo("a"));
    let dns = Dns::start();
    let hosts = "127.0.0.7 both.test\n127.0.0.1 both.test\n";
    let setup = by_name("both.test", hole.address.port(), "").also("[timeouts]\nconnect = \"50s\"");
    let Some(setup) = with_files(setup, hosts, dns.address) else { return };
    let arus = setup.start();
    let mut stream = Stream::connect(&arus.address("web"));
    assert_eq!(read_tag(&mut stream), "a");
    drop(stream);
    let line = &arus.finished(1)[0];
    let connect_ms = line["connect_ms"].as_f64().unwrap();
    assert!(connect_ms >= 240.0, "the dead address was not tried first: {line}");
    assert!(connect_ms < 20_000.0, "{line}");
}
