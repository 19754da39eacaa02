//! Events: what happened that an operator wants to know of, with its time, severity and details. Kept in memory, bounded
//! in number and age; `arus events` and `GET /api/v1/events` show them. Whoever notices something says it to [`Events`],
//! which is cheap to clone and never blocks for long.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};

use crate::config::plan::Telemetry;

/// How grave it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    Info,
    Warning,
    Error,
}

impl Severity {
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Error];

    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    /// Start, drain and stop.
    Process,
    /// Configurations that were put into force or refused.
    Reload,
    /// Backends that go up, down, or are ejected.
    Backend,
    Plugin,
    /// Limits that refuse connections.
    Limit,
    /// Bans of sources, and authentication that cannot be done.
    Auth,
    /// The database of sessions.
    Store,
    Certificate,
    /// Shards that are loaded unevenly.
    Shard,
    /// What was done through the admin API.
    Admin,
}

impl Category {
    pub const ALL: [Self; 10] = [
        Self::Process,
        Self::Reload,
        Self::Backend,
        Self::Plugin,
        Self::Limit,
        Self::Auth,
        Self::Store,
        Self::Certificate,
        Self::Shard,
        Self::Admin,
    ];

    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Reload => "reload",
            Self::Backend => "backend",
            Self::Plugin => "plugin",
            Self::Limit => "limit",
            Self::Auth => "auth",
            Self::Store => "store",
            Self::Certificate => "certificate",
            Self::Shard => "shard",
            Self::Admin => "admin",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub time: SystemTime,
    pub severity: Severity,
    pub category: Category,
    pub message: String,
    /// By names, so that a machine need not read the message.
    pub details: Map<String, Value>,
    /// When it happened on a clock that does not jump.
    at: Instant,
}

/// Every clone speaks of the same events.
#[derive(Debug, Clone)]
pub struct Events(Arc<Mutex<Ring>>);

#[derive(Debug)]
struct Ring {
    terms: Telemetry,
    /// The newest last.
    events: VecDeque<Event>,
    /// What was said not long ago, and how often since.
    said: HashMap<String, (Instant, u64)>,
}

/// The same is said once in this time.
const AGAIN: Duration = Duration::from_secs(60);
/// Different things whose repetition is watched; beyond it they are said each time.
const WATCHED: usize = 4096;
/// Bytes of one text.
const TEXT_BYTES: usize = 4096;
/// Texts of one list.
const LIST: usize = 100;

