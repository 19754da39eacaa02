//! The access log: one line per connection that machines and people can read, whatever happens to it.

use std::collections::HashMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Arus, Backend, Setup, Stream, eventually};
use crate::ops::{ask, check_echo, configure, listener, reload, tag_and_echo, tagged, upstream};

/// SPEC section 6.
const FIELDS: [&str; 21] = [
    "time",
    "id",
    "listener",
    "source",
    "sni",
    "user",
    "target",
    "backend",
    "bytes_up",
    "bytes_down",
    "duration_ms",
    "connect_ms",
    "first_byte_ms",
    "state",
    "stage",
    "blame",
    "reason",
    "rule",
    "alpn",
    "tls_version",
    "tls_cipher",
];

fn read_lines(path: &Path, count: usize) -> Vec<String> {
    eventually(&format!("{count} lines"), || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count && text.ends_with('\n')).then_some(lines)
    })
}

/// Reads `key=value key="quoted value"`, strictly; the fields in their order.
fn parse_text(line: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').unwrap_or_else(|| panic!("no key: {rest:?} in {line:?}"));
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => {
                let mut escaped = false;
                let end = quoted.char_indices().find(|(_, c)| {
                    let ends = *c == '"' && !escaped;
                    escaped = *c == '\\' && !escaped;
                    ends
                });
                let end = end.unwrap_or_else(|| panic!("no closing quote: {line:?}")).0;
                (quoted[..end].to_owned(), &quoted[end + 1..])
            }
            None => {
                let end = after.find(' ').unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        fields.push((key.to_owned(), value));
        rest = match after.strip_prefix(' ') {
            Some(rest) => rest,
            None => {
                assert_eq!(after, "", "junk behind a value in {line:?}");
                ""
            }
        };
    }
    fields
}

fn one(backend: &Backend, log: &str) -> Arus {
    Setup::new(upstream("app", &[backend], "") + &listener("web", "127.0.0.1:0", "app", "")).log(log).start()
}

#[test]
fn json_has_every_field_and_the_right_numbers() {
    let a = tagged("a");
    let arus = one(&a, "format = \"json\"\naccess = \"{dir}/access.log\"");
    let (mut stream, _) = ask(&arus.address("web"));
    check_echo(&mut stream, 1);
    let source = stream.local().to_string();
    drop(stream);
    let lines = read_lines(&arus.directory().join("access.log"), 1);
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
    let mut wanted = FIELDS.to_vec();
    wanted.sort_unstable();
    assert_eq!(keys, wanted);
    assert_eq!((&line["bytes_up"], &line["bytes_down"]), (&5000.into(), &5002.into()), "{line}");
    assert_eq!((&line["source"], &line["backend"]), (&source.into(), &a.address().to_string().into()));
    assert_eq!((&line["reason"], &line["state"], &line["blame"]), (&"done".into(), &"closed".into(), &Value::Null));
    assert!(line["connect_ms"].as_f64().unwrap() <= line["duration_ms"].as_f64().unwrap());
    assert_eq!(arus.log.access().len(), 0, "it goes to the file only");
}

#[test]
fn text_has_the_same_fields_in_their_order() {
    let a = tagged("a");
    // With a text log there is nothing to wait for but a connection.
    let path = tempfile::tempdir().unwrap();
    let address = format!("unix:{}/web.sock", path.path().display());
    let body = upstream("app", &[&a], "") + &listener("web", &address, "app", "");
    let arus = Setup::new(body).log("format = \"text\"\naccess = \"{dir}/access.log\"").launch();
    let web = crate::harness::Address::parse(&address);
    let mut stream = eventually("it listens", || Stream::try_connect(&web).ok());
    assert_eq!(crate::ops::read_tag(&mut stream), "a");
    drop(stream);
    let lines = read_lines(&arus.directory().join("access.log"), 1);
    let fields = parse_text(&lines[0]);
    assert_eq!(fields.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), FIELDS);
    let fields: HashMap<String, String> = fields.into_iter().collect();
    assert_eq!((fields["source"].as_str(), fields["sni"].as_str(), fields["reason"].as_str()), ("unix", "-", "done"));
    assert_eq!((fields["bytes_up"].as_str(), fields["bytes_down"].as_str()), ("0", "2"));
}

