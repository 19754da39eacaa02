//! Opening: files and tables that are refused at the start and at a reload, what process_open and shard_open say, and
//! what connection_open may answer.

use super::*;
use crate::ops::{arus_command, configure, generation, reload, text};

/// Starts an arus that must refuse; gives what it printed.
fn refused(rest: &str) -> String {
    let backend = Backend::start(behaviour::echo);
    let mut arus = Setup::new(body(&backend, rest)).log("format = \"text\"").launch();
    let status = arus.wait_exit(DEADLINE);
    let lines: Vec<String> = arus.log.to_the_end().iter().map(Value::to_string).collect();
    assert_eq!(status.code(), Some(2), "{lines:#?}");
    // `arus check` says the same.
    let checked = arus_command(&["check", "-c", arus.config().to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(2));
    text(&checked.stderr) + &text(&checked.stdout)
}

#[test]
fn a_missing_file_a_missing_symbol_and_a_wrong_version_are_refused_with_their_place() {
    for (library, says) in [
        (Path::new("/nowhere/at/all.so").to_path_buf(), &["No such file"][..]),
        (cc::root().join("Cargo.toml"), &["not a shared library"]),
        (cc::table("NO_SYMBOL"), &["arus_plugin_v1"]),
        (cc::table("NEWER_MAJOR"), &["2.0", "1.0"]),
    ] {
        let said = refused(&(plugin("p", &library, "", "") + &through("web", &["p"])));
        // The table begins on line 5 of the body; where exactly in it is arus's choice.
        assert!(says.iter().all(|word| said.contains(word)), "{library:?}: {said}");
        assert!(said.contains("proxy.toml:") && said.contains("`p`"), "no place: {said}");
    }
}

#[test]
fn what_process_open_says_is_printed_and_cannot_play_tricks() {
    for (config, says) in [
        ("open-error", "xxxxxxxx"),
        ("open-error-control", "red"),
        ("open-error-empty", "p"),
        ("open-rubbish", "42"),
        ("shard-error:1", "shard 1 is not to my liking"),
        ("shard-rubbish", "-7"),
        ("no-such-behaviour", "no behaviour is called no-such-behaviour"),
    ] {
        let backend = Backend::start(behaviour::echo);
        let rest = hostile("p", config, "") + &through("web", &["p"]);
        let mut arus = Setup::new(body(&backend, &rest)).launch();
        assert_eq!(arus.wait_exit(DEADLINE).code(), Some(2), "{config}");
        let lines: Vec<String> = arus.log.to_the_end().iter().map(Value::to_string).collect();
        let line = lines.iter().find(|line| line.contains(says));
        let line = line.unwrap_or_else(|| panic!("{config}: nothing of {says:?} in {lines:#?}"));
        assert!(!line.contains('\u{1b}') && line.len() < 2000, "{line}");
        assert!(!lines.iter().any(|line| line.starts_with("\"proxy.toml:1:1: a lie")), "{lines:#?}");
    }
}

#[test]
fn an_example_without_its_configuration_says_what_it_wants() {
    let said = refused(&(plugin("f", &cc::example("filter"), "uper", "") + &through("web", &["f"])));
    assert!(said.contains("upper, lower, rot13 or block:TEXT"), "{said}");
    let said = refused(&(plugin("f", &cc::example("filter"), "upper", "") + &through("web", &["g"])));
    assert!(said.contains("`g`") && said.contains("`f`"), "no near match: {said}");
}

#[test]
fn a_reload_with_a_bad_plugin_leaves_the_old_one_serving() {
    let echo = Backend::start(behaviour::echo);
    let with = |library: &Path, config: &str| plugin("p", library, config, "") + &through("web", &["p"]);
    let good = with(&cc::example("filter"), "up:upper");
    let arus = arus(&echo, &good);
    let mut live = Stream::connect(&arus.address("web"));
    let talk = |client: &mut Stream| {
        client.write_all(b"hello");
        assert_eq!(client.read_exactly(5), b"HELLO");
    };
    talk(&mut live);
    let sha = status(&arus, "p")["sha256"].clone();
    assert!(sha.as_str().is_some_and(|text| text.len() == 64), "{sha}");
    let before = generation(&arus);
    for (library, config, says) in [
        (Path::new("/nowhere/at/all.so").to_path_buf(), "upper", "No such file"),
        (cc::table("NO_SYMBOL"), "upper", "arus_plugin_v1"),
        (cc::table("NEWER_MAJOR"), "upper", "2.0"),
        (cc::table("WRONG_MAGIC"), "upper", "ARUS_PLUGIN_MAGIC"),
        (cc::example("filter"), "nonsense", "rot13"),
        (cc::hostile(), "shard-error:1", "not to my liking"),
    ] {
        configure(&arus, &body(&echo, &with(&library, config)));
        let said = reload(&arus).unwrap_err();
        assert!(said.contains(says) && said.contains("nothing was changed"), "{said}");
        assert_eq!((generation(&arus), &status(&arus, "p")["sha256"]), (before, &sha));
        talk(&mut live);
        talk(&mut Stream::connect(&arus.address("web")));
    }
    configure(&arus, &body(&echo, &good));
    reload(&arus).unwrap();
    talk(&mut live);
}

#[test]
fn connection_open_may_be_uninterested_or_refuse() {
    let echo = Backend::start(behaviour::echo);
    let names = ["open-ok", "close", "reset", "error", "bypass", "rubbish", "more"];
    let numbers = [0, 4, 5, 6, 7, 99, 2];
    let rest = names.iter().zip(numbers);
    let rest: String = rest
        .map(|(name, number)| hostile(name, &format!("connection:{number}"), "") + &through(name, &[name]))
        .collect();
    let arus = arus(&echo, &rest);
    for (name, number) in names.into_iter().zip(numbers) {
        let is_reset = matches!(number, 2 | 5 | 6 | 99);
        match Stream::try_connect(&arus.address(name)) {
            Ok(mut client) => {
                let _ = client.try_write_all(b"hello");
                let _ = client.0.shutdown(std::net::Shutdown::Write);
                let (answer, end) = read_to_end(&mut client);
                let expected: &[u8] = if matches!(number, 0 | 7) { b"hello" } else { b"" };
                assert_eq!(answer, expected, "{name}");
                assert_eq!(end == End::Reset, is_reset, "{name}: {end:?}");
            }
            // The reset may be there before connect looks.
            Err(error) => assert!(is_reset && error.kind() == std::io::ErrorKind::ConnectionReset, "{name}: {error}"),
        }
        arus.wait_active(0);
        let faults = u64::from(matches!(number, 2 | 6 | 99));
        assert_eq!(count(&arus, name, "faults"), faults, "{name}");
        assert!(number != 7 || count(&arus, name, "calls") == 0, "{name}");
    }
    arus.wait_active(0);
    arus.wait_buffers_whole();
}
