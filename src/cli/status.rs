//! `arus status`: what runs and how it stands, as tables or JSON.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use super::client::Client;
use super::socket::SocketArgs;
use super::table::Table;
use super::units;
use crate::control::admin::status::{Check, Status, Use};

/// Show what runs and how it stands
///
/// All counters count from the start of the process.
///
/// Examples:
///   arus status
///   arus status --json | jq .totals
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Print JSON, as GET /api/v1/status answers
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.socket)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", client.get_json("/api/v1/status")?)?;
    } else {
        out.write_all(render(&client.get("/api/v1/status")?).as_bytes())?;
    }
    Ok(())
}

/// `7 of 100`, or `7` where there is no limit.
pub(super) fn in_use(of: &Use) -> String {
    match of.limit {
        Some(limit) => format!("{} of {limit}", of.used),
        None => of.used.to_string(),
    }
}

fn render(status: &Status) -> String {
    let mut text = header(status);
    for table in [
        listeners(status),
        rejections(status),
        datagrams(status),
        handshakes(status),
        certificates(status),
        upstreams(status),
        plugins(status),
        shards(status),
        latencies(status),
    ] {
        if !table.is_empty() {
            let _ = write!(text, "\n{table}");
        }
    }
    text
}

fn header(status: &Status) -> String {
    let totals = &status.totals;
    let config = status.config.as_ref().map_or("the built-in example".into(), |path| path.display().to_string());
    let uptime = units::span(Duration::from_secs(status.uptime_seconds));
    let state = if status.draining { "DRAINING" } else { "running" };
    let mut text = format!(
        "arus {} {state}, pid {}, up {uptime}, generation {} of {config}\n\
         connections {}, accepted {}, rejected {}, failed {}, up {}, down {}\n\
         in the last second: {} new, up {}, down {}\n",
        status.version,
        status.pid,
        status.generation,
        in_use(&status.limits.connections),
        units::count(totals.accepted),
        units::count(totals.rejected),
        units::count(totals.failed),
        units::bytes(totals.flow.bytes_up),
        units::bytes(totals.flow.bytes_down),
        units::rate(totals.accepted_per_second),
        units::bytes_per_second(totals.flow.bytes_up_per_second),
        units::bytes_per_second(totals.flow.bytes_down_per_second),
    );
    if !status.missing_shards.is_empty() {
        let shards: Vec<String> = status.missing_shards.iter().map(u16::to_string).collect();
        let _ = writeln!(text, "NOT ANSWERING: shard {}; its counts stand still", shards.join(", "));
    }
    let (access, log) = (totals.summaries_dropped + totals.access_lines_unwritten, totals.log_lines_dropped);
    if let Some(store) = &status.store {
        let _ = write!(text, "sessions in {}: {}", store.store, store.state);
        if let Some(error) = &store.error {
            let _ = write!(text, " ({error})");
        }
        let _ = writeln!(text, ", {} written, {} wait", units::count(store.written), store.waiting);
        if store.dropped > 0 {
            let _ = writeln!(text, "LOST: {} session records", store.dropped);
        }
    }
    if access > 0 || log > 0 {
        let _ = writeln!(text, "LOST: {access} lines of the access log, {log} of the log");
    }
    text
}

fn listeners(status: &Status) -> Table {
    let mut table =
        Table::new(&["LISTENER", "ADDRESS", "CONNECTIONS>", "ACCEPTED>", "REJECTED>", "FAILED>", "UP>", "DOWN>"]);
    for listener in &status.listeners {
        table.row([
            listener.name.clone(),
            addresses(&listener.addresses),
            in_use(&listener.connections),
            units::count(listener.accepted),
            units::count(listener.rejected.values().sum()),
            units::count(listener.failed.iter().map(|failed| failed.count).sum()),
            units::bytes(listener.flow.bytes_up),
            units::bytes(listener.flow.bytes_down),
        ]);
    }
    table
}

/// A port range may have thousands.
fn addresses(addresses: &[String]) -> String {
    match addresses {
        [] => "-".into(),
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            format!("{first}, {second}, {third} and {} more", rest.len())
        }
        few => few.join(", "),
    }
}

fn rejections(status: &Status) -> Table {
    let mut table = Table::new(&["LISTENER", "REFUSED OR FAILED", "COUNT>"]);
    for listener in &status.listeners {
        for (reason, count) in &listener.rejected {
            table.row([listener.name.clone(), format!("rejected: {reason}"), units::count(*count)]);
        }
        for failed in &listener.failed {
            let cause = format!("failed: {} ({})", failed.stage, failed.blame);
            table.row([listener.name.clone(), cause, units::count(failed.count)]);
        }
    }
    table
}

fn datagrams(status: &Status) -> Table {
    let mut table = Table::new(&["LISTENER", "UDP", "COUNT>"]);
    for listener in &status.listeners {
        let Some(datagrams) = &listener.datagrams else { continue };
        let known =
            [("associations", datagrams.associations), ("sent up", datagrams.up), ("sent down", datagrams.down)];
        for (what, count) in known {
            table.row([listener.name.clone(), what.into(), units::count(count)]);
        }
        for (why, count) in &datagrams.dropped {
            table.row([listener.name.clone(), format!("dropped: {why}"), units::count(*count)]);
        }
    }
    table
}

fn handshakes(status: &Status) -> Table {
    let mut table = Table::new(&["LISTENER", "TLS HANDSHAKES", "COUNT>"]);
    for listener in &status.listeners {
        for handshakes in &listener.handshakes {
            let kind = format!("{} {}", handshakes.version, handshakes.result);
            table.row([listener.name.clone(), kind.trim().into(), units::count(handshakes.count)]);
        }
    }
    table
}

