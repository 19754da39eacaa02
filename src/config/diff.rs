//! What a reload changes, in words for its log line, and which changes must wait for a restart.

mod acl;
mod auth;
mod qos;

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::LazyLock;
use std::time::Duration;

use super::plan::{
    AcceptProxy, AccessLog, Admin, AdminListen, AdminToken, AdminUser, Backend, BusyPoll, ClientAuth, Demo, Engine,
    Health, Identity, KeyPair, Listener, Log, Outlier, Plan, Plugin, Queue, Resolve, Route, SendProxy, Sessions, Socks,
    Store, Telemetry, Timeouts, TlsIn, TlsOut, Upstream, UpstreamProxy, Warm,
};
use super::units::show_duration;
use crate::types::{PluginIndex, UpstreamIndex};

/// What was changed, one clause each: `listener web: listen 127.0.0.1:81 added`, `upstream db: retries 2 -> 3`. Empty
/// where both plans do the same; where in its file a setting stands does not count.
#[must_use]
pub fn diff(old: &Plan, new: &Plan) -> Vec<String> {
    let (old, new) = (tables(old), tables(new));
    let (old_by_name, new_by_name) = (by_name(&old), by_name(&new));
    let mut changes = Vec::new();
    for table in old.iter().filter(|table| !new_by_name.contains_key(table.name.as_str())) {
        changes.push(format!("{}: removed", table.name));
    }
    for table in &new {
        match old_by_name.get(table.name.as_str()) {
            Some(before) => table.changes_since(before, &mut changes),
            None => changes.push(format!("{}: added", table.name)),
        }
    }
    changes
}

/// Puts into `new` what a running process cannot change, and names the keys that it would have changed. The rest of
/// the new plan can be put into force; these need a restart.
#[must_use]
pub fn keep_fixed(running: &Plan, new: &mut Plan) -> Vec<&'static str> {
    let (was, is) = (&running.engine, &new.engine);
    let differs = [
        ("engine.shards", was.shards != is.shards),
        ("engine.pin", was.pin != is.pin),
        ("engine.buffer_size", was.buffer_size != is.buffer_size),
        ("engine.buffers", was.buffers != is.buffers),
        ("engine.max_buffers", was.max_buffers != is.max_buffers),
        ("engine.user", was.user != is.user),
        ("engine.state_dir", was.state_dir != is.state_dir),
        ("admin.socket", running.admin.socket != new.admin.socket),
        ("demo", running.demo != new.demo),
    ];
    // A relative path of the database belongs to the state_dir that stays.
    if let Store::Sqlite(path) = &mut new.sessions.store
        && let Ok(relative) = path.strip_prefix(&is.state_dir)
    {
        *path = was.state_dir.join(relative);
    }
    new.engine = Engine {
        busy_poll: is.busy_poll,
        max_connections: is.max_connections,
        drain_timeout: is.drain_timeout,
        ..was.clone()
    };
    new.admin.socket.clone_from(&running.admin.socket);
    new.demo.clone_from(&running.demo);
    differs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

/// A table of the plan in words. Settings have a key and a value; items of lists are keys without a value.
#[derive(Debug)]
struct Table {
    name: String,
    facts: Vec<(String, String)>,
}

impl Table {
    fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), facts: Vec::new() }
    }

    fn fact(mut self, key: impl Into<String>, value: impl Display) -> Self {
        self.facts.push((key.into(), value.to_string()));
        self
    }

    fn option(self, key: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.fact(key, value),
            None => self.fact(key, "none"),
        }
    }

    fn lasting(self, key: &str, duration: Duration) -> Self {
        self.fact(key, show_duration(duration))
    }

    fn items(mut self, items: impl IntoIterator<Item = String>) -> Self {
        self.facts.extend(items.into_iter().map(|item| (item, String::new())));
        self
    }

    fn changes_since(&self, before: &Self, changes: &mut Vec<String>) {
        let map = |table: &Self| -> HashMap<String, String> { table.facts.iter().cloned().collect() };
        let (old, new) = (map(before), map(self));
        let mut say = |what: String| changes.push(format!("{}: {what}", self.name));
        for (key, _) in before.facts.iter().filter(|(key, _)| !new.contains_key(key)) {
            say(format!("{key} removed"));
        }
        for (key, value) in &self.facts {
            match old.get(key) {
                None => say(format!("{key} added")),
                Some(before) if before != value => say(format!("{key} {before} -> {value}")),
                Some(_) => {}
            }
        }
        // Settings always come in the same order, so only items of lists can have changed theirs.
        let old_order = before.facts.iter().map(|(key, _)| key).filter(|key| new.contains_key(*key));
        let new_order = self.facts.iter().map(|(key, _)| key).filter(|key| old.contains_key(*key));
        if let Some((_, key)) = old_order.zip(new_order).find(|(old, new)| old != new) {
            say(format!("{key} moved"));
        }
    }
}

