//! Associations whose connection is TLS, or comes through a balancer; and how fast their datagrams may go.

use super::*;
use crate::harness::proxy_header::v2;

fn served(listener: &str, tables: &str) -> Setup {
    Setup::new(format!(
        "[[listener]]\nname = \"socks\"\nlisten = \"127.0.0.1:0\"\nservice = \"socks5\"\n{listener}\n\
         [socks]\ncommands = [\"udp\"]\n{tables}\n{RULES}"
    ))
}

/// What the answer to a request on an IPv4 connection says.
fn relay_of(answer: &[u8]) -> SocketAddr {
    assert_eq!(answer[..4], [5, 0, 0, 1], "{answer:?}");
    ([answer[4], answer[5], answer[6], answer[7]], u16::from_be_bytes([answer[8], answer[9]])).into()
}

/// As the client sends it to its relay.
fn wrapped(to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, 0][..], &place(to), payload].concat()
}

fn check_both_ways(client: &UdpSocket, relay: SocketAddr) {
    let (target, at) = udp("127.0.0.1:0");
    client.send_to(&wrapped(at, b"ask"), relay).unwrap();
    let (payload, from) = receive(&target);
    assert_eq!(payload, b"ask");
    target.send_to(b"answer", from).unwrap();
    assert_eq!(receive(client), (wrapped(at, b"answer"), relay));
}

#[test]
fn over_tls_the_connection_is_sealed_and_its_end_is_the_association_s() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let pair = authority.server("server", &["a.test"], Key::Ecdsa);
    let tls = format!("tls = {{ certificates = [{{ cert = {:?}, key = {:?} }}] }}", pair.cert, pair.key);
    let arus = served(&tls, "").start();
    let associate = || {
        let mut control = TlsClient::new(&authority, "a.test").connect(&arus.address("socks"));
        control.write_all(&[&[5, 1, 0, 5, 3, 0][..], &place(anywhere())].concat());
        assert_eq!(control.read_exactly(2), [5, 0]);
        let relay = relay_of(&control.read_exactly(10));
        (control, relay)
    };
    let (client, _) = udp("127.0.0.1:0");
    let ((mut first, first_relay), (second, second_relay)) = (associate(), associate());
    check_both_ways(&client, first_relay);
    check_both_ways(&client, second_relay);
    // A goodbye, and none.
    let ports = [first.socket.local(), second.socket.local()];
    first.close_notify();
    drop((first, second));
    for (port, relay) in ports.into_iter().zip([first_relay, second_relay]) {
        let line = arus.session_of(port);
        let facts = [&line["reason"], &line["bytes_up"], &line["bytes_down"]];
        assert_eq!(facts, [&Value::from("association_closed"), &3.into(), &6.into()], "{line}");
        eventually("the port is free", || UdpSocket::bind(relay).ok());
    }
}

#[test]
fn behind_a_balancer_the_client_is_the_one_that_the_proxy_header_names() {
    let arus = served("accept_proxy = { mode = \"require\", trusted = [\"127.0.0.1/32\"] }", "").start();
    let header = v2("127.0.0.5:1234".parse().unwrap(), "192.0.2.1:1080".parse().unwrap(), &[]);
    let mut control = Stream::connect(&arus.address("socks"));
    control.write_all(&[&header, &[5, 1, 0, 5, 3, 0][..], &place(anywhere())].concat());
    assert_eq!(control.read_exactly(2), [5, 0]);
    let relay = relay_of(&control.read_exactly(10));
    // Neither the balancer nor anybody else beside it.
    let (target, at) = udp("127.0.0.1:0");
    for stranger in ["127.0.0.1:0", "127.0.0.6:0"] {
        udp(stranger).0.send_to(&wrapped(at, b"x"), relay).unwrap();
    }
    wait_dropped(&arus, "stranger", 2);
    let (client, _) = udp("127.0.0.5:0");
    check_both_ways(&client, relay);
    assert!(is_silent(&target));
    drop(control);
    let line = &arus.finished(1)[0];
    assert_eq!([&line["source"], &line["reason"]], ["127.0.0.5:1234", "association_closed"], "{line}");
}

