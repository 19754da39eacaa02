//! Plugins that lie, err, hang and shout: one connection pays, as `on_fault` says, and everybody is told.

use super::*;
use crate::ops::reload;

/// Behaviours of the hostile plugin that are faults at the first piece "boom", and what the log says of each.
const LIES: &[(&str, &str)] = &[
    ("pass-too-much@boom", "called pass with 5 bytes where 4 are left"),
    ("pass-twice@boom", "called pass with 18446744073709551615 bytes where 0 are left"),
    ("drop-too-much@boom", "called drop with 18446744073709551615 bytes where 4 are left"),
    ("rewrite-too-much@boom", "called rewrite with 5 bytes where 4 are left"),
    ("commit-too-much@boom", "called commit with 11 bytes where 10 are reserved"),
    ("commit-without-reserve@boom", "called commit with 1 bytes where nothing is reserved"),
    ("commit-twice@boom", "called commit with 5 bytes where nothing is reserved"),
    ("commit-after-pass@boom", "called commit with 10 bytes where nothing is reserved"),
    ("reserve-gigabytes@boom", "called reserve with 4294967296 bytes, more than 16384"),
    ("answer:99@boom", "unknown answer 99"),
    ("answer:7@boom", "unknown answer 7"),
    ("negative@boom", "unknown answer -2147483648"),
    ("leave-a-rest@boom", "answered OK and left 2 bytes"),
    ("never-progress@boom", "MORE_OUTPUT"),
    ("pretend-progress@boom", "MORE_OUTPUT"),
    ("error:1@boom", "answered ERROR"),
    ("write-to-io@boom", "called pass with 1099511627776 bytes"),
    ("foreign-io@boom", "io pointer that is not this call's"),
    ("no-io@boom", "io pointer that is not this call's"),
];

/// A plugin and a listener for each of these behaviours, with these further keys.
fn each(behaviours: &[&str], keys: &str) -> String {
    let one = |config: &&str| {
        let name = name_of(config);
        hostile(&name, config, keys) + &through(&name, &[&name])
    };
    behaviours.iter().map(one).collect()
}

/// The behaviour without its number and trigger; the second `answer` has a name of its own.
fn name_of(config: &str) -> String {
    config.split(['@', ':']).next().unwrap().to_owned() + if config.starts_with("answer:7") { "-7" } else { "" }
}

fn lies() -> Vec<&'static str> {
    LIES.iter().map(|(config, _)| *config).collect()
}

#[test]
fn a_lie_costs_its_connection_and_is_told_with_all_that_names_it() {
    let echo = Backend::start(behaviour::echo);
    let arus = arus(&echo, &each(&lies(), "on_fault = \"close\""));
    for (config, says) in LIES {
        let name = name_of(config);
        let address = arus.address(&name);
        // One lives on, one is the victim.
        let mut bystander = Stream::connect(&address);
        bystander.write_all(b"hello");
        assert_eq!(bystander.read_exactly(5), b"hello");
        let mut victim = Stream::connect(&address);
        let local = victim.local();
        victim.write_all(b"fine ");
        assert_eq!(victim.read_exactly(5), b"fine ");
        victim.write_all(b"boom");
        let (_, _) = read_to_end(&mut victim);

        let line = line_with(&arus, 0, &[says, &name]);
        let session = arus.session_at(&name, local);
        assert!(line.to_string().contains(session["id"].as_str().unwrap()), "no connection in {line}");
        assert!(line.to_string().contains("generation"), "no generation in {line}");
        assert_eq!((&session["state"], &session["blame"]), (&"failed".into(), &"proxy".into()), "{session}");
        assert_eq!(count(&arus, &name, "faults"), 1, "{config}");
        bystander.write_all(b"still there?");
        assert_eq!(bystander.read_exactly(12), b"still there?");
    }
    arus.wait_active(0);
    arus.wait_buffers_whole();
}

#[test]
fn a_bypassed_plugin_sees_no_more_of_that_connection() {
    let echo = Backend::start(behaviour::echo);
    let arus = arus(&echo, &each(&["error:3", "answer:99@boom", "leave-a-rest@boom"], "on_fault = \"bypass\""));
    for (name, config) in [("error", "error:3"), ("answer", "answer:99@boom"), ("leave-a-rest", "leave-a-rest@boom")] {
        for turn in 1..=2 {
            let mut client = Stream::connect(&arus.address(name));
            for piece in ["one ", "two ", "boom", "three", "boom"] {
                client.write_all(piece.as_bytes());
                assert_eq!(client.read_exactly(piece.len()), piece.as_bytes(), "{config}");
            }
            let mut writer = client.try_clone();
            let sender = std::thread::spawn(move || {
                writer.send(9, 0, 4 << 20);
                writer.finish();
            });
            assert_eq!(client.drain(9, 0), (4 << 20, End::Fin));
            sender.join().unwrap();
            // Up or down, whichever had its turn first, and then no more; the next connection begins anew.
            assert_eq!(count(&arus, name, "faults"), turn, "{config}");
        }
        assert!(count(&arus, name, "calls") < 40, "{}", status(&arus, name));
    }
    arus.wait_buffers_whole();
}

