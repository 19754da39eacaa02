//! What flows through arus: by listener, stage, upstream, shard, plugin.

use std::sync::Arc;

use super::buckets::{SESSION, STAGE, Spread};
use super::text::{Kind, Page};
use crate::plugin::Process;
use crate::shard::command::Snapshot;
use crate::stats::latency::{Latencies, Measure};
use crate::stats::totals::{ListenerTotals, ShardTotals, UpstreamTotals};

/// A number of something that has one label.
type Simple<T, N> = (&'static str, Kind, &'static str, fn(&T) -> N);

pub(super) fn listeners(page: &mut Page, listeners: &[ListenerTotals]) {
    let simple: [Simple<ListenerTotals, u64>; 3] = [
        ("arus_connections_active", Kind::Gauge, "Connections that are open now.", |listener| listener.active),
        ("arus_connections_total", Kind::Counter, "Connections that were accepted.", |listener| {
            listener.traffic.connections
        }),
        ("arus_connections_closed_total", Kind::Counter, "Connections that ended as they should.", |listener| {
            listener.closed
        }),
    ];
    for (name, kind, help, value) in simple {
        let mut family = page.family(name, kind, help);
        for listener in listeners {
            family.sample(&[("listener", &listener.listener)], value(listener));
        }
    }
    let mut rejected = page.family(
        "arus_connections_rejected_total",
        Kind::Counter,
        "Connections that a limit or rule refused, by reason; reasons that never came are left out.",
    );
    for listener in listeners {
        for (reason, count) in &listener.rejected {
            rejected.sample(&[("listener", &listener.listener), ("reason", reason)], count);
        }
    }
    let mut failed = page.family(
        "arus_connections_failed_total",
        Kind::Counter,
        "Connections that failed, by the stage where and by whose doing; pairs that never came are left out.",
    );
    for listener in listeners {
        for each in &listener.failed {
            let labels = [("listener", &*listener.listener), ("stage", each.stage), ("blame", each.blame)];
            failed.sample(&labels, each.count);
        }
    }
    let mut bytes = page.family("arus_bytes_total", Kind::Counter, "Payload bytes; up is from client to upstream.");
    for listener in listeners {
        for (direction, count) in [("up", listener.traffic.bytes_up), ("down", listener.traffic.bytes_down)] {
            bytes.sample(&[("listener", &listener.listener), ("direction", direction)], count);
        }
    }
    let mut handshakes = page.family(
        "arus_tls_handshakes_total",
        Kind::Counter,
        "TLS handshakes with clients, by version and result; kinds that never came are left out.",
    );
    for listener in listeners {
        for each in &listener.handshakes {
            let labels = [("listener", &*listener.listener), ("version", each.version), ("result", each.result)];
            handshakes.sample(&labels, each.count);
        }
    }
}

/// UDP associations; listeners that never had one are left out.
pub(super) fn datagrams(page: &mut Page, listeners: &[ListenerTotals]) {
    let mut family = page.family("arus_udp_associations", Kind::Gauge, "UDP associations that are open now.");
    for listener in listeners.iter().filter(|listener| !listener.datagrams.is_empty()) {
        family.sample(&[("listener", &listener.listener)], listener.datagrams.associations);
    }
    let mut sent = page.family(
        "arus_udp_datagrams_total",
        Kind::Counter,
        "Datagrams of UDP associations that were sent on; up is from client to target.",
    );
    for listener in listeners.iter().filter(|listener| !listener.datagrams.is_empty()) {
        for (direction, count) in [("up", listener.datagrams.up), ("down", listener.datagrams.down)] {
            sent.sample(&[("listener", &listener.listener), ("direction", direction)], count);
        }
    }
    let mut dropped = page.family(
        "arus_udp_datagrams_dropped_total",
        Kind::Counter,
        "Datagrams of UDP associations that were not sent on, by reason; reasons that never came are left out.",
    );
    for listener in listeners {
        for (reason, count) in &listener.datagrams.dropped {
            dropped.sample(&[("listener", &listener.listener), ("reason", reason)], count);
        }
    }
}

