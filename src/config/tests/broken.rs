//! Broken files, several errors each: all must come out, each at its place, and nothing else.

use super::*;

/// Every line of findings must begin with its line of `expected` and nothing else may be found. A `*` stands for any
/// text.
#[track_caller]
pub(super) fn expect(text: &str, expected: &[&str]) {
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
fn socks() {
    expect(
        "[socks]\ncommands = [\"connect\", \"listen\"]\nbind_timeout = \"0s\"\nadvertise = \"proxy.example\"\n\
         upstream_proxy = \"http://x:1\"\n\
         [[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\nservice = \"socks5\"\nupstream = \"u\"\n\
         [[listener.route]]\nupstream = \"u\"\n\
         [[upstream]]\nname = \"u\"\nbackends = [\"127.0.0.1:2\"]\n",
        &[
            "2:24: `commands` cannot have `listen` (\"connect\", \"bind\" and \"udp\" are known)",
            "3:16: `bind_timeout` cannot be \"0\" (\"1ms\" to \"365d\")",
            "4:13: `proxy.example` is not an IP address (such as \"203.0.113.5\")",
            "5:18: `upstream_proxy` does not begin with `socks5://` (such as \"socks5://host:1080\" or \"socks5://user:password@host:1080\")",
            "10:12: listener `a` serves SOCKS and cannot have `upstream` (its clients say where they want to go; `[acl]` says where they may)",
            "11:1: listener `a` serves SOCKS and cannot have `route` (its clients say where they want to go; `[acl]` says where they may)",
        ],
    );
}

#[test]
fn plugins() {
    expect(
        "[[plugin]]\nname = \"filter\"\npath = \"f.so\"\non_fault = \"explode\"\nmax_call = \"0s\"\nconfig = \"a\\u0000b\"\n\
         [[plugin]]\nname = \"filter\"\npath = \"\"\n[[plugin]]\nname = \"idle\"\n\
         [[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\nupstream = \"u\"\n\
         plugins = [\"filtr\", \"filter\", \"filter\"]\n\
         [[upstream]]\nname = \"u\"\nbackends = [\"127.0.0.1:2\"]\n",
        &[
            "4:12: `on_fault` cannot be `explode` (one of \"close\", \"bypass\", \"disable\")",
            "5:12: `max_call` cannot be \"0\" (\"1ms\" to \"365d\")",
            "6:10: `config` has a NUL character (it is a text of C)",
            "8:8: the name `filter` is used on line 2 already",
            "9:8: the path is empty",
            "10:1: `path` is missing",
            "10:1: warning: nothing uses the plugin `idle`",
            "16:12: there is no plugin `filtr` (did you mean `filter`?)",
            "16:31: the plugin `filter` is in this list already (a second `[[plugin]]` may have the same path)",
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
            "8:44: `::1:80` needs brackets around its IPv6 address (write `[::1]:80`)",
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
            "19:11: `service` cannot be `http` (did you mean `tcp`? one of \"tcp\", \"socks5\")",
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
fn sessions_and_telemetry() {
    let text = "[sessions]\nstore = \"mysql://db\"\nbatch_size = 0\nbatch_interval = \"1ms\"\nretention = \"0s\"\n\
                recent = 1000001\nrecnt = 5\n\
                [telemetry]\nmax_events = 0\nretention = \"2y\"\nretentions = \"1h\"\n";
    expect(
        &format!("{text}{MINIMAL}"),
        &[
            "2:9: `store` cannot be `mysql://db` (\"sqlite:sessions.db\", \"memory\" or \"off\")",
            "3:14: `batch_size` cannot be 0 (1 to 100000)",
            "4:18: `batch_interval` cannot be \"1ms\" (\"10ms\" to \"1m\")",
            "5:13: `retention` cannot be \"0\" (\"1s\" to *)",
            "6:10: `recent` cannot be 1000001 (0 to 1000000)",
            "7:1: unknown key `recnt` in `[sessions]` (did you mean `recent`?)",
            "9:14: `max_events` cannot be 0 (1 to 100000)",
            "10:13: `retention` cannot be *(\"1s\" to \"365d\")",
            "11:1: unknown key `retentions` in `[telemetry]` (did you mean `retention`?)",
        ],
    );
    // Files that are none, and values that are something else.
    for (store, wrong) in [
        ("\"sqlite\"", "`store` cannot be `sqlite` *"),
        ("\"sqlite:\"", "`store` names no database file (\"sqlite:sessions.db\", \"memory\" or \"off\")"),
        ("\"sqlite:a/\"", "`store` names no database file *"),
        ("\"sqlite:a\\u0000b\"", "`store` names no database file *"),
        ("\"Memory\"", "`store` cannot be `Memory` *"),
        ("false", "`store` must be a string, not true or false"),
    ] {
        // The place of the rest of the message is compared from its begin to its end.
        let wrong = wrong.replace(" *", " (\"sqlite:sessions.db\", \"memory\" or \"off\")");
        expect(&format!("[sessions]\nstore = {store}\n{MINIMAL}"), &[&format!("2:9: {wrong}")]);
    }
    for (key, value, wrong) in [
        ("batch_size", "\"many\"", "`batch_size` must be a whole number, not a string"),
        ("batch_size", "-1", "`batch_size` cannot be -1 (1 to 100000)"),
        ("batch_interval", "\"61s\"", "`batch_interval` cannot be \"1m1s\" (\"10ms\" to \"1m\")"),
        ("batch_interval", "1", "`batch_interval` must be *"),
        ("retention", "\"soon\"", "*"),
        ("recent", "1.5", "`recent` must be a whole number, not a number with a fraction"),
    ] {
        let column = key.len() + 4;
        expect(&format!("[sessions]\n{key} = {value}\n{MINIMAL}"), &[&format!("2:{column}: {wrong}")]);
    }
    expect(&format!("sessions = \"off\"\n{MINIMAL}"), &["1:12: `sessions` must be a table, not a string"]);
}

#[test]
fn admin() {
    let text = "[admin]\nlisten = \"127.0.0.1\"\nsocket = \"\"\ndashboard = \"yes\"\nprotect_metrics = 1\n\
                hosts = [\"a.example:80\", \"b.example\"]\n\
                users = [{ name = \"ann\", password_hash = \"hunter2\" }, { name = \"ann\", password_hash = \"$2b$10$x\" },\n\
                { password_hash = \"$argon2id$x\", scope = \"root\" }]\n\
                tokens = [{ name = \"a\", hash = \"sha256:beef\" }, { name = \"b\", hash = \"secret-token\", scop = \"read\" }, { name = \"c\" }]\n\
                listn = \"off\"\n";
    expect(
        &format!("{text}{MINIMAL}"),
        &[
            "2:10: `127.0.0.1` has no port *",
            "3:10: the path is empty",
            "4:13: `dashboard` must be true or false, not a string",
            "5:19: `protect_metrics` must be true or false, not a whole number",
            "6:10: *(a name without a port)",
            "7:42: `password_hash` cannot be used: it begins with neither `$argon2id$` nor `$2` (`arus hash-password` makes one)",
            "7:64: the name `ann` is used on line 7 already",
            "7:87: `password_hash` cannot be used: a bcrypt hash is `$2b$COST$` and 53 characters (`arus hash-password` makes one)",
            "8:1: `name` is missing",
            "8:19: `password_hash` cannot be used: its argon2id parts are malformed (`arus hash-password` makes one)",
            "8:42: `scope` cannot be `root` (one of \"read\", \"write\")",
            "9:32: `hash` is not \"sha256:\" and 64 hexadecimal digits (*; write \"sha256:\" before it)",
            "9:70: `hash` is not \"sha256:\" and 64 hexadecimal digits (*; write \"sha256:\" before it)",
            "9:86: unknown key `scop` in `[[admin.tokens]]` (did you mean `scope`?)",
            "9:103: `hash` is missing",
            "10:1: unknown key `listn` in `[admin]` (did you mean `listen`?)",
        ],
    );
    // What may be a secret is never repeated.
    let errors = read(&format!("{text}{MINIMAL}")).unwrap_err().to_string();
    for secret in ["hunter2", "secret-token", "beef", "$2b$10$x"] {
        assert!(!errors.contains(secret), "{errors}");
    }
    let many: Vec<String> =
        (0..300).map(|n| format!("{{ name = \"t{n}\", hash = \"sha256:{}\" }}", "0".repeat(64))).collect();
    expect(&format!("[admin]\ntokens = [{}]\n{MINIMAL}", many.join(", ")), &["2:10: more than 256 `tokens`"]);
}

#[test]
fn warnings_do_not_refuse() {
    let text = "[admin]\nlisten = \"0.0.0.0:9090\"\n\
                [[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\nallow_sources = [\"10.1.2.3/8\"]\n\
                [[listener.route]]\nupstream = \"u\"\n[[listener.route]]\nsource = [\"10.0.0.0/8\"]\nupstream = \"u\"\n\
                [[upstream]]\nname = \"u\"\nbackends = [\"127.0.0.1:2\"]\non_down = \"close\"\n\
                [[upstream]]\nname = \"idle\"\nbackends = [\"127.0.0.1:2\"]\n";
    let loaded = read(text).unwrap();
    let shown: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "f:2:10: warning: `listen` on 0.0.0.0: passwords and tokens cross the network in clear (listen on 127.0.0.1, \
             and put a `[[listener]]` with `[listener.tls]` and an `[[upstream]]` before it)",
            "f:6:18: warning: `10.1.2.3/8` has bits behind its prefix (it counts as `10.0.0.0/8`)",
            "f:9:1: warning: the route on line 7 matches everything before this one",
            "f:15:11: warning: `on_down = \"close\"` does nothing without `health` (only checks find a backend down)",
            "f:16:1: warning: nothing uses the upstream `idle`",
        ]
    );
    assert_eq!(loaded.plan.listeners[0].allow_sources, ["10.0.0.0/8".parse().unwrap()]);
}

#[test]
fn findings_are_bounded() {
    let many: String = (0..5000).map(|i| format!("key{i} = 1\n")).collect();
    assert_eq!(read(&many).unwrap_err().findings.len(), crate::limits::FINDINGS + 1);
    // More tables than their indices can count.
    for table in ["listener", "upstream"] {
        assert_eq!(read(&format!("[[{table}]]\n").repeat(70_000)).unwrap_err().findings.len(), 1001);
    }
    let routes = "[[listener.route]]\nupstream = \"u\"\n".repeat(1025);
    let errors = read(&MINIMAL.replace("[[upstream]]", &format!("{routes}[[upstream]]"))).unwrap_err().to_string();
    assert!(errors.contains("f:2053:1: more than 1024 `[[listener.route]]`"), "{errors}");
    let deep = format!("a = {}", "[".repeat(100_000));
    assert!(read(&deep).is_err());
}

#[test]
fn a_wrong_value_is_not_missing_too() {
    expect(
        "[[listener]]\nname = 1\nlisten = [2]\nupstream = 3\n\
         [[upstream]]\nname = [4]\nbackends = [5]\nmax_connections_per_backend = \"6\"\nqueue = { size = true }\n\
         on_down = \"close\"\nhealth = 7\nwarm = { connections = \"8\" }\n\
         [demo]\nhello = 9\n",
        &[
            "2:8: `name` must be a string, not a whole number",
            "3:11: `listen` must be a string, not a whole number",
            "4:12: `upstream` must be a string, not a whole number",
            "6:8: `name` must be a string, not a list",
            "7:13: `backends` must be an address or a table, not a whole number",
            "8:31: `max_connections_per_backend` must be a whole number, not a string",
            "9:18: `size` must be a whole number, not true or false",
            "11:10: `health` must be a table, not a whole number",
            "12:24: `connections` must be a whole number, not a string",
            "14:9: `hello` must be a string, not a whole number",
        ],
    );
}
