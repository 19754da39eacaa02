//! All parsers against what was found and against what chance finds: the fuzz corpora, and mutations of them.

use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs};

use super::{Progress, client_hello, proxy_header, socks4, socks5};

/// The files of a fuzz target's corpus, by name.
pub(super) fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let read =
        |path: std::path::PathBuf| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap());
    let mut files: Vec<_> = files.map(read).collect();
    files.sort();
    assert!(files.len() > 5, "{} is nearly empty", directory.display());
    files
}

/// Numbers that a seed repeats (xorshift64*).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// Some edits of `input`: bytes, lengths of two bytes, pieces taken out, doubled or brought from `other`.
    fn mutate(&mut self, mut input: Vec<u8>, other: &[u8]) -> Vec<u8> {
        const TELLING: &[u8] = b"\0\x01\x02\x03\x05\x10\x16\x20\x21\x22\x2e\x7f\x80\xff\r\n .:09aF";
        for _ in 0..1 + self.below(4) {
            let at = self.below(input.len() + 1);
            let end = (at + 1 + self.below(16)).min(input.len());
            match self.below(8) {
                0 if at < input.len() => input[at] ^= 1 << self.below(8),
                1 if at < input.len() => input[at] = TELLING[self.below(TELLING.len())],
                2 if at + 1 < input.len() => {
                    let value = u16::from_be_bytes([input[at], input[at + 1]]);
                    let value = value.wrapping_add(self.below(9) as u16).wrapping_sub(4);
                    input[at..at + 2].copy_from_slice(&value.to_be_bytes());
                }
                3 => input.insert(at, TELLING[self.below(TELLING.len())]),
                4 => _ = input.drain(at..end.max(at)),
                5 => input.extend_from_within(at..end.max(at)),
                6 => {
                    let from = self.below(other.len() + 1);
                    let to = (from + self.below(64)).min(other.len());
                    input.splice(at..at, other[from..to].iter().copied());
                }
                _ => input.truncate(at.max(1)),
            }
        }
        input
    }
}

/// Mutates the corpus for about half a second, or for `ARUS_FUZZ_SECONDS`; `ARUS_FUZZ_SEED` repeats a run.
fn fuzz(target: &str, check: fn(&[u8]), is_message: fn(&[u8]) -> bool) {
    let variable = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let time = variable("ARUS_FUZZ_SECONDS").map_or(Duration::from_millis(500), Duration::from_secs);
    let seed = variable("ARUS_FUZZ_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    println!("ARUS_FUZZ_SEED={seed}");
    let (mut chance, begun) = (Chance(seed), Instant::now());
    let mut inputs: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, bytes)| bytes).collect();
    inputs.retain(|bytes| bytes.len() < 4096);
    let found = inputs.len();
    let (mut runs, mut messages) = (0u64, 0u64);
    // At least some on the slowest machine.
    while begun.elapsed() < time || runs < 100 {
        let (one, other) = (chance.below(inputs.len()), chance.below(inputs.len()));
        let input = chance.mutate(inputs[one].clone(), &inputs[other]);
        let result = std::panic::catch_unwind(|| check(&input));
        assert!(result.is_ok(), "after {runs} runs, seed {seed}: {input:02x?}");
        runs += 1;
        // Mutations of mutations reach further than those of the corpus alone, as long as they are messages.
        if is_message(&input) {
            messages += 1;
            match input.len() {
                4096.. => {}
                _ if inputs.len() < 512 => inputs.push(input),
                _ if one >= found => inputs[one] = input,
                _ => {}
            }
        }
    }
    assert!(messages > runs / 50, "{target}: only {messages} of {runs} inputs were messages");
    println!("{target}: {runs} runs, {messages} messages");
}

#[test]
fn the_corpora_keep_every_promise() {
    for (name, bytes) in corpus("proxy_header") {
        println!("{name}");
        proxy_header::fuzz_invariants(&bytes);
    }
    for (name, bytes) in corpus("client_hello") {
        println!("{name}");
        client_hello::fuzz_invariants(&bytes);
    }
    for (name, bytes) in corpus("socks5") {
        println!("{name}");
        socks5::fuzz_invariants(&bytes);
    }
    for (name, bytes) in corpus("socks4") {
        println!("{name}");
        socks4::fuzz_invariants(&bytes);
    }
}

#[test]
fn mutated_proxy_headers_keep_every_promise() {
    fuzz("proxy_header", proxy_header::fuzz_invariants, |bytes| {
        matches!(proxy_header::parse(bytes), Progress::Done(..))
    });
}

#[test]
fn mutated_client_hellos_keep_every_promise() {
    fuzz("client_hello", client_hello::fuzz_invariants, |bytes| {
        matches!(client_hello::parse(bytes), Progress::Done(..))
    });
}

#[test]
fn mutated_socks_messages_keep_every_promise() {
    fuzz("socks5", socks5::fuzz_invariants, |bytes| {
        matches!(socks5::parse_request(bytes), Progress::Done(..)) || socks5::datagram::parse(bytes).is_ok()
    });
    fuzz("socks4", socks4::fuzz_invariants, |bytes| matches!(socks4::parse(bytes), Progress::Done(..)));
}
