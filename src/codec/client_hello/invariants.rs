//! What holds for every input; the fuzz targets and the tests ask it.

use super::{ClientHello, parse};
use crate::codec::Progress;
use crate::limits;

/// # Panics
/// When the parser breaks a promise for these bytes.
pub fn check(bytes: &[u8]) {
    match parse(bytes) {
        Progress::Done(hello, used) => {
            assert!(used <= bytes.len() && used <= limits::CLIENT_HELLO_WIRE_BYTES);
            plausible(&hello);
            let Progress::Done(again, used_again) = parse(&bytes[..used]) else { panic!("what follows is needed") };
            assert!(used == used_again && same(&hello, &again), "what follows a hello changes it");
            for cut in cuts(used) {
                assert!(matches!(parse(&bytes[..cut]), Progress::NeedMore), "cut at {cut} of {used}");
            }
            for size in [1, 2, 3, 7, 1000] {
                let pieces = refragment(&bytes[..used], size);
                let Progress::Done(again, used) = parse(&pieces) else {
                    assert!(pieces.len() > limits::CLIENT_HELLO_WIRE_BYTES, "in records of {size}");
                    continue;
                };
                assert!(used == pieces.len() && same(&hello, &again), "in records of {size}");
            }
        }
        Progress::NeedMore => assert!(bytes.len() < limits::CLIENT_HELLO_WIRE_BYTES),
        Progress::Bad(error) => {
            for more in [0, 1, 22, 0xff] {
                let longer: Vec<u8> = bytes.iter().copied().chain([more]).collect();
                assert!(matches!(parse(&longer), Progress::Bad(again) if again == error), "one more byte heals it");
            }
        }
    }
}

/// Every length below `used`, or some hundred of them if there are many.
fn cuts(used: usize) -> impl Iterator<Item = usize> {
    (0..used).filter(move |cut| *cut < 64 || used - cut < 16 || cut % (1 + used / 128) == 0)
}

fn plausible(hello: &ClientHello<'_>) {
    if let Some(name) = hello.server_name {
        let name = name.as_str();
        assert!((1..=limits::HOST_BYTES).contains(&name.len()) && !name.ends_with('.'));
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
        assert_eq!(name, name.to_ascii_lowercase());
    }
    assert!(hello.alpn().all(|protocol| (1..=255).contains(&protocol.len())));
    assert_eq!(hello.version.0 >> 8, 3);
}

fn same(one: &ClientHello<'_>, other: &ClientHello<'_>) -> bool {
    one.server_name == other.server_name
        && (one.version, one.legacy_version) == (other.version, other.legacy_version)
        && one.alpn().eq(other.alpn())
}

/// The same message in records of `size` bytes. `records` are handshake records, of which the last may be torn.
pub(super) fn refragment(records: &[u8], size: usize) -> Vec<u8> {
    let mut message = Vec::new();
    let mut rest = records;
    while let [_, _, _, high, low, payload @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(payload.len());
        message.extend_from_slice(&payload[..length]);
        rest = &payload[length..];
    }
    let record = |piece: &[u8]| [&[22, 3, 1][..], &(piece.len() as u16).to_be_bytes(), piece].concat();
    message.chunks(size).flat_map(record).collect()
}
