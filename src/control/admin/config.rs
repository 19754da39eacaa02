//! The running configuration in the words of proxy.toml, with every default filled in.
//!
//! Made from the plan in force, not from the file, which may have changed since. Each table takes its plan apart
//! without `..`, so that a new key does not compile until it is shown here (or left out by name, as a secret is).

mod auth;
mod qos;

use std::time::Duration;

use axum::extract::State;
use axum::response::Json;
use serde_json::{Map, Value, json};

use crate::config::plan::{
    AcceptProxy, AccessLog, Admin, AdminToken, AdminUser, Backend, Balance, BusyPoll, Demo, Engine, Health, Identity,
    KeyPair, Level, Listener, Log, LogFormat, OnDown, Outlier, Plan, Plugin, Queue, Resolve, Route, SendProxy,
    Sessions, Socks, Telemetry, Timeouts, TlsIn, TlsOut, UnknownSni, Upstream, UpstreamProxy, Warm,
};
use crate::config::show_duration;
use crate::control::handle::Control;
use crate::types::UpstreamIndex;

/// The running configuration, in the words of proxy.toml, with every default filled in and no secret in it.
#[utoipa::path(get, path = "/api/v1/config", tag = "control", responses((status = 200, body = Object)))]
pub(super) async fn show(State(control): State<Control>) -> Json<Value> {
    Json(plan(&control.view().snapshot.plan))
}

fn plan(plan: &Plan) -> Value {
    let Plan {
        engine: e,
        log: l,
        admin: a,
        listeners,
        upstreams,
        plugins,
        acl: rules,
        qos: rates,
        sessions: finished,
        telemetry: t,
        demo: d,
        socks: s,
        auth: authentication,
    } = plan;
    present(json!({
        "engine": engine(e),
        "log": log(l),
        "admin": admin(a),
        "auth": auth::auth(authentication),
        "listener": listeners.iter().map(|each| listener(each, plan)).collect::<Vec<_>>(),
        "upstream": upstreams.iter().map(upstream).collect::<Vec<_>>(),
        "socks": socks(s),
        "acl": super::acl::shown(rules),
        "qos": qos::qos(rates),
        "plugin": plugins.iter().map(plugin).collect::<Vec<_>>(),
        "sessions": sessions(finished),
        "telemetry": telemetry(t),
        "demo": d.as_ref().map(|Demo { hello, accept_proxy }| json!({ "hello": hello, "accept_proxy": accept_proxy })),
    }))
}

fn socks(socks: &Socks) -> Value {
    let Socks { commands, bind_timeout, udp_idle, udp_max_associations_per_user, advertise, socks4, upstream_proxy } =
        socks;
    present(json!({
        "commands": commands.words(),
        "bind_timeout": duration(*bind_timeout),
        "udp_idle": duration(*udp_idle),
        "udp_max_associations_per_user": udp_max_associations_per_user,
        "advertise": advertise,
        "socks4": socks4,
        "upstream_proxy": upstream_proxy.as_ref().map(UpstreamProxy::shown),
    }))
}

fn engine(engine: &Engine) -> Value {
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
    present(json!({
        "shards": shards.map_or(json!("auto"), |shards| json!(shards)),
        "pin": pin,
        "buffer_size": size(*buffer_size),
        "buffers": buffers,
        "max_buffers": max_buffers,
        "busy_poll": match busy_poll {
            BusyPoll::Off => "0".into(),
            BusyPoll::For(span) => duration(*span),
            BusyPoll::Always => "always".into(),
        },
        "max_connections": max_connections,
        "drain_timeout": duration(*drain_timeout),
        "user": user,
        "state_dir": state_dir,
    }))
}

fn log(log: &Log) -> Value {
    let Log { level, format, access } = log;
    json!({
        "level": match level {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        },
        "format": match format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        },
        "access": match access {
            AccessLog::Off => json!("off"),
            AccessLog::Stderr => json!("stderr"),
            AccessLog::File(path) => json!(path),
        },
    })
}

