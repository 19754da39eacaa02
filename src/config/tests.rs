//! The configuration as a whole: broken files with every error that must come out, the example and the documentation
//! against the parser's own list of keys, hostile texts, reloads.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::diff::{diff, keep_fixed};
use super::plan::{AccessLog, Address, Balance, BusyPoll, OnDown, Plan};
use super::raw::SHAPES;
use super::{EXAMPLE, Environment, Errors, Loaded, Source, load, parse};

const DOCUMENTATION: &str = include_str!("../../docs/CONFIG.md");

fn environment() -> Environment {
    Environment { is_root: true, home: None, xdg_state_home: None, directory: "/etc/arus".into() }
}

fn read(text: &str) -> Result<Loaded, Errors> {
    parse(text, "f", Path::new("/etc/arus"), &environment())
}

fn plan(text: &str) -> Plan {
    read(text).unwrap_or_else(|errors| panic!("{errors}\n{text}")).plan
}

/// Every line of findings must begin with its line of `expected` and nothing else may be found. A `*` stands for any
/// text.
#[track_caller]
fn expect(text: &str, expected: &[&str]) {
    let errors = read(text).expect_err(text);
    let found: Vec<String> = errors.findings.iter().map(ToString::to_string).collect();
    let matches = |found: &str, expected: &str| {
        let (head, tail) = expected.split_once('*').unwrap_or((expected, ""));
        found.strip_prefix("f:").is_some_and(|found| found.starts_with(head) && found.ends_with(tail))
    };
    let all =
        found.len() == expected.len() && found.iter().zip(expected).all(|(found, expected)| matches(found, expected));
    assert!(all, "found:\n{}\nexpected:\n{}", found.join("\n"), expected.join("\n"));
}

const MINIMAL: &str = "[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\nupstream = \"u\"\n\
                       [[upstream]]\nname = \"u\"\nbackends = [\"127.0.0.1:2\"]\n";

#[test]
fn syntax_errors_come_alone() {
    expect("[engine\npin = maybe\n", &["1:8: unclosed table, expected `]`"]);
    expect("a = 1\na = 2\n", &["2:1: duplicate key"]);
    expect("[engine]\n[engine]\n", &["2:2: duplicate key"]);
    expect("a = \"", &["1:6: *"]);
    expect("x = 1\n= 2\n\"\u{e4}\" = = 3", &["2:1: *", "3:7: *"]);
}

#[test]
fn unknown_keys_name_the_nearest() {
    expect(
        "[engin]\nshards = 1\n\
         [engine]\nshard = 1\nzzzzzzzz = 2\n\
         [[listener]]\nname = \"a\"\nlisen = \"127.0.0.1:1\"\nupstream = \"u\"\n\
         [listener.timeouts]\nidel = \"1s\"\n\
         [[upstream]]\nname = \"u\"\nbackends = [{ adress = \"127.0.0.1:2\" }]\nhealth = { intervall = \"1s\", rise = 0 }\n",
        &[
            "1:2: unknown table `engin` (did you mean `engine`?)",
            "4:1: unknown key `shard` in `[engine]` (did you mean `shards`?)",
            "5:1: unknown key `zzzzzzzz` in `[engine]` (known: shards, pin, *state_dir)",
            "6:1: `listen` is missing",
            "8:1: unknown key `lisen` in `[[listener]]` (did you mean `listen`?)",
            "11:1: unknown key `idel` in `[listener.timeouts]` (did you mean `idle`?)",
            "14:13: `address` is missing",
            "14:15: unknown key `adress` in `[[upstream.backends]]` (did you mean `address`?)",
            "15:12: unknown key `intervall` in `[upstream.health]` (did you mean `interval`?)",
            "15:37: `rise` cannot be 0 (1 to 1000)",
        ],
    );
}

