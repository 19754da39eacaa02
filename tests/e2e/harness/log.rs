//! The log of an arus, read line by line in a thread, so that any line can be awaited.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::DEADLINE;

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<(Mutex<Lines>, Condvar)>);

#[derive(Default)]
struct Lines {
    /// What is no JSON stands here as a string.
    lines: Vec<Value>,
    /// How many of them are of the access log.
    access: usize,
    /// The process has closed it.
    ended: bool,
}

impl Log {
    pub(crate) fn follow(source: impl Read + Send + 'static) -> Self {
        let log = Self::default();
        let writer = log.clone();
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while matches!(source.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line);
                let value = serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text.trim_end()));
                let mut lines = writer.0.0.lock().unwrap();
                lines.access += usize::from(is_access(&value));
                lines.lines.push(value);
                drop(lines);
                writer.0.1.notify_all();
                line.clear();
            }
            writer.0.0.lock().unwrap().ended = true;
            writer.0.1.notify_all();
        });
        log
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        self.0.0.lock().unwrap().lines.clone()
    }

    /// Waits until `done` gives something for the lines so far; panics with all lines otherwise.
    pub(crate) fn wait<T>(&self, limit: Duration, what: &str, mut done: impl FnMut(&[Value]) -> Option<T>) -> T {
        let deadline = Instant::now() + limit;
        let (lines, changed) = &*self.0;
        let mut lines = lines.lock().unwrap();
        loop {
            if let Some(value) = done(&lines.lines) {
                return value;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.ended {
                let why = if lines.ended { "the process ended" } else { "the deadline passed" };
                let tail: Vec<String> = lines.lines.iter().rev().take(60).rev().map(Value::to_string).collect();
                drop(lines); // not poisoned by the panic
                panic!("log: {why} before {what}\n{}", tail.join("\n"));
            }
            lines = changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Waits for a line with this message.
    pub(crate) fn message(&self, part: &str) -> Value {
        let says = |line: &&Value| line["message"].as_str().is_some_and(|message| message.contains(part));
        self.wait(DEADLINE, &format!("the message {part:?}"), |lines| lines.iter().find(says).cloned())
    }

    /// Waits until arus is ready, or its process has ended; whether it is.
    pub(crate) fn try_ready(&self) -> bool {
        let deadline = Instant::now() + DEADLINE;
        let mut lines = self.0.0.lock().unwrap();
        loop {
            if lines.lines.iter().any(|line| line["message"] == "ready") {
                return true;
            }
            if lines.ended || Instant::now() > deadline {
                return false;
            }
            lines = self.0.1.wait_timeout(lines, Duration::from_millis(100)).unwrap().0;
        }
    }

    /// Waits until the process has closed its log; gives all lines.
    pub(crate) fn to_the_end(&self) -> Vec<Value> {
        let (lines, changed) = &*self.0;
        let lines = lines.lock().unwrap();
        let (lines, late) = changed.wait_timeout_while(lines, DEADLINE, |lines| !lines.ended).unwrap();
        assert!(!late.timed_out(), "the log does not end");
        lines.lines.clone()
    }

    /// The lines of the access log so far.
    pub(crate) fn access(&self) -> Vec<Value> {
        self.lines().into_iter().filter(is_access).collect()
    }

    /// Waits until the access log has `count` lines.
    pub(crate) fn finished(&self, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + DEADLINE;
        let mut lines = self.0.0.lock().unwrap();
        while lines.access < count && !lines.ended && Instant::now() < deadline {
            lines = self.0.1.wait_timeout(lines, Duration::from_millis(100)).unwrap().0;
        }
        let access: Vec<Value> = lines.lines.iter().filter(|line| is_access(line)).cloned().collect();
        drop(lines); // not poisoned by the panic
        assert!(access.len() >= count, "{} of {count} connections have finished", access.len());
        access
    }
}

fn is_access(line: &Value) -> bool {
    line.get("bytes_up").is_some() && line.get("reason").is_some()
}
