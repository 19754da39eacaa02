//! What goes through a line: transformed, shorter, longer, held back, at the end, detached.

use super::*;
use std::sync::atomic::Ordering;

fn through(configs: &[&str], pieces: &[&[u8]]) -> (Vec<u8>, Turn) {
    let buffers = Buffers::detached(64).unwrap();
    let (mut up, _down) = open(&buffers, configs);
    let result = run_all(&buffers, &mut up, pieces);
    drop((up, _down));
    assert!((0..64).all(|_| buffers.take().map(std::mem::forget).is_some()), "{configs:?} keeps buffers");
    result
}

fn text(configs: &[&str], pieces: &[&[u8]]) -> String {
    let (output, turn) = through(configs, pieces);
    assert_eq!(turn, Turn::Ended, "{configs:?}");
    String::from_utf8(output).unwrap()
}

#[test]
fn bytes_are_passed_changed_dropped_and_added() {
    assert_eq!(text(&["pass"], &[b"Hello, ", b"you"]), "Hello, you");
    assert_eq!(text(&["upper"], &[b"Hello, ", b"you"]), "HELLO, YOU");
    assert_eq!(text(&["copy"], &[b"Hello, ", b"you"]), "HELLO, YOU");
    assert_eq!(text(&["triple"], &[b"ab", b"c"]), "AAABBBCCC");
    assert_eq!(text(&["swallow"], &[b"ab", b"c"]), "");
    assert_eq!(text(&["odd"], &[b"0123456", b"7", b"89"]), "02468");
    assert_eq!(text(&["brackets"], &[b"banana", b"", b"a"]), "b<a>n<a>n<a><a>");
    assert_eq!(text(&["trailer"], &[b"head"]), "headtail");
    assert_eq!(text(&["trailer"], &[]), "tail");
    assert_eq!(text(&["nibble"], &[b"a longer piece"]), "a longer piece");
}

#[test]
fn what_is_held_back_comes_again_with_more() {
    assert_eq!(text(&["pairs"], &[b"abc", b"d", b"e", b"f", b"g"]), "badcfeg");
    assert_eq!(text(&["reverse"], &[b"on", b"e\ntw", b"o\n", b"thr", b"ee"]), "eno\nowt\nthree");
    let line = vec![b'x'; 999];
    assert_eq!(text(&["reverse"], &[&line, b"\n"]).len(), 1000);
}

#[test]
fn plugins_follow_each_other_client_side_first() {
    assert_eq!(text(&["trailer", "upper"], &[b"head"]), "HEADTAIL");
    assert_eq!(text(&["upper", "trailer"], &[b"head"]), "HEADtail");
    assert_eq!(text(&["reverse", "pairs", "triple"], &[b"ab\nc", b"d\n"]), "AAABBBDDD\n\n\n\n\n\nCCC");
    let buffers = Buffers::detached(16).unwrap();
    let (_, mut down) = open(&buffers, &["upper", "trailer"]);
    assert_eq!(run_all(&buffers, &mut down, &[b"head"]), (b"HEADTAIL".to_vec(), Turn::Ended));
}

#[test]
fn large_streams_grow_and_shrink_within_their_room() {
    let piece: Vec<u8> = (0..17_000u32).map(|n| b"abcxyz\n"[n as usize % 7]).collect();
    let pieces: Vec<&[u8]> = (0..30).map(|_| &piece[..]).collect();
    let upper: Vec<u8> = piece.iter().map(u8::to_ascii_uppercase).collect();
    let (output, turn) = through(&["copy"], &pieces);
    assert_eq!((output == upper.repeat(30), turn), (true, Turn::Ended));
    let (output, _) = through(&["triple", "pass", "odd"], &pieces);
    assert_eq!(output.len(), 30 * 17_000 * 3 / 2);
    let buffers = Buffers::detached(64).unwrap();
    let (mut up, _down) = open(&buffers, &["triple"]);
    let (mut inbox, mut outbox) = (Chain::default(), Chain::default());
    (0..10).for_each(|_| give(&buffers, &mut inbox, &piece));
    assert_eq!(up.run(&mut inbox, false, &mut outbox, 50_000), Turn::Full);
    assert!((50_000..83_000).contains(&outbox.len()), "{}", outbox.len());
    let before = outbox.len();
    assert_eq!(up.run(&mut inbox, false, &mut outbox, 50_000), Turn::Full);
    assert_eq!(outbox.len(), before);
    buffers.release(inbox);
    buffers.release(outbox);
}

#[test]
fn a_whole_buffer_that_is_passed_is_not_copied() {
    let buffers = Buffers::detached(8).unwrap();
    for config in ["pass", "upper", "odd"] {
        let (mut up, _down) = open(&buffers, &[config]);
        let (mut inbox, mut outbox) = (Chain::default(), Chain::default());
        give(&buffers, &mut inbox, &[b'.'; 17_000]);
        let address = buffers.front(&inbox).as_ptr() as usize;
        assert_eq!(up.run(&mut inbox, false, &mut outbox, 50_000), Turn::Wants);
        let (front, at) = (buffers.front(&outbox).len(), buffers.front(&outbox).as_ptr() as usize);
        match config {
            "odd" => assert_eq!(outbox.len(), 8_500),
            _ => assert_eq!((front, at), (17_000, address)),
        }
        buffers.release(outbox);
    }
}

