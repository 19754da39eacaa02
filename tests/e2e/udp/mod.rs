//! UDP ASSOCIATE on the real binary: what passes, what is dropped for which reason, how an association begins and ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::*;

mod life;
mod over;
mod seen;

fn setup(socks: &str) -> Setup {
    Setup::new(format!(
        "[[listener]]\nname = \"socks\"\nlisten = [\"127.0.0.1:0\", \"[::1]:0\"]\nservice = \"socks5\"\n\
         [socks]\ncommands = [\"connect\", \"udp\"]\n{socks}\n{RULES}"
    ))
}

/// Clients may go to this machine, which by default they may not.
const RULES: &str = "[acl]\ndefault = \"allow\"\n\
    [[acl.rule]]\naction = \"allow\"\ndestinations = [\"127.0.0.0/8\", \"::1\", \"localhost\"]\n";

/// What a listener counts of datagrams.
fn counts(arus: &Arus) -> Value {
    arus.status()["listeners"][0]["datagrams"].clone()
}

fn dropped(arus: &Arus, why: &str) -> u64 {
    counts(arus)["dropped"][why].as_u64().unwrap_or(0)
}

fn wait_dropped(arus: &Arus, why: &str, count: u64) {
    eventually(&format!("{count} dropped as {why}"), || (dropped(arus, why) >= count).then_some(()));
    assert_eq!(dropped(arus, why), count, "{why}");
}

/// A client with an association.
struct Associated {
    control: TcpStream,
    socket: UdpSocket,
    /// Where it sends to.
    relay: SocketAddr,
}

fn connect(arus: &Arus, index: usize) -> TcpStream {
    let Address::Ip(address) = arus.addresses("socks")[index].clone() else { panic!("a TCP listener") };
    let control = TcpStream::connect(address).unwrap();
    control.set_read_timeout(Some(DEADLINE)).unwrap();
    control.set_nodelay(true).unwrap();
    control
}

/// Greeting and request in one go; gives the reply and the address in it.
fn ask(control: &mut TcpStream, from: SocketAddr) -> (u8, SocketAddr) {
    control.write_all(&[&[5, 1, 0, 5, 3, 0][..], &place(from)].concat()).unwrap();
    let mut choice = [0; 2];
    control.read_exact(&mut choice).unwrap();
    assert_eq!(choice, [5, 0]);
    let mut head = [0; 4];
    control.read_exact(&mut head).unwrap();
    let bound: SocketAddr = match head[3] {
        1 => {
            let mut rest = [0; 6];
            control.read_exact(&mut rest).unwrap();
            ([rest[0], rest[1], rest[2], rest[3]], u16::from_be_bytes([rest[4], rest[5]])).into()
        }
        4 => {
            let mut rest = [0; 18];
            control.read_exact(&mut rest).unwrap();
            let ip: [u8; 16] = rest[..16].try_into().unwrap();
            (ip, u16::from_be_bytes([rest[16], rest[17]])).into()
        }
        other => panic!("address type {other}"),
    };
    (head[1], bound)
}

/// Address type, address and port.
fn place(address: SocketAddr) -> Vec<u8> {
    let mut bytes = match address.ip() {
        IpAddr::V4(ip) => [&[1][..], &ip.octets()].concat(),
        IpAddr::V6(ip) => [&[4][..], &ip.octets()].concat(),
    };
    bytes.extend(address.port().to_be_bytes());
    bytes
}

fn anywhere() -> SocketAddr {
    "0.0.0.0:0".parse().unwrap()
}

fn udp(address: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 70_000];
    let (len, from) = socket.recv_from(&mut bytes).unwrap();
    bytes.truncate(len);
    (bytes, from)
}

fn is_silent(socket: &UdpSocket) -> bool {
    socket.set_nonblocking(true).unwrap();
    let got = socket.recv(&mut [0; 10]);
    socket.set_nonblocking(false).unwrap();
    got.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

impl Associated {
    fn new(arus: &Arus) -> Self {
        Self::of(arus, 0, udp("127.0.0.1:0").0, anywhere())
    }

    fn of(arus: &Arus, index: usize, socket: UdpSocket, from: SocketAddr) -> Self {
        let mut control = connect(arus, index);
        let (reply, relay) = ask(&mut control, from);
        assert_eq!(reply, 0);
        assert!(!relay.ip().is_unspecified() && relay.port() != 0, "{relay}");
        Self { control, socket, relay }
    }

    fn send(&self, to: SocketAddr, payload: &[u8]) {
        self.send_raw(&[&[0, 0, 0][..], &place(to), payload].concat());
    }

    fn send_name(&self, name: &str, port: u16, payload: &[u8]) {
        let head = [&[0, 0, 0, 3, name.len() as u8], name.as_bytes(), &port.to_be_bytes()].concat();
        self.send_raw(&[&head, payload].concat());
    }

    fn send_raw(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.relay).unwrap();
    }

    /// An answer must come from there.
    fn expect(&self, from: SocketAddr, payload: &[u8]) {
        let (datagram, relay) = receive(&self.socket);
        assert_eq!(relay, self.relay);
        let head = [&[0, 0, 0][..], &place(from)].concat();
        assert!(datagram == [&head, payload].concat(), "{} bytes from {from}", datagram.len());
    }

    fn name(&self) -> SocketAddr {
        self.control.local_addr().unwrap()
    }

    /// The control connection has been closed by arus.
    fn is_over(&mut self) -> bool {
        matches!(self.control.read(&mut [0; 10]), Ok(0) | Err(_))
    }
}

