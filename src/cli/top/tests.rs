//! Frames of every size, and the keys.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::control::admin::status::Status;

/// A reading `seconds` after the start, with traffic that grows by the second.
pub(in crate::cli) fn reading(seconds: u64) -> Status {
    let shard = |id: u64| {
        json!({
            "id": id, "cpu": id, "active": 7, "accepted": 100 * seconds, "accepted_per_second": 100.0,
            "bytes_up": seconds << 20, "bytes_down": seconds << 30, "bytes_up_per_second": 1048576.0,
            "bytes_down_per_second": 1073741824.0, "busy_share": 0.25, "busy_ns": 250, "idle_ns": 750,
            "turns": 1, "completions": 1, "operations": 1, "buffers": { "free": 200, "total": 256, "watermark": 60 },
            "cq_overflows": 0, "enobufs": 0, "accept_errors": 0, "panics": 0, "summaries_dropped": 0,
        })
    };
    let backend = |n: u64, state: &str| {
        json!({
            "address": format!("10.0.0.{n}:80"), "state": state, "connections": { "used": 3, "limit": null },
            "connects": 50 * seconds, "connects_per_second": 50.0, "connect_failures": 2, "ejections": 0,
            "bytes_up": seconds << 10, "bytes_down": seconds << 20, "bytes_up_per_second": 1024.0,
            "bytes_down_per_second": 1048576.0,
        })
    };
    let latency = json!({ "count": 10, "p50": 120, "p90": 900, "p99": 2500, "max": 61_000_000 });
    serde_json::from_value(json!({
        "version": "0.1.0", "pid": 1, "started": "2026-01-01T00:00:00.000Z", "uptime_seconds": seconds,
        "generation": 3, "draining": false, "config": "/etc/arus/proxy.toml",
        "totals": {
            "active": 14, "accepted": 200 * seconds, "accepted_per_second": 200.0, "rejected": 5, "failed": 2,
            "bytes_up": seconds << 21, "bytes_down": seconds << 31, "bytes_up_per_second": 2097152.0,
            "bytes_down_per_second": 2147483648.0, "reloads": 2, "reloads_refused": 1, "summaries_dropped": 0,
            "access_lines_unwritten": 0, "log_lines_dropped": 0,
        },
        "limits": { "connections": { "used": 14, "limit": 100_000 }, "descriptors": 1024 },
        "latency": { "connect": latency, "first_byte": latency, "session": latency },
        "shards": [shard(0), shard(1)],
        "listeners": [{
            "name": "web", "addresses": ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"],
            "connections": { "used": 14, "limit": null }, "accepted": 200 * seconds, "accepted_per_second": 200.0,
            "closed": 10, "bytes_up": 0, "bytes_down": 0, "bytes_up_per_second": 0.0, "bytes_down_per_second": 0.0,
            "rejected": { "accept_rate": 5 }, "failed": [{ "stage": "connect", "blame": "upstream", "count": 2 * seconds }],
        }],
        "upstreams": [{
            "name": "pool", "waiting": 0,
            "backends": [backend(1, "up"), backend(2, "down"), backend(3, "drained")],
        }],
    }))
    .unwrap()
}

fn samples() -> Samples {
    let mut samples = Samples::default();
    for seconds in 10..40 {
        samples.take(reading(seconds));
    }
    let verdicts = json!({ "data": [], "counts": { "client": 12, "ok": 188 }, "live": 999, "missing_shards": [] });
    samples.verdicts = Some(serde_json::from_value(verdicts).unwrap());
    samples
}

#[test]
fn a_frame_of_80_columns_shows_everything() {
    let choices = Choices { interval: Duration::from_secs(1), ..Choices::default() };
    let text = frame_text(&samples(), &choices, 80).unwrap();
    for part in [
        "arus 0.1.0",
        "generation 3",
        "14 of 100000",
        "200/s",
        "2.0 MiB/s",
        "2.0 GiB/s",
        "███░░░░░░░  25%",
        "56/256",
        "10.0.0.1:80",
        "drained",
        "50/s",
        "first_byte",
        "2.5 ms",
        "clients 12  of 200 sessions looked at",
        "upstream 78 +58  in the last minute",
        "q quit",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 80));
    assert!(text.lines().count() <= 24, "this many shards and backends fit an ordinary terminal");
}

#[test]
fn every_window_size_can_be_drawn() {
    let samples = samples();
    let widths = [1, 2, 10, 40, 79, 80, 200];
    for (width, height) in widths.into_iter().flat_map(|width| (1..=30).map(move |height| (width, height))) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let choices = Choices { scroll: 1, trouble: Some("no answer".into()), ..Choices::default() };
        terminal.draw(|frame| screen::draw(frame, &samples, &choices)).unwrap();
    }
    let mut terminal = Terminal::new(TestBackend::new(40, 3)).unwrap();
    terminal.draw(|frame| screen::draw(frame, &Samples::default(), &Choices::default())).unwrap();
    assert!(text_of(terminal.backend().buffer()).contains("waiting for arus"));
}

#[test]
fn a_small_window_keeps_what_matters_most() {
    let mut terminal = Terminal::new(TestBackend::new(80, 7)).unwrap();
    terminal.draw(|frame| screen::draw(frame, &samples(), &Choices::default())).unwrap();
    let text = text_of(terminal.backend().buffer());
    assert!(text.contains("connections") && text.contains("shard") && text.contains("upstream"), "{text}");
}

#[test]
fn keys_do_what_the_footer_says() {
    let samples = samples();
    let mut choices = Choices { interval: Duration::from_secs(1), ..Choices::default() };
    let mut hit = |code| press(KeyEvent::from(code), &mut choices, &samples);
    assert!(hit(KeyCode::Char('p')) && hit(KeyCode::Char('+')) && hit(KeyCode::Down) && hit(KeyCode::PageDown));
    assert!(!hit(KeyCode::Char('q')) && !hit(KeyCode::Esc));
    assert!(choices.paused);
    assert_eq!((choices.interval, choices.scroll), (Duration::from_millis(500), 2));
    assert!(!press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), &mut choices, &samples));
}