pub(super) fn stages(page: &mut Page, latencies: &Latencies) {
    page.family("arus_session_duration_seconds", Kind::Histogram, "From accept to close.")
        .histogram(&[], &Spread::of_micros(SESSION, latencies.get(Measure::Session)));
    let mut family = page.family(
        "arus_stage_duration_seconds",
        Kind::Histogram,
        "How long the stages of a connection took that it passed; first_byte: of the upstream, once connected.",
    );
    for measure in Measure::ALL.into_iter().filter(|measure| *measure != Measure::Session) {
        family.histogram(&[("stage", measure.label())], &Spread::of_micros(STAGE, latencies.get(measure)));
    }
}

pub(super) fn upstreams(page: &mut Page, upstreams: &[UpstreamTotals]) {
    let backends =
        || upstreams.iter().flat_map(|upstream| upstream.backends.iter().map(move |backend| (upstream, backend)));
    let mut up = page.family(
        "arus_upstream_backend_up",
        Kind::Gauge,
        "1 where a backend gets connections; 0 where it is down, drained or ejected.",
    );
    for (upstream, backend) in backends() {
        let is_up = backend.up && !backend.drained && !backend.ejected;
        up.sample(&[("upstream", &upstream.upstream), ("backend", &backend.backend)], u8::from(is_up));
    }
    let mut active =
        page.family("arus_upstream_connections_active", Kind::Gauge, "Connections to a backend that are open now.");
    for (upstream, backend) in backends() {
        active.sample(&[("upstream", &upstream.upstream), ("backend", &backend.backend)], backend.connections);
    }
    let mut connects = page.family("arus_upstream_connects_total", Kind::Counter, "Connects to a backend, by result.");
    for (upstream, backend) in backends() {
        for (result, count) in [("ok", backend.traffic.connections), ("failed", backend.connect_failures)] {
            let labels = [("upstream", &*upstream.upstream), ("backend", &*backend.backend), ("result", result)];
            connects.sample(&labels, count);
        }
    }
    let mut bytes =
        page.family("arus_upstream_bytes_total", Kind::Counter, "Payload bytes to (up) and from (down) a backend.");
    for (upstream, backend) in backends() {
        for (direction, count) in [("up", backend.traffic.bytes_up), ("down", backend.traffic.bytes_down)] {
            let labels = [("upstream", &*upstream.upstream), ("backend", &*backend.backend), ("direction", direction)];
            bytes.sample(&labels, count);
        }
    }
    let mut ejections = page.family(
        "arus_upstream_ejections_total",
        Kind::Counter,
        "How often a backend was put out of use for failed connects in a row.",
    );
    for (upstream, backend) in backends() {
        ejections.sample(&[("upstream", &upstream.upstream), ("backend", &backend.backend)], backend.ejections);
    }
    let mut waiting =
        page.family("arus_upstream_waiting", Kind::Gauge, "Connections that wait for a full backend to have room.");
    for upstream in upstreams {
        waiting.sample(&[("upstream", &upstream.upstream)], upstream.waiting);
    }
}

