//! `[engine]`, `[timeouts]`, `[log]` and `[demo]`.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::super::Environment;
use super::super::address;
use super::super::error::{Report, Wrong, quote};
use super::super::plan::{AccessLog, BusyPoll, Demo, Engine, Level, Log, LogFormat, Timeouts};
use super::super::raw;
use super::super::read::{Lasting, Text};
use super::super::units;
use super::bounds::{bytes, lasting, power_of_two, whole};
use super::{required, word};
use crate::limits;

const BUFFERS: u32 = 256;
const MAX_BUFFERS: u32 = 8192;
/// What a time limit may be. There is no "never": a long one says how long.
const TIMEOUTS: RangeInclusive<Duration> = limits::TIMEOUT..=limits::DURATION;

pub(super) fn engine(
    raw: Option<&raw::Engine<'_>>,
    base: &Path,
    environment: &Environment,
    report: &mut Report<'_>,
) -> Engine {
    let absent = raw::Engine::default();
    let raw = raw.unwrap_or(&absent);
    let (buffers, max_buffers) = buffers(raw, report);
    let state_dir = raw.state_dir.as_ref().and_then(|text| path(text, base, report));
    Engine {
        shards: raw.shards.as_ref().and_then(|shards| self::shards(shards, report)),
        pin: raw.pin.as_ref().is_none_or(|pin| *pin.get_ref()),
        buffer_size: bytes(raw.buffer_size.as_ref(), "buffer_size", limits::BUFFER_SIZE, report).unwrap_or(16 * 1024),
        buffers,
        max_buffers,
        busy_poll: raw.busy_poll.as_ref().map_or(BusyPoll::Off, |text| busy_poll(text, report)),
        max_connections: whole(raw.max_connections.as_ref(), "max_connections", 1..=limits::CONNECTIONS, report)
            .unwrap_or(100_000),
        drain_timeout: lasting(raw.drain_timeout.as_ref(), "drain_timeout", Duration::ZERO..=limits::DURATION, report)
            .unwrap_or(Duration::from_secs(30)),
        user: raw.user.as_ref().and_then(|text| user(text, report)),
        state_dir: state_dir.unwrap_or_else(|| environment.state_dir()),
    }
}

/// `None`: one per CPU.
fn shards(raw: &raw::WholeOrText<'_>, report: &mut Report<'_>) -> Option<NonZeroU16> {
    match raw {
        raw::WholeOrText::Whole(number) => {
            let number = whole(Some(number), "shards", 1..=u32::from(limits::SHARDS), report)?;
            u16::try_from(number).ok().and_then(NonZeroU16::new)
        }
        raw::WholeOrText::Text(text) => word(Some(text), "shards", &[("auto", None)], None, report),
    }
}

fn buffers(raw: &raw::Engine<'_>, report: &mut Report<'_>) -> (u32, u32) {
    let bounds = 1..=limits::MAX_BUFFERS;
    let buffers = power_of_two(raw.buffers.as_ref(), "buffers", bounds.clone(), report);
    let max_buffers = power_of_two(raw.max_buffers.as_ref(), "max_buffers", bounds, report);
    // One that is not given follows the other; only two that are can contradict each other.
    let (buffers, max_buffers) = match (buffers, max_buffers) {
        (None, None) => (BUFFERS, MAX_BUFFERS),
        (Some(buffers), None) => (buffers, MAX_BUFFERS.max(buffers)),
        (None, Some(max_buffers)) => (BUFFERS.min(max_buffers), max_buffers),
        (Some(buffers), Some(max_buffers)) => (buffers, max_buffers),
    };
    if max_buffers < buffers {
        let span = raw.max_buffers.as_ref().map_or(0..0, Spanned::span);
        report.error(&span, format!("`max_buffers` ({max_buffers}) is less than `buffers` ({buffers})"));
    }
    (buffers, max_buffers)
}