fn certificates(status: &Status) -> Table {
    let mut table = Table::new(&["LISTENER", "CERTIFICATE", "FOR", "UNTIL"]);
    for listener in &status.listeners {
        for certificate in &listener.certificates {
            let names = addresses(&certificate.names);
            table.row([listener.name.clone(), certificate.subject.clone(), names, certificate.not_after.clone()]);
        }
    }
    table
}

fn upstreams(status: &Status) -> Table {
    let mut table = Table::new(&[
        "UPSTREAM",
        "BACKEND",
        "STATE",
        "CONNECTIONS>",
        "CONNECTS>",
        "NOW>",
        "FAILURES>",
        "EJECTED>",
        "UP>",
        "DOWN>",
        "SINCE>",
        "LAST CHECK",
    ]);
    for upstream in &status.upstreams {
        for backend in &upstream.backends {
            table.row([
                upstream.name.clone(),
                backend.address.clone(),
                backend.state.clone(),
                in_use(&backend.connections),
                units::count(backend.connects),
                units::rate(backend.connects_per_second),
                units::count(backend.connect_failures),
                units::count(backend.ejections),
                units::bytes(backend.flow.bytes_up),
                units::bytes(backend.flow.bytes_down),
                backend.since.as_deref().and_then(ago).unwrap_or_else(|| "-".into()),
                backend.last_check.as_ref().map_or_else(|| "-".into(), check),
            ]);
        }
    }
    table
}

fn ago(since: &str) -> Option<String> {
    let since = humantime::parse_rfc3339(since).ok()?;
    Some(units::span(SystemTime::now().duration_since(since).unwrap_or_default()))
}

fn check(check: &Check) -> String {
    check.error.clone().unwrap_or_else(|| format!("passed in {}", units::micros((check.took_ms * 1000.0) as u64)))
}

fn plugins(status: &Status) -> Table {
    let mut table = Table::new(&[
        "PLUGIN",
        "IS",
        "STATE",
        "GENERATION>",
        "SEEN>",
        "CALLS>",
        "P50>",
        "P99>",
        "FAULTS>",
        "TOO LONG>",
        "IN>",
        "OUT>",
        "SHA256",
        "PATH",
    ]);
    let nanos = |ns: Option<u64>| ns.map_or("-".into(), |ns| units::micros(ns.div_ceil(1000)));
    for plugin in &status.plugins {
        table.row([
            plugin.name.clone(),
            format!("{} {}", plugin.library, plugin.version),
            if plugin.disabled { "disabled" } else { "up" }.into(),
            plugin.generation.to_string(),
            units::count(plugin.connections),
            units::count(plugin.calls),
            nanos(plugin.call_ns_p50),
            nanos(plugin.call_ns_p99),
            units::count(plugin.faults),
            units::count(plugin.over_max_call),
            units::bytes(plugin.bytes_in),
            units::bytes(plugin.bytes_out),
            plugin.sha256.chars().take(12).collect(),
            plugin.path.display().to_string(),
        ]);
    }
    table
}

fn shards(status: &Status) -> Table {
    let mut table = Table::new(&[
        "SHARD>",
        "CPU>",
        "BUSY>",
        "ACTIVE>",
        "ACCEPTED>",
        "UP>",
        "DOWN>",
        "BUFFERS FREE>",
        "MOST USED>",
        "ENOBUFS>",
        "OPS>",
        "CQ OVERFLOWS>",
        "PANICS>",
    ]);
    for shard in &status.shards {
        table.row([
            shard.id.to_string(),
            shard.cpu.map_or("-".into(), |cpu| cpu.to_string()),
            units::percent(shard.busy_share),
            shard.active.to_string(),
            units::count(shard.accepted),
            units::bytes(shard.flow.bytes_up),
            units::bytes(shard.flow.bytes_down),
            format!("{} of {}", shard.buffers.free, shard.buffers.total),
            shard.buffers.watermark.to_string(),
            units::count(shard.enobufs),
            shard.operations.to_string(),
            shard.cq_overflows.to_string(),
            shard.panics.to_string(),
        ]);
    }
    table
}

fn latencies(status: &Status) -> Table {
    let mut table = Table::new(&["LATENCY", "COUNT>", "P50>", "P90>", "P99>", "MAX>"]);
    for (stage, latency) in status.latency.iter().filter(|(_, latency)| latency.count > 0) {
        table.row([
            stage.clone(),
            units::count(latency.count),
            units::micros(latency.p50),
            units::micros(latency.p90),
            units::micros(latency.p99),
            units::micros(latency.max),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::tests::reading;

    #[test]
    fn the_tables_show_what_stands_in_the_document() {
        let text = render(&reading(60));
        for part in [
            "arus 0.1.0 running, pid 1, up 1m 0s, generation 3 of /etc/arus/proxy.toml",
            "connections 14 of 100000, accepted 12k, rejected 5, failed 2, up 120 MiB, down 120 GiB",
            "in the last second: 200/s new, up 2.0 MiB/s, down 2.0 GiB/s",
            "pool      10.0.0.2:80  down               3      3000  50/s         2",
            "    0    0   25%       7      6000  60 MiB  60 GiB    200 of 256",
            "web       127.0.0.1:1, 127.0.0.1:2, 127.0.0.1:3 and 1 more",
            "web       rejected: accept_rate           5",
            "web       failed: connect (upstream)    120",
            "first_byte     10  120 us  900 us  2.5 ms  61 s",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert!(!text.contains("LOST"));
    }
}
