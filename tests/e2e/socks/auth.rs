//! Passwords within the dialogue: RFC 1929, and what parity asks of it.

use super::*;

/// Nobody is banned here, as all tests come from one address.
const USERS: &str = "[auth]\nmethods = [\"password\"]\nfailures = { limit = 0 }\n\
                     [[auth.user]]\nname = \"alice\"\npassword = \"secret123\"\n";
const CHOICE: [u8; 2] = [5, 2];
const NONE_FITS: [u8; 2] = [5, 0xff];

fn credentials(user: &[u8], password: &[u8]) -> Vec<u8> {
    let mut message = vec![1];
    for text in [user, password] {
        message.push(u8::try_from(text.len()).unwrap());
        message.extend(text);
    }
    message
}

/// A client that is asked for its password.
fn asked(arus: &Arus) -> Stream {
    let mut client = Stream::connect(&arus.address("socks"));
    client.write_all(&[5, 1, 2]);
    assert_eq!(client.read_exactly(2), CHOICE);
    client
}

#[test]
fn a_method_is_chosen_by_the_order_of_the_configuration_and_none_where_none_fits() {
    let every: Vec<u8> = [5, 255].into_iter().chain(0..255).collect();
    let only = USERS.to_owned();
    let first = USERS.replace("[\"password\"]", "[\"password\", \"none\"]");
    let second = USERS.replace("[\"password\"]", "[\"none\", \"password\"]");
    for (users, cases) in [
        (
            &only,
            vec![
                (&[5, 2, 0, 2][..], CHOICE),
                (&[5, 1, 2], CHOICE),
                (&every, CHOICE),
                (&[5, 1, 0], NONE_FITS),
                (&[5, 2, 0, 1], NONE_FITS),
                (&[5, 0], NONE_FITS),
            ],
        ),
        (&first, vec![(&[5, 2, 0, 2], CHOICE), (&[5, 1, 0], [5, 0]), (&[5, 1, 1], NONE_FITS)]),
        (&second, vec![(&[5, 2, 2, 0], [5, 0]), (&[5, 1, 2], CHOICE), (&every, [5, 0])]),
    ] {
        let arus = setup("", users).start();
        for (greeting, choice) in cases {
            for pieces in BOTH {
                let mut client = Stream::connect(&arus.address("socks"));
                let from = client.local();
                say(&mut client, greeting, pieces);
                assert_eq!(client.read_exactly(2), choice, "{greeting:?}");
                if choice == NONE_FITS {
                    assert_eq!(client.end(), End::Fin, "{greeting:?}");
                    let line = arus.session_of(from);
                    let facts = ["state", "reason", "stage", "blame"].map(|key| line[key].as_str().unwrap());
                    assert_eq!(facts, ["failed", "socks_method", "negotiate", "client"], "{line}");
                }
            }
        }
    }
}

#[test]
fn who_is_right_is_let_in_and_who_is_not_is_told_so_and_closed() {
    let (long_user, long_password) = ("u".repeat(255), "p".repeat(255));
    let users = format!("{USERS}[[auth.user]]\nname = \"{long_user}\"\npassword = \"{long_password}\"\n");
    let backend = Backend::start(behaviour::echo);
    let arus = setup("", &users).start();
    let (user, password) = (long_user.as_bytes(), long_password.as_bytes());
    for pieces in BOTH {
        for (name, secret) in [(&b"alice"[..], &b"secret123"[..]), (user, password)] {
            let mut client = asked(&arus);
            let from = client.local();
            say(&mut client, &credentials(name, secret), pieces);
            assert_eq!(client.read_exactly(2), [1, 0]);
            say(&mut client, &request_ip(CONNECT, backend.address().ip()), pieces);
            assert_eq!(read_reply(&mut client).0, 0);
            client.send(1, 0, 5000);
            client.expect(1, 0, 5000);
            client.finish();
            assert_eq!(client.end(), End::Fin);
            let line = arus.session_of(from);
            assert_eq!(line["user"].as_str().map(str::as_bytes), Some(name), "{line}");
            assert_eq!(line["reason"], "done", "{line}");
        }
    }
    let reached = backend.accepted();
    let almost = [&password[..254], b"q"].concat();
    for (index, (name, secret)) in [
        (&b"alice"[..], &b"secret124"[..]),
        (b"alice", b"Secret123"),
        (b"alice", b"secret12"),
        (b"alice", b"secret1234"),
        (b"alice", b""),
        (b"Alice", b"secret123"),
        (b"bob", b"secret123"),
        (b"", b"secret123"),
        (b"", b""),
        // Lengths count, and no byte ends a text.
        (b"alice", b"secret123\0"),
        (b"alice", b"secret123\0x"),
        (b"alice\0", b"secret123"),
        (b"alice\0x", b"secret123"),
        (b"alice ", b"secret123"),
        (b"alice", b"\xff\xfe"),
        (b"\xff\xfe", b"secret123"),
        (user, &almost),
        (&user[..254], password),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = asked(&arus);
        let from = client.local();
        // With what a client would like to come next.
        let all = [credentials(name, secret), request_ip(CONNECT, backend.address().ip())].concat();
        say(&mut client, &all, BOTH[index % 2]);
        let answer = rest(&mut client);
        assert_eq!(answer, [1, 1], "{name:?} {secret:?}");
        let line = arus.session_of(from);
        let facts = ["state", "reason", "stage", "blame"].map(|key| line[key].as_str().unwrap());
        assert_eq!(facts, ["rejected", "auth_failed", "negotiate", "policy"], "{line}");
        assert!(line["user"].is_null(), "whom a client names is nobody: {line}");
    }
    assert_eq!(backend.accepted(), reached, "nobody got through");
}