#[test]
fn detached_directions_are_left_alone() {
    let buffers = Buffers::detached(8).unwrap();
    let process = process("detach:5", OnFault::Close);
    let instances = [instance_of(&process)];
    let (mut up, mut down) = Streams::open(&buffers, &instances, &facts()).unwrap().unwrap();
    let (mut inbox, mut outbox) = (Chain::default(), Chain::default());
    give(&buffers, &mut inbox, b"abc");
    assert_eq!(up.run(&mut inbox, false, &mut outbox, 100), Turn::Wants);
    give(&buffers, &mut inbox, b"defgh");
    give(&buffers, &mut inbox, b"ijk");
    assert_eq!(up.run(&mut inbox, false, &mut outbox, 100), Turn::Detached);
    assert_eq!(drain(&buffers, &mut outbox), b"*****fghijk");
    assert_eq!(process.state.totals().calls, 2);
    assert_eq!(process.own_counters().next().unwrap().1, 8);
    // The other direction goes on; its end is the plugin's end: it was detached from one, and saw the end of the other.
    assert_eq!(run_all(&buffers, &mut down, &[b"xyz"]), (b"***".to_vec(), Turn::Ended));
    assert_eq!(process.own_counters().next().unwrap().1, 1_000_011);
    assert_eq!(process.state.totals().connections, 1);
    assert_eq!(process.state.shards[0].bytes_in.load(Ordering::Relaxed), 8);
}

#[test]
fn closing_delivers_what_came_before_and_stops_both_directions() {
    assert_eq!(through(&["close"], &[b"abc!def"]), (b"abc".to_vec(), Turn::Close));
    assert_eq!(through(&["close", "triple"], &[b"ab!def"]), (b"AAABBB".to_vec(), Turn::Close));
    assert_eq!(through(&["upper", "close", "pairs"], &[b"abc!def"]), (b"BA".to_vec(), Turn::Close));
    let (_, turn) = through(&["reset"], &[b"abc!def"]);
    assert_eq!(turn, Turn::Reset);
    let buffers = Buffers::detached(8).unwrap();
    let (mut up, mut down) = open(&buffers, &["close"]);
    assert_eq!(run_all(&buffers, &mut up, &[b"!"]).1, Turn::Close);
    assert_eq!(run_all(&buffers, &mut down, &[b"secret"]), (Vec::new(), Turn::Close));
}

#[test]
fn endless_output_leaves_others_their_turn() {
    let buffers = Buffers::detached(64).unwrap();
    for (configs, expected) in [
        (&["endless"][..], Turn::Full),
        (&["drip"], Turn::Again),
        (&["drip", "swallow"], Turn::Again),
        (&["endless", "swallow"], Turn::Again),
    ] {
        let (mut up, _down) = open(&buffers, configs);
        let (mut inbox, mut outbox) = (Chain::default(), Chain::default());
        for _ in 0..3 {
            assert_eq!(up.run(&mut inbox, true, &mut outbox, 100_000), expected, "{configs:?}");
            drain(&buffers, &mut outbox);
        }
    }
}

#[test]
fn without_private_buffers_a_line_waits() {
    let buffers = Buffers::detached(3).unwrap();
    let (mut up, _down) = open(&buffers, &["copy"]);
    let (mut inbox, mut outbox) = (Chain::default(), Chain::default());
    give(&buffers, &mut inbox, &[b'x'; 10_000]);
    let held = [buffers.take().unwrap(), buffers.take().unwrap()];
    assert_eq!(up.run(&mut inbox, false, &mut outbox, 50_000), Turn::NoBuffer);
    assert_eq!(outbox.len(), 0);
    drop(held);
    assert_eq!(up.run(&mut inbox, false, &mut outbox, 50_000), Turn::Wants);
    assert_eq!(drain(&buffers, &mut outbox), vec![b'X'; 10_000]);
}

#[test]
fn connections_may_be_refused_or_left_alone() {
    let buffers = Buffers::detached(8).unwrap();
    let open = |config: &str| Streams::open(&buffers, &[instance("pass"), instance(config)], &facts());
    assert_eq!(open("refuse-close").err(), Some(Refusal::Close));
    assert!(matches!(open("refuse-error").err(), Some(Refusal::Fault(Fault { lie: Lie::Error, .. }))));
    assert!(matches!(open("refuse-rubbish").err(), Some(Refusal::Fault(Fault { lie: Lie::Answer(3), .. }))));
    assert!(Streams::open(&buffers, &[instance("attributes")], &facts()).unwrap().is_none());
    assert!(Streams::open(&buffers, &[], &facts()).unwrap().is_none());
    let bypassing = process("refuse-error", OnFault::Bypass);
    assert!(Streams::open(&buffers, &[instance_of(&bypassing)], &facts()).unwrap().is_none());
    assert_eq!(bypassing.state.totals().faults, 1);
}

#[test]
fn scratch_memory_is_zero_for_each_connection_and_used_again() {
    let buffers = Buffers::detached(8).unwrap();
    let instance = instance("pass");
    for _ in 0..100 {
        // connection_open resets where it is not all zero.
        let lines = Streams::open(&buffers, std::slice::from_ref(&instance), &facts()).unwrap();
        assert!(lines.is_some());
    }
    let (counter, value) = instance.process().own_counters().next().unwrap();
    // Each was cut: reason 2.
    assert_eq!((counter.name.as_str(), value), ("bytes", 100 * 3_000_000));
}
