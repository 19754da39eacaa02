//! What plugins make of bytes, from a real client to a real backend and back.

use super::*;

fn rot13(bytes: &[u8]) -> Vec<u8> {
    let turned = |first: u8, byte: u8| first + (byte - first + 13) % 26;
    let change = |byte: &u8| match *byte {
        byte @ b'a'..=b'z' => turned(b'a', byte),
        byte @ b'A'..=b'Z' => turned(b'A', byte),
        byte => byte,
    };
    bytes.iter().map(change).collect()
}

fn filter(name: &str, config: &str) -> String {
    plugin(name, &cc::example("filter"), config, "")
}

#[test]
fn client_bytes_arrive_transformed_at_a_real_backend() {
    let (backend, heard) = answering(b"And what comes back?");
    let plugins = filter("both", "upper") + &filter("up", "up:upper") + &filter("down", "down:upper");
    let listeners = through("both", &["both"]) + &through("up", &["up"]) + &through("down", &["down"]);
    let arus = arus(&backend, &(plugins + &listeners + &through("none", &[])));
    for (listener, arrives, comes_back) in [
        ("both", "HELLO, BACKEND! [1]", "AND WHAT COMES BACK?"),
        ("up", "HELLO, BACKEND! [1]", "And what comes back?"),
        ("down", "Hello, backend! [1]", "AND WHAT COMES BACK?"),
        ("none", "Hello, backend! [1]", "And what comes back?"),
    ] {
        let answer = exchange(&arus.address(listener), b"Hello, backend! [1]".to_vec());
        assert_eq!(heard.recv_timeout(DEADLINE).unwrap(), (arrives.into(), End::Fin), "{listener}");
        assert_eq!(answer, (comes_back.into(), End::Fin), "{listener}");
    }
    for line in arus.finished(4) {
        assert_eq!((&line["reason"], &line["bytes_up"], &line["bytes_down"]), (&"done".into(), &19.into(), &20.into()));
    }
    assert_eq!(count(&arus, "both", "faults"), 0);
    assert!(count(&arus, "both", "calls") >= 2);
    arus.wait_buffers_whole();
}

#[test]
fn any_cut_gives_what_one_piece_gives() {
    let (backend, heard) = collector();
    let arus = arus(&backend, &(filter("rot", "rot13") + &through("web", &["rot"])));
    let mut random = Random::new(13);
    for (len, largest) in [(3000, 1), (1 << 20, 1 << 20), (300_000, 4000), (3 << 20, 200_000)] {
        let bytes = pattern(len, 0, len as usize);
        let mut client = Stream::connect(&arus.address("web"));
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let cut = (1 + random.below(largest) as usize).min(rest.len());
            client.write_all(&rest[..cut]);
            rest = &rest[cut..];
        }
        client.finish();
        let (arrived, end) = heard.recv_timeout(DEADLINE).unwrap();
        assert_eq!((arrived.len(), end), (bytes.len(), End::Fin), "pieces of up to {largest}");
        assert!(arrived == rot13(&bytes), "pieces of up to {largest}");
    }
    arus.wait_buffers_whole();
}

#[test]
fn output_may_be_larger_or_smaller_than_input_or_nothing() {
    let echo = Backend::start(behaviour::echo);
    let plugins = hostile("grow", "grow", "") + &hostile("shrink", "shrink", "") + &hostile("halve", "halve", "");
    let listeners = through("grow", &["grow"]) + &through("shrink", &["shrink"]) + &through("halve", &["halve"]);
    let arus = arus(&echo, &(plugins + &listeners));

    // A hundredfold up, and once more down.
    let bytes = pattern(1, 0, 2000);
    let (grown, end) = exchange(&arus.address("grow"), bytes.clone());
    assert_eq!((grown.len(), end), (2000 * 100 * 100, End::Fin));
    assert!(grown.chunks(10_000).zip(&bytes).all(|(chunk, byte)| chunk.iter().all(|each| each == byte)));

    assert_eq!(exchange(&arus.address("shrink"), bytes.clone()), (Vec::new(), End::Fin));

    let (halved, end) = exchange(&arus.address("halve"), pattern(2, 0, 400_000));
    let expected: Vec<u8> = pattern(2, 0, 400_000).into_iter().step_by(4).collect();
    assert_eq!((halved.len(), end), (100_000, End::Fin));
    assert!(halved == expected);
    assert_eq!(count(&arus, "grow", "faults") + count(&arus, "shrink", "faults") + count(&arus, "halve", "faults"), 0);
    arus.wait_buffers_whole();
}

