//! The SOCKS service, byte by byte and with real clients.

mod auth;
mod bind;
mod chain;
mod clients;
mod dialogue;
mod flow;
mod gone;
mod logins;
mod over;
mod plugins;
mod race;
mod scarce;

use std::net::{IpAddr, SocketAddr};

use crate::harness::*;

/// Lets clients go to this machine itself, which is blocked unless a rule says so.
const ACL: &str = "[acl]\ndefault = \"allow\"\n[[acl.rule]]\naction = \"allow\"\n\
                   destinations = [\"127.0.0.0/8\", \"::1\", \"localhost\"]\n";

/// A SOCKS listener `socks` on the loopback; `listener` are further keys of it, `tables` further tables.
fn setup(listener: &str, tables: &str) -> Setup {
    setup_at("127.0.0.1:0", listener, tables)
}

fn setup_at(listen: &str, listener: &str, tables: &str) -> Setup {
    Setup::new(format!(
        "[[listener]]\nname = \"socks\"\nlisten = \"{listen}\"\nservice = \"socks5\"\n{listener}\n{tables}\n{ACL}"
    ))
}

/// How a client's bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pieces {
    Whole,
    Bytes,
}

const BOTH: [Pieces; 2] = [Pieces::Whole, Pieces::Bytes];

fn say(stream: &mut Stream, bytes: &[u8], pieces: Pieces) {
    match pieces {
        Pieces::Whole => stream.write_all(bytes),
        // An early end is an answer too: what is left of the message then has nobody to go to.
        Pieces::Bytes => bytes.iter().take_while(|byte| stream.try_write_all(&[**byte]).is_ok()).for_each(drop),
    }
}

/// Everything until the end, and that it is no reset.
fn rest(stream: &mut Stream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read_some(&mut buffer).unwrap() {
            0 => return all,
            count => all.extend(&buffer[..count]),
        }
    }
}

const GREETING: [u8; 3] = [5, 1, 0];
const CONNECT: u8 = 1;
const BIND: u8 = 2;

fn request_ip(command: u8, to: SocketAddr) -> Vec<u8> {
    let mut request = vec![5, command, 0];
    match to.ip() {
        IpAddr::V4(ip) => {
            request.push(1);
            request.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            request.push(4);
            request.extend(ip.octets());
        }
    }
    request.extend(to.port().to_be_bytes());
    request
}

fn request_name(command: u8, name: &[u8], port: u16) -> Vec<u8> {
    let mut request = vec![5, command, 0, 3, u8::try_from(name.len()).unwrap()];
    request.extend(name);
    request.extend(port.to_be_bytes());
    request
}

/// The answer to a request: REP and BND.
fn read_reply(stream: &mut Stream) -> (u8, SocketAddr) {
    let head = stream.read_exactly(4);
    assert_eq!((head[0], head[2]), (5, 0), "{head:?}");
    let ip: IpAddr = match head[3] {
        1 => <[u8; 4]>::try_from(stream.read_exactly(4)).unwrap().into(),
        4 => <[u8; 16]>::try_from(stream.read_exactly(16)).unwrap().into(),
        other => panic!("address type {other}"),
    };
    let port = stream.read_exactly(2);
    (head[1], SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]])))
}

/// A client that nobody asks who it is.
fn greeted(arus: &Arus) -> Stream {
    let mut client = Stream::connect(&arus.address("socks"));
    client.write_all(&GREETING);
    assert_eq!(client.read_exactly(2), [5, 0]);
    client
}

/// A client that is connected to `to`.
fn connected(arus: &Arus, to: &Address) -> Stream {
    let mut client = greeted(arus);
    client.write_all(&request_ip(CONNECT, to.ip()));
    assert_eq!(read_reply(&mut client).0, 0);
    client
}

/// The REP that a request is answered with; nothing comes after it.
fn refusal(arus: &Arus, request: &[u8], pieces: Pieces) -> u8 {
    let mut client = greeted(arus);
    say(&mut client, request, pieces);
    let answer = rest(&mut client);
    let expected = [5, answer.get(1).copied().unwrap_or(0xee), 0, 1, 0, 0, 0, 0, 0, 0];
    assert_eq!(answer, expected, "{request:?}");
    answer[1]
}
