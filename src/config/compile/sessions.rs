//! `[sessions]` and `[telemetry]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::error::{Report, Wrong, quote};
use super::super::plan::{Sessions, Store, Telemetry};
use super::super::raw;
use super::super::read::Text;
use super::bounds::{lasting, whole};
use crate::limits;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const DATABASE: &str = "sessions.db";

pub(super) fn sessions(raw: Option<&raw::Sessions<'_>>, state_dir: &Path, report: &mut Report<'_>) -> Sessions {
    let absent = raw::Sessions::default();
    let raw = raw.unwrap_or(&absent);
    let default = || Store::Sqlite(state_dir.join(DATABASE));
    let intervals = limits::BATCH_INTERVAL..=Duration::from_secs(60);
    Sessions {
        store: raw.store.as_ref().map_or_else(default, |text| store(text, state_dir, report)),
        batch_size: whole(raw.batch_size.as_ref(), "batch_size", 1..=limits::BATCH, report).unwrap_or(1000),
        batch_interval: lasting(raw.batch_interval.as_ref(), "batch_interval", intervals, report).unwrap_or(SECOND),
        retention: lasting(raw.retention.as_ref(), "retention", SECOND..=10 * limits::DURATION, report)
            .unwrap_or(90 * DAY),
        recent: whole(raw.recent.as_ref(), "recent", 0..=limits::RECENT_SESSIONS, report).unwrap_or(10_000),
    }
}

fn store(text: &Text<'_>, state_dir: &Path, report: &mut Report<'_>) -> Store {
    let word: &str = text.get_ref();
    let wrong = |what: String| Wrong::new(what).hint(r#""sqlite:sessions.db", "memory" or "off""#);
    match word.split_once(':') {
        _ if word == "memory" => return Store::Memory,
        _ if word == "off" => return Store::Off,
        Some(("sqlite", path)) if !path.is_empty() && !path.contains('\0') && !path.ends_with('/') => {
            return Store::Sqlite(state_dir.join(PathBuf::from(path)));
        }
        Some(("sqlite", _)) => report.error(&text.span(), wrong("`store` names no database file".into())),
        _ => report.error(&text.span(), wrong(format!("`store` cannot be {}", quote(word)))),
    }
    Store::Off
}

pub(super) fn telemetry(raw: Option<&raw::Telemetry>, report: &mut Report<'_>) -> Telemetry {
    let absent = raw::Telemetry::default();
    let raw = raw.unwrap_or(&absent);
    Telemetry {
        max_events: whole(raw.max_events.as_ref(), "max_events", 1..=limits::EVENTS, report).unwrap_or(1000),
        retention: lasting(raw.retention.as_ref(), "retention", SECOND..=limits::DURATION, report).unwrap_or(DAY / 4),
    }
}
