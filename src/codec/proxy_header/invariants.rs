//! What holds for every input; the fuzz targets and the tests ask it.

use super::{Command, Facts, Header, Origin, Outgoing, Version, parse};
use crate::codec::Progress;
use crate::limits;

/// # Panics
/// When the parser or the encoder breaks a promise for these bytes.
pub fn check(bytes: &[u8]) {
    match parse(bytes) {
        Progress::Done(header, used) => {
            assert!(used <= bytes.len() && used <= limits::PROXY_HEADER_BYTES);
            assert!(header.version == Version::V2 || used <= limits::PROXY_LINE_BYTES);
            assert_eq!(parse(&bytes[..used]), Progress::Done(header, used), "what follows a header changes it");
            for cut in cuts(used) {
                assert_eq!(parse(&bytes[..cut]), Progress::NeedMore, "cut at {cut} of {used}");
            }
            encodes_again(&header);
        }
        Progress::NeedMore => {
            assert!(bytes.len() < limits::PROXY_HEADER_BYTES);
            assert!(bytes.first() != Some(&b'P') || bytes.len() < limits::PROXY_LINE_BYTES);
        }
        Progress::Bad(_) => {
            for more in [0, b'\n', b'0', 0xff] {
                let longer: Vec<u8> = bytes.iter().copied().chain([more]).collect();
                assert!(matches!(parse(&longer), Progress::Bad(_)), "one more byte heals it");
            }
        }
    }
}

/// Every length below `used`, or some hundred of them if there are many.
fn cuts(used: usize) -> impl Iterator<Item = usize> {
    (0..used).filter(move |cut| *cut < 64 || used - cut < 16 || cut % (1 + used / 128) == 0)
}

/// A header that speaks for somebody can be written again, in both versions, and says the same.
fn encodes_again(header: &Header<'_>) {
    let endpoints = header.endpoints();
    let (source, destination) = endpoints.unzip();
    let origin = if header.command == Command::Local { Origin::Local } else { Origin::Proxy { source, destination } };
    for (version, checksum) in [(Version::V1, false), (Version::V2, false), (Version::V2, true)] {
        let facts = header.tlvs.facts();
        let mut out = b"before".to_vec();
        let written = Outgoing { version, origin, facts, checksum }.encode(&mut out);
        // The checksum, 7 bytes, may be what is too much for a header that was full.
        if written.is_err() {
            assert!(checksum && out == b"before");
            continue;
        }
        let Progress::Done(again, used) = parse(&out[6..]) else { panic!("{out:x?} cannot be read") };
        assert_eq!(used, out.len() - 6);
        // Mixed families were mixed by mapping one, which does not show here.
        assert_eq!(again.endpoints(), endpoints);
        let facts = if version == Version::V1 { Facts::default() } else { facts };
        assert_eq!(again.tlvs.facts(), facts);
    }
}