/// Of users and tokens, all but what proves them.
fn admin(admin: &Admin) -> Value {
    let Admin { listen, socket, dashboard, protect_metrics, hosts, users, tokens } = admin;
    let user = |AdminUser { name, password_hash: _, scope }: &AdminUser| json!({ "name": name.as_ref(), "scope": scope.word() });
    let token =
        |AdminToken { name, digest: _, scope }: &AdminToken| json!({ "name": name.as_ref(), "scope": scope.word() });
    json!({
        "listen": listen.map_or("off".into(), |listen| listen.address.to_string()),
        "socket": socket,
        "dashboard": dashboard,
        "protect_metrics": protect_metrics,
        "hosts": shown(hosts),
        "users": users.iter().map(user).collect::<Vec<_>>(),
        "tokens": tokens.iter().map(token).collect::<Vec<_>>(),
    })
}

fn sessions(sessions: &Sessions) -> Value {
    let Sessions { store, batch_size, batch_interval, retention, recent } = sessions;
    json!({
        "store": store.words(),
        "batch_size": batch_size,
        "batch_interval": duration(*batch_interval),
        "retention": duration(*retention),
        "recent": recent,
    })
}

fn telemetry(telemetry: &Telemetry) -> Value {
    let Telemetry { max_events, retention } = telemetry;
    json!({ "max_events": max_events, "retention": duration(*retention) })
}

fn listener(listener: &Listener, plan: &Plan) -> Value {
    let upstreams = &plan.upstreams;
    let Listener {
        index: _,
        name,
        listen,
        service: kind,
        routes,
        upstream,
        plugins,
        max_connections,
        max_connections_per_source,
        accept_rate,
        allow_sources,
        accept_proxy: proxy,
        tls,
        peeks: _, // follows from routes and tls
        backlog,
        fast_open,
        timeouts: t,
        line: _,
    } = listener;
    present(json!({
        "name": name.as_ref(),
        "listen": listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "service": kind.label(),
        "route": routes.iter().map(|each| route(each, upstreams)).collect::<Vec<_>>(),
        "upstream": upstream.map(|index| upstream_name(index, upstreams)),
        "plugins": plugins.iter().filter_map(|index| plan.plugins.get(usize::from(index.0))).map(|plugin| plugin.name.as_ref())
            .collect::<Vec<_>>(),
        "max_connections": max_connections,
        "max_connections_per_source": max_connections_per_source,
        "accept_rate": accept_rate,
        "allow_sources": shown(allow_sources),
        "accept_proxy": proxy.as_ref().map(accept_proxy),
        "backlog": backlog,
        "fast_open": fast_open,
        "timeouts": timeouts(t),
        "tls": tls.as_ref().map(tls_in),
    }))
}

fn shown<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn accept_proxy(accept_proxy: &AcceptProxy) -> Value {
    let AcceptProxy { trusted, trusts_unix } = accept_proxy;
    let mut trusted = shown(trusted);
    trusted.extend(trusts_unix.then(|| "unix".to_owned()));
    json!({ "mode": "require", "trusted": trusted })
}

/// Keys are shown by their files; nothing of what is in them.
fn tls_in(tls: &TlsIn) -> Value {
    let TlsIn { identity, unknown_sni, alpn, min_version, client_auth, at: _ } = tls;
    let (certificates, self_signed) = match identity {
        Identity::Files(pairs) => (Some(pairs.iter().map(pair).collect::<Vec<_>>()), None),
        Identity::SelfSigned(names) => (None, Some(shown(names))),
    };
    let ca = client_auth.ca().map(|ca| &ca.path);
    present(json!({
        "certificates": certificates,
        "self_signed": self_signed,
        "unknown_sni": match unknown_sni {
            UnknownSni::Default => "default",
            UnknownSni::Reject => "reject",
        },
        "alpn": shown(alpn),
        "min_version": min_version.word(),
        "client_auth": present(json!({ "mode": client_auth.word(), "ca": ca })),
    }))
}

fn pair(pair: &KeyPair) -> Value {
    let KeyPair { certificates, key } = pair;
    json!({ "cert": certificates.path, "key": key.path })
}

fn route(route: &Route, upstreams: &[Upstream]) -> Value {
    let Route { sources, server_names, alpn, upstream, line: _ } = route;
    present(json!({
        "sni": server_names.as_deref().map(shown),
        "alpn": alpn.as_deref().map(shown),
        "source": sources.as_deref().map(shown),
        "upstream": upstream_name(*upstream, upstreams),
    }))
}