#[test]
fn a_disabled_plugin_is_called_no_more_until_a_reload() {
    let echo = Backend::start(behaviour::echo);
    let rest = hostile("once", "error:1@boom", "on_fault = \"disable\"") + &through("web", &["once"]);
    let arus = arus(&echo, &rest);
    let talk = |client: &mut Stream, text: &str| {
        client.write_all(text.as_bytes());
        assert_eq!(String::from_utf8_lossy(&client.read_exactly(text.len())), text);
    };
    let (mut other, mut victim) = (Stream::connect(&arus.address("web")), Stream::connect(&arus.address("web")));
    talk(&mut other, "hello");
    assert_eq!(status(&arus, "once")["disabled"], false);
    talk(&mut victim, "boom");
    line_with(&arus, 0, &["once", "disabled"]);
    let plugin = status(&arus, "once");
    assert_eq!((&plugin["disabled"], &plugin["faults"]), (&true.into(), &1.into()), "{plugin}");

    // Neither the one that lives nor a new one comes to it.
    let calls = count(&arus, "once", "calls");
    talk(&mut other, "boom");
    talk(&mut Stream::connect(&arus.address("web")), "boom");
    assert_eq!((count(&arus, "once", "calls"), count(&arus, "once", "faults")), (calls, 1));

    reload(&arus).unwrap();
    eventually("it works again", || (status(&arus, "once")["disabled"] == false).then_some(()));
    talk(&mut Stream::connect(&arus.address("web")), "hello");
    assert!(count(&arus, "once", "calls") > 0);
}

#[test]
fn a_plugin_that_hangs_is_named_while_it_hangs() {
    let backend = Backend::start(|mut stream: Stream, _| {
        stream.read_exactly(4);
        stream.write_all(b"fine");
    });
    // Long enough for whoever looks every second, on a loaded machine too.
    let rest = hostile("slow", "hang:6000@boom", "max_call = \"50ms\"") + &through("web", &["slow"]);
    let arus = arus(&backend, &rest);
    let mut client = Stream::connect(&arus.address("web"));
    let local = client.local();
    client.write_all(b"boom");
    let line = line_with(&arus, 0, &["hangs", "slow"]);
    // It hangs still: nothing can have come back.
    client.0.set_nonblocking(true).unwrap();
    let nothing = client.read_some(&mut [0; 4]);
    assert!(nothing.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "told too late: {line}");
    client.0.set_nonblocking(false).unwrap();
    assert_eq!(read_to_end(&mut client), (b"fine".to_vec(), End::Fin));
    drop(client);
    let session = arus.session_of(local);
    let text = line.to_string();
    assert!(text.contains(session["id"].as_str().unwrap()) && text.contains("shard"), "{line}");
    // No fault, and the connection has ended well.
    assert_eq!(session["reason"], "done");
    eventually("it is counted", || (count(&arus, "slow", "over_max_call") >= 1).then_some(()));
    assert_eq!(count(&arus, "slow", "faults"), 0);
}

#[test]
fn a_plugin_that_shouts_does_not_fill_the_log() {
    let echo = Backend::start(behaviour::echo);
    let arus = arus(&echo, &(hostile("loud", "log-flood:20000", "") + &through("web", &["loud"])));
    let mut client = Stream::connect(&arus.address("web"));
    for _ in 0..3 {
        client.write_all(b"x");
        assert_eq!(client.read_exactly(1), b"x");
    }
    line_with(&arus, 0, &["flood", "loud"]);
    let lines = arus.log.lines().iter().filter(|line| line.to_string().contains("flood")).count();
    assert!(lines < 2000, "{lines} lines");
    assert!(count(&arus, "loud", "log_dropped") > 100_000 - 2000);
}

#[test]
fn what_a_plugin_logs_is_one_line_without_control_characters() {
    let echo = Backend::start(behaviour::echo);
    let arus = arus(&echo, &(hostile("odd", "bad-arguments", "") + &through("web", &["odd"])));
    let mut client = Stream::connect(&arus.address("web"));
    client.write_all(b"hello");
    assert_eq!(client.read_exactly(5), b"hello");
    assert_eq!(count(&arus, "odd", "faults"), 0);
    assert!(arus.log.lines().iter().all(|line| !line.to_string().contains('\u{1b}')));
}

#[test]
fn a_fault_at_any_call_loses_and_doubles_nothing_when_bypassed() {
    let echo = Backend::start(behaviour::echo);
    let numbers = [1, 2, 5, 17, 60];
    let mut rest = String::new();
    for number in numbers {
        let name = format!("e{number}");
        rest += &(hostile(&name, &format!("error:{number}"), "on_fault = \"bypass\"") + &through(&name, &[&name]));
    }
    let arus = arus(&echo, &rest);
    for number in numbers {
        let (answer, end) = exchange(&arus.address(&format!("e{number}")), pattern(number, 0, 2 << 20));
        assert_eq!((answer.len(), end), (2 << 20, End::Fin));
        assert!(answer == pattern(number, 0, 2 << 20), "ERROR at call {number}");
    }
    arus.wait_buffers_whole();
}