#[test]
fn keys_of_later_versions_are_named_as_such() {
    expect(
        "[acl]\ndefault = \"block\"\n[[acl.rule]]\n[[plugin]]\nname = \"x\"\n\
         [admin]\ndashboard = true\n\
         [[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\nservice = \"socks5\"\nupstream = \"u\"\nplugins = []\n\
         [listener.tls]\n[[listener.route]]\nsni = [\"a\"]\nupstream = \"u\"\n\
         [[upstream]]\nname = \"u\"\nbackends = [\"127.0.0.1:2\"]\nsend_proxy = \"v2\"\n[demo]\nhello = \"127.0.0.1:3\"\naccept_proxy = true\n",
        &[
            "1:2: `[acl]` is not in this version of arus (remove it)",
            "4:3: `[[plugin]]` is not in this version of arus (remove it)",
            "7:1: `dashboard` in `[admin]` is not in this version of arus (remove it)",
            "11:11: `service = \"socks5\"` is not in this version of arus",
            "13:1: `plugins` in `[[listener]]` is not in this version of arus (remove it)",
            "14:11: `tls` in `[[listener]]` is not in this version of arus (remove it)",
            "16:1: `sni` in `[[listener.route]]` is not in this version of arus (remove it)",
            "21:1: `send_proxy` in `[[upstream]]` is not in this version of arus (remove it)",
            "24:1: `accept_proxy` in `[demo]` is not in this version of arus (remove it)",
        ],
    );
}

#[test]
fn wrong_types_and_values() {
    expect(
        "[engine]\nshards = true\npin = \"yes\"\nbuffer_size = 16384\nbuffers = 100\nmax_buffers = 1.5\nbusy_poll = \"often\"\n\
         max_connections = -1\ndrain_timeout = 30\nuser = \"a:b\"\nstate_dir = \"\"\n\
         [timeouts]\nidle = \"0\"\nconnect = \"5 parsecs\"\n\
         [log]\nlevel = \"verbose\"\nformat = 1\naccess = \"\"\n\
         [admin]\nlisten = \"localhost:9090\"\n",
        &[
            "2:10: `shards` must be a whole number or a string, not true or false",
            "3:7: `pin` must be true or false, not a string",
            "4:15: `buffer_size` must be a size such as \"16KiB\", not a whole number",
            "5:11: `buffers` must be a power of two, not 100 (such as 64)",
            "6:15: `max_buffers` must be a whole number, not a number with a fraction",
            "7:13: `often` is not a duration (\"0\", \"50us\" or \"always\")",
            "8:19: `max_connections` cannot be -1 (1 to 10000000)",
            "9:17: `drain_timeout` must be a duration such as \"5s\", not a whole number",
            "10:8: `a:b` is not a user (such as \"nobody\")",
            "11:13: the path is empty",
            "13:8: `idle` cannot be \"0\" (\"1ms\" to \"365d\")",
            "14:11: `5 parsecs` is not a duration (such as \"500ms\", \"5s\" or \"10m\")",
            "16:9: `level` cannot be `verbose` (one of \"error\", \"warn\", \"info\", \"debug\", \"trace\")",
            "17:10: `format` must be a string, not a whole number",
            "18:10: the path is empty",
            "20:10: `localhost` is not an IP address, and a listening address needs one (such as \"127.0.0.1:9090\", or \"off\")",
        ],
    );
    expect(
        "[engine]\nshards = \"many\"\nbuffer_size = \"2MiB\"\nbuffers = 1024\nmax_buffers = 512\nbusy_poll = \"1s\"\n\
         max_connections = 99999999999999999999\n[listener]\n",
        &[
            "2:10: `shards` cannot be `many` (one of \"auto\")",
            "3:15: `buffer_size` cannot be 2097152 bytes (1024 to 1048576 bytes)",
            "5:15: `max_buffers` (512) is less than `buffers` (1024)",
            "6:13: `busy_poll` cannot be \"1s\" (\"0\" to \"100ms\")",
            "7:19: `max_connections` does not fit into 64 bits",
            "8:1: `listener` is a list of tables (write its header with two brackets: `[[listener]]`)",
        ],
    );
}

