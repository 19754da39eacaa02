//! Hellos of real clients, and wrong ones.

use std::sync::Arc;

use rustls::pki_types::ServerName as Name;
use rustls::{ClientConfig, ClientConnection, RootCertStore, server::Acceptor};

use super::invariants::refragment;
use super::{ClientHello, Malformed, Progress, TlsVersion, fuzz_invariants, parse};
use crate::codec::Error;
use crate::codec::tests::corpus;
use crate::limits;

const TLS12: TlsVersion = TlsVersion(0x0303);
const TLS13: TlsVersion = TlsVersion(0x0304);

fn done(bytes: &[u8]) -> (ClientHello<'_>, usize) {
    match parse(bytes) {
        Progress::Done(hello, used) => (hello, used),
        other => panic!("{other:?} for {bytes:x?}"),
    }
}

fn refusal(bytes: &[u8]) -> Malformed {
    match parse(bytes) {
        Progress::Bad(Error::ClientHello(error)) => error,
        other => panic!("{other:?} for {bytes:x?}"),
    }
}

fn is_incomplete(bytes: &[u8]) -> bool {
    matches!(parse(bytes), Progress::NeedMore)
}

fn captured(name: &str) -> Vec<u8> {
    corpus("client_hello").into_iter().find(|(file, _)| file == name).unwrap().1
}

fn vector8(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn vector16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// A hello of TLS 1.2 with these extensions, in one record.
fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let list: Vec<u8> =
        extensions.iter().flat_map(|(kind, value)| [&kind.to_be_bytes(), &vector16(value)[..]].concat()).collect();
    message(&[&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 0x01], &[1, 0], &vector16(&list)].concat())
}

/// A handshake message with this body, in as few records as can be.
fn message(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1], &length[1..], body].concat();
    message.chunks(16_384).flat_map(|piece| [&[22, 3, 1][..], &vector16(piece)].concat()).collect()
}

fn names(entries: &[(u8, &[u8])]) -> (u16, Vec<u8>) {
    let list: Vec<u8> = entries.iter().flat_map(|(kind, name)| [&[*kind], &vector16(name)[..]].concat()).collect();
    (0, vector16(&list))
}

fn server_name(name: &str) -> Option<String> {
    let bytes = hello(&[names(&[(0, name.as_bytes())])]);
    done(&bytes).0.server_name.map(|name| name.to_string())
}