#[test]
fn a_reader_that_stalls_behind_a_plugin_that_grows_holds_little() {
    let (backend, heard) = collector();
    // The upstream's plugin makes endless output out of the client's FIN; nobody reads it until the test says so.
    let stalling = Backend::start(behaviour::silent);
    let upstreams = crate::ops::upstream("stalls", &[&stalling], "");
    let flood = listener("flood", "127.0.0.1:0", "stalls", "plugins = [\"flood\"]");
    let rest = upstreams + &hostile("flood", "flood", "") + &hostile("pass", "pass", "") + &flood;
    let arus = arus(&backend, &(rest + &through("web", &["pass"])));
    let stalled: Vec<Stream> = (0..20).map(|_| Stream::connect(&arus.address("flood"))).collect();
    stalled.iter().for_each(Stream::finish);
    eventually("all have begun", || (count(&arus, "flood", "calls") >= 20).then_some(()));
    // The others go on.
    for _ in 0..10 {
        exchange(&arus.address("web"), pattern(3, 0, 1 << 20));
        let (arrived, _) = heard.recv_timeout(DEADLINE).unwrap();
        assert!(arrived == pattern(3, 0, 1 << 20));
    }
    let used = arus.shard_sum("/buffers/total") - arus.shard_sum("/buffers/free");
    // 256 KiB a direction in pieces of 16 KiB.
    assert!(used <= 20 * 2 * 16, "{used} buffers are held");
    assert_eq!(arus.active(), 20);
    stalled.into_iter().for_each(Stream::reset);
    arus.wait_active(0);
    arus.wait_buffers_whole();
}

#[test]
fn a_text_is_found_across_cuts_and_ends_the_connection_before_it() {
    let (backend, heard) = answering(b"not a needle in sight");
    let arus = arus(&backend, &(filter("block", "block:needle") + &through("web", &["block"])));
    let cuts: [&[&str]; 5] = [
        &["hay needle hay"],
        &["hay need", "le hay"],
        &["hay n", "e", "e", "d", "l", "e", " hay"],
        &["hay nee", "need", "le"],
        &["hay ", "needneedle"],
    ];
    for (pieces, before) in cuts.into_iter().zip(["hay ", "hay ", "hay ", "hay nee", "hay need"]) {
        let mut client = Stream::connect(&arus.address("web"));
        for piece in pieces {
            client.write_all(piece.as_bytes());
            client.wait_acknowledged();
        }
        // Neither side has ended it.
        let (answer, _) = read_to_end(&mut client);
        assert_eq!(String::from_utf8_lossy(&answer), "", "{pieces:?}");
        let (arrived, end) = heard.recv_timeout(DEADLINE).unwrap();
        assert_eq!((String::from_utf8_lossy(&arrived).as_ref(), end), (before, End::Fin), "{pieces:?}");
    }
    // What only looked like the beginning of it arrives; what is not held back does so at once.
    let (mut client, begin) = (Stream::connect(&arus.address("web")), "a need, no nee");
    client.write_all(begin.as_bytes());
    client.finish();
    assert_eq!(heard.recv_timeout(DEADLINE).unwrap(), (begin.into(), End::Fin));
    assert_eq!(read_to_end(&mut client), (b"not a ".to_vec(), End::Fin));
    assert_eq!(count(&arus, "block", "faults"), 0);
}

#[test]
fn bytes_that_decide_nothing_are_not_kept_waiting() {
    let echo = Backend::start(behaviour::echo);
    let arus = arus(&echo, &(filter("block", "block:needle") + &through("web", &["block"])));
    let mut client = Stream::connect(&arus.address("web"));
    for word in ["hello", "every", "eleed", "nothing"] {
        client.write_all(word.as_bytes());
        assert_eq!(client.read_exactly(word.len()), word.as_bytes());
    }
    client.write_all(b"a nee");
    assert_eq!(client.read_exactly(2), b"a ");
    client.write_all(b"t");
    assert_eq!(client.read_exactly(4), b"neet");
}