#[test]
fn listeners() {
    expect(
        "[[listener]]\nname = \"a\"\nlisten = [\"127.0.0.1:1\", \"[::1]:1\", \"unix:x\"]\nupstream = \"hallo\"\nallow_sources = [\"10.0.0.0/8\", \"10.0.0/8\"]\n\
         [[listener]]\nname = \"a\"\nlisten = [\"127.0.0.1:1-3\", \"localhost:80\", \"::1:80\", \"0.0.0.0:9-8\", \"unix:x\"]\naccept_rate = 0\nbacklog = \"x\"\n\
         max_connections_per_source = 65535\n\
         [[listener.route]]\nsource = []\n[[listener.route]]\nsource = \"10.0.0.0/33\"\nupstream = \"x\"\n\
         [[listener]]\nlisten = []\nservice = \"http\"\n\
         [[listener]]\nname = \"a b\"\nlisten = \"0.0.0.0:1-5000\"\nupstream = \"hello\"\n\
         [[upstream]]\nname = \"hello\"\nbackends = [\"127.0.0.1:2\"]\n[demo]\nhello = \"127.0.0.1:1\"\n",
        &[
            // The demo backend is bound first.
            "3:11: 127.0.0.1:1 is bound by `[demo]` on line 28 already",
            "4:12: there is no upstream `hallo` (did you mean `hello`?)",
            "5:32: `10.0.0/8` is not a network (*)",
            "7:8: the name `a` is used on line 2 already",
            "8:11: 127.0.0.1:1 is bound by `[demo]` on line 28 already",
            "8:28: `localhost` is not an IP address, and a listening address needs one (write `127.0.0.1:80` or `[::1]:80`)",
            "8:44: `::1:80` has no port (an IPv6 address with a port is written `[::1:80]:80`)",
            "8:54: `9-8` is not a range of ports (such as `7000-7009`)",
            "8:69: unix:/etc/arus/x is bound by listener `a` on line 3 already",
            "9:15: `accept_rate` cannot be 0 (1 to 1048575)",
            "10:11: `backlog` must be a whole number, not a string",
            "11:30: `max_connections_per_source` cannot be 65535 (1 to 65534)",
            "12:1: `upstream` is missing",
            "13:10: `source` is empty, so the route would match nobody (leave it away to match everybody)",
            "15:10: `10.0.0.0/33` is not a network (*)",
            "16:12: there is no upstream `x` (known: hello)",
            "17:1: `name` is missing",
            "17:1: a listener has neither an `upstream` nor a route (connections would have nowhere to go)",
            "18:10: `listen` is empty (such as \"127.0.0.1:8080\")",
            "19:11: `service` cannot be `http` (one of \"tcp\")",
            "21:8: `a b` cannot be a name (*)",
            "22:10: more than 4096 addresses in one listener",
        ],
    );
    expect("", &["1:1: there is no listener (add a `[[listener]]`; *)"]);
    expect(
        "listener = [1, \"x\"]\nupstream = 3\n",
        &[
            "1:13: `listener` must be a table, not a whole number",
            "1:16: `listener` must be a table, not a string",
            "2:12: `upstream` must be a list of tables, not a whole number",
        ],
    );
}