fn relays(features: &str) {
    let arus = setup("").env("ARUS_RING_WITHOUT", features).start();
    let client = Associated::new(&arus);
    let targets: Vec<_> = (0..6).map(|i| udp(if i % 2 == 0 { "127.0.0.1:0" } else { "[::1]:0" })).collect();
    for (number, (_, at)) in targets.iter().enumerate() {
        client.send(*at, format!("to {number}").as_bytes());
    }
    let mut outside = std::collections::HashSet::new();
    for (number, (target, at)) in targets.iter().enumerate() {
        let (payload, from) = receive(target);
        assert_eq!(payload, format!("to {number}").as_bytes());
        outside.insert(from.port());
        target.send_to(format!("from {number}").as_bytes(), from).unwrap();
        client.expect(*at, format!("from {number}").as_bytes());
    }
    assert_eq!(outside.len(), 1, "one socket for all of them");
    // A name with an address in both families: the target is where one of them is.
    let (target, at) = udp("127.0.0.1:0");
    client.send_name("localhost", at.port(), b"by name");
    client.send_name("LOCALHOST.", at.port(), b"by name");
    let numeric = [b"\0\0\0\x03\x05127.1", &at.port().to_be_bytes()[..], b"by name"].concat();
    client.send_raw(&numeric);
    let is_v4 = !"localhost:0".to_socket_addrs_first().is_ipv6();
    for _ in 0..if is_v4 { 3 } else { 1 } {
        assert_eq!(receive(&target).0, b"by name");
    }
    // Empty ones are datagrams too.
    client.send(at, b"");
    let (payload, from) = receive(&target);
    assert!(payload.is_empty());
    target.send_to(b"", from).unwrap();
    client.expect(at, b"");
    // The largest that fit, either way.
    let large: Vec<u8> = (0..65_507).map(|i| (i % 253) as u8).collect();
    client.send(at, &large[..65_497]);
    let (payload, from) = receive(&target);
    assert!(payload == large[..65_497]);
    target.send_to(&large[..65_497], from).unwrap();
    client.expect(at, &large[..65_497]);
    // Larger by its header than a datagram can be.
    target.send_to(&large, from).unwrap();
    wait_dropped(&arus, "too_large", 1);

    let sessions = arus.sessions();
    assert_eq!(sessions.len(), 1);
    let source = client.name();
    let (up, down) = (6 * 4 + 3 * 7 + 65_497, 6 * 6 + 65_497);
    assert_eq!((&sessions[0]["bytes_up"], &sessions[0]["bytes_down"]), (&up.into(), &down.into()));
    assert_eq!(counts(&arus)["associations"], 1);
    assert_eq!((&counts(&arus)["up"], &counts(&arus)["down"]), (&11.into(), &8.into()));
    drop(client);
    let line = arus.session_of(source);
    assert_eq!((&line["bytes_up"], &line["bytes_down"]), (&up.into(), &down.into()));
    assert_eq!((&line["state"], &line["reason"]), (&"closed".into(), &"association_closed".into()), "{line}");
    assert_eq!(line["target"], targets[0].1.to_string());
    eventually("no association is left", || (counts(&arus)["associations"] == 0).then_some(()));
}

trait First {
    fn to_socket_addrs_first(&self) -> SocketAddr;
}

impl First for str {
    fn to_socket_addrs_first(&self) -> SocketAddr {
        std::net::ToSocketAddrs::to_socket_addrs(self).unwrap().next().unwrap()
    }
}

#[test]
fn datagrams_pass_and_are_accounted() {
    relays("");
}

#[test]
fn datagrams_pass_without_multishot_receives() {
    relays("multishot");
}

#[test]
fn a_client_of_ipv6_is_served_and_told_an_address_of_ipv6() {
    let arus = setup("").start();
    let client = Associated::of(&arus, 1, udp("[::1]:0").0, "[::]:0".parse().unwrap());
    assert_eq!(client.relay.ip(), "::1".parse::<IpAddr>().unwrap());
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (target, at) = udp(address);
        client.send(at, b"ask");
        let (payload, from) = receive(&target);
        assert_eq!(payload, b"ask");
        target.send_to(b"answer", from).unwrap();
        client.expect(at, b"answer");
    }
}

