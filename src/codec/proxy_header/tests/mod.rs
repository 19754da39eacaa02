//! PROXY headers: of the specification, of HAProxy, and wrong ones.

use std::net::SocketAddr;

use super::{Header, Malformed, Progress, fuzz_invariants, parse};
use crate::codec::Error;
use crate::codec::tests::corpus;

mod encode;
mod v1;
mod v2;

fn bad<T>(error: Malformed) -> Progress<T> {
    Progress::Bad(Error::ProxyHeader(error))
}

fn done(bytes: &[u8]) -> (Header<'_>, usize) {
    match parse(bytes) {
        Progress::Done(header, used) => (header, used),
        other => panic!("{other:?} for {bytes:x?}"),
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A header of version 2 with whatever fields.
fn binary(version_command: u8, family_transport: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[version_command, family_transport], &length, block].concat()
}

/// Every header of the corpus that is one, without what follows it.
fn vectors() -> Vec<Vec<u8>> {
    let headers = corpus("proxy_header").into_iter().filter_map(|(_, bytes)| match parse(&bytes) {
        Progress::Done(_, used) => Some(bytes[..used].to_vec()),
        Progress::NeedMore | Progress::Bad(_) => None,
    });
    let headers: Vec<_> = headers.collect();
    assert!(headers.len() > 8);
    headers
}

#[test]
fn a_header_is_done_with_its_last_byte_and_not_before() {
    for header in vectors() {
        for cut in 0..header.len() {
            assert_eq!(parse(&header[..cut]), Progress::NeedMore, "{cut} bytes of {header:x?}");
        }
        let (parsed, used) = done(&header);
        assert_eq!(used, header.len());
        for behind in [&b"\n"[..], b"GET / HTTP/1.1\r\n\r\n", &header] {
            let longer = [&header, behind].concat();
            assert_eq!(parse(&longer), Progress::Done(parsed, used));
        }
    }
}

#[test]
fn every_change_of_a_byte_keeps_the_promises() {
    for header in vectors().into_iter().filter(|header| header.len() < 1000) {
        for at in 0..header.len() {
            for change in [0x01, 0x02, 0x10, 0x20, 0x80, 0xff] {
                let mut changed = header.clone();
                changed[at] ^= change;
                fuzz_invariants(&changed);
            }
        }
    }
}

#[test]
fn other_protocols_are_refused_with_their_first_byte() {
    for beginning in [&b"G"[..], b"\x16", b"\0", b"\n", b"p", b"PO", b"PROXx", b"PROXY\t", b"\r\r", b"\r\n\r\n\r"] {
        assert_eq!(parse(beginning), bad(Malformed::Beginning), "{beginning:?}");
    }
    assert_eq!(parse(b""), Progress::NeedMore);
}

#[test]
fn a_change_that_a_checksum_covers_is_refused() {
    let vector = corpus("proxy_header").into_iter().find(|(name, _)| name == "haproxy-v2-tls").unwrap().1;
    let (_, used) = done(&vector);
    for at in 16..used {
        let mut changed = vector.clone();
        changed[at] ^= 1;
        // In a length, it may be the TLVs that do not fit any more, or the checksum that is no longer there.
        match parse(&changed) {
            Progress::Bad(_) => {}
            Progress::Done(header, _) => assert!(header.tlvs.into_iter().all(|tlv| tlv.kind != 3), "byte {at}"),
            Progress::NeedMore => panic!("byte {at}"),
        }
    }
}
