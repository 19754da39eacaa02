//! Vectors of RFC 1928 and 1929, cut and changed at every byte.

use super::client::{self, Answer};
use super::*;
use crate::types::Reason;

fn done<T>(progress: Progress<T>) -> (T, usize) {
    match progress {
        Progress::Done(message, used) => (message, used),
        Progress::NeedMore => panic!("more is wanted"),
        Progress::Bad(error) => panic!("{error}"),
    }
}

fn bad<T>(progress: Progress<T>) -> Malformed {
    match progress {
        Progress::Bad(crate::codec::Error::Socks5(malformed)) => malformed,
        Progress::Bad(error) => panic!("{error}"),
        Progress::Done(..) | Progress::NeedMore => panic!("it was not refused"),
    }
}

#[test]
fn greetings() {
    let (greeting, used) = done(parse_greeting(&[5, 1, 0, 99]));
    assert_eq!((used, greeting.offers(Method::None), greeting.offers(Method::Password)), (3, true, false));
    let all: Vec<u8> = [5, 255].into_iter().chain(1..=255).collect();
    let (greeting, used) = done(parse_greeting(&all));
    assert_eq!((used, greeting.offers(Method::None), greeting.offers(Method::Password)), (257, false, true));
    assert_eq!(bad(parse_greeting(&[5, 0])), Malformed::NoMethods);
    assert_eq!(bad(parse_greeting(b"GET / HTTP/1.1\r\n")), Malformed::Version(b'G'));
    assert_eq!((encode_choice(Some(Method::Password)), encode_choice(None)), ([5, 2], [5, 0xff]));
}

#[test]
fn credentials_of_any_length_and_value() {
    let (credentials, used) = done(parse_credentials(b"\x01\x05alice\x09secret123rest"));
    assert_eq!((credentials.user, credentials.password, used), (&b"alice"[..], &b"secret123"[..], 17));
    for (user, password) in [(0, 0), (255, 255), (1, 0), (0, 255)] {
        let (user, password) = (vec![0; user], vec![0xff; password]);
        let wire = client::encode_credentials(&Credentials { user: &user, password: &password }).unwrap();
        let (again, used) = done(parse_credentials(&wire));
        assert_eq!((again.user, again.password, used), (&user[..], &password[..], wire.len()));
    }
    assert_eq!(client::encode_credentials(&Credentials { user: &[0; 256], password: b"" }), None);
    assert_eq!(bad(parse_credentials(&[5, 1])), Malformed::PasswordVersion(5));
    assert_eq!((encode_verdict(true), encode_verdict(false)), ([1, 0], [1, 1]));
    assert!(!format!("{:?}", done(parse_credentials(b"\x01\x01a\x06secret")).0).contains("secret"));
}

#[test]
fn requests() {
    let (request, used) = done(parse_request(&[5, 1, 0, 1, 192, 0, 2, 1, 0, 80, b'x']));
    let address: SocketAddr = "192.0.2.1:80".parse().unwrap();
    assert_eq!((request.command, request.destination, used), (Command::Connect, Destination::Ip(address), 10));

    let (request, used) = done(parse_request(b"\x05\x02\x07\x03\x0bexample.com\x01\xbb"));
    assert_eq!((request.command, used), (Command::Bind, 18));
    assert_eq!(request.destination, Destination::Name(b"example.com", 443));

    let mut wire = vec![5, 3, 0, 4];
    wire.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff]);
    let (request, used) = done(parse_request(&wire));
    assert_eq!((request.command, used), (Command::UdpAssociate, 22));
    assert_eq!(request.destination, Destination::Ip("[2001:db8::1]:65535".parse().unwrap()));
    assert_eq!(request.destination.port(), 65535);
}

#[test]
fn what_is_wrong_has_its_reply_as_soon_as_it_is_seen() {
    for (wire, malformed, reply) in [
        (&[5, 4][..], Malformed::Command(4), Some(Reply::CommandNotSupported)),
        (&[5, 0], Malformed::Command(0), Some(Reply::CommandNotSupported)),
        (&[5, 1, 0, 5], Malformed::AddressType(5), Some(Reply::AddressTypeNotSupported)),
        (&[5, 1, 0, 3, 0], Malformed::EmptyName, Some(Reply::GeneralFailure)),
        (&[4], Malformed::Version(4), None),
    ] {
        let found = bad(parse_request(wire));
        assert_eq!((found, Reply::of_malformed(found)), (malformed, reply));
    }
}

