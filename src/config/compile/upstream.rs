//! `[[upstream]]`.

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;

use super::super::address;
use super::super::error::{Report, Wrong, quote};
use super::super::plan::{Address, Backend, Balance, Health, OnDown, Outlier, Queue, Resolve, Upstream, Warm};
use super::super::raw;
use super::super::read::Text;
use super::bounds::{lasting, whole};
use super::{Known, Upstreams, proxy, required, tls, unique_name, word};
use crate::limits;
use crate::types::{Endpoint, Name, UpstreamIndex};

const TIMEOUTS: RangeInclusive<Duration> = limits::TIMEOUT..=limits::DURATION;
const INTERVALS: RangeInclusive<Duration> = limits::CHECK_INTERVAL..=limits::DURATION;
pub(super) fn upstream(
    raw: &raw::Upstream<'_>,
    index: UpstreamIndex,
    upstreams: &mut Upstreams,
    base: &Path,
    report: &mut Report<'_>,
) -> Upstream {
    let name = unique_name(raw.name.as_ref(), &raw.head, &mut upstreams.taken, report);
    if let Some(name) = &name {
        upstreams.known.insert(Name::clone(name), Known { index, span: raw.head.span.clone(), used: false });
    }
    let backends = backends(raw, base, report);
    let on_down = word(
        raw.on_down.as_ref(),
        "on_down",
        &[("keep", OnDown::Keep), ("close", OnDown::Close)],
        OnDown::Keep,
        report,
    );
    if let (OnDown::Close, Some(text)) = (on_down, &raw.on_down)
        && raw.head.lacks(raw.health.as_ref(), "health")
    {
        report.warning(
            &text.span(),
            Wrong::new("`on_down = \"close\"` does nothing without `health`").hint("only checks find a backend down"),
        );
    }
    let max_connections_per_backend =
        whole(raw.max_connections_per_backend.as_ref(), "max_connections_per_backend", 1..=limits::CONNECTIONS, report);
    if let Some(queue) = &raw.queue
        && raw.head.lacks(raw.max_connections_per_backend.as_ref(), "max_connections_per_backend")
    {
        report.error(
            &queue.head.span,
            Wrong::new("`queue` without `max_connections_per_backend`").hint("without it no backend is ever full"),
        );
    }
    Upstream {
        index,
        name: name.unwrap_or_default(),
        source_address: raw.source_address.as_ref().and_then(|text| source_address(text, &backends, report)),
        tls: raw.tls.as_ref().map(|raw| tls::upstream_tls(raw, &backends, base, report)),
        backends,
        balance: word(
            raw.balance.as_ref(),
            "balance",
            &Balance::ALL.map(|balance| (balance.word(), balance)),
            Balance::RoundRobin,
            report,
        ),
        retries: whole(raw.retries.as_ref(), "retries", 0..=limits::RETRIES, report).unwrap_or(2),
        warm: raw.warm.as_ref().and_then(|raw| warm(raw, report)),
        max_connections_per_backend,
        queue: raw.queue.as_ref().and_then(|raw| queue(raw, report)),
        on_down,
        health: raw.health.as_ref().map(|raw| health(raw, report)),
        outlier: raw.outlier.as_ref().map(|raw| outlier(raw, report)),
        resolve: resolve(raw.resolve.as_ref(), report),
        send_proxy: proxy::send(raw, report),
        line: report.line(&raw.head.span),
    }
}

fn backends(raw: &raw::Upstream<'_>, base: &Path, report: &mut Report<'_>) -> Vec<Backend> {
    let Some(list) = required(raw.backends.as_ref(), "backends", &raw.head, report) else { return Vec::new() };
    if list.is_empty {
        report.error(&list.span, Wrong::new("`backends` is empty").hint("such as [\"127.0.0.1:8080\"]"));
    }
    if list.items.len() > limits::BACKENDS_PER_UPSTREAM {
        report.error(&list.span, format!("more than {} backends in one upstream", limits::BACKENDS_PER_UPSTREAM));
        return Vec::new();
    }
    let mut seen = HashSet::new();
    let absent = raw::BackendTable::default();
    let mut backends = Vec::with_capacity(list.items.len());
    for item in &list.items {
        let (text, table) = match item {
            raw::Backend::Address(text) => (Some(text), &absent),
            raw::Backend::Table(table) => (required(table.address.as_ref(), "address", &table.head, report), table),
        };
        let weight = whole(table.weight.as_ref(), "weight", 1..=u32::from(limits::BACKEND_WEIGHT), report);
        let Some(text) = text else { continue };
        let Some(address) = report.accept(&text.span(), address::backend(text.get_ref(), base)) else { continue };
        if !seen.insert(address.clone()) {
            let wrong = Wrong::new(format!("the backend {address} is in this upstream already"));
            report.error(&text.span(), wrong.hint("to send it more, give it a `weight`"));
        }
        backends.push(Backend {
            address,
            weight: weight.and_then(|weight| u16::try_from(weight).ok()).unwrap_or(1),
            backup: table.backup.as_ref().is_some_and(|backup| *backup.get_ref()),
        });
    }
    backends
}

