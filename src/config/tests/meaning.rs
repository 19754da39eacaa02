//! What files mean: defaults, values, routes, and what a reload from one to another changes.

use std::iter;
use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::config::diff::{diff, keep_fixed};
use crate::config::plan::{AccessLog, Address, Balance, BusyPoll, OnDown, OnFault, Store};
use crate::types::PluginIndex;

#[test]
fn defaults() {
    let Plan { engine, log, admin, auth, listeners, upstreams, plugins, sessions, telemetry, demo, socks, acl, qos } =
        plan(MINIMAL);
    assert_eq!(
        (acl.default, acl.file, acl.reevaluate, acl.rules.len()),
        (crate::policy::acl::Action::Block, None, true, 0)
    );
    assert_eq!(qos, crate::policy::terms::Qos::default());
    assert_eq!((auth.methods.len(), auth.admits_anybody(), auth.needs_pam()), (1, true, false));
    assert_eq!((auth.failures.limit, auth.users.len(), &*auth.pam_service.name), (5, 0, "arus"));
    assert_eq!((socks.commands.words(), socks.socks4), (vec!["connect"], false));
    assert_eq!((socks.bind_timeout, socks.udp_idle), (Duration::from_secs(300), Duration::from_secs(120)));
    assert_eq!((engine.shards, engine.pin, engine.buffer_size), (None, true, 16_384));
    assert_eq!((engine.buffers, engine.max_buffers, engine.busy_poll), (256, 8192, BusyPoll::Off));
    assert_eq!((engine.max_connections, engine.drain_timeout), (100_000, Duration::from_secs(30)));
    assert_eq!(admin.socket, Path::new("/var/lib/arus/control.sock"));
    assert_eq!(admin.listen.map(|listen| listen.address.to_string()).as_deref(), Some("127.0.0.1:9090"));
    assert!(admin.dashboard && !admin.protect_metrics && admin.users.is_empty() && admin.tokens.is_empty());
    assert_eq!((log.access, demo), (AccessLog::Stderr, None));
    assert_eq!((listeners[0].backlog, listeners[0].fast_open, listeners[0].line), (4096, false, 1));
    assert_eq!(listeners[0].timeouts.idle, Duration::from_secs(600));
    assert!(listeners[0].plugins.is_empty() && plugins.is_empty());
    assert_eq!(sessions.store, Store::Sqlite("/var/lib/arus/sessions.db".into()));
    assert_eq!((sessions.batch_size, sessions.batch_interval, sessions.recent), (1000, Duration::from_secs(1), 10_000));
    assert_eq!(sessions.retention, Duration::from_secs(90 * 24 * 3600));
    assert_eq!((telemetry.max_events, telemetry.retention), (1000, Duration::from_secs(6 * 3600)));
    let upstream = &upstreams[0];
    assert_eq!((upstream.balance, upstream.retries, upstream.on_down), (Balance::RoundRobin, 2, OnDown::Keep));
    assert_eq!((upstream.resolve.ttl_min, upstream.resolve.ttl_max), (Duration::from_secs(1), Duration::from_secs(60)));
}

#[test]
fn plugins_arrive_in_the_plan() {
    let text = MINIMAL.replacen("[[listener]]", "[[listener]]\nplugins = [\"b\", \"a\"]", 1)
        + "\n[[plugin]]\nname = \"a\"\npath = \"a.so\"\n[[plugin]]\nname = \"b\"\npath = \"/x/b.so\"\nconfig = \"upper\"\n\
           on_fault = \"disable\"\nmax_call = \"5ms\"\n";
    let plan = plan(&text);
    assert_eq!(plan.listeners[0].plugins, [PluginIndex(1), PluginIndex(0)]);
    let [a, b] = &plan.plugins[..] else { panic!("{:?}", plan.plugins) };
    assert!(a.path.is_absolute() && a.path.ends_with("a.so"));
    assert_eq!((&*a.config, a.on_fault, a.max_call), ("", OnFault::Close, Duration::from_millis(100)));
    assert_eq!((&*b.config, b.on_fault, b.max_call), ("upper", OnFault::Disable, Duration::from_millis(5)));
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
    assert_eq!((&*everything.listeners[1].name, &*everything.listeners[2].name), ("tls", "https"));
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
    assert_eq!(state_dir(None, None), Path::new("/etc/arus/arus"));
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
            "admin: host arus.example.com added",
            "admin: user admin added",
            "admin: token prometheus added",
            "auth: user alice added",
            "auth: user bob added",
            "socks: advertise none -> 203.0.113.5",
            "socks: upstream_proxy none -> socks5://user:***@host:1080",
            "acl: rule block at 100, ports 25 465 587, description \"no mail from here\" removed",
            "acl: file none -> /etc/arus/acl.toml",
            "acl: rule block at 100, users alice, groups dev, sources 10.0.0.0/8, destinations *.example.com 192.0.2.0/24 2001:db8::/32 host.example api.*.com, ports 25 465 587, protocols tcp udp, listeners socks, description \"no mail from here\" added",
            "qos: global 0 -> 104857600",
            "qos: per_user guaranteed 0, max 0, burst 0 -> guaranteed 131072, max 12582912, burst 1048576",
            "qos: per_connection 0 -> 52428800",
            "qos: connections_per_user 0 -> 100",
            "qos: user alice added",
            "upstream db: added",
            "plugin filter: added",
            "listener web: route from 10.0.0.0/8 for db.example.com or *.db.example.com speaking postgresql to db added",
            "listener web: max_connections none -> 10000",
            "listener web: max_connections_per_source none -> 256",
            "listener web: accept_rate none -> 5000",
            "listener web: allow_sources 127.0.0.0/8 added",
            "listener web: allow_sources 10.0.0.0/8 added",
            "listener web: accept_proxy none -> from 10.0.0.2/32",
            "listener web: timeouts.connect 5s -> 2s",
            "listener web: timeouts.idle 10m -> 1h",
            "listener https: added",
            "listener upper: added",
        ]
    );
    let back = diff(&new, &old);
    let removed = ["upstream db: removed", "plugin filter: removed", "listener https: removed"];
    assert_eq!(back.iter().filter(|change| removed.contains(&change.as_str())).count(), 3, "{back:?}");

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
    let token = changed("sha256:9f86d081", "sha256:00000000").1;
    assert!(token.starts_with("admin: token prometheus scope read, hash (") && !token.contains("9f86"), "{token}");
    let config = changed("config = \"upper\"", "config = \"rot13\"").1;
    assert!(config.starts_with("plugin filter: config of 5 bytes (") && !config.contains("rot13"), "{config}");
    assert_eq!(changed("plugins = [\"filter\"]", "").1, "listener upper: plugin filter removed");
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
    let upstream = |source| {
        listener.route(source, None, iter::empty()).upstream().map(|index| &*plan.upstreams[usize::from(index.0)].name)
    };
    assert_eq!(upstream(ip("10.1.2.3")), Some("u"), "the first match wins");
    assert_eq!(upstream(ip("10.2.0.0")), Some("v"));
    assert_eq!(upstream(ip("192.0.2.255")), Some("u"));
    assert_eq!(upstream(ip("192.0.3.0")), None);
    assert_eq!(upstream(None), None);
    assert!(open.route(None, None, iter::empty()).upstream().is_some() && open.admits(None) && open.admits(ip("::1")));
    assert!(listener.admits(ip("10.255.255.255")) && listener.admits(ip("2001:db8::1")));
    assert!(!listener.admits(ip("11.0.0.0")) && !listener.admits(None) && !listener.admits(ip("::ffff:10.0.0.1")));
}