#[test]
fn upstreams() {
    expect(
        "[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\nupstream = \"u\"\n\
         [[upstream]]\nname = \"u\"\nbackends = [\"127.0.0.1:2\", \"127.1:3\", { address = \"db:5\", weight = 300, backup = 1 }, 7, \"DB.:5\"]\n\
         balance = \"fastest\"\nretries = 101\nsource_address = \"::1\"\n\
         warm = { idle = \"0\" }\nqueue = { timeout = \"1s\" }\non_down = \"cut\"\n\
         health = { interval = \"1ms\", expect = \"\" }\noutlier = { failures = 0 }\nresolve = { ttl_min = \"2s\", ttl_max = \"1s\" }\n\
         [[upstream]]\nname = \"u\"\nbackends = []\nsource_address = \"here\"\n\
         [[upstream]]\nbackends = \"db\"\n[demo]\n",
        &[
            "7:28: `127.1` is not a host name (an IPv4 address is written with four decimal numbers)",
            "7:68: `weight` cannot be 300 (1 to 256)",
            "7:82: `backup` must be true or false, not a whole number",
            "7:87: `backends` must be an address or a table, not a whole number",
            "7:90: the backend db:5 is in this upstream already (to send it more, give it a `weight`)",
            "8:11: `balance` cannot be `fastest` (one of *)",
            "9:11: `retries` cannot be 101 (0 to 100)",
            "10:18: from ::1 the backend 127.0.0.1:2 cannot be reached",
            "11:8: `connections` is missing",
            "11:17: `idle` cannot be \"0\" (*)",
            "12:9: `queue` without `max_connections_per_backend` (without it no backend is ever full)",
            "12:9: `size` is missing",
            "13:11: `on_down` cannot be `cut` (one of \"keep\", \"close\")",
            "14:23: `interval` cannot be \"1ms\" (\"10ms\" to *)",
            "14:39: `expect` has 0 bytes (1 to 4096)",
            "15:24: `failures` cannot be 0 (1 to 1000)",
            "16:39: `ttl_max` is less than `ttl_min`",
            "18:8: the name `u` is used on line 6 already",
            "19:12: `backends` is empty (*)",
            "20:18: `here` is not an IP address (without a port, such as \"10.0.0.5\")",
            "21:1: `name` is missing",
            "22:12: `db` has no port (such as `db:80`)",
            "23:1: `hello` is missing",
        ],
    );
}

#[test]
fn warnings_do_not_refuse() {
    let text = "[admin]\nlisten = \"127.0.0.1:9090\"\n\
                [[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\nallow_sources = [\"10.1.2.3/8\"]\n\
                [[listener.route]]\nupstream = \"u\"\n[[listener.route]]\nsource = [\"10.0.0.0/8\"]\nupstream = \"u\"\n\
                [[upstream]]\nname = \"u\"\nbackends = [\"127.0.0.1:2\"]\non_down = \"close\"\n\
                [[upstream]]\nname = \"idle\"\nbackends = [\"127.0.0.1:2\"]\n";
    let loaded = read(text).unwrap();
    let shown: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "f:2:10: warning: the admin HTTP listener is not in this version of arus (use the control socket)",
            "f:6:18: warning: `10.1.2.3/8` has bits behind its prefix (it counts as `10.0.0.0/8`)",
            "f:9:1: warning: the route on line 7 matches everything before this one",
            "f:15:11: warning: `on_down = \"close\"` does nothing without `health` (only checks find a backend down)",
            "f:16:1: warning: nothing uses the upstream `idle`",
        ]
    );
    assert_eq!(loaded.plan.listeners[0].allow_sources, ["10.0.0.0/8".parse().unwrap()]);
}

#[test]
fn defaults() {
    let Plan { engine, log, admin, listeners, upstreams, demo } = plan(MINIMAL);
    assert_eq!((engine.shards, engine.pin, engine.buffer_size), (None, true, 16_384));
    assert_eq!((engine.buffers, engine.max_buffers, engine.busy_poll), (256, 8192, BusyPoll::Off));
    assert_eq!((engine.max_connections, engine.drain_timeout), (100_000, Duration::from_secs(30)));
    assert_eq!(admin.socket, Path::new("/var/lib/arus/control.sock"));
    assert_eq!((admin.listen, log.access, demo), (None, AccessLog::Stderr, None));
    assert_eq!((listeners[0].backlog, listeners[0].fast_open, listeners[0].line), (4096, false, 1));
    assert_eq!(listeners[0].timeouts.idle, Duration::from_secs(600));
    let upstream = &upstreams[0];
    assert_eq!((upstream.balance, upstream.retries, upstream.on_down), (Balance::RoundRobin, 2, OnDown::Keep));
    assert_eq!((upstream.resolve.ttl_min, upstream.resolve.ttl_max), (Duration::from_secs(1), Duration::from_secs(60)));
}