fn by_name(tables: &[Table]) -> HashMap<&str, &Table> {
    tables.iter().map(|table| (table.name.as_str(), table)).collect()
}

// From here on every struct is taken apart without `..`, so that a new field cannot be forgotten.

fn tables(plan: &Plan) -> Vec<Table> {
    let Plan {
        engine,
        log,
        admin,
        auth: authentication,
        listeners,
        upstreams,
        plugins,
        sessions,
        telemetry,
        demo,
        socks,
        acl,
        qos,
    } = plan;
    let mut tables = vec![
        self::engine(engine),
        self::log(log),
        self::admin(admin),
        auth::auth(authentication),
        self::sessions(sessions),
        self::telemetry(telemetry),
    ];
    let demo_table = |Demo { hello, accept_proxy }: &Demo| {
        Table::new("demo").fact("hello", hello).fact("accept_proxy", accept_proxy)
    };
    tables.extend(demo.as_ref().map(demo_table));
    tables.push(self::socks(socks));
    tables.push(self::acl::acl(acl));
    tables.push(self::qos::qos(qos));
    tables.extend(upstreams.iter().map(upstream));
    tables.extend(plugins.iter().map(plugin));
    tables.extend(listeners.iter().map(|listener| self::listener(listener, plan)));
    tables
}

fn socks(socks: &Socks) -> Table {
    let Socks { commands, bind_timeout, udp_idle, udp_max_associations_per_user, advertise, socks4, upstream_proxy } =
        socks;
    Table::new("socks")
        .items(commands.words().into_iter().map(|word| format!("command {word}")))
        .lasting("bind_timeout", *bind_timeout)
        .lasting("udp_idle", *udp_idle)
        .fact("udp_max_associations_per_user", udp_max_associations_per_user)
        .option("advertise", *advertise)
        .fact("socks4", socks4)
        .option("upstream_proxy", upstream_proxy.as_ref().map(UpstreamProxy::shown))
}

fn engine(engine: &Engine) -> Table {
    let Engine {
        shards,
        pin,
        buffer_size,
        buffers,
        max_buffers,
        busy_poll,
        max_connections,
        drain_timeout,
        user,
        state_dir,
    } = engine;
    let busy_poll = match busy_poll {
        BusyPoll::Off => "0".into(),
        BusyPoll::For(duration) => show_duration(*duration),
        BusyPoll::Always => "always".into(),
    };
    Table::new("engine")
        .fact("shards", shards.map_or_else(|| "auto".into(), |shards| shards.to_string()))
        .fact("pin", pin)
        .fact("buffer_size", buffer_size)
        .fact("buffers", buffers)
        .fact("max_buffers", max_buffers)
        .fact("busy_poll", busy_poll)
        .fact("max_connections", max_connections)
        .lasting("drain_timeout", *drain_timeout)
        .option("user", user.as_ref())
        .fact("state_dir", state_dir.display())
}

fn log(log: &Log) -> Table {
    let Log { level, format, access } = log;
    let access = match access {
        AccessLog::Off => "off".into(),
        AccessLog::Stderr => "stderr".into(),
        AccessLog::File(path) => path.display().to_string(),
    };
    Table::new("log")
        .fact("level", format!("{level:?}").to_lowercase())
        .fact("format", format!("{format:?}").to_lowercase())
        .fact("access", access)
}

fn admin(admin: &Admin) -> Table {
    let Admin { listen, socket, dashboard, protect_metrics, hosts, users, tokens } = admin;
    let listen = listen.map_or_else(|| "off".into(), |AdminListen { address, is_given: _, at: _ }| address.to_string());
    let mut table = Table::new("admin")
        .fact("listen", listen)
        .fact("socket", socket.display())
        .fact("dashboard", dashboard)
        .fact("protect_metrics", protect_metrics)
        .items(hosts.iter().map(|host| format!("host {host}")));
    for AdminUser { name, password_hash, scope } in users {
        let password = secret(password_hash);
        table = table.fact(format!("user {name}"), format_args!("scope {}, password ({password:08x})", scope.word()));
    }
    for AdminToken { name, digest, scope } in tokens {
        let digest = secret(digest);
        table = table.fact(format!("token {name}"), format_args!("scope {}, hash ({digest:08x})", scope.word()));
    }
    table
}