#[test]
fn what_is_no_password_is_closed_without_a_word() {
    let backend = Backend::start(behaviour::echo);
    let arus = setup("", USERS).start();
    let mut other_version = credentials(b"alice", b"secret123");
    other_version[0] = 5;
    // A request instead: who was asked for a password cannot leave it out.
    for message in
        [other_version, request_ip(CONNECT, backend.address().ip()), vec![0], b"GET / HTTP/1.1\r\n\r\n".to_vec()]
    {
        for pieces in BOTH {
            let mut client = asked(&arus);
            let from = client.local();
            say(&mut client, &message, pieces);
            assert!(matches!(client.read_some(&mut [0; 8]), Ok(0) | Err(_)), "{message:?}");
            drop(client);
            assert_eq!(arus.session_of(from)["reason"], "socks_message", "{message:?}");
        }
    }
    assert_eq!(backend.accepted(), 0);
}

#[test]
fn who_says_its_password_too_slowly_is_closed() {
    let arus = setup("", &format!("[timeouts]\nnegotiate = \"300ms\"\n{USERS}")).start();
    let whole = credentials(b"alice", b"secret123");
    for cut in [0, 1, 2, 7, whole.len() - 1] {
        let mut client = asked(&arus);
        client.write_all(&whole[..cut]);
        assert!(matches!(client.read_some(&mut [0; 8]), Ok(0) | Err(_)));
    }
    // And who never says what it wants.
    let mut client = asked(&arus);
    client.write_all(&whole);
    assert_eq!(rest(&mut client), [1, 0]);
    let ends = arus.finished(6);
    assert!(ends.iter().all(|line| line["reason"] == "stage_timeout" && line["stage"] == "negotiate"), "{ends:?}");
}

#[test]
fn everything_may_come_in_one_piece() {
    let backend = Backend::start(behaviour::echo);
    let arus = setup("", USERS).start();
    for pieces in BOTH {
        for request in [
            request_ip(CONNECT, backend.address().ip()),
            request_name(CONNECT, b"localhost", backend.address().ip().port()),
        ] {
            let mut all = vec![5, 2, 0, 2];
            all.extend(credentials(b"alice", b"secret123"));
            all.extend(request);
            all.extend(pattern(7, 0, 3000));
            let mut client = Stream::connect(&arus.address("socks"));
            say(&mut client, &all, pieces);
            assert_eq!(client.read_exactly(4), [5, 2, 1, 0]);
            assert_eq!(read_reply(&mut client).0, 0);
            client.expect(7, 0, 3000);
            client.finish();
            assert_eq!(client.end(), End::Fin);
        }
    }
    let reached = backend.accepted();
    let mut all = vec![5, 1, 2];
    all.extend(credentials(b"alice", b"wrong"));
    all.extend(request_ip(CONNECT, backend.address().ip()));
    all.extend(pattern(7, 0, 3000));
    let mut client = Stream::connect(&arus.address("socks"));
    client.write_all(&all);
    let answer = rest(&mut client);
    assert_eq!(answer, [5, 2, 1, 1]);
    assert_eq!(backend.accepted(), reached);
}

#[test]
fn over_tls() {
    let backend = Backend::start(behaviour::echo);
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let pair = authority.server("server", &["a.test"], Key::Ecdsa);
    let table = format!("[listener.tls]\ncertificates = [{{ cert = {:?}, key = {:?} }}]\n{USERS}", pair.cert, pair.key);
    let arus = setup("", &table).start();
    let client = TlsClient::new(&authority, "a.test");
    for cut in [None, Some(1)] {
        let client = cut.map_or(client.clone(), |cut| client.clone().cut(cut));
        let mut stream = client.connect(&arus.address("socks"));
        stream.write_all(&[5, 1, 2]);
        assert_eq!(stream.read_exactly(2), CHOICE);
        stream.write_all(&credentials(b"alice", b"secret123"));
        assert_eq!(stream.read_exactly(2), [1, 0]);
        stream.write_all(&request_ip(CONNECT, backend.address().ip()));
        assert_eq!(stream.read_exactly(10)[..2], [5, 0]);
        stream.send(1, 0, 50_000);
        stream.expect(1, 0, 50_000);
        stream.close_notify();
    }
    let mut stream = client.connect(&arus.address("socks"));
    stream.write_all(&[&[5, 1, 2][..], &credentials(b"alice", b"wrong")].concat());
    assert_eq!(stream.read_to_end(), (vec![5, 2, 1, 1], TlsEnd::CloseNotify));
}

/// Who cannot be served for want of a descriptor hears of a failure of the server, and the next is served.
#[test]
fn without_a_descriptor_the_server_has_failed() {
    let backend = Backend::start(behaviour::echo);
    let arus = setup("", USERS).start();
    let mut client = asked(&arus);
    let from = client.local();
    client.write_all(&credentials(b"alice", b"secret123"));
    assert_eq!(client.read_exactly(2), [1, 0]);
    arus.process().limit_descriptors(3);
    client.write_all(&request_ip(CONNECT, backend.address().ip()));
    assert_eq!(read_reply(&mut client).0, 1);
    assert_eq!(client.end(), End::Fin);
    arus.process().limit_descriptors(1 << 20);
    let line = arus.session_of(from);
    assert_eq!((line["reason"].as_str(), line["blame"].as_str()), (Some("descriptors"), Some("proxy")), "{line}");
    let mut client = asked(&arus);
    client.write_all(&credentials(b"alice", b"secret123"));
    assert_eq!(client.read_exactly(2), [1, 0]);
    client.write_all(&request_ip(CONNECT, backend.address().ip()));
    assert_eq!(read_reply(&mut client).0, 0);
}