#[test]
fn values_arrive_in_the_plan() {
    let everything = plan(&uncommented());
    assert_eq!(everything.engine.shards, None);
    assert_eq!(everything.engine.user.as_deref(), Some("nobody"));
    let web = &everything.listeners[0];
    assert_eq!((web.max_connections, web.max_connections_per_source), (Some(10_000), Some(256)));
    assert_eq!((web.accept_rate, web.allow_sources.len(), web.routes.len()), (Some(5000), 2, 1));
    assert_eq!((web.timeouts.connect, web.timeouts.idle), (Duration::from_secs(2), Duration::from_secs(3600)));
    let db = &everything.upstreams[1];
    assert_eq!(web.routes[0].upstream, db.index);
    assert_eq!(db.backends.len(), 3);
    assert_eq!(db.backends[1].address, Address::Host { host: "db2.internal".into(), port: 5432 });
    assert_eq!((db.backends[1].weight, db.backends[1].backup, db.backends[2].backup), (2, false, true));
    assert_eq!(db.balance, Balance::LeastConnections);
    assert_eq!(db.health.as_ref().unwrap().send.as_deref(), Some(&b"PING\r\n"[..]));
    assert_eq!(db.queue.unwrap().size, 100);
    assert_eq!(db.warm.unwrap().connections, 4);
    let other = plan(&MINIMAL.replace(
        "[[upstream]]",
        "fast_open = true\n[[upstream]]\non_down = \"close\"\nhealth = {}\nbalance = \"source_hash\"",
    ));
    assert!(other.listeners[0].fast_open);
    assert_eq!((other.upstreams[0].on_down, other.upstreams[0].balance), (OnDown::Close, Balance::SourceHash));
    let engine = "[engine]\nshards = 4\npin = false\nbuffers = 16384\nbusy_poll = \"50us\"\ndrain_timeout = \"0\"\n[log]\naccess = \"a.log\"\n";
    let Plan { engine, log, .. } = plan(&format!("{engine}{MINIMAL}"));
    assert_eq!((engine.shards.unwrap().get(), engine.pin), (4, false));
    assert_eq!((engine.buffers, engine.max_buffers), (16_384, 16_384), "the bound that is not given follows");
    assert_eq!((engine.busy_poll, engine.drain_timeout), (BusyPoll::For(Duration::from_micros(50)), Duration::ZERO));
    assert_eq!(log.access, AccessLog::File("/etc/arus/a.log".into()));
}

#[test]
fn state_lives_where_the_user_may_write() {
    let state_dir = |home: Option<&str>, xdg: Option<&str>| {
        let environment = Environment {
            is_root: false,
            home: home.map(Into::into),
            xdg_state_home: xdg.map(Into::into),
            ..environment()
        };
        let text = format!("[admin]\nsocket = \"s\"\n{MINIMAL}");
        let plan = parse(&text, "f", Path::new("/elsewhere"), &environment).unwrap().plan;
        assert_eq!(plan.admin.socket, plan.engine.state_dir.join("s"));
        plan.engine.state_dir
    };
    assert_eq!(state_dir(Some("/home/a"), Some("/x")), Path::new("/x/arus"));
    assert_eq!(state_dir(Some("/home/a"), None), Path::new("/home/a/.local/state/arus"));
    assert_eq!(state_dir(None, None), PathBuf::from("/etc/arus/./arus"));
}

