//! `arus plugin check` and `arus plugin run`: every table that must be refused, and what examples and hostile plugins make
//! of a stream, however it is cut. `SEED=n` repeats a run.
#![allow(clippy::unwrap_used)]

#[path = "plugins/cc.rs"]
mod cc;

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use cc::{EXAMPLES, said};

fn arus() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arus"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn check(library: &Path, config: &str) -> Output {
    let mut command = arus();
    command.args(["plugin", "check"]).arg(library).args(["--config", config]).stdin(Stdio::null());
    command.output().unwrap()
}

/// Runs bytes through a plugin.
fn run(library: &Path, config: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = arus();
    command.args(["plugin", "run"]).arg(library).args(["--config", config]).args(arguments).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A plugin that closes does not read on.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    })
}

/// What comes out of a run that ends well.
fn output(library: &Path, config: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let output = run(library, config, arguments, input);
    assert!(output.status.success(), "{config} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn seed() -> u64 {
    std::env::var("SEED").map_or(20_261_120, |seed| seed.parse().unwrap())
}

/// SplitMix64.
fn below(random: &mut u64, bound: u64) -> u64 {
    *random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*random ^ (*random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (mixed ^ (mixed >> 31)) % bound
}

/// Letters of all kinds, line ends, other bytes, and beginnings of a word, which is nowhere whole unless by chance.
fn text(random: &mut u64, len: usize, word: &str) -> Vec<u8> {
    let mut text = Vec::with_capacity(len + word.len());
    while text.len() < len {
        match below(random, 8) {
            0 => text.push(below(random, 256) as u8),
            1 => text.extend_from_slice(&word.as_bytes()[..below(random, word.len().max(1) as u64) as usize]),
            _ => text.push(b"abcxyzABCXYZ@[`{ \n.\xff"[below(random, 20) as usize]),
        }
    }
    text.truncate(len);
    text
}

/// What an example makes of bytes in a direction; the second: whether it closes the connection.
fn model(example: &str, config: &str, direction: &str, input: &[u8]) -> (Vec<u8>, bool) {
    let rot13 = |byte: &u8| match *byte {
        byte @ b'a'..=b'z' => b'a' + (byte - b'a' + 13) % 26,
        byte @ b'A'..=b'Z' => b'A' + (byte - b'A' + 13) % 26,
        byte => byte,
    };
    if example == "xor" {
        return (input.iter().zip(config.bytes().cycle()).map(|(byte, key)| byte ^ key).collect(), false);
    }
    let (only, act) = match config.split_once(':') {
        Some((only @ ("up" | "down"), act)) => (Some(only), act),
        _ => (None, config),
    };
    if example == "linecount" || only.is_some_and(|only| only != direction) {
        return (input.to_vec(), false);
    }
    match act {
        "upper" => (input.to_ascii_uppercase(), false),
        "lower" => (input.to_ascii_lowercase(), false),
        "rot13" => (input.iter().map(rot13).collect(), false),
        act => {
            let word = act.strip_prefix("block:").unwrap().as_bytes();
            match input.windows(word.len()).position(|window| window == word) {
                Some(at) => (input[..at].to_vec(), true),
                None => (input.to_vec(), false),
            }
        }
    }
}

#[test]
fn examples_do_what_they_say_in_one_piece_and_in_any_other() {
    let mut random = seed();
    let (mut runs, mut closes) = (0, 0);
    for (name, configurations) in EXAMPLES {
        let library = cc::example(name);
        for config in *configurations {
            for direction in ["up", "down"] {
                let word = config.rsplit(':').next().unwrap();
                for len in [0, 1, 30 + below(&mut random, 200) as usize, 100_000] {
                    let input = text(&mut random, len, word);
                    let (expected, is_closed) = model(name, config, direction, &input);
                    closes += usize::from(is_closed);
                    let cut = format!("random:{}", below(&mut random, 1 << 32));
                    let single = if len < 1000 { "1" } else { "16384" };
                    for cut in [&[][..], &["--cut", &cut], &["--cut", single]] {
                        let arguments = [&["--direction", direction][..], cut].concat();
                        let output = run(&library, config, &arguments, &input);
                        let what = || format!("SEED={} {name} {config} {arguments:?} of {len} bytes", seed());
                        assert!(output.status.success() || is_closed, "{}: {}", what(), said(&output));
                        assert_eq!(output.stdout.len(), expected.len(), "{}", what());
                        assert!(output.stdout == expected, "{}", what());
                        runs += 1;
                    }
                }
            }
        }
    }
    assert!(runs > 200 && closes > 3, "{runs} runs, {closes} closes");
}

#[test]
fn xor_twice_is_the_original() {
    let mut random = seed();
    let (library, input) = (cc::example("xor"), text(&mut random, 50_000, "x"));
    let once = output(&library, "a key", &["--cut", "random:1"], &input);
    assert!(once != input);
    assert!(output(&library, "a key", &["--cut", "777"], &once) == input);
}

#[test]
fn output_of_any_length_comes_out_in_order() {
    let library = cc::hostile();
    let input: Vec<u8> = (0..3000_u32).map(|at| b"abc de\nfgh"[at as usize * 7 % 10]).collect();
    let lines = |input: &[u8]| {
        let reversed = input.split_inclusive(|byte| *byte == b'\n').flat_map(|line| {
            let (text, end) = line.split_at(line.len() - usize::from(line.ends_with(b"\n")));
            text.iter().rev().chain(end).copied().collect::<Vec<u8>>()
        });
        reversed.collect::<Vec<u8>>()
    };
    let trailer = |len: usize| (0..len).map(|at| b'0' + (at % 10) as u8).collect::<Vec<u8>>();
    let cases: [(&str, Vec<u8>); 8] = [
        ("pass", input.clone()),
        ("grow", input.iter().flat_map(|byte| [*byte; 100]).collect()),
        ("shrink", Vec::new()),
        ("halve", input.iter().step_by(2).copied().collect()),
        ("trailer:100000", [&input[..], &trailer(100_000)].concat()),
        ("reverse", lines(&input)),
        ("detach:100", [&input[..100].to_ascii_uppercase(), &input[100..]].concat()),
        ("scratch", input.clone()),
    ];
    for (config, expected) in cases {
        for cut in [&[][..], &["--cut", "1"], &["--cut", "random:5"], &["--direction", "down"]] {
            let made = output(&library, config, cut, &input);
            assert_eq!(made.len(), expected.len(), "{config} {cut:?}");
            assert!(made == expected, "{config} {cut:?}");
        }
    }
    // Longer lines than it may hold back, in its own parts of 4096 bytes.
    let long = [b"x".repeat(4096), b"abc\n".to_vec()].concat();
    let expected = [&b"x".repeat(4096)[..], b"cba\n"].concat();
    for cut in ["1", "4095", "4096", "4097", "16384", "random:9"] {
        assert!(output(&library, "reverse", &["--cut", cut], &long) == expected, "{cut}");
    }
}

#[test]
fn a_fault_is_told_and_what_came_before_it_is_kept() {
    let library = cc::hostile();
    for (config, says) in [
        ("pass-too-much@!", "called pass with"),
        ("drop-too-much@!", "called drop with 18446744073709551615"),
        ("rewrite-too-much@!", "called rewrite with"),
        ("commit-too-much@!", "called commit with 11 bytes where 10 are reserved"),
        ("commit-without-reserve@!", "called commit with 1 bytes where nothing is reserved"),
        ("commit-twice@!", "called commit with 5 bytes where nothing is reserved"),
        ("commit-after-pass@!", "called commit with 10 bytes where nothing is reserved"),
        ("reserve-gigabytes@!", "called reserve with 4294967296 bytes, more than 16384"),
        ("answer:99@!", "99"),
        ("answer:7@!", "7"),
        ("negative@!", "-2147483648"),
        ("leave-a-rest@!", "answered OK and left"),
        ("hold-everything@!", "answered NEED_MORE to the end of the stream"),
        ("never-progress@!", "MORE_OUTPUT"),
        ("pretend-progress@!", "MORE_OUTPUT"),
        ("error:2", "answered ERROR"),
        ("write-to-io@!", "called pass with"),
        ("foreign-io@!", "io pointer"),
        ("no-io@!", "io pointer"),
        ("connection:6", "answered ERROR"),
        ("connection:42", "42"),
    ] {
        let output = run(&library, config, &["--cut", "6"], b"before, now! after");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{config}: {told}");
        assert!(told.contains(says), "{config}: {told}");
        let before: &[u8] = if config.starts_with("connection") { b"" } else { b"before" };
        assert!(output.stdout.starts_with(before), "{config}: {:?}", String::from_utf8_lossy(&output.stdout));
    }
    // More than it may hold back.
    let output = run(&library, "hold-everything", &[], &[b'x'; 50_000]);
    assert!(!output.status.success() && said(&output).contains("holdback_max of 4095"), "{}", said(&output));
}

#[test]
fn a_plugin_that_ends_the_connection_ends_the_run() {
    let library = cc::hostile();
    let closed = run(&library, "close@!", &["--cut", "6"], b"before! after, and more");
    assert_eq!(String::from_utf8_lossy(&closed.stdout), "beforebye\n", "{}", said(&closed));
    assert_eq!(closed.status.code(), Some(0));
    let reset = run(&library, "reset@!", &["--cut", "6"], b"before! after, and more");
    assert!(said(&reset).starts_with("before") && !said(&reset).contains("and more"), "{}", said(&reset));
    assert_eq!(reset.status.code(), Some(1));
    assert!(output(&library, "connection:7", &[], b"not interested") == b"not interested");
    assert_eq!(run(&library, "connection:4", &[], b"refused").stdout, b"");
}

#[test]
fn verbose_says_how_it_ended_and_what_was_counted() {
    let (lines, library) = ("line\n".repeat(100), cc::example("linecount"));
    let told = |config: &str, arguments: &[&str]| {
        let output = run(&library, config, &[&["--verbose"][..], arguments].concat(), lines.as_bytes());
        assert_eq!(String::from_utf8_lossy(&output.stdout), lines);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let all = told("", &["--cut", "50"]);
    assert!(all.contains("lines_up 100") && all.contains("lines_down 0") && all.contains("500 bytes in"), "{all}");
    let some = told("50", &["--cut", "20", "--direction", "down"]);
    assert!(some.contains("lines_down 10") && some.contains("detached"), "{some}");
}

#[test]
fn a_crash_names_the_plugin_and_kills() {
    for (config, signal, function) in [
        ("crash@!", 11, "data"),
        ("divide@!", 8, "data"),
        ("abort@!", 6, "data"),
        ("recurse@!", 11, "data"),
        ("open-crash", 11, "process_open"),
        ("connection-crash", 11, "connection_open"),
        ("close-crash", 11, "connection_close"),
    ] {
        let mut command = Command::new("prlimit");
        command.args(["--core=0", env!("CARGO_BIN_EXE_arus"), "plugin", "run"]).arg(cc::hostile());
        command.args(["--config", config]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"boom!").unwrap_or_default();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(signal), "{config}: {}", said(&output));
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("hostile") && told.contains(function), "{config}: {told}");
    }
}

#[test]
fn check_shows_what_a_plugin_is_and_tries_its_configuration() {
    for (name, configurations) in EXAMPLES {
        for config in *configurations {
            let checked = check(&cc::example(name), config);
            let shown = said(&checked);
            assert!(checked.status.success(), "{name} {config}: {shown}");
            assert!(shown.contains(name) && shown.contains("1.0"), "{shown}");
        }
    }
    for (name, config, says) in [
        ("filter", "", "upper, lower, rot13 or block:TEXT"),
        ("filter", "block:", "1 to 1024 bytes"),
        ("xor", "", "1 to 256 bytes"),
        ("linecount", "12 lines", "a number of bytes"),
        ("linecount", "99999999999999999999", "a number of bytes"),
    ] {
        let checked = check(&cc::example(name), config);
        assert!(!checked.status.success() && said(&checked).contains(says), "{name} {config}: {}", said(&checked));
    }
    for (config, says) in [
        ("open-error", "xxxx"),
        ("open-error-empty", ""),
        ("open-rubbish", "42"),
        ("shard-rubbish", "-7"),
        ("shard-error:0", "shard 0"),
    ] {
        let checked = check(&cc::hostile(), config);
        let told = said(&checked);
        assert!(checked.status.code() == Some(2) && told.contains(says), "{config}: {told}");
        assert!(!told.trim().is_empty() && told.len() < 4000, "{config}: {told}");
    }
    let control = check(&cc::hostile(), "open-error-control");
    assert!(!control.status.success() && !said(&control).contains('\u{1b}'), "{:?}", said(&control));
    assert!(!said(&control).lines().any(|line| line.starts_with("proxy.toml:1:1")), "{}", said(&control));
    assert!(check(&cc::hostile(), "open-counters").status.success());
}

#[test]
fn a_table_that_is_wrong_is_refused_and_says_how() {
    for (fault, says) in [
        ("WRONG_MAGIC", "ARUS_PLUGIN_MAGIC"),
        ("NEWER_MAJOR", "2.0"),
        ("NO_MAJOR", "0.0"),
        ("TRUNCATED", "table of 96 bytes"),
        ("NO_SIZE", "table of 0 bytes"),
        ("NO_DATA", "no data function"),
        ("FOREIGN_FUNCTION", "process_close"),
        ("FUNCTION_NOWHERE", "shard_close"),
        ("FUNCTION_IN_DATA", "shard_close"),
        ("NO_NAME", "no name"),
        ("EMPTY_NAME", "name"),
        ("LONG_NAME", "name"),
        ("CONTROL_NAME", "name"),
        ("NAME_NOWHERE", "name"),
        ("NO_VERSION", "no version"),
        ("NO_FLAGS", "flags"),
        ("UNKNOWN_FLAG", "0x80000000"),
        ("BIG_SCRATCH", "connection_size of 65537"),
        ("BIG_HOLDBACK", "holdback_max of 65537"),
        ("NO_TABLE", "table"),
        ("TABLE_NOWHERE", "table"),
        ("TABLE_ASKEW", "table"),
        ("NO_SYMBOL", "arus_plugin_v1"),
    ] {
        let checked = check(&cc::table(fault), "");
        let told = said(&checked);
        assert_eq!(checked.status.code(), Some(2), "{fault}: {told}");
        assert!(told.contains(says) && !told.contains('\u{1b}'), "{fault}: {told}");
    }
    for good in ["PLAIN", "NEWER_MINOR", "LONGEST_NAME", "BIGGEST_SCRATCH"] {
        let checked = check(&cc::table(good), "");
        assert!(checked.status.success(), "{good}: {}", said(&checked));
        assert_eq!(output(&cc::table(good), "", &["--cut", "2"], b"hello"), b"hello", "{good}");
    }
}

#[test]
fn files_that_are_no_plugins_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    std::fs::write(place("text.so"), "hello").unwrap();
    std::fs::write(place("empty.so"), "").unwrap();
    let whole = std::fs::read(cc::example("xor")).unwrap();
    for len in [100, 1000, whole.len() / 2, whole.len() - 100] {
        // Without its end it may still be loadable; but arus must not crash, as the loader would.
        std::fs::write(place("cut.so"), &whole[..len]).unwrap();
        let checked = check(&place("cut.so"), "key");
        assert!(checked.status.code().is_some(), "cut at {len}: {:?}", checked.status);
        assert!(len > 1000 || !checked.status.success(), "cut at {len}: {}", said(&checked));
    }
    std::fs::copy(cc::example("xor"), place("open.so")).unwrap();
    std::fs::set_permissions(place("open.so"), std::fs::Permissions::from_mode(0o777)).unwrap();
    for (name, says) in
        [("text.so", ""), ("empty.so", ""), ("none.so", "No such file"), ("open.so", "write"), (".", "")]
    {
        let checked = check(&place(name), "key");
        assert_eq!(checked.status.code(), Some(2), "{name}: {}", said(&checked));
        assert!(said(&checked).contains(says) && said(&checked).contains(name), "{name}: {}", said(&checked));
    }
}