/// What rustls sends now, with the key exchange of its choice.
fn of_rustls(server: &'static str, is_post_quantum: bool) -> Vec<u8> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if is_post_quantum {
        provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768];
    }
    let config = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut connection = ClientConnection::new(Arc::new(config), Name::try_from(server).unwrap()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// Name and protocols of a hello by rustls' own parser.
fn by_rustls(bytes: &[u8]) -> (Option<String>, Vec<Vec<u8>>) {
    let mut acceptor = Acceptor::default();
    acceptor.read_tls(&mut &bytes[..]).unwrap();
    let accepted = acceptor.accept().ok().flatten().expect("rustls takes it");
    let hello = accepted.client_hello();
    let protocols = hello.alpn().map(|list| list.map(<[u8]>::to_vec).collect());
    (hello.server_name().map(str::to_ascii_lowercase), protocols.unwrap_or_default())
}

#[test]
fn captured_hellos() {
    let web: &[&[u8]] = &[b"h2", b"http/1.1"];
    for (name, server, version, legacy_version, protocols) in [
        ("openssl-tls10", Some("old.test"), TlsVersion(0x0301), TlsVersion(0x0301), &[][..]),
        ("openssl-tls12", Some("example.com"), TLS12, TLS12, &[]),
        ("openssl-tls13", Some("www.example.com"), TLS13, TLS12, &[]),
        ("openssl-alpn-h2", Some("a.test"), TLS13, TLS12, web),
        ("openssl-no-sni", None, TLS13, TLS12, &[]),
        ("curl-h2", Some("c.test"), TLS13, TLS12, web),
        ("rustls-mlkem", Some("pq.test"), TLS13, TLS12, web),
    ] {
        let bytes = captured(name);
        let (hello, used) = done(&bytes);
        assert_eq!(used, bytes.len(), "{name}");
        assert_eq!(hello.server_name.as_ref().map(|name| name.as_str()), server, "{name}");
        assert_eq!((hello.version, hello.legacy_version), (version, legacy_version), "{name}");
        assert_eq!(hello.alpn().collect::<Vec<_>>(), protocols, "{name}");
        assert!(matches!(hello.message, std::borrow::Cow::Borrowed(_)), "{name}: one record is not copied");
        // rustls does not speak with the old one.
        if version >= TLS12 {
            let protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            assert_eq!(by_rustls(&bytes), (server.map(str::to_owned), protocols), "{name}");
        }
    }
}

#[test]
fn hellos_of_rustls() {
    for is_post_quantum in [false, true] {
        let bytes = of_rustls("fresh.test", is_post_quantum);
        assert_eq!(bytes.len() > 1300, is_post_quantum, "{} bytes", bytes.len());
        let (hello, used) = done(&bytes);
        assert_eq!((hello.version, used), (TLS13, bytes.len()));
        assert_eq!(hello.server_name.unwrap().as_str(), "fresh.test");
        assert_eq!(hello.alpn().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
        fuzz_invariants(&bytes);
    }
    assert_eq!(done(&of_rustls("192.0.2.1", false)).0.server_name, None);
}

#[test]
fn every_cut_and_every_size_of_records() {
    for (name, bytes) in corpus("client_hello") {
        let Progress::Done(expected, _) = parse(&bytes) else { continue };
        for cut in 0..bytes.len() {
            assert!(is_incomplete(&bytes[..cut]), "{name} cut at {cut}");
        }
        for size in (1..=64).chain([127, 300, bytes.len()]) {
            let pieces = refragment(&bytes, size);
            let (hello, used) = done(&pieces);
            assert_eq!(used, pieces.len());
            assert_eq!(hello.server_name, expected.server_name, "{name} in records of {size}");
            assert!(hello.alpn().eq(expected.alpn()) && hello.version == expected.version);
            if size < 4 {
                assert!((0..pieces.len()).all(|cut| is_incomplete(&pieces[..cut])), "{name} in records of {size}");
            }
        }
    }
}

#[test]
fn every_change_of_a_byte_keeps_the_promises() {
    for name in ["openssl-tls12", "openssl-alpn-h2"] {
        let bytes = captured(name);
        for at in 0..bytes.len() {
            for change in [0x01, 0x10, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                fuzz_invariants(&changed);
            }
        }
    }
}

#[test]
fn what_is_not_tls_is_refused_with_its_first_byte() {
    for beginning in
        [&b"G"[..], b"PROXY", b"SSH-2.0", b"\r\n", b"\x15", b"\x17", b"\x16\x02", b"\x16\xfe", b"\x80\x2e\x01"]
    {
        assert_eq!(refusal(beginning), Malformed::NotTls, "{beginning:x?}");
    }
    assert!(is_incomplete(b"") && is_incomplete(b"\x16") && is_incomplete(b"\x16\x03"));
}

#[test]
fn records_that_do_not_make_a_hello() {
    let bytes = captured("openssl-tls12");
    let pieces = refragment(&bytes, 50);
    for (error, at, value) in [
        (Malformed::Interrupted, 55, 21),
        (Malformed::NotTls, 56, 2),
        (Malformed::NotClientHello, 5, 2),
        (Malformed::RecordLength, 3, 0x41),
    ] {
        let mut changed = pieces.clone();
        changed[at] = value;
        assert_eq!(refusal(&changed[..=at.max(5)]), error);
    }
    assert_eq!(refusal(b"\x16\x03\x01\x00\x00"), Malformed::RecordLength, "an empty record");
    let behind = [&pieces[..55], b"\x16\x03\x01\x00\x00"].concat();
    assert_eq!(refusal(&behind), Malformed::RecordLength, "an empty record later");
    assert!(is_incomplete(b"\x16\x03\x01\x40\x00"));
}

#[test]
fn a_hello_is_bounded() {
    let padded = |padding: usize| hello(&[names(&[(0, b"a.test")]), (21, vec![0; padding])]);
    let around = padded(0).len() - 5;
    let largest = padded(limits::CLIENT_HELLO_BYTES - around);
    assert_eq!(done(&largest).0.server_name.unwrap().as_str(), "a.test");
    let larger = padded(limits::CLIENT_HELLO_BYTES - around + 1);
    assert_eq!(refusal(&larger[..9]), Malformed::TooLong, "its length is enough");

    let pieces = refragment(&largest, 1);
    assert!(is_incomplete(&pieces[..limits::CLIENT_HELLO_WIRE_BYTES - 1]));
    assert_eq!(refusal(&pieces[..limits::CLIENT_HELLO_WIRE_BYTES]), Malformed::TooLong);
    assert_eq!(refusal(&pieces), Malformed::TooLong, "however much there is");
    done(&refragment(&largest, 6));
}

#[test]
fn server_names() {
    let host =
        |length: usize| format!("{}.test", vec!["x".repeat(49); length / 50].join(".")) + &"a".repeat(length % 50);
    for (name, read) in [
        ("a.test", "a.test"),
        ("WWW.Example.COM", "www.example.com"),
        ("a.test.", "a.test"),
        ("_dmarc.a-b.test", "_dmarc.a-b.test"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("localhost", "localhost"),
        ("127.1", "127.1"),
        (&host(249), &host(249)),
        (&format!("{}.", host(249)), &host(249)),
    ] {
        assert_eq!(server_name(name).as_deref(), Some(read));
    }
    assert_eq!(host(249).len(), limits::HOST_BYTES);
    for name in ["192.0.2.1", "192.0.2.1.", "2001:db8::1", "[2001:db8::1]", "::ffff:192.0.2.1"] {
        assert_eq!(server_name(name), None, "{name}");
    }
    let refused = [
        "",
        ".",
        "a..test",
        ".a.test",
        "a.test..",
        "a.test\0",
        "a.test\0.b.test",
        "a test",
        "a.test:443",
        "u@a.test",
        "*.test",
        "b\u{fc}cher.example",
        "a/b",
        "1:2",
        "fe80::1%eth0",
        &host(249).replace(".test", "..test"),
        &host(250),
        &"x".repeat(64),
    ];
    for name in refused {
        assert_eq!(refusal(&hello(&[names(&[(0, name.as_bytes())])])), Malformed::ServerName, "{name:?}");
    }
}

#[test]
fn lists_of_names() {
    let one = names(&[(0, b"a.test")]);
    assert_eq!(refusal(&hello(&[one.clone(), one.clone()])), Malformed::Twice);
    assert_eq!(refusal(&hello(&[names(&[(0, b"a.test"), (0, b"b.test")])])), Malformed::Twice);
    let bytes = hello(&[names(&[(7, b"\0"), (0, b"a.test"), (7, b"")])]);
    assert_eq!(done(&bytes).0.server_name.unwrap().as_str(), "a.test", "other types are passed over");
    assert_eq!(done(&hello(&[names(&[(7, b"a.test")])])).0.server_name, None);
    for torn in [
        vec![],
        vec![0],
        vec![0, 0],
        vec![0, 1],
        vec![0, 1, 0],
        vec![0, 5, 0, 0, 3, b'a', b'b'],
        vec![0, 4, 0, 0, 1, b'a', 0],
    ] {
        assert_eq!(refusal(&hello(&[(0, torn.clone())])), Malformed::Length, "{torn:?}");
    }
}

#[test]
fn lists_of_protocols() {
    let alpn = |list: &[u8]| (16, vector16(list));
    let bytes = hello(&[alpn(&[2, b'h', b'2', 1, 0]), names(&[(0, b"a.test")])]);
    let (parsed, _) = done(&bytes);
    assert_eq!(parsed.alpn().collect::<Vec<_>>(), [&b"h2"[..], b"\0"]);
    assert_eq!(done(&hello(&[])).0.alpn().count(), 0);
    assert_eq!(refusal(&hello(&[alpn(b"")])), Malformed::Alpn);
    assert_eq!(refusal(&hello(&[alpn(&[0])])), Malformed::Alpn);
    assert_eq!(refusal(&hello(&[alpn(&[2, b'h'])])), Malformed::Length);
    assert_eq!(refusal(&hello(&[(16, vec![0, 2, 1])])), Malformed::Length);
    assert_eq!(refusal(&hello(&[(16, vec![0, 2, 1, b'a', 0])])), Malformed::Length);
    assert_eq!(refusal(&hello(&[alpn(&[1, b'a']), alpn(&[1, b'a'])])), Malformed::Twice);
}

#[test]
fn versions() {
    let offered = |list: &[u8]| done(&hello(&[(43, vector8(list))])).0.version;
    assert_eq!(offered(&[3, 3, 3, 4]), TLS13);
    assert_eq!(offered(&[0x7a, 0x7a, 3, 3]), TLS12, "GREASE is no version");
    assert_eq!(offered(&[0x7f, 28]), TLS12, "nor is a draft: the old place counts");
    assert_eq!(done(&hello(&[])).0.version.label(), "TLSv1.2");
    for torn in [vec![], vec![0], vec![1, 3], vec![2, 3], vec![2, 3, 4, 0]] {
        assert_eq!(refusal(&hello(&[(43, torn)])), Malformed::Length);
    }
    let with_version = |high, low| {
        let mut bytes = hello(&[]);
        bytes[9..11].copy_from_slice(&[high, low]);
        bytes
    };
    assert_eq!(done(&with_version(3, 9)).0.version, TLS12, "more than 1.2 is said elsewhere");
    assert_eq!(refusal(&with_version(2, 0)), Malformed::Version);
}

#[test]
fn fields_of_wrong_lengths() {
    let right: [&[u8]; 5] = [&[3, 3], &[7; 32], &[0], &[0, 2, 0x13, 0x01], &[1, 0]];
    done(&message(&right.concat()));
    let mut body = right.concat();
    for length in 0..body.len() {
        assert_eq!(refusal(&message(&body[..length])), Malformed::Length);
    }
    body.push(0);
    assert_eq!(refusal(&message(&body)), Malformed::Length);
    for (field, wrong) in [(2, &[33; 34][..]), (3, &[0, 0]), (3, &[0, 1, 0x13]), (4, &[0])] {
        let mut fields = right;
        fields[field] = wrong;
        assert_eq!(refusal(&message(&fields.concat())), Malformed::Length, "field {field}");
    }
    for extensions in [&[0, 1, 0][..], &[0, 4, 0, 9, 0, 1], &[0, 3, 0, 9, 0]] {
        assert_eq!(refusal(&message(&[&right.concat(), extensions].concat())), Malformed::Length);
    }
    assert_eq!(refusal(&message(&[&right.concat(), &[0, 0, 0][..]].concat())), Malformed::Length);
}

/// Of the changed hellos that both parsers take, they read the same. Some only one takes: rustls does not look at the old
/// place of the version, and looks at extensions that are nothing to this one.
#[test]
fn rustls_reads_the_same() {
    let bytes = captured("openssl-alpn-h2");
    let mut taken = 0;
    for at in 5..bytes.len() {
        for change in [0x01, 0x20, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            let mut acceptor = Acceptor::default();
            acceptor.read_tls(&mut &changed[..]).unwrap();
            let Ok(Some(_)) = acceptor.accept() else { continue };
            let Progress::Done(hello, _) = parse(&changed) else { continue };
            taken += 1;
            let protocols = hello.alpn().map(<[u8]>::to_vec).collect();
            assert_eq!((hello.server_name.map(|name| name.to_string()), protocols), by_rustls(&changed), "byte {at}");
        }
    }
    assert!(taken > 100, "{taken}");
}

/// Writes the post-quantum hello of the corpus: `cargo test --lib client_hello -- --ignored`.
#[test]
#[ignore = "changes the corpus"]
fn write_the_post_quantum_hello() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/client_hello/rustls-mlkem");
    std::fs::write(path, of_rustls("pq.test", true)).unwrap();
}
