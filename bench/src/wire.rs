//! The bench protocol: what load and backend say to each other through the proxy under test.
//!
//! The client asks with a fixed-size message whose first byte names its kind; the backend answers.
//! Asks may be pipelined; the backend takes them in order. This file owns sizes, encoding and the
//! pattern that makes lost, doubled or reordered bytes visible. It does no I/O.

/// Every ask but the echo.
pub(crate) const ASK: usize = 36;
/// The answer to a request: about what a small HTTP answer of 1 KiB is on the wire.
pub(crate) const ANSWER: usize = 1_091;
/// An echo, both ways. The connection ends with it.
pub(crate) const ECHO: usize = 64;
/// The backend's word that it has taken a whole upload.
pub(crate) const RECEIPT: usize = 9;
/// Bytes moved per system call by both ends of a bulk stream.
pub(crate) const CHUNK: usize = 256 * 1024;

const REQUEST_KIND: u8 = b'R';
const DOWN_KIND: u8 = b'D';
const UP_KIND: u8 = b'U';
const ECHO_KIND: u8 = b'E';
const ECHO_LINGER_KIND: u8 = b'F';
const RECEIPT_KIND: u8 = b'K';
const ANSWER_KIND: u8 = b'A';

/// The PROXY protocol, version 2: its signature, and its part of fixed length, which ends with the length of the rest.
const PROXY_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const PROXY_FIXED: usize = 16;

/// A prime, so that no buffer size of any proxy divides it and a swapped buffer shows.
const PERIOD: usize = 65_521;
/// Distance between the places where a received chunk is compared with the pattern.
const SAMPLE_EVERY: usize = 2_048;
const SAMPLE: usize = 8;

/// What a client wants from the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// One answer of [`ANSWER`] bytes that repeats `seq`.
    Request { seq: u64 },
    /// `bytes` of pattern, not faster than `pace` bytes a second (0: as fast as it goes).
    Down { bytes: u64, pace: u64 },
    /// The client will send `bytes`; the backend swallows them and sends a receipt.
    Up { bytes: u64 },
    /// [`ECHO`] bytes come back. `backend_closes` says whose close comes first.
    Echo { backend_closes: bool },
}

impl Ask {
    /// How long this ask is on the wire, told from its first byte; `None` for no ask of ours.
    pub(crate) fn wire_len(first: u8) -> Option<usize> {
        match first {
            REQUEST_KIND | DOWN_KIND | UP_KIND => Some(ASK),
            ECHO_KIND | ECHO_LINGER_KIND => Some(ECHO),
            _ => None,
        }
    }

    /// Reads an ask from at least [`Ask::wire_len`] bytes.
    pub(crate) fn parse(wire: &[u8]) -> Option<Self> {
        match *wire.first()? {
            REQUEST_KIND => Some(Self::Request { seq: u64_at(wire, 1)? }),
            DOWN_KIND => Some(Self::Down { bytes: u64_at(wire, 1)?, pace: u64_at(wire, 9)? }),
            UP_KIND => Some(Self::Up { bytes: u64_at(wire, 1)? }),
            ECHO_KIND => Some(Self::Echo { backend_closes: true }),
            ECHO_LINGER_KIND => Some(Self::Echo { backend_closes: false }),
            _ => None,
        }
    }

    /// Encodes every ask but the echo.
    pub(crate) fn encode(self) -> [u8; ASK] {
        let (kind, first, second) = match self {
            Self::Request { seq } => (REQUEST_KIND, seq, 0),
            Self::Down { bytes, pace } => (DOWN_KIND, bytes, pace),
            Self::Up { bytes } => (UP_KIND, bytes, 0),
            Self::Echo { .. } => (ECHO_KIND, 0, 0),
        };
        let mut wire = [b'.'; ASK];
        wire[0] = kind;
        wire[1..9].copy_from_slice(&first.to_le_bytes());
        wire[9..17].copy_from_slice(&second.to_le_bytes());
        wire
    }
}

/// The whole echo message.
pub(crate) fn echo(seq: u64, backend_closes: bool) -> [u8; ECHO] {
    let mut wire = [b'e'; ECHO];
    wire[0] = if backend_closes { ECHO_KIND } else { ECHO_LINGER_KIND };
    wire[1..9].copy_from_slice(&seq.to_le_bytes());
    wire[ECHO - 8..].copy_from_slice(&seq.to_be_bytes());
    wire
}

/// The number of an echo message, if it is one.
pub(crate) fn echo_seq(wire: &[u8]) -> Option<u64> {
    let seq = u64_at(wire, 1)?;
    let ends = wire.len() == ECHO && wire[ECHO - 8..] == seq.to_be_bytes();
    ends.then_some(seq)
}

/// The backend's answer, kept ready: only its sequence number changes.
pub(crate) struct Answer([u8; ANSWER]);

impl Answer {
    pub(crate) fn new() -> Self {
        let mut wire = [b'a'; ANSWER];
        wire[0] = ANSWER_KIND;
        Self(wire)
    }

    pub(crate) fn with_seq(&mut self, seq: u64) -> &[u8; ANSWER] {
        self.0[1..9].copy_from_slice(&seq.to_le_bytes());
        self.0[ANSWER - 8..].copy_from_slice(&seq.to_be_bytes());
        &self.0
    }