#[test]
fn plugins_in_a_chain_are_asked_client_side_first() {
    let (backend, heard) = answering(b"yz");
    let plugins = hostile("trail", "trailer:4", "") + &hostile("grow", "grow", "");
    let arus = arus(&backend, &(plugins + &through("web", &["trail", "grow"])));
    let (answer, end) = exchange(&arus.address("web"), b"ab".to_vec());
    let hundredfold = |text: &str| text.bytes().flat_map(|byte| [byte; 100]).collect::<Vec<u8>>();
    assert_eq!(heard.recv_timeout(DEADLINE).unwrap(), (hundredfold("ab0123"), End::Fin));
    assert_eq!((answer, end), ([hundredfold("yz"), b"0123".to_vec()].concat(), End::Fin));
}

#[test]
fn a_chain_down_undoes_what_it_did_up() {
    let echo = Backend::start(behaviour::echo);
    let (mut rest, mut names) = (String::new(), Vec::new());
    let chain =
        [("filter", "up:upper"), ("xor", "one key"), ("filter", "rot13"), ("xor", "another"), ("filter", "rot13")];
    for (number, (library, config)) in chain.into_iter().enumerate() {
        names.push(format!("p{number}"));
        rest += &plugin(&names[number], &cc::example(library), config, "");
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let arus = arus(&echo, &(rest + &through("web", &names)));
    // No two neighbours may change places: only the very opposite order undoes it, all but the first.
    let expected = pattern(4, 0, 300_000).to_ascii_uppercase();
    for largest in [300_000, 3000, 40] {
        let mut client = Stream::connect(&arus.address("web"));
        let (mut writer, mut random) = (client.try_clone(), Random::new(largest));
        let sender = std::thread::spawn(move || {
            writer.send_cut(4, 0, 300_000, || 1 + random.below(largest));
            writer.finish();
        });
        let (answer, end) = read_to_end(&mut client);
        sender.join().unwrap();
        assert_eq!((answer.len(), end), (300_000, End::Fin), "pieces of up to {largest}");
        assert!(answer == expected, "pieces of up to {largest}");
    }
}

#[test]
fn after_detaching_the_bulk_passes_untouched() {
    const LEN: usize = 24 << 20;
    let (backend, heard) = collector();
    let rest = hostile("begin", "detach:1000", "")
        + &hostile("never", "detach:0", "")
        + &hostile("later", "detach:5000000", "");
    let arus = arus(&backend, &(rest + &through("web", &["begin"]) + &through("chain", &["never", "begin", "later"])));
    for (listener, upper) in [("web", 1000), ("chain", 5_000_000)] {
        exchange(&arus.address(listener), pattern(6, 0, LEN));
        let (arrived, end) = heard.recv_timeout(DEADLINE).unwrap();
        assert_eq!((arrived.len(), end), (LEN, End::Fin));
        let expected = pattern(6, 0, LEN);
        assert!(arrived[..upper] == expected[..upper].to_ascii_uppercase(), "{listener}");
        assert!(arrived[upper..] == expected[upper..], "{listener}");
    }
    // It was not called for what came afterwards.
    assert!(count(&arus, "begin", "calls") < 2000, "{}", status(&arus, "begin"));
    arus.wait_buffers_whole();
}

#[test]
fn the_end_of_a_direction_may_have_output_and_the_other_goes_on() {
    let (backend, heard) = answering(b"after your FIN");
    let arus = arus(&backend, &(hostile("trail", "trailer:100000", "") + &through("web", &["trail"])));
    let trailer: Vec<u8> = (0..100_000).map(|at| b'0' + (at % 10) as u8).collect();
    for up in [&b""[..], b"five!"] {
        let (answer, end) = exchange(&arus.address("web"), up.to_vec());
        assert_eq!(heard.recv_timeout(DEADLINE).unwrap(), ([up, &trailer].concat(), End::Fin));
        assert_eq!((answer, end), ([&b"after your FIN"[..], &trailer].concat(), End::Fin));
    }
    arus.wait_buffers_whole();
}

#[test]
fn lines_that_are_held_back_arrive_whole_and_reversed() {
    let echo = Backend::start(behaviour::echo);
    let arus = arus(&echo, &(hostile("reverse", "reverse", "") + &through("web", &["reverse"])));
    let mut random = Random::new(7);
    // Both ways: it comes back as it was. Lines up to what may be held back, and one without an end.
    let mut text = String::new();
    for number in 0..400 {
        let len = random.below(if number % 50 == 0 { 4000 } else { 60 }) as usize;
        text += &format!("{number:0len$}\n");
    }
    text += "no end";
    let mut client = Stream::connect(&arus.address("web"));
    let (mut writer, bytes, mut cuts) = (client.try_clone(), text.clone().into_bytes(), Random::new(8));
    let sender = std::thread::spawn(move || {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let cut = (1 + cuts.below(900) as usize).min(rest.len());
            writer.write_all(&rest[..cut]);
            rest = &rest[cut..];
        }
        writer.finish();
    });
    let (answer, end) = read_to_end(&mut client);
    sender.join().unwrap();
    assert_eq!((String::from_utf8_lossy(&answer).len(), end), (text.len(), End::Fin));
    assert!(answer == text.as_bytes());
    // One way: a backend sees it reversed.
    let mut client = Stream::connect(&arus.address("web"));
    client.write_all(b"abc\n");
    assert_eq!(client.read_exactly(4), b"abc\n");
}