fn upstream_name(index: UpstreamIndex, upstreams: &[Upstream]) -> &str {
    upstreams.get(usize::from(index.0)).map_or("?", |upstream| &upstream.name)
}

fn timeouts(timeouts: &Timeouts) -> Value {
    let Timeouts { proxy_header, tls_handshake, negotiate, connect, idle, half_closed } = timeouts;
    json!({
        "proxy_header": duration(*proxy_header),
        "tls_handshake": duration(*tls_handshake),
        "negotiate": duration(*negotiate),
        "connect": duration(*connect),
        "idle": duration(*idle),
        "half_closed": duration(*half_closed),
    })
}

fn plugin(plugin: &Plugin) -> Value {
    let Plugin { name, path, config, on_fault, max_call, line: _, path_at: _, config_at: _ } = plugin;
    json!({
        "name": name.as_ref(),
        "path": path,
        // Not the text, which may hold a key.
        "config_bytes": config.len(),
        "on_fault": on_fault.word(),
        "max_call": duration(*max_call),
    })
}

fn upstream(upstream: &Upstream) -> Value {
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
        health: h,
        outlier,
        resolve: Resolve { ttl_min, ttl_max },
        send_proxy,
        tls,
        line: _,
    } = upstream;
    present(json!({
        "name": name.as_ref(),
        "backends": backends.iter().map(backend).collect::<Vec<_>>(),
        "balance": match balance {
            Balance::RoundRobin => "round_robin",
            Balance::LeastConnections => "least_connections",
            Balance::Random => "random",
            Balance::SourceHash => "source_hash",
        },
        "retries": retries,
        "source_address": source_address,
        "warm": warm.map(|Warm { connections, idle }| json!({ "connections": connections, "idle": duration(idle) })),
        "max_connections_per_backend": max_connections_per_backend,
        "queue": queue.map(|Queue { size, timeout }| json!({ "size": size, "timeout": duration(timeout) })),
        "on_down": match on_down {
            OnDown::Keep => "keep",
            OnDown::Close => "close",
        },
        "health": h.as_ref().map(health),
        "outlier": outlier
            .map(|Outlier { failures, eject }| json!({ "failures": failures, "eject": duration(eject) })),
        "resolve": { "ttl_min": duration(*ttl_min), "ttl_max": duration(*ttl_max) },
        "send_proxy": send_proxy.word(),
        "proxy_tlvs": match send_proxy {
            SendProxy::V2(tlvs) => Some(tlvs.words()),
            SendProxy::Off | SendProxy::V1 => None,
        },
        "tls": tls.as_ref().map(tls_out),
    }))
}

fn tls_out(tls: &TlsOut) -> Value {
    let TlsOut { server_name, ca, certificate, alpn, verify, at: _ } = tls;
    present(json!({
        "server_name": server_name.as_deref(),
        "ca": ca.as_ref().map(|ca| &ca.path),
        "cert": certificate.as_ref().map(|pair| &pair.certificates.path),
        "key": certificate.as_ref().map(|pair| &pair.key.path),
        "alpn": shown(alpn),
        "verify": verify,
    }))
}

fn backend(backend: &Backend) -> Value {
    let Backend { address, weight, backup } = backend;
    json!({ "address": address.to_string(), "weight": weight, "backup": backup })
}

fn health(health: &Health) -> Value {
    let Health { interval, timeout, rise, fall, send, expect } = health;
    let text = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    present(json!({
        "interval": duration(*interval),
        "timeout": duration(*timeout),
        "rise": rise,
        "fall": fall,
        // Not the text, which may hold a password.
        "send_bytes": send.as_ref().map(Vec::len),
        "expect": text(expect),
    }))
}

fn duration(duration: Duration) -> String {
    show_duration(duration)
}

fn size(bytes: u32) -> String {
    const KIB: u32 = 1024;
    const MIB: u32 = 1024 * KIB;
    match bytes {
        _ if bytes.is_multiple_of(MIB) => format!("{}MiB", bytes / MIB),
        _ if bytes.is_multiple_of(KIB) => format!("{}KiB", bytes / KIB),
        _ => format!("{bytes}B"),
    }
}

/// Leaves out what is absent, as the file would.
fn present(table: Value) -> Value {
    match table {
        Value::Object(table) => {
            Value::Object(table.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
        }
        other => other,
    }
}
