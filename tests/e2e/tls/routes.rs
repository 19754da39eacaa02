//! Routes by what the ClientHello says, with and without the handshake being arus' own.

use crate::harness::*;
use crate::ops::{check_echo as check_plain, listener, read_tag, tagged, upstream};

use super::{Scene, check_echo, terminator_body};

fn route(keys: &str, upstream: &str) -> String {
    format!("[[listener.route]]\n{keys}\nupstream = \"{upstream}\"\n")
}

/// A backend that ends TLS itself, with a certificate for `names`.
fn server(scene: &Scene, file: &str, names: &[&str], alpn: &[&str]) -> (Backend, Pair) {
    let pair = scene.authority.server(file, names, Key::Ecdsa);
    (Backend::start(TlsServer::new(&pair, alpn).echo()), pair)
}

/// Four backends behind one listener that does not touch TLS.
struct Passing {
    scene: Scene,
    arus: Arus,
    pairs: [Pair; 4],
    _backends: [Backend; 4],
}

impl Passing {
    fn start(fallback: &str) -> Self {
        let scene = Scene::new();
        let all = ["a.test", "x.b.test", "b.test", "x.y.b.test", "c.test", "127.0.0.1"];
        let servers = ["one", "two", "three", "four"].map(|file| server(&scene, file, &all, &["h2", "special"]));
        let [one, two, three, four] = servers;
        let routes = route("sni = [\"a.test\"]", "one")
            + &route("sni = [\"*.b.test\"]", "two")
            + &route("alpn = [\"special\"]", "three");
        let body = upstream("one", &[&one.0], "")
            + &upstream("two", &[&two.0], "")
            + &upstream("three", &[&three.0], "")
            + &upstream("four", &[&four.0], "");
        let own = format!("[[listener]]\nname = \"pass\"\nlisten = \"127.0.0.1:0\"\n{fallback}\n{routes}");
        let arus = Setup::new(body + &own).start();
        let (pairs, backends) = ([one.1, two.1, three.1, four.1], [one.0, two.0, three.0, four.0]);
        Self { scene, arus, pairs, _backends: backends }
    }

    /// Which of the backends a client comes to.
    fn number(&self, client: &TlsClient) -> usize {
        let mut stream = client.connect(&self.arus.address("pass"));
        check_echo(&mut stream, 1);
        let certificate = stream.peer_certificate().unwrap();
        self.pairs.iter().position(|pair| pair.der() == certificate).expect("one of the backends")
    }
}

#[test]
fn names_choose_without_the_handshake_being_touched() {
    let passing = Passing::start("upstream = \"four\"");
    for cut in [usize::MAX, 1, 7] {
        let client = |name: &str| passing.scene.client(name).without_resumption().cut(cut);
        assert_eq!(passing.number(&client("a.test")), 0);
        assert_eq!(passing.number(&client("A.TEST")), 0);
        assert_eq!(passing.number(&client("x.b.test")), 1);
        assert_eq!(passing.number(&client("c.test").alpn(&["special"])), 2);
        assert_eq!(passing.number(&client("c.test").alpn(&["h2", "special"])), 2);
        // What fits no route: the bare domain, two labels, another protocol, no name.
        assert_eq!(passing.number(&client("b.test")), 3);
        assert_eq!(passing.number(&client("x.y.b.test")), 3);
        assert_eq!(passing.number(&client("c.test").alpn(&["h2"])), 3);
        assert_eq!(passing.number(&client("127.0.0.1")), 3);
        // The first route that fits.
        assert_eq!(passing.number(&client("a.test").alpn(&["special"])), 0);
    }
    let names: Vec<_> = passing.arus.finished(30).iter().map(|line| line["sni"].clone()).collect();
    assert_eq!(names.iter().filter(|name| **name == "x.b.test").count(), 3, "{names:?}");
}

#[test]
fn no_route_is_a_clean_refusal() {
    let passing = Passing::start("");
    assert_eq!(passing.number(&passing.scene.client("a.test")), 0);
    let refused = passing.scene.client("c.test").try_connect(&passing.arus.address("pass")).err();
    assert!(refused.is_some(), "served by nobody");
    let lines = passing.arus.finished(2);
    let refused = lines.iter().find(|line| line["sni"] == "c.test").expect("both are logged");
    assert_eq!(refused["reason"], "no_route", "{refused}");
}

/// The hello in records of its own making, and its bytes one by one.
#[test]
fn a_hello_in_many_records_is_understood() {
    let passing = Passing::start("upstream = \"four\"");
    let hello = passing.scene.client("x.b.test").hello();
    for size in [1, 3, 50] {
        let mut stream = Stream::connect(&passing.arus.address("pass"));
        for byte in in_records(&hello, size) {
            stream.write_all(&[byte]);
        }
        // rustls takes such a hello, too: its answer begins with a handshake record.
        assert_eq!(stream.read_exactly(1), [22]);
        drop(stream);
    }
    let lines = passing.arus.finished(3);
    assert!(lines.iter().all(|line| line["sni"] == "x.b.test"), "{lines:?}");
}

#[test]
fn a_hello_that_does_not_come_ends_at_the_deadline() {
    let echo = tagged("never");
    let body =
        upstream("one", &[&echo], "") + &listener("pass", "127.0.0.1:0", "one", &route("sni = [\"a.test\"]", "one"));
    let arus = Setup::new(body).also("[timeouts]\ntls_handshake = \"1s\"").start();
    let mut streams: Vec<Stream> = (0..4).map(|_| Stream::connect(&arus.address("pass"))).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&[22, 3, 1, 0, 200, 1][..2 * number]);
    }
    for stream in &mut streams {
        stream.end();
    }
    assert_eq!(echo.accepted(), 0);
    super::assert_client_failed_at("tls", &arus.finished(4));
}

#[test]
fn names_choose_after_the_handshake_too() {
    let scene = Scene::new();
    let (a, b) = (scene.server("a.test"), scene.server("b.test"));
    let (first, second, special) = (tagged("a"), tagged("b"), tagged("special"));
    let routes = route("sni = [\"b.test\"]", "second") + &route("alpn = [\"special\"]", "special");
    let body = upstream("second", &[&second], "")
        + &upstream("special", &[&special], "")
        + &terminator_body(first.address(), &[&a, &b], "alpn = [\"h2\", \"special\"]")
        + &routes;
    let arus = Setup::new(body).start();
    let tag = |client: TlsClient| {
        let mut stream = client.connect(&arus.address("tls"));
        let tag: Vec<u8> =
            std::iter::from_fn(|| Some(stream.read_exactly(1)[0]).filter(|byte| *byte != b'\n')).collect();
        check_echo(&mut stream, 1);
        String::from_utf8(tag).unwrap()
    };
    assert_eq!(tag(scene.client("a.test")), "a");
    assert_eq!(tag(scene.client("b.test")), "b");
    assert_eq!(tag(scene.client("a.test").alpn(&["special"])), "special");
    // What was agreed on counts, not what else was offered.
    assert_eq!(tag(scene.client("a.test").alpn(&["special", "h2"])), "a");
}

/// Who does not look at hellos does not wait for one.
#[test]
fn other_listeners_are_left_alone() {
    let echo = tagged("first");
    let body = upstream("one", &[&echo], "")
        + &listener("plain", "127.0.0.1:0", "one", &route("source = [\"127.0.0.0/8\"]", "one"));
    let arus = Setup::new(body).start();
    let mut stream = Stream::connect(&arus.address("plain"));
    assert_eq!(read_tag(&mut stream), "first");
    check_plain(&mut stream, 1);
}
