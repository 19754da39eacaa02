//! Everything about one session, for a person.

use std::fmt;
use std::time::Duration;

use crate::cli::table::Table;
use crate::cli::units;
use crate::control::admin::sessions::Session;
use crate::control::admin::verdict::{Association, Side};
use crate::types::is_unprintable;

pub(super) struct Details<'a>(pub(super) &'a Session);

impl fmt::Display for Details<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = self.0;
        let millis = |ms: Option<f64>| ms.map(|ms| units::micros((ms * 1000.0) as u64));
        let verdict = session.verdict.as_ref().map(|verdict| match verdict.who.as_str() {
            who @ ("client" | "backend" | "us") => format!("{who} keeps it waiting: {}", verdict.why),
            who => format!("{who}: {}", verdict.why),
        });
        let ended = session.reason.as_ref().map(|reason| match &session.blame {
            Some(blame) => format!("{reason} (blame: {blame})"),
            None => reason.clone(),
        });
        let datagrams = session.datagrams_up.zip(session.datagrams_down);
        let datagrams = datagrams.map(|(up, down)| format!("{up} up, {down} down"));
        let rows = [
            ("id", Some(session.id.clone())),
            ("verdict", verdict),
            ("state", Some(format!("{}, stage {}", session.state, session.stage))),
            ("ended", ended),
            (
                "listener",
                Some(format!(
                    "{} ({}{})",
                    session.listener,
                    session.service,
                    if session.protocol == "udp" { ", udp" } else { "" }
                )),
            ),
            ("source", Some(session.source.clone())),
            ("peer", session.peer.clone()),
            ("user", session.user.clone()),
            ("sni", session.sni.clone()),
            (
                "tls",
                session
                    .tls_version
                    .as_ref()
                    .map(|version| format!("{version} {}", session.tls_cipher.as_deref().unwrap_or_default())),
            ),
            ("alpn", session.alpn.clone()),
            ("target", session.target.clone()),
            ("rule", session.acl_rule.clone()),
            ("upstream", session.upstream.clone()),
            ("backend", session.backend.clone()),
            ("start", Some(session.start.clone())),
            ("age", Some(units::span(Duration::from_millis(session.duration_ms)))),
            ("connect", millis(session.connect_ms)),
            ("first byte", millis(session.first_byte_ms)),
            ("up", Some(units::bytes(session.bytes_up))),
            ("down", Some(units::bytes(session.bytes_down))),
            ("datagrams", datagrams),
            (
                "inside arus",
                session
                    .held
                    .map(|held| format!("{} up, {} down", units::bytes(held.up_bytes), units::bytes(held.down_bytes))),
            ),
            ("shard", Some(format!("{}, generation {}", session.shard, session.generation))),
        ];
        for (name, value) in rows {
            if let Some(value) = value {
                // What a peer put into a name must not speak to the terminal.
                let value = value.replace(is_unprintable, "?");
                writeln!(f, "{name:<12} {value}")?;
            }
        }
        if let Some(association) = &session.association {
            let ago = |ms: Option<u64>| {
                ms.map_or("never".into(), |ms| format!("{} ago", units::micros(ms.saturating_mul(1000))))
            };
            let Association { targets, dropped, last_up_ms, last_down_ms, .. } = association;
            writeln!(f, "{:<12} {targets}", "targets")?;
            writeln!(f, "{:<12} {} up, {} down", "last", ago(*last_up_ms), ago(*last_down_ms))?;
            let dropped: Vec<String> = dropped.iter().map(|(why, count)| format!("{count} {why}")).collect();
            writeln!(f, "{:<12} {}", "dropped", if dropped.is_empty() { "none".into() } else { dropped.join(", ") })?;
        }
        let Some(tcp) = &session.tcp else { return Ok(()) };
        let mut table =
            Table::new(&["TCP", "RTT>", "RESENT>", "QUEUED>", "UNREAD>", "WINDOW>", "FULL>", "SENT>", "HEARD>"]);
        for (name, side) in [("client", &tcp.client), ("upstream", &tcp.upstream)] {
            if let Some(side) = side {
                table.row(row(name, side));
            }
        }
        if table.is_empty() { Ok(()) } else { write!(f, "\n{table}") }
    }
}

/// QUEUED waits for the peer, UNREAD for arus; FULL is the part of the last moment in which the peer's window was.
fn row(name: &str, side: &Side) -> [String; 9] {
    let ago = |ms: u64| units::micros(ms.saturating_mul(1000));
    [
        name.to_owned(),
        units::micros((side.rtt_ms * 1000.0) as u64),
        side.retransmits.to_string(),
        units::bytes(side.send_queue_bytes.into()),
        units::bytes(side.unread_bytes.into()),
        side.peer_window_bytes.map_or("-".into(), |bytes| units::bytes(bytes.into())),
        units::percent(side.rwnd_limited_share),
        ago(side.last_sent_ms),
        ago(side.last_received_ms),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn says_who_keeps_it_waiting_and_shows_both_sides() {
        let side = serde_json::json!({
            "rtt_ms": 1.5, "rtt_variation_ms": 0.1, "retransmits": 3, "unacked_segments": 0, "not_sent_bytes": 0,
            "send_queue_bytes": 65536, "unread_bytes": 0, "busy_ms": 5, "rwnd_limited_ms": 4, "sndbuf_limited_ms": 0,
            "receive_space_bytes": 1, "peer_window_bytes": 0, "congestion_window_segments": 10,
            "delivery_bytes_per_second": 1, "last_sent_ms": 1200, "last_received_ms": 10, "rwnd_limited_share": 0.97,
        });
        let session: Session = serde_json::from_value(serde_json::json!({
            "id": "1", "listener": "web", "service": "tcp", "source": "192.0.2.1:5", "protocol": "tcp", "start": "",
            "duration_ms": 61_000, "bytes_up": 5, "bytes_down": 2048, "state": "active", "stage": "relay", "shard": 0,
            "generation": 1, "sni": "a\u{1b}b", "verdict": { "who": "client", "why": "it reads nothing" },
            "held": { "up_bytes": 0, "down_bytes": 4096 }, "tcp": { "client": side, "upstream": null },
        }))
        .unwrap();
        let text = Details(&session).to_string();
        for part in
            ["client keeps it waiting: it reads nothing", "a?b", "1m 1s", "0 B up, 4.0 KiB down", "97%", "64 KiB"]
        {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!text.contains("user") && !text.contains("upstream"), "{text}");
    }
}
