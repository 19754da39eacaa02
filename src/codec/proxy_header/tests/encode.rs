//! What is written can be read, here and elsewhere.

use super::super::{Addresses, Command, Facts, Origin, Outgoing, Ssl, TooLong, Version};
use super::{address, binary, done};

fn encoded(version: Version, origin: Origin, facts: Facts<'_>, checksum: bool) -> Vec<u8> {
    let mut out = Vec::new();
    Outgoing { version, origin, facts, checksum }.encode(&mut out).unwrap();
    out
}

fn proxied(source: &str, destination: &str) -> Origin {
    Origin::Proxy { source: Some(address(source)), destination: Some(address(destination)) }
}

fn line(origin: Origin) -> String {
    String::from_utf8(encoded(Version::V1, origin, Facts::default(), false)).unwrap()
}

fn bare(origin: Origin) -> Vec<u8> {
    encoded(Version::V2, origin, Facts::default(), false)
}

/// CRC32C bit by bit (RFC 4960 appendix B; reflected Castagnoli polynomial), to check the crate by.
fn bitwise_crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[test]
fn lines() {
    assert_eq!(
        line(proxied("192.168.0.1:56324", "192.168.0.11:443")),
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    );
    assert_eq!(line(proxied("[2001:db8::1]:1", "[::1]:65535")), "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n");
    assert_eq!(line(proxied("[::ffff:192.0.2.1]:1", "192.0.2.2:2")), "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    assert_eq!(line(proxied("192.0.2.1:1", "[2001:db8::1]:2")), "PROXY TCP6 ::ffff:c000:201 2001:db8::1 1 2\r\n");
    assert_eq!(line(Origin::Local), "PROXY UNKNOWN\r\n");
    let ffff = format!("[{}]:65535", ["ffff"; 8].join(":"));
    assert_eq!(line(proxied(&ffff, &ffff)).len(), 104);
}

#[test]
fn binary_headers() {
    let tcp4 = [192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 0, 2];
    assert_eq!(bare(proxied("192.0.2.1:1", "192.0.2.2:2")), binary(0x21, 0x11, &tcp4));
    assert_eq!(bare(proxied("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2")), binary(0x21, 0x11, &tcp4));
    assert_eq!(bare(Origin::Local), binary(0x20, 0x00, &[]));

    let mixed = bare(proxied("192.0.2.1:1", "[2001:db8::1]:2"));
    assert_eq!(mixed[..16], binary(0x21, 0x21, &[0; 36])[..16]);
    let (header, _) = done(&mixed);
    assert_eq!(header.endpoints(), Some((address("192.0.2.1:1"), address("[2001:db8::1]:2"))));
    assert!(matches!(header.addresses, Addresses::Tcp6 { source, .. } if source.ip().to_ipv4_mapped().is_some()));
}

#[test]
fn who_has_no_address_is_unknown() {
    let some = Some(address("192.0.2.1:1"));
    for (source, destination) in [(None, None), (some, None), (None, some)] {
        let origin = Origin::Proxy { source, destination };
        assert_eq!(line(origin), "PROXY UNKNOWN\r\n");
        assert_eq!(bare(origin), binary(0x21, 0x00, &[]));
        let facts = Facts { authority: Some(b"a.test"), ..Facts::default() };
        let header = encoded(Version::V2, origin, facts, true);
        let (header, _) = done(&header);
        assert_eq!((header.command, header.endpoints(), header.tlvs.facts()), (Command::Proxy, None, facts));
    }
}

#[test]
fn facts_come_back() {
    let ssl = Ssl {
        client: Ssl::CLIENT_SSL | Ssl::CLIENT_CERT_CONN,
        verify: 0xffff_fffe,
        version: Some(b"TLSv1.3"),
        cn: Some("b\u{e4}r".as_bytes()),
        cipher: Some(b"TLS_AES_256_GCM_SHA384"),
        sig_alg: None,
        key_alg: Some(b""),
    };
    let all = Facts { alpn: Some(b"h2"), authority: Some(b"a.test"), unique_id: Some(&[7; 128]), ssl: Some(ssl) };
    for facts in [all, Facts { ssl: Some(Ssl::default()), ..Facts::default() }, Facts::default()] {
        for checksum in [false, true] {
            for origin in [proxied("192.0.2.1:1", "192.0.2.2:2"), proxied("[::1]:1", "[::2]:2")] {
                let header = encoded(Version::V2, origin, facts, checksum);
                let (parsed, used) = done(&header);
                assert_eq!((parsed.tlvs.facts(), used), (facts, header.len()));
                assert_eq!(parsed.tlvs.into_iter().any(|tlv| tlv.kind == 3), checksum);
            }
        }
    }
}

#[test]
fn the_checksum_is_right_by_another_reckoning() {
    assert_eq!(bitwise_crc32c(b"123456789"), 0xE306_9283, "the check value of CRC-32C");
    let facts = Facts { alpn: Some(b"http/1.1"), ..Facts::default() };
    let mut out = b"what was there before".to_vec();
    let before = out.len();
    let origin = proxied("192.0.2.1:1", "192.0.2.2:2");
    Outgoing { version: Version::V2, origin, facts, checksum: true }.encode(&mut out).unwrap();
    let mut header = out.split_off(before);
    let end = header.len();
    assert_eq!(header[end - 7..end - 4], [3, 0, 4]);
    let given = u32::from_be_bytes(header[end - 4..].try_into().unwrap());
    header[end - 4..].fill(0);
    assert_eq!(given, bitwise_crc32c(&header));

    // And the parser agrees with the other reckoning where the checksum is not the last TLV.
    let mut header = binary(0x21, 0x11, &[1, 1, 1, 1, 2, 2, 2, 2, 0, 1, 0, 2, 3, 0, 4, 0, 0, 0, 0, 4, 0, 2, 5, 6]);
    let checksum = bitwise_crc32c(&header).to_be_bytes();
    header[31..35].copy_from_slice(&checksum);
    done(&header);
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_nothing() {
    let origin = proxied("192.0.2.1:1", "192.0.2.2:2");
    let fits = vec![b'a'; usize::from(u16::MAX) - 12 - 3];
    let long = vec![b'a'; fits.len() + 1];
    let (huge, half) = (vec![b'a'; 65_536], vec![b'a'; 40_000]);
    let authority = |name| Facts { authority: Some(name), ..Facts::default() };
    assert_eq!(encoded(Version::V2, origin, authority(&fits), false).len(), crate::limits::PROXY_HEADER_BYTES);
    let ssl = Ssl { cn: Some(&half), cipher: Some(&half), ..Ssl::default() };
    for (facts, checksum) in [
        (authority(&fits), true),
        (authority(&long), false),
        (authority(&huge), false),
        (Facts { unique_id: Some(&[0; 129]), ..Facts::default() }, false),
        (Facts { alpn: Some(&half), authority: Some(&half), ..Facts::default() }, false),
        (Facts { ssl: Some(ssl), ..Facts::default() }, false),
    ] {
        let mut out = b"kept".to_vec();
        assert_eq!(Outgoing { version: Version::V2, origin, facts, checksum }.encode(&mut out), Err(TooLong));
        assert_eq!(out, b"kept");
        assert_eq!(Outgoing { version: Version::V1, origin, facts, checksum }.encode(&mut out), Ok(()));
    }
}