fn busy_poll(text: &Text<'_>, report: &mut Report<'_>) -> BusyPoll {
    if text.get_ref() == "always" {
        return BusyPoll::Always;
    }
    let duration = units::duration(text.get_ref()).map_err(|wrong| wrong.hint(r#""0", "50us" or "always""#));
    let Some(duration) = report.accept(&text.span(), duration) else { return BusyPoll::Off };
    let spanned = Spanned::new(text.span(), duration);
    match lasting(Some(&spanned), "busy_poll", Duration::ZERO..=limits::BUSY_POLL, report) {
        None | Some(Duration::ZERO) => BusyPoll::Off,
        Some(duration) => BusyPoll::For(duration),
    }
}

fn user(text: &Text<'_>, report: &mut Report<'_>) -> Option<String> {
    let name: &str = text.get_ref();
    if name.is_empty() || name.contains([':', '/', '\0']) {
        report.error(&text.span(), Wrong::new(format!("{} is not a user", quote(name))).hint("such as \"nobody\""));
        return None;
    }
    Some(name.to_owned())
}

fn path(text: &Text<'_>, base: &Path, report: &mut Report<'_>) -> Option<PathBuf> {
    report.accept(&text.span(), address::path(text.get_ref(), base))
}

/// A time limit; absent or wrong: `default`.
fn timeout(value: Option<&Lasting>, key: &str, default: Duration, report: &mut Report<'_>) -> Duration {
    lasting(value, key, TIMEOUTS, report).unwrap_or(default)
}

const DEFAULT_TIMEOUTS: Timeouts = Timeouts {
    proxy_header: Duration::from_secs(5),
    tls_handshake: Duration::from_secs(10),
    negotiate: Duration::from_secs(10),
    connect: Duration::from_secs(5),
    idle: Duration::from_secs(600),
    half_closed: Duration::from_secs(60),
};

/// The two tables of time limits have the same keys, and only their defaults differ.
macro_rules! timeouts {
    ($raw:expr, $defaults:expr, $report:expr) => {{
        let (raw, defaults) = ($raw, $defaults);
        Timeouts {
            proxy_header: timeout(raw.proxy_header.as_ref(), "proxy_header", defaults.proxy_header, $report),
            tls_handshake: timeout(raw.tls_handshake.as_ref(), "tls_handshake", defaults.tls_handshake, $report),
            negotiate: timeout(raw.negotiate.as_ref(), "negotiate", defaults.negotiate, $report),
            connect: timeout(raw.connect.as_ref(), "connect", defaults.connect, $report),
            idle: timeout(raw.idle.as_ref(), "idle", defaults.idle, $report),
            half_closed: timeout(raw.half_closed.as_ref(), "half_closed", defaults.half_closed, $report),
        }
    }};
}

pub(super) fn timeouts(raw: Option<&raw::Timeouts>, report: &mut Report<'_>) -> Timeouts {
    raw.map_or(DEFAULT_TIMEOUTS, |raw| timeouts!(raw, DEFAULT_TIMEOUTS, report))
}

/// The file's time limits, each unless the listener has its own.
pub(super) fn listener_timeouts(
    raw: Option<&raw::ListenerTimeouts>,
    defaults: Timeouts,
    report: &mut Report<'_>,
) -> Timeouts {
    raw.map_or(defaults, |raw| timeouts!(raw, defaults, report))
}

pub(super) fn log(raw: Option<&raw::Log<'_>>, base: &Path, report: &mut Report<'_>) -> Log {
    let absent = raw::Log::default();
    let raw = raw.unwrap_or(&absent);
    let levels = [
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
        ("trace", Level::Trace),
    ];
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    Log {
        level: word(raw.level.as_ref(), "level", &levels, Level::Info, report),
        format: word(raw.format.as_ref(), "format", &formats, LogFormat::Text, report),
        access: match raw.access.as_ref() {
            None => AccessLog::Stderr,
            Some(text) if text.get_ref() == "stderr" => AccessLog::Stderr,
            Some(text) if text.get_ref() == "off" => AccessLog::Off,
            Some(text) => path(text, base, report).map_or(AccessLog::Off, AccessLog::File),
        },
    }
}

pub(super) fn demo(raw: Option<&raw::Demo<'_>>, report: &mut Report<'_>) -> Option<Demo> {
    let raw = raw?;
    let text = required(raw.hello.as_ref(), "hello", &raw.head, report)?;
    let hello = report.accept(&text.span(), address::socket(text.get_ref()))?;
    let accept_proxy = raw.accept_proxy.as_ref().is_some_and(|accept| *accept.get_ref());
    Some(Demo { hello, accept_proxy })
}