pub(super) fn shards(page: &mut Page, shards: &[ShardTotals]) {
    let simple: [Simple<ShardTotals, f64>; 12] = [
        (
            "arus_shard_stuck",
            Kind::Gauge,
            "1 where a shard has been in one turn for a second or more, so that its counts stand still.",
            |shard| f64::from(u8::from(shard.stuck)),
        ),
        ("arus_shard_connections_active", Kind::Gauge, "Connections of a shard that are open now.", |shard| {
            shard.active as f64
        }),
        ("arus_shard_connections_total", Kind::Counter, "Connections that a shard accepted.", |shard| {
            shard.traffic.connections as f64
        }),
        ("arus_shard_busy_ratio", Kind::Gauge, "Part of the last second that a shard worked, 0 to 1.", |shard| {
            shard.busy
        }),
        ("arus_shard_busy_seconds_total", Kind::Counter, "Processor time that a shard used.", |shard| {
            shard.busy_ns as f64 / 1e9
        }),
        ("arus_buffer_pool_free", Kind::Gauge, "Free receive buffers of a shard.", |shard| shard.buffers_free as f64),
        ("arus_buffer_pool_size", Kind::Gauge, "Receive buffers of a shard.", |shard| shard.buffers_total as f64),
        ("arus_buffer_pool_empty_total", Kind::Counter, "Receives that found no free buffer, and waited.", |shard| {
            shard.enobufs as f64
        }),
        ("arus_ring_operations", Kind::Gauge, "Operations of a shard's io_uring that are under way.", |shard| {
            shard.operations as f64
        }),
        (
            "arus_ring_cq_overflow_total",
            Kind::Counter,
            "Overflows of the completion queue of a shard's io_uring.",
            |shard| shard.cq_overflows as f64,
        ),
        (
            "arus_accept_errors_total",
            Kind::Counter,
            "Accepts that failed for want of descriptors or memory.",
            |shard| shard.accept_errors as f64,
        ),
        ("arus_panics_total", Kind::Counter, "Connections that ended by an error of arus's own.", |shard| {
            shard.panics as f64
        }),
    ];
    for (name, kind, help, value) in simple {
        let mut family = page.family(name, kind, help);
        for shard in shards {
            family.sample(&[("shard", &shard.shard.to_string())], value(shard));
        }
    }
}

pub(super) fn plugins(page: &mut Page, plugins: &[Arc<Process>]) {
    let totals: Vec<_> = plugins.iter().map(|process| (&*process.terms.name, process.state.totals())).collect();
    let mut calls = page.family("arus_plugin_calls_total", Kind::Counter, "Data calls of a plugin.");
    for (plugin, totals) in &totals {
        calls.sample(&[("plugin", plugin)], totals.calls);
    }
    let mut seconds = page.family("arus_plugin_call_seconds", Kind::Histogram, "How long data calls of a plugin took.");
    for (plugin, totals) in &totals {
        seconds.histogram(&[("plugin", plugin)], &Spread::of_calls(totals));
    }
    let mut faults =
        page.family("arus_plugin_faults_total", Kind::Counter, "Faults of a plugin: errors, and broken rules.");
    for (plugin, totals) in &totals {
        faults.sample(&[("plugin", plugin)], totals.faults);
    }
    let mut slow =
        page.family("arus_plugin_slow_calls_total", Kind::Counter, "Calls of a plugin that took longer than max_call.");
    for (plugin, totals) in &totals {
        slow.sample(&[("plugin", plugin)], totals.over_max_call);
    }
    let mut disabled = page.family("arus_plugin_disabled", Kind::Gauge, "1 where a fault has disabled a plugin.");
    for process in plugins {
        disabled.sample(&[("plugin", &process.terms.name)], u8::from(process.is_disabled()));
    }
    let mut own = page.family(
        "arus_plugin_own_total",
        Kind::Counter,
        "What plugins count themselves, by the names that they give.",
    );
    for process in plugins {
        for (each, value) in process.own_counters() {
            own.sample(&[("plugin", &process.terms.name), ("name", &each.name)], value);
        }
    }
}

pub(super) fn certificates(page: &mut Page, snapshot: &Snapshot) {
    let mut expiry = page.family(
        "arus_certificate_expiry_timestamp_seconds",
        Kind::Gauge,
        "When a certificate that is shown to clients ends, since the Unix epoch.",
    );
    for (listener, terms) in snapshot.plan.listeners.iter().zip(&snapshot.tls) {
        for (index, certificate) in terms.iter().flat_map(|terms| terms.certificates.all()).enumerate() {
            let labels = [
                ("listener", &*listener.name),
                ("index", &*index.to_string()),
                ("subject", &*certificate.facts.subject),
            ];
            expiry.sample(&labels, certificate.facts.not_after);
        }
    }
}