#[test]
fn a_plugin_may_close_and_reset() {
    let (backend, heard) = collector();
    let rest = hostile("close", "close@boom", "") + &hostile("reset", "reset@boom", "");
    let arus = arus(&backend, &(rest + &through("close", &["close"]) + &through("reset", &["reset"])));
    for (listener, arrives) in [("close", Some("begin bye\n")), ("reset", None)] {
        let mut client = Stream::connect(&arus.address(listener));
        client.write_all(b"begin ");
        client.wait_acknowledged();
        eventually("the plugin saw it", || (count(&arus, listener, "calls") >= 1).then_some(()));
        client.write_all(b"boom");
        let (answer, end) = read_to_end(&mut client);
        assert!(answer.is_empty());
        let (arrived, backend_end) = heard.recv_timeout(DEADLINE).unwrap();
        match arrives {
            // What it did not consume is dropped, so that there may be a RST behind the output.
            Some(text) => assert_eq!(String::from_utf8_lossy(&arrived), text),
            None => assert_eq!((end, backend_end), (End::Reset, End::Reset)),
        }
    }
    assert_eq!(count(&arus, "close", "faults") + count(&arus, "reset", "faults"), 0);
    arus.wait_active(0);
    arus.wait_buffers_whole();
}

#[test]
fn each_connection_has_scratch_memory_of_its_own_all_zero_at_first() {
    let echo = Backend::start(behaviour::echo);
    let arus = arus(&echo, &(hostile("scratch", "scratch", "") + &through("web", &["scratch"])));
    for round in 0..3 {
        let mut clients: Vec<Stream> = (0..60).map(|_| Stream::connect(&arus.address("web"))).collect();
        for turn in 0..5 {
            for (number, client) in clients.iter_mut().enumerate() {
                client.send(number as u64, turn * 700, 700);
            }
            for (number, client) in clients.iter_mut().enumerate() {
                client.expect(number as u64, turn * 700, 700);
            }
        }
        assert_eq!(count(&arus, "scratch", "faults"), 0, "round {round}");
    }
}

#[test]
fn lines_are_counted_and_appear_in_the_status() {
    let (backend, heard) = answering(b"one\ntwo\n");
    let library = cc::example("linecount");
    let rest = plugin("all", &library, "", "") + &plugin("some", &library, "10", "");
    let arus = arus(&backend, &(rest + &through("all", &["all"]) + &through("some", &["some"])));
    for listener in ["all", "some"] {
        let lines = "line\n".repeat(1000);
        assert_eq!(exchange(&arus.address(listener), lines.clone().into_bytes()), (b"one\ntwo\n".to_vec(), End::Fin));
        assert_eq!(heard.recv_timeout(DEADLINE).unwrap(), (lines.into_bytes(), End::Fin));
    }
    let counters = |name: &str| {
        let counters = status(&arus, name)["counters"].clone();
        (counters["lines_up"].as_u64(), counters["lines_down"].as_u64())
    };
    assert_eq!(counters("all"), (Some(1000), Some(2)));
    assert_eq!(counters("some"), (Some(2), Some(2)));
}
