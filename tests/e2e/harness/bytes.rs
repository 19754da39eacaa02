//! Bytes that tell where they belong: a pseudo-random stream per seed, in which every stretch is unlike every other.

use std::sync::OnceLock;

/// A prime, so that the stream does not repeat at any size of buffer.
const TABLE: usize = 1_048_573;

fn table() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut random = Random::new(42);
        let mut bytes = Vec::with_capacity(TABLE + 8);
        while bytes.len() < TABLE {
            bytes.extend_from_slice(&random.next().to_le_bytes());
        }
        bytes.truncate(TABLE);
        bytes
    })
}

/// `len` bytes of the stream `seed` from `offset` on, in pieces.
fn pieces(seed: u64, offset: u64, len: usize) -> impl Iterator<Item = &'static [u8]> {
    let mut at = (seed.wrapping_mul(7919).wrapping_add(offset) % TABLE as u64) as usize;
    let mut left = len;
    std::iter::from_fn(move || {
        let piece = &table()[at..TABLE.min(at + left)];
        at = 0;
        left -= piece.len();
        (!piece.is_empty()).then_some(piece)
    })
}

/// `len` bytes of the stream `seed` from `offset` on.
pub(crate) fn pattern(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    pieces(seed, offset, len).flatten().copied().collect::<Vec<u8>>()
}

/// Panics where `bytes` are not those of the stream `seed` at `offset`.
pub(crate) fn check(seed: u64, offset: u64, bytes: &[u8]) {
    let mut rest = bytes;
    for piece in pieces(seed, offset, bytes.len()) {
        let (part, after) = rest.split_at(piece.len());
        if part != piece {
            let at = part.iter().zip(piece).position(|(a, b)| a != b).unwrap();
            let position = offset + (bytes.len() - rest.len() + at) as u64;
            panic!("stream {seed}: wrong byte at {position} ({:#x} instead of {:#x})", part[at], piece[at]);
        }
        rest = after;
    }
}

/// SplitMix64: reproducible choices.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `bound` - 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
