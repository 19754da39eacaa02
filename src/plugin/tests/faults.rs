//! Plugins that lie, and what is done about it.

use super::*;

const LIES: &[(&str, &str)] = &[
    ("pass-too-much", "called pass with 3 bytes where 2 are left"),
    ("rewrite-too-much", "called rewrite with 18446744073709551615 bytes where 2 are left"),
    ("drop-too-much", "called drop with 18446744073709551615 bytes where 2 are left"),
    ("commit-too-much", "called commit with 5 bytes where 4 are reserved"),
    ("commit-nothing", "called commit with 1 bytes where nothing is reserved"),
    ("commit-twice", "called commit with 1 bytes where nothing is reserved"),
    ("commit-after-pass", "called commit with 4 bytes where nothing is reserved"),
    ("reserve-too-much", "called reserve with 4294967296 bytes, more than 16384"),
    ("left", "answered OK and left 2 bytes of its input"),
    ("rubbish", "gave the unknown answer -559038737"),
    ("bypass-late", "gave the unknown answer 7"),
    ("foreign", "called a host function with an io pointer that is not this call's"),
    ("error:1", "answered ERROR"),
];

fn run(process: &Arc<Process>, bytes: &[u8]) -> (Vec<u8>, Turn) {
    let buffers = Buffers::detached(16).unwrap();
    let (mut up, _down) = Streams::open(&buffers, &[instance_of(process)], &facts()).unwrap().unwrap();
    run_all(&buffers, &mut up, &[bytes])
}

fn fault(turn: Turn) -> Fault {
    match turn {
        Turn::Fault(fault) => fault,
        turn => panic!("{turn:?} is no fault"),
    }
}

#[test]
fn each_lie_is_found_and_said() {
    for (config, expected) in LIES {
        let process = process(config, OnFault::Close);
        let (output, turn) = run(&process, b"ab!");
        let fault = fault(turn);
        assert_eq!(fault.lie.to_string(), *expected, "{config}");
        assert_eq!((&*fault.plugin, fault.generation, fault.function), ("script", Generation(3), Function::DataUp));
        assert_eq!(process.state.totals().faults, 1, "{config}");
        assert!(output.len() <= 2, "{config}: {output:?}");
    }
}

#[test]
fn holding_back_too_much_or_at_the_end_is_a_fault() {
    let held = |len| fault(run(&process("hold-too-much", OnFault::Close), &vec![b'x'; len]).1).lie;
    assert_eq!(held(1002), Lie::HeldBack { left: 1001, max: 1000 });
    // One byte fewer is held; each call passes one, until the end.
    assert_eq!(held(1001), Lie::LeftAtEnd(999));
}

#[test]
fn a_plugin_that_never_progresses_is_stopped() {
    // The first call passes a byte; so does each as long as there is one.
    let process = process("idle", OnFault::Close);
    assert_eq!(fault(run(&process, b"abc").1).lie, Lie::NoProgress(16));
    assert_eq!(process.state.totals().calls, 3 + 16);
}

#[test]
fn bypassing_keeps_every_byte_and_its_order() {
    for (config, _) in LIES.iter().chain(&[("hold-too-much", ""), ("idle", "")]) {
        let process = process(config, OnFault::Bypass);
        let expected = match *config {
            // What was committed before the lie stays.
            "commit-twice" => "ao".to_owned() + "b!cd",
            _ => "ab!cd".to_owned(),
        };
        let buffers = Buffers::detached(16).unwrap();
        let instances = [instance("pass"), instance_of(&process), instance("pass")];
        let (mut up, mut down) = Streams::open(&buffers, &instances, &facts()).unwrap().unwrap();
        let (output, turn) = run_all(&buffers, &mut up, &[b"ab!", b"cd"]);
        assert_eq!((String::from_utf8(output).unwrap(), turn), (expected, Turn::Ended), "{config}");
        assert_eq!(run_all(&buffers, &mut down, &[b"ab!", b"cd"]), (b"ab!cd".to_vec(), Turn::Ended), "{config}");
        let totals = process.state.totals();
        assert_eq!((totals.faults, process.is_disabled()), (1, false), "{config}");
        // connection_close was told of the fault.
        assert!(process.own_counters().next().unwrap().1 / 1_000_000 == 4, "{config}");
    }
}

#[test]
fn disabling_takes_the_plugin_out_everywhere_until_it_is_enabled() {
    let process = process("error", OnFault::Disable);
    let buffers = Buffers::detached(16).unwrap();
    let instances = [instance_of(&process)];
    let open = || Streams::open(&buffers, &instances, &facts()).unwrap();
    let (mut other, _) = open().unwrap();
    assert_eq!(run(&process, b"a!b"), (b"a!b".to_vec(), Turn::Ended));
    assert!(process.is_disabled() && open().is_none());
    let calls = process.state.totals().calls;
    assert_eq!(run_all(&buffers, &mut other, &[b"a!b"]), (b"a!b".to_vec(), Turn::Ended));
    assert_eq!(process.state.totals().calls, calls);
    process.enable();
    assert!(open().is_some());
}

#[test]
fn what_a_plugin_writes_into_io_means_nothing() {
    let (output, turn) = run(&process("scribble", OnFault::Close), b"abc");
    assert_eq!((output, turn), (b"abc".to_vec(), Turn::Ended));
}

#[test]
fn a_slow_call_is_counted_and_seen_while_it_lasts() {
    let mut terms = terms("slow:200", OnFault::Close);
    terms.max_call = Duration::from_millis(20);
    let process = process_with(terms).unwrap();
    let watch = Arc::new(Watch::default());
    let opened = Opened::new(&process, ShardId(0), &watch).unwrap();
    let shard = std::thread::spawn(move || {
        let buffers = Buffers::detached(4).unwrap();
        let (mut up, _down) = Streams::open(&buffers, &[Instance::new(opened)], &facts()).unwrap().unwrap();
        let (mut inbox, mut outbox) = (Chain::default(), Chain::default());
        give(&buffers, &mut inbox, b"x");
        assert_eq!(up.run(&mut inbox, false, &mut outbox, 100), Turn::Wants);
        buffers.release(outbox);
    });
    let mut seen = None;
    while !shard.is_finished() && seen.is_none() {
        seen = watch.look().filter(|call| call.lasts() > Duration::from_millis(20));
        std::thread::yield_now();
    }
    let seen = seen.expect("the call is published");
    assert_eq!((seen.process, seen.session, seen.function), (process.id, SessionId(5), Function::DataUp));
    shard.join().unwrap();
    assert_eq!(watch.look(), None);
    let totals = process.state.totals();
    assert_eq!(totals.over_max_call, 1);
    assert!(totals.call_quantile(0.99).unwrap() >= Duration::from_millis(200));
}
