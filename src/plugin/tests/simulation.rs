//! Random cuts, small rooms and few buffers give what one piece gives. SEED=... runs one seed again.

use super::*;

/// xorshift64*: seeds give the same run everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }

    /// Mostly small, sometimes `most`.
    fn size(&mut self, most: usize) -> usize {
        let bits = self.below(usize::BITS as usize - most.leading_zeros() as usize + 1);
        (1 + self.below(1 << bits)).min(most)
    }
}

/// What a plugin makes of a whole stream.
fn model(config: &str, bytes: &[u8]) -> Vec<u8> {
    let upper = |bytes: &[u8]| bytes.to_ascii_uppercase();
    match config {
        "pass" | "nibble" => bytes.to_vec(),
        "upper" | "copy" => upper(bytes),
        "triple" => upper(bytes).into_iter().flat_map(|byte| [byte; 3]).collect(),
        "odd" => bytes.iter().step_by(2).copied().collect(),
        "swallow" => Vec::new(),
        "trailer" => [bytes, b"tail"].concat(),
        "pairs" => bytes.chunks(2).flat_map(|pair| pair.iter().rev().copied()).collect(),
        "reverse" => {
            let reversed = |line: &[u8]| match line {
                [line @ .., b'\n'] => line.iter().rev().chain(b"\n").copied().collect(),
                line => line.to_vec(),
            };
            bytes.split_inclusive(|byte| *byte == b'\n').flat_map(reversed).collect()
        }
        "detach:5000" => {
            let mut bytes = bytes.to_vec();
            bytes.iter_mut().take(5000).for_each(|byte| *byte = b'*');
            bytes
        }
        other => panic!("no model of {other}"),
    }
}

const CONFIGS: &[&str] =
    &["pass", "nibble", "upper", "copy", "triple", "odd", "swallow", "trailer", "pairs", "reverse", "detach:5000"];

fn stream(random: &mut Random) -> Vec<u8> {
    let len = random.size(60_000);
    // Lines are shorter than what `reverse` may hold back.
    (0..len).map(|at| if at % 700 == 699 { b'\n' } else { b"abcdefXYZ\n"[random.below(10)] }).collect()
}

fn simulate(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let configs: Vec<&str> = (0..1 + random.below(3)).map(|_| CONFIGS[random.below(CONFIGS.len())]).collect();
    let is_up = random.below(2) == 0;
    let input = stream(&mut random);
    let order: Vec<&str> = if is_up { configs.clone() } else { configs.iter().rev().copied().collect() };
    // Long lines that `triple` or dropped line ends make are more than `reverse` may hold back.
    let holds = order.iter().position(|config| *config == "reverse").unwrap_or(0);
    if order[..holds].iter().any(|config| ["triple", "odd", "swallow", "detach:5000"].contains(config)) {
        return;
    }
    let expected = order.iter().fold(input.clone(), |bytes, config| model(config, &bytes));

    let buffers = Buffers::detached(20 + random.size(40) as u16).unwrap();
    let (mut up, mut down) = open(&buffers, &configs);
    let line = if is_up { &mut up } else { &mut down };
    let (mut inbox, mut outbox) = (Chain::default(), Chain::default());
    let (mut given, mut output, mut is_over) = (0, Vec::new(), false);
    let room = random.size(70_000);
    for _ in 0..1_000_000 {
        if is_over && outbox.is_empty() && inbox.is_empty() {
            break;
        }
        if given < input.len()
            && inbox.count() < 2
            && random.below(2) == 0
            && let Some(mut buffer) = buffers.take()
        {
            let len = random.size(17_000).min(input.len() - given);
            given += buffer.extend(&input[given..given + len]);
            buffers.push(&mut inbox, buffer);
        }
        if random.below(3) > 0 && !outbox.is_empty() {
            let before = outbox.len();
            let len = random.size(before);
            buffers.copy_front(&outbox, len, &mut output);
            buffers.advance(&mut outbox, len);
        }
        if is_over {
            continue;
        }
        let end = given == input.len() && random.below(4) == 0;
        match line.run(&mut inbox, end, &mut outbox, room) {
            Turn::Wants => assert!(inbox.is_empty()),
            Turn::Full => assert!(!outbox.is_empty(), "full of nothing"),
            Turn::NoBuffer | Turn::Again => {}
            Turn::Ended => is_over = true,
            Turn::Detached => {
                let rest = std::mem::take(&mut inbox);
                buffers.append(&mut outbox, rest);
                is_over = end;
            }
            turn => panic!("seed {seed}: {turn:?}"),
        }
    }
    let first = output.iter().zip(&expected).position(|(found, expected)| found != expected);
    assert_eq!((first, output.len()), (None, expected.len()), "seed {seed}, {order:?}");
}

#[test]
fn cuts_rooms_and_lack_of_buffers_do_not_show() {
    match std::env::var("SEED") {
        Ok(seed) => simulate(seed.parse().unwrap()),
        Err(_) => (1..=400).for_each(simulate),
    }
}