#[test]
fn replies() {
    let mut out = Vec::new();
    encode_reply(Reply::Succeeded, Some("192.0.2.9:1080".parse().unwrap()), &mut out);
    assert_eq!(out, [5, 0, 0, 1, 192, 0, 2, 9, 4, 56]);
    out.clear();
    encode_reply(Reply::NotAllowed, None, &mut out);
    assert_eq!(out, [5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
    out.clear();
    encode_reply(Reply::Succeeded, Some("[::ffff:192.0.2.9]:1".parse().unwrap()), &mut out);
    assert_eq!(out[..8], [5, 0, 0, 1, 192, 0, 2, 9], "a mapped address is an IPv4 one");
    out.clear();
    encode_reply(Reply::Succeeded, Some("[2001:db8::9]:443".parse().unwrap()), &mut out);
    let (answer, used) = done(client::parse_answer(&out));
    assert_eq!(used, out.len());
    assert_eq!(answer, Answer { reply: Reply::Succeeded, bound: Some("[2001:db8::9]:443".parse().unwrap()) });
}

#[test]
fn every_reason_has_a_reply() {
    for reason in Reason::ALL {
        assert_ne!(Reply::of(*reason), Reply::Succeeded, "{reason}");
    }
    for (reason, reply) in [
        (Reason::ConnectRefused, Reply::ConnectionRefused),
        (Reason::NetworkUnreachable, Reply::NetworkUnreachable),
        (Reason::Unreachable, Reply::HostUnreachable),
        (Reason::ConnectTimeout, Reply::HostUnreachable),
        (Reason::Unresolved, Reply::HostUnreachable),
        (Reason::AclBlocked, Reply::NotAllowed),
        (Reason::UserMaxConnections, Reply::NotAllowed),
        (Reason::SocksCommand, Reply::CommandNotSupported),
        (Reason::SocksAddress, Reply::AddressTypeNotSupported),
        (Reason::Descriptors, Reply::GeneralFailure),
    ] {
        assert_eq!(Reply::of(reason), reply, "{reason}");
    }
}

#[test]
fn the_clients_side() {
    assert_eq!(client::encode_greeting(false), [5, 1, 0]);
    assert_eq!(client::encode_greeting(true), [5, 2, 0, 2]);
    assert_eq!(done(client::parse_choice(&[5, 2])).0, Some(Method::Password));
    assert_eq!(done(client::parse_choice(&[5, 0xff])).0, None);
    assert_eq!(bad(client::parse_choice(&[5, 1])), Malformed::Method(1));
    assert_eq!(bad(client::parse_choice(b"HTTP")), Malformed::Version(b'H'));
    assert!(done(client::parse_verdict(&[1, 0])).0 && !done(client::parse_verdict(&[1, 7])).0);
    assert_eq!(bad(client::parse_answer(&[5, 9])), Malformed::Reply(9));
    let named = done(client::parse_answer(b"\x05\x05\x00\x03\x01a\x00\x01")).0;
    assert_eq!(named, Answer { reply: Reply::ConnectionRefused, bound: None });
    let long = [b'a'; 256];
    assert!(client::encode_request(Command::Connect, &Destination::Name(&long[..255], 1)).is_some());
    assert!(client::encode_request(Command::Connect, &Destination::Name(&long, 1)).is_none());
    assert!(client::encode_request(Command::Connect, &Destination::Name(b"", 1)).is_none());
}

#[test]
fn headers_of_datagrams() {
    let (header, used) = datagram::parse(b"\x00\x00\x00\x01\x7f\x00\x00\x01\x00\x35payload").unwrap();
    assert_eq!((header.fragment, used), (0, 10));
    assert_eq!(header.destination, Destination::Ip("127.0.0.1:53".parse().unwrap()));
    // A short name makes a header that is shorter than one with an IPv4 address.
    let (header, used) = datagram::parse(b"\x00\x00\x02\x03\x01a\x00\x35").unwrap();
    assert_eq!((header.fragment, header.destination, used), (2, Destination::Name(b"a", 53), 8));
    for cut in 0..10 {
        let short = datagram::parse(&b"\x00\x00\x00\x01\x7f\x00\x00\x01\x00\x35"[..cut]);
        assert_eq!(short, Err(Malformed::ShortDatagram), "{cut}");
    }
    assert_eq!(datagram::parse(&[0, 0, 0, 9, 1, 1]), Err(Malformed::AddressType(9)));
    let mut out = Vec::new();
    datagram::encode("[::1]:53".parse().unwrap(), &mut out);
    assert_eq!(out.len(), datagram::LONGEST);
}

/// Every vector with every byte changed to every value, cut everywhere: the invariants hold.
#[test]
fn invariants_hold_for_all_that_is_near() {
    let vectors: [&[u8]; 8] = [
        &[5, 2, 0, 2],
        b"\x01\x05alice\x09secret123",
        &[5, 1, 0, 1, 192, 0, 2, 1, 0, 80],
        b"\x05\x01\x00\x03\x0bexample.com\x01\xbb",
        b"\x05\x03\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x35",
        b"\x05\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01\x00\x35",
        &[0, 0, 0, 1, 127, 0, 0, 1, 0, 53, 1, 2, 3],
        b"\x00\x00\x00\x03\x09localhost\x00\x35payload",
    ];
    for vector in vectors {
        for cut in 0..=vector.len() {
            fuzz_invariants(&vector[..cut]);
        }
        for at in 0..vector.len() {
            for value in 0..=255 {
                let mut changed = vector.to_vec();
                changed[at] = value;
                fuzz_invariants(&changed);
            }
        }
    }
}
