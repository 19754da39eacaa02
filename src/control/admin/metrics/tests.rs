//! The whole page against what Prometheus's own tools and the documentation say of it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::control::fixture;
use crate::stats::counters::{Handshake, add};
use crate::stats::latency::{Latencies, Measure};
use crate::types::{Blame, Reason, ShardId, Stage};

const OPERATIONS: &str = include_str!("../../../../docs/OPERATIONS.md");

/// A page of an arus where everything has happened.
fn page(format: Format) -> String {
    let plan = fixture::plan(std::path::Path::new("/x")).with_listener("web", &["127.0.0.1:8080"]);
    let (control, _requests, shards) = fixture::control(plan.with_upstream("pool", vec![fixture::host("db", 5432)]));
    let mut latencies = Latencies::default();
    for measure in Measure::ALL {
        latencies.record(measure, Duration::from_millis(3));
    }
    control.merge_latencies(ShardId(0), &latencies);
    let counters = &control.view().snapshot.listeners[0].counters[0];
    add(&counters.rejected[Reason::AcceptRate as usize], 2);
    add(&counters.failed[Stage::Connect as usize][Blame::Upstream as usize], 4);
    add(&counters.handshakes[Handshake::Tls13 as usize], 5);
    add(&counters.bytes_up, 7);
    add(&shards[1].stats.accepted, 3);
    let door = Door::new(control.clone());
    text(&control, &door, format)
}

fn names(page: &str) -> BTreeSet<&str> {
    page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

#[test]
fn samples_are_there_with_their_labels() {
    let page = page(Format::Text);
    for line in [
        "arus_connections_active{listener=\"web\"} 0",
        "arus_connections_rejected_total{listener=\"web\",reason=\"accept_rate\"} 2",
        "arus_connections_failed_total{listener=\"web\",stage=\"connect\",blame=\"upstream\"} 4",
        "arus_tls_handshakes_total{listener=\"web\",version=\"1.3\",result=\"full\"} 5",
        "arus_bytes_total{listener=\"web\",direction=\"up\"} 7",
        "arus_stage_duration_seconds_bucket{stage=\"connect\",le=\"0.005\"} 1",
        "arus_stage_duration_seconds_count{stage=\"negotiate\"} 1",
        "arus_session_duration_seconds_count 1",
        "arus_upstream_backend_up{upstream=\"pool\",backend=\"db:5432\"} 1",
        "arus_shard_busy_ratio{shard=\"1\"} 0",
        "arus_config_generation 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    let value = |name: &str| {
        let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(value("process_resident_memory_bytes") > 1e6 && value("process_open_fds") > 2.0);
    assert!(value("process_start_time_seconds") > 1.6e9);
}

#[test]
fn every_name_of_the_contract_is_there_and_the_table_in_the_documentation_is_true() {
    let page = page(Format::Text);
    let names = names(&page);
    for name in "connections_active connections_total connections_rejected_total connections_failed_total bytes_total \
                 session_duration_seconds stage_duration_seconds user_sessions_total user_bytes_total \
                 acl_decisions_total auth_attempts_total upstream_backend_up upstream_connects_total \
                 plugin_calls_total plugin_call_seconds plugin_faults_total reloads_total config_generation \
                 shard_busy_ratio buffer_pool_free ring_cq_overflow_total sessions_store_dropped_total build_info"
        .split_whitespace()
    {
        assert!(names.contains(format!("arus_{name}").as_str()), "{name}");
    }
    let rows = OPERATIONS.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let rows = rows.map(|(name, _)| name.split('{').next().unwrap());
    let table: BTreeSet<&str> = rows.filter(|name| name.starts_with("arus_") || name.starts_with("process_")).collect();
    let missing: Vec<_> = names.difference(&table).collect();
    assert!(missing.is_empty(), "not in docs/OPERATIONS.md: {missing:?}");
    let gone: Vec<_> = table.difference(&names).collect();
    assert!(gone.is_empty(), "in docs/OPERATIONS.md, but not on the page: {gone:?}");
}

#[test]
fn open_metrics_end_and_name_counters_without_total() {
    let page = page(Format::OpenMetrics);
    assert!(page.ends_with("# EOF\n") && page.contains("# TYPE arus_bytes counter\n"));
    assert!(page.contains("\narus_bytes_total{listener=\"web\",direction=\"up\"} 7\n"));
    assert!(names(&page).iter().all(|name| !name.ends_with("_total")));
}

#[test]
fn promtool_finds_nothing_wrong() {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool: {error}; scripts/install-deps.sh installs it"));
    promtool.stdin.take().unwrap().write_all(page(Format::Text).as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