    /// Whether `wire` is the answer to `seq`: both ends and the length, not each byte between.
    pub(crate) fn is_valid(wire: &[u8], seq: u64) -> bool {
        wire.len() == ANSWER
            && wire[0] == ANSWER_KIND
            && wire[1..9] == seq.to_le_bytes()
            && wire[ANSWER - 8..] == seq.to_be_bytes()
    }
}

pub(crate) fn receipt(bytes: u64) -> [u8; RECEIPT] {
    let mut wire = [RECEIPT_KIND; RECEIPT];
    wire[1..].copy_from_slice(&bytes.to_le_bytes());
    wire
}

/// An endless stream of known bytes: byte `n` of a stream is byte `n % PERIOD` of the pattern.
pub(crate) struct Pattern(Vec<u8>);

impl Pattern {
    pub(crate) fn new() -> Self {
        let mut state = 0x9e37_79b9_u32;
        let mut period: Vec<u8> = Vec::with_capacity(PERIOD);
        for _ in 0..PERIOD {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            period.push((state >> 24) as u8);
        }
        Self(period.iter().copied().cycle().take(PERIOD + CHUNK).collect())
    }

    /// The stream from `offset` on, at most `len` and [`CHUNK`] bytes of it.
    pub(crate) fn at(&self, offset: u64, len: u64) -> &[u8] {
        let start = (offset % PERIOD as u64) as usize;
        let len = len.min(CHUNK as u64) as usize;
        &self.0[start..start + len]
    }

    /// Whether `chunk` is the stream from `offset` on, by samples; its two ends always count.
    pub(crate) fn holds(&self, offset: u64, chunk: &[u8]) -> bool {
        let expected = self.at(offset, chunk.len() as u64);
        if expected.len() != chunk.len() {
            return false;
        }
        let Some(last) = chunk.len().checked_sub(SAMPLE) else {
            return expected == chunk;
        };
        (0..last).step_by(SAMPLE_EVERY).chain([last]).all(|at| chunk[at..at + SAMPLE] == expected[at..at + SAMPLE])
    }
}

/// How long the PROXY header (version 2) is that begins here; its first bytes where that is not known yet. `None`: it
/// is no such header.
pub(crate) fn proxy_header_len(wire: &[u8]) -> Option<usize> {
    let known = wire.len().min(PROXY_SIGNATURE.len());
    if wire[..known] != PROXY_SIGNATURE[..known] {
        return None;
    }
    let rest = wire.get(PROXY_FIXED - 2..PROXY_FIXED).map_or(0, |len| usize::from(len[0]) << 8 | usize::from(len[1]));
    Some(PROXY_FIXED + rest)
}

fn u64_at(wire: &[u8], at: usize) -> Option<u64> {
    wire.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_survive_the_wire() {
        let asks =
            [Ask::Request { seq: u64::MAX - 3 }, Ask::Down { bytes: 1 << 40, pace: 125_000_000 }, Ask::Up { bytes: 7 }];
        for ask in asks {
            let wire = ask.encode();
            assert_eq!(Ask::wire_len(wire[0]), Some(ASK));
            assert_eq!(Ask::parse(&wire), Some(ask));
            assert_eq!(Ask::parse(&wire[..5]), None);
        }
        for backend_closes in [true, false] {
            let wire = echo(9, backend_closes);
            assert_eq!(Ask::wire_len(wire[0]), Some(ECHO));
            assert_eq!(Ask::parse(&wire), Some(Ask::Echo { backend_closes }));
            assert_eq!(echo_seq(&wire), Some(9));
            assert_eq!(echo_seq(&wire[..ECHO - 1]), None);
        }
        assert_eq!(Ask::wire_len(b'x'), None);
    }

    #[test]
    fn an_answer_is_bound_to_its_request() {
        let mut answer = Answer::new();
        let wire = *answer.with_seq(5);
        assert!(Answer::is_valid(&wire, 5));
        assert!(!Answer::is_valid(&wire, 6));
        assert!(!Answer::is_valid(&wire[..ANSWER - 1], 5));
    }

    #[test]
    fn a_proxy_header_says_where_it_ends() {
        let wire = [PROXY_SIGNATURE, &[0x21, 0x11, 0x01, 0x04], &[0; 260]].concat();
        assert_eq!(proxy_header_len(&wire), Some(16 + 260));
        assert_eq!(proxy_header_len(&wire[..16]), Some(16 + 260));
        for cut in 0..16 {
            assert_eq!(proxy_header_len(&wire[..cut]), Some(16), "more than {cut} bytes are needed");
        }
        assert_eq!(proxy_header_len(&echo(1, true)), None);
    }

    #[test]
    fn the_pattern_shows_a_lost_byte_and_a_swapped_buffer() {
        let pattern = Pattern::new();
        let whole = pattern.at(1_000, 64 * 1024).to_vec();
        assert!(pattern.holds(1_000, &whole));
        assert!(!pattern.holds(1_001, &whole));
        let mut swapped = whole.clone();
        swapped.rotate_left(16 * 1024);
        assert!(!pattern.holds(1_000, &swapped));
        assert!(pattern.holds(0, b""));
        assert!(pattern.holds(3, pattern.at(3, 5)));
    }
}