/// `proxy.toml` with every setting that is left out put in.
fn uncommented() -> String {
    let setting =
        |line: &'static str| line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| !c.is_whitespace()));
    EXAMPLE.lines().map(|line| setting(line).unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_works_and_shows_every_key() {
    assert_eq!(read(EXAMPLE).unwrap().warnings, []);
    let all = uncommented();
    assert_eq!(read(&all).unwrap_or_else(|errors| panic!("{errors}")).warnings, []);
    let tree: toml::Table = toml::from_str(&all).unwrap();
    let mut shown = BTreeSet::new();
    collect("", &toml::Value::Table(tree), &mut shown);
    let mut known = BTreeSet::new();
    for shape in SHAPES {
        let table = shape.title.trim_matches(['[', ']']);
        known.extend(shape.keys.iter().map(|key| format!("{table}.{key}").trim_start_matches('.').to_owned()));
    }
    assert!(known.len() > 60, "the list of keys has shrunk");
    let missing: Vec<_> = known.difference(&shown).collect();
    assert!(missing.is_empty(), "not in proxy.toml: {missing:?}");
}

/// The paths of all keys.
fn collect(path: &str, value: &toml::Value, keys: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                collect(&path, value, keys);
                keys.insert(path);
            }
        }
        toml::Value::Array(items) => items.iter().for_each(|item| collect(path, item, keys)),
        _ => {}
    }
}

#[test]
fn the_documentation_has_every_key_and_no_other() {
    for shape in SHAPES.iter().filter(|shape| !shape.title.is_empty()) {
        let heading = format!("## `{}`\n", shape.title);
        let (_, section) = DOCUMENTATION.split_once(&heading).unwrap_or_else(|| panic!("no section {heading}"));
        let section = section.split("\n## ").next().unwrap();
        let documented: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(key, _)| key).collect();
        assert_eq!(documented, shape.keys, "the keys of {}", shape.title);
    }
}

#[test]
fn hostile_texts_never_panic() {
    let text = uncommented();
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        let _ = read(&text[..end]);
    }
    // xorshift: the same changes every time.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 33).unwrap() % below
    };
    const LETTERS: &[u8] = b"[]{}=\"'\\\n\r\t #.,:-/0189_azAZ\0\x7f";
    let (mut refused, mut loaded) = (0, 0);
    for _ in 0..3000 {
        let mut bytes = text.clone().into_bytes();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            bytes[at] = LETTERS[random(LETTERS.len())];
        }
        let Ok(text) = String::from_utf8(bytes) else { continue };
        match read(&text) {
            Ok(_) => loaded += 1,
            Err(errors) => {
                refused += 1;
                assert!(!errors.findings.is_empty());
                assert!(errors.findings.iter().all(|finding| finding.line >= 1 && finding.column >= 1));
            }
        }
    }
    assert!(refused > 100 && loaded > 100, "{refused} refused, {loaded} loaded");
}

#[test]
fn findings_are_bounded() {
    let many: String = (0..5000).map(|i| format!("key{i} = 1\n")).collect();
    assert_eq!(read(&many).unwrap_err().findings.len(), crate::limits::FINDINGS);
    let deep = format!("a = {}", "[".repeat(100_000));
    assert!(read(&deep).is_err());
}

#[test]
fn files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.toml");
    let source = Source::File(path.clone());
    let shown = |source| load(source, &environment()).unwrap_err().to_string();
    assert!(shown(&source).starts_with(&format!("{}:1:1: cannot be read: No such file", path.display())));
    std::fs::write(&path, b"# \xc3\xa4\n# \xff").unwrap();
    assert_eq!(shown(&source), format!("{}:2:3: the file is not UTF-8 from here on", path.display()));
    std::fs::File::create(&path).unwrap().set_len(crate::limits::CONFIG_BYTES + 1).unwrap();
    assert_eq!(shown(&source), format!("{}:1:1: is larger than 16.0 MiB", path.display()));
    std::fs::write(&path, MINIMAL.replace("127.0.0.1:2", "unix:b.sock")).unwrap();
    let loaded = load(&source, &environment()).unwrap();
    let backend = loaded.plan.upstreams[0].backends[0].address.to_string();
    assert_eq!(backend, format!("unix:{}", directory.path().join("b.sock").display()));
    assert_eq!(load(&source, &environment()).unwrap().digest, loaded.digest);
    assert!(shown(&Source::File(directory.path().into())).contains("cannot be read"));
    assert!(load(&Source::Example, &environment()).is_ok());
}