/// An association of a user whose password is the name.
fn associated_as(arus: &Arus, user: &str) -> Associated {
    let mut control = connect(arus, 0);
    let word = [&[user.len() as u8], user.as_bytes()].concat();
    control.write_all(&[&[5, 1, 2, 1], &word[..], &word[..], &[5, 3, 0], &place(anywhere())].concat()).unwrap();
    let mut answer = [0; 14];
    control.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..4], [5, 2, 1, 0]);
    Associated { control, socket: udp("127.0.0.1:0").0, relay: relay_of(&answer[4..]) }
}

const RATE: u64 = 64 * 1024;
const BURST: u64 = 20 * 1024;
/// A datagram, which cannot wait, may go so far ahead.
const AHEAD: Duration = Duration::from_millis(50);
/// As many as a socket's buffer certainly holds.
const COUNT: u64 = 60;
const SIZE: u64 = 1000;

/// Sends many at once; gives how many passed, and checks that it is neither more nor less than may.
fn burst(arus: &Arus, direction: &str, before: u64, mut send: impl FnMut()) {
    let passed = || counts(arus)[direction].as_u64().unwrap_or(0);
    let (passed_before, began) = (passed(), Instant::now());
    (0..COUNT).for_each(|_| send());
    let passed = eventually("all are through or dropped", || {
        let passed = passed() - passed_before;
        (passed + dropped(arus, "rate") - before >= COUNT).then_some(passed)
    });
    let most = (began.elapsed() + AHEAD).as_secs_f64() * RATE as f64 + BURST as f64;
    assert!((passed * SIZE) as f64 <= most, "{passed} {direction}, and {most} bytes may have gone");
    // The datagram before them was of the same burst.
    assert!(passed >= BURST / SIZE - 1, "{passed} {direction}: the burst is theirs at once");
    assert_eq!(passed + dropped(arus, "rate") - before, COUNT);
}

#[test]
fn datagrams_have_the_rate_of_their_user_either_way() {
    let logins: String = ["up", "down", "free"]
        .map(|name| format!("[[auth.user]]\nname = \"{name}\"\npassword = \"{name}\"\n"))
        .concat();
    let qos = format!(
        "[qos]\nper_user = {{ max = \"{}KiB\", burst = \"{}KiB\" }}\nusers = [{{ name = \"free\", max = \"0\" }}]\n",
        RATE / 1024,
        BURST / 1024
    );
    let arus = served("", &format!("[auth]\nmethods = [\"password\"]\n{logins}{qos}")).start();
    let payload = [7; SIZE as usize];
    let (target, at) = udp("127.0.0.1:0");

    let up = associated_as(&arus, "up");
    burst(&arus, "up", 0, || up.send(at, &payload));

    let down = associated_as(&arus, "down");
    let (asked, asked_at) = udp("127.0.0.1:0");
    down.send(asked_at, b"ask");
    let from = receive(&asked).1;
    let before = dropped(&arus, "rate");
    burst(&arus, "down", before, || assert!(asked.send_to(&payload, from).is_ok()));

    // Whoever has no limit loses none, and what was dropped is not held against anybody.
    let free = associated_as(&arus, "free");
    let before = dropped(&arus, "rate");
    while target.set_nonblocking(true).is_ok() && target.recv(&mut [0; 2000]).is_ok() {}
    target.set_nonblocking(false).unwrap();
    for _ in 0..COUNT {
        free.send(at, &payload);
        assert_eq!(receive(&target).0, payload);
    }
    assert_eq!(dropped(&arus, "rate"), before);
    eventually("the rate lets one through again", || {
        up.send(at, b"again");
        target.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        target.recv(&mut [0; 10]).ok()
    });
}