#[test]
fn hostile_values_forge_neither_lines_nor_fields() {
    let directory = tempfile::tempdir().unwrap();
    let name = "x\" reason=forged \\\n2026 INFO forged state=closed\u{1b}[31m\u{85}\u{2028}.sock";
    let path = directory.path().join(name);
    let _backend = Backend::start_unix(&path, tag_and_echo("a"));
    let quoted = serde_json::to_string(&format!("unix:{}", path.display())).unwrap();
    let body =
        format!("[[upstream]]\nname = \"app\"\nbackends = [{quoted}]\n") + &listener("web", "127.0.0.1:0", "app", "");
    for format in ["text", "json"] {
        let log = format!("format = \"json\"\naccess = \"{}/{format}.log\"", directory.path().display());
        let arus = Setup::new(&body).log(&log).start();
        let web = arus.address("web");
        if format == "text" {
            let text =
                std::fs::read_to_string(arus.config()).unwrap().replace("format = \"json\"", "format = \"text\"");
            std::fs::write(arus.config(), text).unwrap();
            reload(&arus).unwrap();
        }
        drop(ask(&web));
        let file = directory.path().join(format!("{format}.log"));
        let lines = read_lines(&file, 1);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let bad = |c: char| c.is_control() || c == '\u{2028}';
        assert!(!lines[0].contains(bad), "{lines:?}");
        if format == "json" {
            let line: Value = serde_json::from_str(&lines[0]).unwrap();
            assert_eq!(line["backend"], format!("unix:{}", path.display()));
            assert_eq!(line["reason"], "done");
        } else {
            let fields = parse_text(&lines[0]);
            assert_eq!(fields.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), FIELDS, "{lines:?}");
            assert!(fields.iter().any(|(key, value)| key == "reason" && value == "done"));
        }
        // What arus says of it itself is one line, too.
        let printed = arus.log.lines();
        let strays: Vec<_> =
            printed.iter().filter(|line| line.as_str().is_some_and(|line| line.starts_with("2026 INFO"))).collect();
        assert_eq!(strays.len(), 0, "{strays:?}");
    }
}

#[test]
fn a_full_disk_is_counted_and_disturbs_nobody() {
    let a = tagged("a");
    let arus = one(&a, "format = \"json\"\naccess = \"/dev/full\"");
    let web = arus.address("web");
    for seed in 0..50 {
        check_echo(&mut ask(&web).0, seed);
    }
    let warning = arus.log.message("the access log has lost lines");
    assert!(warning["unwritten"].as_u64().unwrap() > 0, "{warning}");
    assert!(warning["error"].as_str().unwrap().contains("No space left"), "{warning}");
    let unwritten = arus.status()["totals"]["access_lines_unwritten"].as_u64().unwrap();
    assert!(unwritten >= warning["unwritten"].as_u64().unwrap(), "{unwritten}");
    assert!(arus.command(&["status"]).0.contains("LOST: "));
    // With room again, it goes on.
    let text = std::fs::read_to_string(arus.config()).unwrap();
    let path = arus.directory().join("access.log");
    std::fs::write(arus.config(), text.replace("/dev/full", path.to_str().unwrap())).unwrap();
    reload(&arus).unwrap();
    eventually("a line is written", || {
        drop(ask(&web));
        (std::fs::metadata(&path).map_or(0, |file| file.len()) > 0).then_some(())
    });
}

#[test]
fn a_log_that_nobody_reads_holds_up_nobody_and_its_losses_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // A reader that never reads; its opening lets arus open.
    let _reader = std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&pipe).unwrap();
    let backend = Backend::start(crate::harness::behaviour::close);
    let mut arus = one(&backend, &format!("format = \"json\"\naccess = \"{}\"", pipe.display()));
    let web = arus.address("web");
    // More lines than the pipe and memory together can take.
    let mut sessions = 0;
    eventually("lines were lost", || {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).for_each(|_| assert_eq!(Stream::connect(&web).discard().0, 0)));
            }
        });
        sessions += 2000;
        (arus.status()["totals"]["access_lines_unwritten"].as_u64().unwrap() > 0).then_some(())
    });
    // The database has them all.
    arus.wait_active(0);
    eventually("all are in the database", || {
        let records = arus.status()["store"]["written"].as_u64().unwrap();
        (records == sessions).then_some(())
    });
    assert_eq!(arus.status()["totals"]["summaries_dropped"], 0);
    arus.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(arus.wait_exit(crate::harness::DEADLINE).code(), Some(0), "nor its end");
}