/// The local address must be of the family of every backend whose family is known.
fn source_address(text: &Text<'_>, backends: &[Backend], report: &mut Report<'_>) -> Option<IpAddr> {
    let parsed = text.get_ref().parse::<IpAddr>().map_err(|_| {
        Wrong::new(format!("{} is not an IP address", quote(text.get_ref())))
            .hint("without a port, such as \"10.0.0.5\"")
    });
    let source = report.accept(&text.span(), parsed)?.to_canonical();
    for backend in backends {
        if let Address::Endpoint(Endpoint::Ip(address)) = &backend.address
            && address.is_ipv4() != source.is_ipv4()
        {
            report.error(&text.span(), format!("from {source} the backend {address} cannot be reached"));
        }
    }
    Some(source)
}

fn warm(raw: &raw::Warm, report: &mut Report<'_>) -> Option<Warm> {
    let idle = lasting(raw.idle.as_ref(), "idle", TIMEOUTS, report).unwrap_or(Duration::from_secs(90));
    let connections = required(raw.connections.as_ref(), "connections", &raw.head, report)?;
    let connections = whole(Some(connections), "connections", 1..=u32::from(limits::WARM_CONNECTIONS), report)?;
    Some(Warm { connections: u16::try_from(connections).ok()?, idle })
}

fn queue(raw: &raw::Queue, report: &mut Report<'_>) -> Option<Queue> {
    let timeout = lasting(raw.timeout.as_ref(), "timeout", TIMEOUTS, report).unwrap_or(Duration::from_secs(5));
    let size = required(raw.size.as_ref(), "size", &raw.head, report)?;
    Some(Queue { size: whole(Some(size), "size", 1..=limits::QUEUE, report)?, timeout })
}

fn health(raw: &raw::Health<'_>, report: &mut Report<'_>) -> Health {
    Health {
        interval: lasting(raw.interval.as_ref(), "interval", INTERVALS, report).unwrap_or(Duration::from_secs(2)),
        timeout: lasting(raw.timeout.as_ref(), "timeout", TIMEOUTS, report).unwrap_or(Duration::from_secs(1)),
        rise: whole(raw.rise.as_ref(), "rise", 1..=limits::IN_A_ROW, report).unwrap_or(2),
        fall: whole(raw.fall.as_ref(), "fall", 1..=limits::IN_A_ROW, report).unwrap_or(3),
        send: raw.send.as_ref().and_then(|text| probe(text, "send", report)),
        expect: raw.expect.as_ref().and_then(|text| probe(text, "expect", report)),
    }
}

fn probe(text: &Text<'_>, key: &str, report: &mut Report<'_>) -> Option<Vec<u8>> {
    let bytes = text.get_ref().as_bytes();
    if bytes.is_empty() || bytes.len() > limits::HEALTH_BYTES {
        let wrong = Wrong::new(format!("`{key}` has {} bytes", bytes.len()));
        report.error(&text.span(), wrong.hint(format!("1 to {}", limits::HEALTH_BYTES)));
        return None;
    }
    Some(bytes.to_vec())
}

fn outlier(raw: &raw::Outlier, report: &mut Report<'_>) -> Outlier {
    Outlier {
        failures: whole(raw.failures.as_ref(), "failures", 1..=limits::IN_A_ROW, report).unwrap_or(5),
        eject: lasting(raw.eject.as_ref(), "eject", TIMEOUTS, report).unwrap_or(Duration::from_secs(10)),
    }
}

fn resolve(raw: Option<&raw::Resolve>, report: &mut Report<'_>) -> Resolve {
    const DEFAULT: Resolve = Resolve { ttl_min: Duration::from_secs(1), ttl_max: Duration::from_secs(60) };
    let Some(raw) = raw else { return DEFAULT };
    let ttl_min = lasting(raw.ttl_min.as_ref(), "ttl_min", INTERVALS, report);
    let ttl_max = lasting(raw.ttl_max.as_ref(), "ttl_max", INTERVALS, report);
    // One that is not given follows the other, as in `[engine] buffers`.
    let (ttl_min, ttl_max) = match (ttl_min, ttl_max) {
        (None, None) => return DEFAULT,
        (Some(ttl_min), None) => (ttl_min, DEFAULT.ttl_max.max(ttl_min)),
        (None, Some(ttl_max)) => (DEFAULT.ttl_min.min(ttl_max), ttl_max),
        (Some(ttl_min), Some(ttl_max)) => (ttl_min, ttl_max),
    };
    if ttl_max < ttl_min {
        let span = raw.ttl_max.as_ref().map_or(0..0, Spanned::span);
        report.error(&span, "`ttl_max` is less than `ttl_min`");
    }
    Resolve { ttl_min, ttl_max }
}