#[test]
fn what_must_not_pass_is_dropped_and_counted() {
    let arus = setup("").start();
    let client = Associated::new(&arus);
    let (target, at) = udp("127.0.0.1:0");
    // A stranger's first datagram captures nothing.
    let (stranger, _) = udp("127.0.0.2:0");
    let theirs = [&[0, 0, 0][..], &place(at), b"stranger"].concat();
    stranger.send_to(&theirs, client.relay).unwrap();
    wait_dropped(&arus, "stranger", 1);
    client.send(at, b"mine");
    let (payload, outside) = receive(&target);
    assert_eq!(payload, b"mine");
    // Nor does another port of the client's address, from now on.
    udp("127.0.0.1:0").0.send_to(&theirs, client.relay).unwrap();
    wait_dropped(&arus, "stranger", 2);
    for fragment in [1, 2, 0x7f, 0x80, 0xff] {
        client.send_raw(&[&[0, 0, fragment][..], &place(at), b"piece"].concat());
    }
    wait_dropped(&arus, "fragment", 5);
    let rubbish: [&[u8]; 6] = [
        b"",
        b"\0\0\0",
        b"\0\0\0\x02\x01\x02\x03\x04\0\x35",
        b"\0\0\0\x01\x7f\0\0\x01\0",
        b"\0\0\0\x03\0\0\x35",
        b"GET / HTTP/1.1",
    ];
    rubbish.into_iter().for_each(|rubbish| client.send_raw(rubbish));
    client.send_name("nul\0.localhost", at.port(), b"x");
    client.send("127.0.0.1:0".parse().unwrap(), b"x");
    wait_dropped(&arus, "malformed", 8);
    for nobody in ["224.0.0.1:9", "0.0.0.0:9", "255.255.255.255:9", "[::]:9", "[ff02::1]:9"] {
        client.send(nobody.parse().unwrap(), b"x");
    }
    wait_dropped(&arus, "denied", 5);
    client.send_name("no-such-host.invalid", 9, b"x");
    wait_dropped(&arus, "unresolved", 1);
    // Nobody is heard whom the client has not asked.
    let (unasked, _) = udp("127.0.0.1:0");
    unasked.send_to(b"surprise", outside).unwrap();
    wait_dropped(&arus, "unasked", 1);
    target.send_to(b"asked", outside).unwrap();
    client.expect(at, b"asked");
    assert!(is_silent(&client.socket) && is_silent(&target) && is_silent(&stranger) && is_silent(&unasked));
    assert_eq!((&counts(&arus)["up"], &counts(&arus)["down"]), (&1.into(), &1.into()));
}

#[test]
fn floods_from_strangers_and_of_rubbish_delay_nobody_for_long() {
    let arus = setup("").shards(1).start();
    let (flooded, calm) = (Associated::new(&arus), Associated::new(&arus));
    let (target, at) = udp("127.0.0.1:0");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flood = |socket: UdpSocket, datagram: Vec<u8>| {
        let (stop, relay) = (std::sync::Arc::clone(&stop), flooded.relay);
        std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = socket.send_to(&datagram, relay);
            }
        })
    };
    let floods = [
        flood(udp("127.0.0.2:0").0, vec![0; 1400]),
        flood(flooded.socket.try_clone().unwrap(), [&[0, 0, 0, 3, 40][..], &[b'a'; 40], &[0, 9], &[1; 900]].concat()),
    ];
    for number in 0..300u32 {
        calm.send(at, &number.to_be_bytes());
        let (payload, from) = receive(&target);
        assert_eq!(payload, number.to_be_bytes());
        target.send_to(b"yes", from).unwrap();
        calm.expect(at, b"yes");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    floods.into_iter().for_each(|flood| flood.join().unwrap());
    eventually("the flood is counted", || (dropped(&arus, "stranger") > 0).then_some(()));
    assert_eq!((&counts(&arus)["up"], &counts(&arus)["down"]), (&300.into(), &300.into()));
    drop((flooded, calm));
    arus.wait_active(0);
}