#[test]
fn switched_off_and_on_by_a_reload() {
    let a = tagged("a");
    let arus = one(&a, "format = \"json\"\naccess = \"off\"");
    let web = arus.address("web");
    (0..5).for_each(|_| drop(ask(&web)));
    arus.wait_active(0);
    let text = std::fs::read_to_string(arus.config()).unwrap();
    std::fs::write(arus.config(), text.replace("\"off\"", "\"stderr\"")).unwrap();
    reload(&arus).unwrap();
    let (stream, _) = ask(&web);
    let source = stream.local();
    drop(stream);
    arus.session_of(source);
    assert_eq!(arus.finished(1).len(), 1, "those before are not told later");
    // A file that cannot be opened is no reason to stop logging.
    let text = std::fs::read_to_string(arus.config()).unwrap();
    std::fs::write(arus.config(), text.replace("\"stderr\"", "\"/nonexistent/access.log\"")).unwrap();
    let _ = reload(&arus);
    let (stream, _) = ask(&web);
    let source = stream.local();
    drop(stream);
    arus.session_of(source);
    configure(&arus, "");
}

/// Opening a pipe waits for its reader, and control would wait with it, deaf to everything, to SIGTERM too.
#[test]
fn a_pipe_without_a_reader_is_refused_and_blocked_ones_do_not_pile_up() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let backend = Backend::start(crate::harness::behaviour::close);
    let mut arus = one(&backend, "format = \"json\"\naccess = \"off\"");
    let change = |from: &str, to: &str| {
        let text = std::fs::read_to_string(arus.config()).unwrap();
        std::fs::write(arus.config(), text.replace(from, to)).unwrap();
        reload(&arus).unwrap();
    };
    change("\"off\"", &format!("{pipe:?}"));
    arus.log.message("nobody reads from this pipe");
    // Now somebody opens it, and reads nothing; each line is larger than what is left once it is full.
    let reader = std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&pipe).unwrap();
    let web = arus.address("web");
    let threads = || std::fs::read_dir(format!("/proc/{}/task", arus.pid())).unwrap().count();
    let before = threads();
    let mut filler = std::fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(&pipe).unwrap();
    while std::io::Write::write(&mut filler, &[b'\n'; 100]).is_ok() {}
    for _ in 0..12 {
        change(&format!("{pipe:?}"), "\"off\"");
        change("\"off\"", &format!("{pipe:?}"));
        assert_eq!(Stream::connect(&web).discard().0, 0);
        arus.wait_active(0);
    }
    arus.log.message("cannot be changed; it goes on where it was");
    assert!(threads() <= before + 8, "{} threads, {before} before", threads());
    drop(reader);
    // Broken pipes end them all.
    eventually("they end", || (threads() <= before + 2).then_some(()));
    arus.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(arus.wait_exit(crate::harness::DEADLINE).code(), Some(0));
}

#[test]
fn a_stderr_that_nobody_reads_holds_up_nobody() {
    let a = tagged("a");
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}/web.sock", directory.path().display());
    let config = directory.path().join("proxy.toml");
    let text = format!("[engine]\nshards = 2\npin = false\nstate_dir = \"{}/state\"\n", directory.path().display())
        + &upstream("app", &[&a], "")
        + &listener("web", &socket, "app", "");
    std::fs::write(&config, text).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_arus"));
    command.arg("--config").arg(&config).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let web = crate::harness::Address::parse(&socket);
    eventually("it listens", || Stream::try_connect(&web).ok());
    // Some 300 bytes a line; the pipe takes 64 KiB.
    for seed in 0..600 {
        check_echo(&mut ask(&web).0, seed);
    }
    let config = config.to_str().unwrap();
    for _ in 0..3 {
        assert!(crate::ops::arus_command(&["reload", "--config", config]).status.success());
    }
    check_echo(&mut ask(&web).0, 1);
    assert!(crate::ops::arus_command(&["drain", "--config", config]).status.success());
    let status = eventually("arus ends", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}
