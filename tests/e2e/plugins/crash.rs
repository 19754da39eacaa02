//! A plugin that crashes takes arus with it; what is left is one line that names it.

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::Signal;

use super::*;

/// Runs an arus into a crash; gives all that it printed and the files that appeared in its state directory.
fn crash(config: &str, signal: Signal, function: &str) {
    let echo = Backend::start(behaviour::echo);
    let rest = hostile("bomb", config, "") + &through("web", &["bomb"]);
    // No core dumps of the tests.
    let mut arus = Setup::new(body(&echo, &rest)).wrap(&["prlimit", "--core=0"]).start();
    let mut client = Stream::connect(&arus.address("web"));
    let _ = client.try_write_all(b"well, ");
    let _ = client.try_write_all(b"boom");
    let _ = client.0.shutdown(std::net::Shutdown::Write);
    let status = arus.wait_exit(DEADLINE);
    assert_eq!(status.signal(), Some(signal as i32), "{config}: {status:?}");

    let lines: Vec<String> = arus.log.to_the_end().iter().map(Value::to_string).collect();
    let names_it = |line: &str| ["bomb", function, "shard", "generation"].iter().all(|word| line.contains(word));
    assert_eq!(lines.iter().filter(|line| names_it(line)).count(), 1, "{config}: {lines:#?}");
    let state = arus.directory().join("state");
    let files: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()).collect();
    let told = files.iter().filter_map(|path| fs::read_to_string(path).ok()).filter(|text| names_it(text)).count();
    assert_eq!(told, 1, "{config}: no crash file among {files:?}");
}

#[test]
fn a_crash_in_data_names_plugin_shard_and_function() {
    crash("crash@boom", Signal::SIGSEGV, "data (up)");
}

#[test]
fn a_crash_in_other_functions_names_them() {
    crash("connection-crash", Signal::SIGSEGV, "connection_open");
    crash("close-crash", Signal::SIGSEGV, "connection_close");
}

#[test]
fn every_deadly_signal_is_told_and_kills() {
    crash("divide@boom", Signal::SIGFPE, "data (up)");
    crash("abort@boom", Signal::SIGABRT, "data (up)");
}

#[test]
fn the_end_of_the_stack_is_a_crash_as_well() {
    crash("recurse@boom", Signal::SIGSEGV, "data (up)");
}

#[test]
fn a_crash_at_the_start_is_told() {
    let echo = Backend::start(behaviour::echo);
    let rest = hostile("bomb", "open-crash", "") + &through("web", &["bomb"]);
    let mut arus = Setup::new(body(&echo, &rest)).wrap(&["prlimit", "--core=0"]).launch();
    assert_eq!(arus.wait_exit(DEADLINE).signal(), Some(Signal::SIGSEGV as i32));
    let lines: Vec<String> = arus.log.to_the_end().iter().map(Value::to_string).collect();
    assert!(lines.iter().any(|line| line.contains("bomb") && line.contains("process_open")), "{lines:#?}");
}
