//! BIND: one connection from outside, from whom the client expects it.

use std::net::TcpStream;

use super::*;

const SERVED: &str = "[socks]\ncommands = [\"connect\", \"bind\"]";

fn bound(arus: &Arus, from: &str) -> (Stream, SocketAddr) {
    let mut client = greeted(arus);
    client.write_all(&request_ip(BIND, SocketAddr::new(from.parse().unwrap(), 9)));
    let (reply, address) = read_reply(&mut client);
    assert_eq!(reply, 0);
    (client, address)
}

#[test]
fn the_peer_comes() {
    let arus = setup("", SERVED).start();
    let (mut client, address) = bound(&arus, "127.0.0.1");
    assert_eq!(address.ip(), "127.0.0.1".parse::<IpAddr>().unwrap(), "where the client came to");
    // Sent before there is anybody.
    client.send(1, 0, 2000);
    let mut peer = Stream::connect(&Address::Ip(address));
    assert_eq!(read_reply(&mut client), (0, peer.local()));
    peer.expect(1, 0, 2000);
    peer.send(2, 0, 100_000);
    client.expect(2, 0, 100_000);
    client.finish();
    assert_eq!(peer.end(), End::Fin);
    peer.send(2, 100_000, 50);
    client.expect(2, 100_000, 50);
    drop(peer);
    assert_eq!(client.end(), End::Fin);
    assert!(TcpStream::connect(address).is_err(), "one, and no more");
    assert_eq!(arus.finished(1)[0]["reason"], "done");
}

#[test]
fn somebody_else_comes() {
    let arus = setup("", SERVED).start();
    let (mut client, address) = bound(&arus, "127.0.0.2");
    for _ in 0..10 {
        let mut stranger = Stream::connect(&Address::Ip(address));
        let _ = stranger.try_write_all(b"let me in");
        assert!(matches!(stranger.read_some(&mut [0; 8]), Ok(0) | Err(_)), "closed without a byte");
    }
    let peer = Stream::connect_from("127.0.0.2".parse().unwrap(), &Address::Ip(address));
    assert_eq!(read_reply(&mut client), (0, peer.local()));
    // Whoever expects anybody is told so.
    assert_eq!(refusal(&arus, &request_ip(BIND, "0.0.0.0:0".parse().unwrap()), Pieces::Bytes), 2);
}

#[test]
fn nobody_comes() {
    let arus = setup("", "[socks]\ncommands = [\"bind\"]\nbind_timeout = \"200ms\"").start();
    let (mut client, address) = bound(&arus, "127.0.0.1");
    assert_eq!(read_reply(&mut client).0, 1);
    assert_eq!(client.end(), End::Fin);
    assert!(TcpStream::connect(address).is_err());
    assert_eq!(arus.finished(1)[0]["reason"], "bind_timeout");
    // CONNECT is not served here.
    assert_eq!(refusal(&arus, &request_ip(CONNECT, address), Pieces::Whole), 7);
}

#[test]
fn the_client_goes() {
    let arus = setup("", SERVED).start();
    for resets in [false, true] {
        let (client, address) = bound(&arus, "127.0.0.2");
        if resets {
            client.reset();
        } else {
            drop(client);
        }
        eventually("the port is free", || TcpStream::connect(address).is_err().then_some(()));
    }
    arus.wait_active(0);
    for line in arus.finished(2) {
        assert_eq!(line["blame"], "client", "{line}");
    }
}

#[test]
fn behind_an_address_translation() {
    let arus = setup("", &format!("{SERVED}\nadvertise = \"203.0.113.5\"")).start();
    let (_client, address) = bound(&arus, "127.0.0.1");
    assert_eq!(address.ip(), "203.0.113.5".parse::<IpAddr>().unwrap());
    assert!(TcpStream::connect(("127.0.0.1", address.port())).is_ok());
}
