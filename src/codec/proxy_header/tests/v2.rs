//! Version 2.

use super::super::{Addresses, Command, Facts, Malformed, Progress, Ssl, Version, parse};
use super::{address, bad, binary, done};
use crate::codec::tests::corpus;

const TCP4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb];

fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    binary(0x21, 0x11, &[TCP4, tlvs].concat())
}

#[test]
fn addresses_of_each_family() {
    let (endpoints, used) = {
        let header = binary(0x21, 0x11, TCP4);
        let (header, used) = done(&header);
        assert_eq!((header.version, header.command), (Version::V2, Command::Proxy));
        (header.endpoints(), used)
    };
    assert_eq!((endpoints, used), (Some((address("192.0.2.1:56324"), address("198.51.100.2:443"))), 28));

    let mut block = [0; 36];
    block[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    block[15] = 1;
    block[31] = 2;
    block[32..].copy_from_slice(&[0, 80, 1, 0]);
    let header = binary(0x21, 0x21, &block);
    assert_eq!(done(&header).0.endpoints(), Some((address("[2001:db8::1]:80"), address("[::2]:256"))));

    // The real ones hold: a unix socket, UNSPEC in either place.
    for (family_transport, length, addresses) in [
        (0x31, 216, Addresses::Unix),
        (0x30, 216, Addresses::Unspec),
        (0x00, 0, Addresses::Unspec),
        (0x01, 0, Addresses::Unspec),
        (0x10, 12, Addresses::Unspec),
        (0x20, 36, Addresses::Unspec),
    ] {
        let header = binary(0x21, family_transport, &vec![1; length]);
        let (header, used) = done(&header);
        assert_eq!((header.addresses, header.endpoints(), used), (addresses, None, 16 + length));
    }
}

#[test]
fn local_is_skipped_whatever_it_holds() {
    for (family_transport, block) in [(0x00, vec![]), (0x00, vec![3, 0, 9]), (0x11, TCP4.to_vec()), (0x12, vec![7; 5])]
    {
        let header = [&binary(0x20, family_transport, &block)[..], b"GET"].concat();
        let (header, used) = done(&header);
        assert_eq!((header.command, header.endpoints(), used), (Command::Local, None, 16 + block.len()));
        assert_eq!(header.tlvs.count(), 0);
    }
}

#[test]
fn fields_are_judged_as_they_come() {
    use Malformed::{Command, Datagram, Family, Length, Version};
    for (error, version_command) in
        [(Version, 0x11), (Version, 0x31), (Version, 0x01), (Command, 0x22), (Command, 0x2f)]
    {
        assert_eq!(parse(&binary(version_command, 0x11, TCP4)[..13]), bad(error), "{version_command:#x}");
    }
    for (error, family_transport) in
        [(Family, 0x41), (Family, 0xf1), (Family, 0x13), (Family, 0x1f), (Datagram, 0x12), (Datagram, 0x02)]
    {
        assert_eq!(parse(&binary(0x21, family_transport, TCP4)[..14]), bad(error), "{family_transport:#x}");
    }
    for family_transport in [0x41, 0x13] {
        assert_eq!(parse(&binary(0x20, family_transport, &[])), bad(Family), "nobody's, in LOCAL too");
    }
    for (family_transport, length) in [(0x11, 11), (0x10, 0), (0x21, 35), (0x31, 215)] {
        assert_eq!(parse(&binary(0x21, family_transport, &vec![0; length])[..16]), bad(Length));
    }
}

#[test]
fn tlvs_are_given_in_order_and_unknown_ones_too() {
    let tlvs = [&[0x04, 0, 0][..], &[0xea, 0, 2, 1, 2], &[0x01, 0, 2, b'h', b'2'], &[0x02, 0, 0]].concat();
    let header = with_tlvs(&tlvs);
    let (header, _) = done(&header);
    let tlvs: Vec<(u8, &[u8])> = header.tlvs.map(|tlv| (tlv.kind, tlv.value)).collect();
    assert_eq!(tlvs, [(4, &[][..]), (0xea, &[1, 2]), (1, b"h2"), (2, b"")]);
    let facts = Facts { alpn: Some(b"h2"), authority: Some(b""), ..Facts::default() };
    assert_eq!(header.tlvs.facts(), facts);
}

#[test]
fn the_first_of_two_counts() {
    let header = with_tlvs(&[2, 0, 1, b'a', 2, 0, 1, b'b']);
    assert_eq!(done(&header).0.tlvs.facts().authority, Some(&b"a"[..]));
}

#[test]
fn tlvs_of_unspec_begin_at_once() {
    let header = binary(0x21, 0x00, &[2, 0, 1, b'a']);
    assert_eq!(done(&header).0.tlvs.facts().authority, Some(&b"a"[..]));
}

#[test]
fn torn_and_impossible_tlvs_are_refused() {
    use Malformed::{Checksum, TornTlv, UniqueId};
    let unique_id = |length: u8| [&[5, 0, length][..], &vec![b'u'; usize::from(length)]].concat();
    for (error, tlvs) in [
        (TornTlv, &[4][..]),
        (TornTlv, &[4, 0]),
        (TornTlv, &[4, 0, 1]),
        (TornTlv, &[4, 0, 0, 1]),
        (TornTlv, &[4, 0xff, 0xff, 1]),
        (TornTlv, &[0x20, 0, 4, 1, 0, 0, 0]),
        (TornTlv, &[0x20, 0, 6, 1, 0, 0, 0, 0, 0x21]),
        (TornTlv, &[0x20, 0, 8, 1, 0, 0, 0, 0, 0x21, 0, 1]),
        (Checksum, &[3, 0, 4, 1, 2, 3, 4]),
        (Checksum, &[3, 0, 3, 1, 2, 3]),
        (Checksum, &[3, 0, 0]),
        (UniqueId, &unique_id(129)),
    ] {
        assert_eq!(parse(&with_tlvs(tlvs)), bad(error), "{tlvs:?}");
    }
    assert!(matches!(parse(&with_tlvs(&unique_id(128))), Progress::Done(..)));
    assert!(matches!(parse(&with_tlvs(&[0x20, 0, 5, 1, 0, 0, 0, 0])), Progress::Done(..)));
}

#[test]
fn the_largest_header_is_taken_whole_or_not_at_all() {
    let mut tlvs = Vec::new();
    while tlvs.len() < 65_000 {
        tlvs.extend_from_slice(&[0xe0, 0, 100]);
        tlvs.extend_from_slice(&[9; 100]);
    }
    let last = 65_535 - TCP4.len() - tlvs.len() - 3;
    tlvs.extend_from_slice(&[0x04, (last >> 8) as u8, last as u8]);
    tlvs.resize(65_535 - TCP4.len(), 0);
    let header = with_tlvs(&tlvs);
    assert_eq!(header.len(), crate::limits::PROXY_HEADER_BYTES);
    for cut in [16, 17, 28, 40_000, header.len() - 1] {
        assert_eq!(parse(&header[..cut]), Progress::NeedMore);
    }
    let (parsed, used) = done(&header);
    assert_eq!(used, header.len());
    assert_eq!(parsed.tlvs.count(), 65_000_usize.div_ceil(103) + 1);
}

/// What HAProxy 2.6 sent with every option on, for a TLS client with a certificate.
#[test]
fn haproxy_is_understood() {
    let vector = corpus("proxy_header").into_iter().find(|(name, _)| name == "haproxy-v2-tls").unwrap().1;
    let (header, used) = done(&vector);
    assert_eq!(&vector[used..], b"GET\n");
    assert_eq!(header.endpoints(), Some((address("127.0.0.1:37046"), address("127.0.0.1:41927"))));
    let ssl = Ssl {
        client: Ssl::CLIENT_SSL | Ssl::CLIENT_CERT_CONN | Ssl::CLIENT_CERT_SESS,
        verify: 0,
        version: Some(b"TLSv1.3"),
        cn: Some(b"client.test"),
        cipher: Some(b"TLS_AES_256_GCM_SHA384"),
        sig_alg: Some(b"RSA-SHA256"),
        key_alg: Some(b"RSA2048"),
    };
    let facts = Facts {
        alpn: Some(b"h2"),
        authority: Some(b"a.test"),
        unique_id: Some(b"7F000001:90B6_7F000001:A3C7_6B009056_0000:48AA"),
        ssl: Some(ssl),
    };
    assert_eq!(header.tlvs.facts(), facts);
}