impl Events {
    #[must_use]
    pub fn new(terms: Telemetry) -> Self {
        Self(Arc::new(Mutex::new(Ring { terms, events: VecDeque::new(), said: HashMap::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts new bounds into force.
    pub fn follow(&self, terms: Telemetry) {
        let mut ring = self.lock();
        ring.terms = terms;
        ring.trim(Instant::now());
    }

    /// Notes what happened. `details` is an object.
    pub fn say(&self, severity: Severity, category: Category, message: impl Into<String>, details: Value) {
        self.lock().say(Instant::now(), severity, category, message.into(), details);
    }

    /// As [`Events::say`], for what may happen very often: the same `key` is noted once a minute, with the number of
    /// times that it was left out before. Tells whether it was noted.
    pub fn say_seldom(
        &self,
        key: &str,
        severity: Severity,
        category: Category,
        message: impl Into<String>,
        details: Value,
    ) -> bool {
        self.say_seldom_at(Instant::now(), key, severity, category, message.into(), details)
    }

    fn say_seldom_at(
        &self,
        now: Instant,
        key: &str,
        severity: Severity,
        category: Category,
        message: String,
        mut details: Value,
    ) -> bool {
        let mut ring = self.lock();
        if ring.said.len() >= WATCHED {
            ring.said.retain(|_, (said, _)| now.saturating_duration_since(*said) < AGAIN);
        }
        if let Some((said, left_out)) = ring.said.get_mut(key) {
            if now.saturating_duration_since(*said) < AGAIN {
                *left_out += 1;
                return false;
            }
            if *left_out > 0
                && let Value::Object(details) = &mut details
            {
                details.insert("left_out".into(), json!(*left_out));
            }
        }
        if ring.said.len() < WATCHED || ring.said.contains_key(key) {
            ring.said.insert(key.to_owned(), (now, 0));
        }
        ring.say(now, severity, category, message, details);
        true
    }

    /// Those that `wanted` takes, newest first, `limit` at most.
    #[must_use]
    pub fn newest(&self, limit: usize, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut ring = self.lock();
        ring.trim(Instant::now());
        ring.events.iter().rev().filter(|event| wanted(event)).take(limit).cloned().collect()
    }
}

impl Ring {
    fn say(&mut self, at: Instant, severity: Severity, category: Category, mut message: String, details: Value) {
        message.truncate(message.floor_char_boundary(TEXT_BYTES));
        let mut details = match details {
            Value::Object(details) => details,
            Value::Null => Map::new(),
            other => Map::from_iter([("value".to_owned(), other)]),
        };
        details.values_mut().for_each(cut);
        self.events.push_back(Event { time: SystemTime::now(), severity, category, message, details, at });
        self.trim(at);
    }

    fn trim(&mut self, now: Instant) {
        let excess = self.events.len().saturating_sub(self.terms.max_events as usize);
        self.events.drain(..excess);
        while self.events.front().is_some_and(|event| now.saturating_duration_since(event.at) > self.terms.retention) {
            self.events.pop_front();
        }
    }
}

/// A file may have a thousand errors, and a name any length.
fn cut(value: &mut Value) {
    match value {
        Value::String(text) => text.truncate(text.floor_char_boundary(TEXT_BYTES)),
        Value::Array(list) => {
            list.truncate(LIST);
            list.iter_mut().for_each(cut);
        }
        _ => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn events(max_events: u32) -> Events {
        Events::new(Telemetry { max_events, retention: Duration::from_secs(60) })
    }

    fn messages(events: &Events) -> Vec<String> {
        events.newest(usize::MAX, |_| true).into_iter().map(|event| event.message).collect()
    }

    #[test]
    fn the_oldest_go_first_and_old_ones_are_forgotten() {
        let events = events(3);
        for n in 0..5 {
            events.say(Severity::Info, Category::Process, format!("{n}"), Value::Null);
        }
        assert_eq!(messages(&events), ["4", "3", "2"]);
        events.follow(Telemetry { max_events: 2, retention: Duration::from_secs(60) });
        assert_eq!(messages(&events), ["4", "3"]);
        events.lock().trim(Instant::now() + Duration::from_secs(61));
        assert_eq!(messages(&events), [""; 0]);
    }

    #[test]
    fn the_same_is_said_seldom() {
        let events = events(10);
        let begin = Instant::now();
        let say = |seconds, key: &str| {
            let now = begin + Duration::from_secs(seconds);
            events.say_seldom_at(now, key, Severity::Warning, Category::Limit, key.into(), json!({}));
        };
        for second in [0, 1, 59] {
            say(second, "a");
        }
        say(30, "b");
        say(60, "a");
        assert_eq!(messages(&events), ["a", "b", "a"]);
        let newest = events.newest(1, |event| event.message == "a").remove(0);
        assert_eq!(newest.details["left_out"], 2);
        // Very many different ones take no memory for ever, and are not lost.
        for n in 0..2 * WATCHED as u64 {
            say(n, &format!("{n}"));
        }
        assert!(events.lock().said.len() <= WATCHED);
    }

    #[test]
    fn texts_are_bounded() {
        let events = events(1);
        let details = json!({ "errors": vec!["é".repeat(TEXT_BYTES); 2 * LIST], "n": 1 });
        events.say(Severity::Error, Category::Reload, "é".repeat(TEXT_BYTES), details);
        let event = events.newest(1, |_| true).remove(0);
        assert_eq!(event.message.len(), TEXT_BYTES);
        let errors = event.details["errors"].as_array().unwrap();
        assert_eq!((errors.len(), errors[0].as_str().unwrap().len()), (LIST, TEXT_BYTES));
    }
}