/// What is said of a secret is that it is another one, and not by a hash that could be tried out.
fn secret(secret: impl Hash) -> u32 {
    static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    HASHES.hash_one(secret) as u32
}

fn sessions(sessions: &Sessions) -> Table {
    let Sessions { store, batch_size, batch_interval, retention, recent } = sessions;
    Table::new("sessions")
        .fact("store", store.words())
        .fact("batch_size", batch_size)
        .lasting("batch_interval", *batch_interval)
        .lasting("retention", *retention)
        .fact("recent", recent)
}

fn telemetry(telemetry: &Telemetry) -> Table {
    let Telemetry { max_events, retention } = telemetry;
    Table::new("telemetry").fact("max_events", max_events).lasting("retention", *retention)
}

fn listener(listener: &Listener, plan: &Plan) -> Table {
    let Listener {
        index: _,
        name,
        listen,
        service,
        routes,
        upstream,
        plugins,
        max_connections,
        max_connections_per_source,
        accept_rate,
        allow_sources,
        accept_proxy,
        tls,
        peeks: _, // follows from routes and tls
        backlog,
        fast_open,
        timeouts,
        line: _,
    } = listener;
    let name_of =
        |upstream: UpstreamIndex| plan.upstreams.get(usize::from(upstream.0)).map_or("?", |upstream| &upstream.name);
    let plugin_of = |plugin: &PluginIndex| plan.plugins.get(usize::from(plugin.0)).map_or("?", |plugin| &plugin.name);
    let route = |Route { sources, server_names, alpn, upstream, line: _ }: &Route| {
        let mut words = "route".to_owned();
        for (key, values) in [
            ("from", sources.as_ref().map(|nets| joined(nets, " or "))),
            ("for", server_names.as_ref().map(|names| joined(names, " or "))),
            ("speaking", alpn.as_ref().map(|protocols| joined(protocols, " or "))),
        ] {
            words.extend(values.map(|values| format!(" {key} {values}")));
        }
        format!("{words} to {}", name_of(*upstream))
    };
    let accept_proxy = accept_proxy.as_ref().map(|AcceptProxy { trusted, trusts_unix }| {
        let unix = if *trusts_unix { ", unix" } else { "" };
        format!("from {}{unix}", joined(trusted, ", "))
    });
    let Timeouts { proxy_header, tls_handshake, negotiate, connect, idle, half_closed } = timeouts;
    let table = Table::new(format!("listener {name}"))
        .items(listen.iter().map(|endpoint| format!("listen {endpoint}")))
        .items(routes.iter().map(route))
        .fact("service", service)
        .option("upstream", upstream.map(name_of))
        .items(plugins.iter().map(|plugin| format!("plugin {}", plugin_of(plugin))))
        .option("max_connections", *max_connections)
        .option("max_connections_per_source", *max_connections_per_source)
        .option("accept_rate", *accept_rate)
        .items(allow_sources.iter().map(|net| format!("allow_sources {net}")))
        .option("accept_proxy", accept_proxy)
        .fact("backlog", backlog)
        .fact("fast_open", fast_open)
        .lasting("timeouts.proxy_header", *proxy_header)
        .lasting("timeouts.tls_handshake", *tls_handshake)
        .lasting("timeouts.negotiate", *negotiate)
        .lasting("timeouts.connect", *connect)
        .lasting("timeouts.idle", *idle)
        .lasting("timeouts.half_closed", *half_closed);
    match tls {
        Some(tls) => tls_in(table.fact("tls", "on"), tls),
        None => table.fact("tls", "off"),
    }
}

fn tls_in(table: Table, tls: &TlsIn) -> Table {
    let TlsIn { identity, unknown_sni, alpn, min_version, client_auth, at: _ } = tls;
    let table = match identity {
        Identity::Files(pairs) => {
            table.items(pairs.iter().map(|pair| format!("tls.certificates {}", pair_in_words(pair))))
        }
        Identity::SelfSigned(names) => table.fact("tls.self_signed", joined(names, ", ")),
    };
    let client_auth = match client_auth {
        ClientAuth::Off => client_auth.word().to_owned(),
        ClientAuth::Request(ca) | ClientAuth::Require(ca) => format!("{} {}", client_auth.word(), ca.path.display()),
    };
    table
        .fact("tls.unknown_sni", format!("{unknown_sni:?}").to_lowercase())
        .fact("tls.alpn", format!("[{}]", joined(alpn, ", ")))
        .fact("tls.min_version", min_version.word())
        .fact("tls.client_auth", client_auth)
}