/// Every datagram is judged: a rule holds for udp alone, for names and their addresses, and new rules for old peers.
#[test]
fn rules_hold_for_each_datagram_and_change_under_live_associations() {
    let rules = |blocked: &str| {
        format!(
            "[[listener]]\nname = \"socks\"\nlisten = \"127.0.0.1:0\"\nservice = \"socks5\"\n\
             [socks]\ncommands = [\"connect\", \"udp\"]\n[acl]\ndefault = \"block\"\n\
             [[acl.rule]]\naction = \"allow\"\ndestinations = [\"127.0.0.0/8\", \"localhost\"]\n\
             [[acl.rule]]\naction = \"block\"\nprotocols = [\"udp\"]\ndestinations = [{blocked}]\n"
        )
    };
    let arus = Setup::new(rules("\"127.0.0.9\", \"blocked.localhost\"")).start();
    let client = Associated::new(&arus);
    let (target, at) = udp("127.0.0.1:0");
    let (blocked, blocked_at) = udp("127.0.0.9:0");
    client.send(blocked_at, b"x");
    client.send_raw(
        &[&b"\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\x09"[..], &blocked_at.port().to_be_bytes(), b"x"].concat(),
    );
    client.send_name("127.0.0.9", blocked_at.port(), b"x");
    client.send_name("BLOCKED.localhost.", at.port(), b"x");
    client.send("192.0.2.1:9".parse().unwrap(), b"x");
    client.send("[::1]:9".parse().unwrap(), b"x");
    wait_dropped(&arus, "denied", 6);
    client.send(at, b"allowed");
    let (payload, outside) = receive(&target);
    assert_eq!(payload, b"allowed");
    // To the same place by TCP.
    let listener = std::net::TcpListener::bind(blocked_at).unwrap();
    let mut tcp = connect(&arus, 0);
    tcp.write_all(&[&[5, 1, 0, 5, 1, 0][..], &place(blocked_at)].concat()).unwrap();
    let mut reply = [0; 12];
    tcp.read_exact(&mut reply).unwrap();
    assert_eq!(reply[3], 0);
    drop((tcp, listener));

    let generation = |arus: &Arus| arus.status()["generation"].as_u64().unwrap();
    let before = generation(&arus);
    let config = std::fs::read_to_string(arus.config()).unwrap();
    let now_blocked = config.replace("\"127.0.0.9\"", "\"127.0.0.1\"");
    assert_ne!(config, now_blocked);
    std::fs::write(arus.config(), now_blocked).unwrap();
    eventually("the new rules", || (generation(&arus) > before).then_some(()));
    // Neither its answers nor anything to it.
    target.send_to(b"late", outside).unwrap();
    wait_dropped(&arus, "denied", 7);
    client.send(at, b"y");
    wait_dropped(&arus, "denied", 8);
    client.send(blocked_at, b"free now");
    assert_eq!(receive(&blocked).0, b"free now");
    assert!(is_silent(&client.socket) && is_silent(&target));
    let name = client.name();
    drop(client);
    let line = arus.session_of(name);
    assert_eq!((&line["bytes_up"], &line["bytes_down"]), (&15.into(), &0.into()));
}

/// dnsmasq, which knows one name. It cannot be given a port by the kernel, and wants the same one of UDP and TCP:
/// it is started again at another when somebody else was faster.
fn name_server() -> (Program, SocketAddr) {
    for _ in 0..50 {
        let (reserved, at) = udp("127.0.0.1:0");
        drop(reserved);
        let mut server = Command::new("dnsmasq");
        server.args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]);
        server.args(["--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file="]);
        server.args(["--host-record=asked.test,192.0.2.53".to_owned(), format!("--port={}", at.port())]);
        let server = Program::start(server);
        let listens = server.wait("dnsmasq to start", |text| match text {
            text if text.contains("Address already in use") => Some(false),
            text if text.contains("started, version") => Some(true),
            _ => None,
        });
        if listens {
            return (server, at);
        }
    }
    panic!("no port for dnsmasq");
}

/// A question to a real DNS server by a real SOCKS client, over UDP.
#[test]
fn a_question_of_dns_through_a_real_client_to_a_real_server() {
    let (_server, at) = name_server();
    let arus = setup("").start();
    let Address::Ip(proxy) = arus.address("socks") else { panic!("a TCP listener") };
    let script = format!(
        "import socks, dns.message, time\n\
         query = dns.message.make_query('asked.test', 'A')\n\
         s = socks.socksocket(socks.socket.AF_INET, socks.socket.SOCK_DGRAM)\n\
         s.set_proxy(socks.SOCKS5, '127.0.0.1', {})\n\
         s.settimeout(1)\n\
         for attempt in range(30):\n    \
             s.sendto(query.to_wire(), ('127.0.0.1', {}))\n    \
             try:\n        answer, peer = s.recvfrom(4096)\n        break\n    \
             except OSError: time.sleep(0.1)\n\
         print(peer, dns.message.from_wire(answer).answer[0][0])\n",
        proxy.port(),
        at.port()
    );
    let output = Command::new("/usr/bin/python3").args(["-c", &script]).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = String::from_utf8_lossy(&output.stderr);
    assert_eq!(printed.trim(), format!("('127.0.0.1', {}) 192.0.2.53", at.port()), "{failed}");
    assert_eq!(arus.finished(1)[0]["reason"], "association_closed");
}