#[test]
fn reloads_in_words() {
    let old = plan(EXAMPLE);
    assert_eq!(diff(&old, &plan(&format!("# a comment moves every line\n{EXAMPLE}"))), [""; 0]);
    let mut new = plan(&uncommented());
    assert_eq!(keep_fixed(&old, &mut new), ["engine.user"]);
    assert_eq!(
        diff(&old, &new),
        [
            "upstream db: added",
            "listener web: route from 10.0.0.0/8 to db added",
            "listener web: max_connections none -> 10000",
            "listener web: max_connections_per_source none -> 256",
            "listener web: accept_rate none -> 5000",
            "listener web: allow_sources 127.0.0.0/8 added",
            "listener web: allow_sources 10.0.0.0/8 added",
            "listener web: timeouts.connect 5s -> 2s",
            "listener web: timeouts.idle 10m -> 1h",
        ]
    );
    let back = diff(&new, &old);
    assert_eq!(back[..2], ["upstream db: removed", "listener web: route from 10.0.0.0/8 to db removed"]);

    let changed = |from: &str, to: &str| {
        let old = plan(&uncommented());
        let mut new = plan(&uncommented().replace(from, to));
        (keep_fixed(&old, &mut new), diff(&old, &new).join("; "))
    };
    assert_eq!(
        changed("weight = 2", "weight = 3"),
        (vec![], "upstream db: backend db2.internal:5432 weight 2 -> weight 3".into())
    );
    assert_eq!(changed("\"10.0.0.1:5432\", ", ""), (vec![], "upstream db: backend 10.0.0.1:5432 removed".into()));
    assert_eq!(
        changed("[\"127.0.0.0/8\", \"10.0.0.0/8\"]", "[\"10.0.0.0/8\", \"127.0.0.0/8\"]").1,
        "listener web: allow_sources 10.0.0.0/8 moved"
    );
    assert_eq!(changed("shards = \"auto\"", "shards = 3"), (vec!["engine.shards"], String::new()));
    assert_eq!(
        changed("state_dir = \"/var/lib/arus\"", "state_dir = \"/tmp\""),
        (vec!["engine.state_dir", "admin.socket"], String::new())
    );
    assert_eq!(changed("busy_poll = \"0\"", "busy_poll = \"always\"").1, "engine: busy_poll 0 -> always");
    assert_eq!(changed("name = \"web\"", "name = \"www\"").1, "listener web: removed; listener www: added");
}

#[test]
fn routes() {
    let text = format!(
        "{MINIMAL}[[upstream]]\nname = \"v\"\nbackends = [\"127.0.0.1:3\"]\n[[listener]]\nname = \"b\"\nlisten = \"127.0.0.1:4\"\n\
         allow_sources = [\"10.0.0.0/8\", \"2001:db8::/32\"]\n\
         [[listener.route]]\nsource = [\"10.1.0.0/16\", \"192.0.2.0/24\"]\nupstream = \"u\"\n\
         [[listener.route]]\nsource = [\"10.0.0.0/8\"]\nupstream = \"v\"\n"
    );
    let plan = plan(&text);
    let (open, listener) = (&plan.listeners[0], &plan.listeners[1]);
    let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    let upstream = |source| listener.route(source).upstream().map(|index| &*plan.upstreams[usize::from(index.0)].name);
    assert_eq!(upstream(ip("10.1.2.3")), Some("u"), "the first match wins");
    assert_eq!(upstream(ip("10.2.0.0")), Some("v"));
    assert_eq!(upstream(ip("192.0.2.255")), Some("u"));
    assert_eq!(upstream(ip("192.0.3.0")), None);
    assert_eq!(upstream(None), None);
    assert!(open.route(None).upstream().is_some() && open.admits(None) && open.admits(ip("::1")));
    assert!(listener.admits(ip("10.255.255.255")) && listener.admits(ip("2001:db8::1")));
    assert!(!listener.admits(ip("11.0.0.0")) && !listener.admits(None) && !listener.admits(ip("::ffff:10.0.0.1")));
}