fn pair_in_words(pair: &KeyPair) -> String {
    let KeyPair { certificates, key } = pair;
    format!("{} with {}", certificates.path.display(), key.path.display())
}

fn joined<T: Display>(items: &[T], separator: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

fn plugin(plugin: &Plugin) -> Table {
    let Plugin { name, path, config, on_fault, max_call, line: _, path_at: _, config_at: _ } = plugin;
    // The text may hold a key.
    let hash = secret(config);
    Table::new(format!("plugin {name}"))
        .fact("path", path.display())
        .fact("config", format_args!("of {} bytes ({:08x})", config.len(), hash))
        .fact("on_fault", on_fault.word())
        .lasting("max_call", *max_call)
}

fn upstream(upstream: &Upstream) -> Table {
    let Upstream {
        index: _,
        name,
        backends,
        balance,
        retries,
        source_address,
        warm,
        max_connections_per_backend,
        queue,
        on_down,
        health,
        outlier,
        resolve,
        send_proxy,
        tls,
        line: _,
    } = upstream;
    let warm =
        warm.map(|Warm { connections, idle }| format!("{connections} connections, idle {}", show_duration(idle)));
    let queue = queue.map(|Queue { size, timeout }| format!("size {size}, timeout {}", show_duration(timeout)));
    let outlier =
        outlier.map(|Outlier { failures, eject }| format!("{failures} failures, eject {}", show_duration(eject)));
    let Resolve { ttl_min, ttl_max } = resolve;
    let mut table = Table::new(format!("upstream {name}"));
    for Backend { address, weight, backup } in backends {
        let backup = if *backup { ", backup" } else { "" };
        table = table.fact(format!("backend {address}"), format_args!("weight {weight}{backup}"));
    }
    table
        .fact("balance", balance.word())
        .fact("retries", retries)
        .option("source_address", *source_address)
        .option("warm", warm)
        .option("max_connections_per_backend", *max_connections_per_backend)
        .option("queue", queue)
        .fact("on_down", format!("{on_down:?}").to_lowercase())
        .option("health", health.as_ref().map(health_in_words))
        .option("outlier", outlier)
        .lasting("resolve.ttl_min", *ttl_min)
        .lasting("resolve.ttl_max", *ttl_max)
        .fact("send_proxy", send_proxy_in_words(*send_proxy))
        .option("tls", tls.as_ref().map(tls_out_in_words))
}

fn send_proxy_in_words(send_proxy: SendProxy) -> String {
    match send_proxy {
        SendProxy::V2(tlvs) if !tlvs.words().is_empty() => format!("v2 with {}", tlvs.words().join(", ")),
        SendProxy::Off | SendProxy::V1 | SendProxy::V2(_) => send_proxy.word().to_owned(),
    }
}

fn tls_out_in_words(tls: &TlsOut) -> String {
    let TlsOut { server_name, ca, certificate, alpn, verify, at: _ } = tls;
    let server_name = server_name.as_deref().unwrap_or("of the backend");
    let ca = ca.as_ref().map_or_else(|| "of the system".into(), |ca| ca.path.display().to_string());
    let certificate = certificate.as_ref().map_or_else(|| "none".into(), pair_in_words);
    let alpn = joined(alpn, ", ");
    format!("server_name {server_name}, ca {ca}, cert {certificate}, alpn [{alpn}], verify {verify}")
}

fn health_in_words(health: &Health) -> String {
    let Health { interval, timeout, rise, fall, send, expect } = health;
    let (interval, timeout) = (show_duration(*interval), show_duration(*timeout));
    let bytes = |bytes: &Option<Vec<u8>>| {
        bytes.as_ref().map_or_else(|| "nothing".into(), |bytes| format!("\"{}\"", bytes.escape_ascii()))
    };
    // What is sent may hold a password.
    let hidden = |bytes: &Vec<u8>| format!("{} bytes ({:08x})", bytes.len(), secret(bytes));
    let (send, expect) = (send.as_ref().map_or_else(|| "nothing".into(), hidden), bytes(expect));
    format!("interval {interval}, timeout {timeout}, rise {rise}, fall {fall}, send {send}, expect {expect}")
}
