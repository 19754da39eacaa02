//! The log: events of all threads, one line each, to stderr; text for people or JSON for machines.
//!
//! A shard logs as every thread does, and must not wait for a stderr that nobody reads: lines go through the bounded
//! `queue`, which drops and counts what does not fit. One event is one line, whatever a peer put into it: control
//! characters are escaped (`line` for text; JSON does so by itself). Dependencies are heard from `warn` upwards only.

mod line;
mod queue;

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::plan::{Level, LogFormat};

pub use queue::Flush;

/// The log of this process, once it is started.
struct Log {
    filter: reload::Handle<Targets, Registry>,
    format: line::Switch,
    queue: queue::Queue,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Starts the log of the process. Lines that still wait are written when the returned value is dropped, so keep it
/// to the end. Until [`detach`] it makes no thread, and whoever logs writes.
pub fn start(level: Level, format: LogFormat) -> Flush {
    let stderr = std::io::stderr();
    let colours = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (queue, flush) = queue::new(stderr);
    let format = line::Switch::new(format);
    let (subscriber, filter) = subscriber(level, &format, colours, queue.clone());
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        let _ = LOG.set(Log { filter, format, queue });
    }
    flush
}

/// Lets a thread of its own write the lines, so that nobody who logs waits for stderr. To be called before there are
/// shards, and after root was given up.
///
/// # Errors
/// When the thread cannot be made.
pub fn detach() -> std::io::Result<()> {
    LOG.get().map_or(Ok(()), |log| log.queue.detach())
}

/// Puts another level and format into force, as a reload does.
pub fn set(level: Level, format: LogFormat) {
    if let Some(log) = LOG.get() {
        let _ = log.filter.reload(targets(level));
        log.format.set(format);
    }
}

/// Lines that were dropped because stderr did not take them.
#[must_use]
pub fn dropped_lines() -> u64 {
    LOG.get().map_or(0, |log| log.queue.dropped())
}

fn subscriber<W>(
    level: Level,
    format: &line::Switch,
    colours: bool,
    writer: W,
) -> (impl Subscriber + Send + Sync, reload::Handle<Targets, Registry>)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(targets(level));
    let lines = fmt::layer().with_writer(writer).event_format(line::Line::new(colours, format));
    (tracing_subscriber::registry().with(filter).with(lines), handle)
}

/// arus at its level; everything else at most at `warn`, for a resolver or an HTTP library tells its own story.
fn targets(level: Level) -> Targets {
    let level = LevelFilter::from_level(match level {
        Level::Error => tracing::Level::ERROR,
        Level::Warn => tracing::Level::WARN,
        Level::Info => tracing::Level::INFO,
        Level::Debug => tracing::Level::DEBUG,
        Level::Trace => tracing::Level::TRACE,
    });
    Targets::new().with_target("arus", level).with_default(level.min(LevelFilter::WARN))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What a subscriber wrote.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl std::io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Page {
        type Writer = Self;
        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn written(format: LogFormat, log: impl FnOnce(&reload::Handle<Targets, Registry>)) -> String {
        let page = Page::default();
        let (subscriber, handle) = subscriber(Level::Info, &line::Switch::new(format), false, page.clone());
        tracing::subscriber::with_default(subscriber, || log(&handle));
        page.text()
    }

    #[test]
    fn json_has_everything_at_the_top_level() {
        let text = written(LogFormat::Json, |_| tracing::info!(address = %"127.0.0.1:80", shards = 2, "listening"));
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "listening");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["address"], "127.0.0.1:80");
        assert_eq!(line["shards"], 2);
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn one_event_is_one_line_whatever_is_in_it() {
        let hostile = "x\nERROR forged\r\x1b[2J\u{9b}31m\u{7f}\u{202e}";
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = written(format, |_| tracing::warn!(name = %hostile, quoted = ?hostile, "{hostile}"));
            let line = text.strip_suffix('\n').unwrap();
            assert!(!line.contains(|c: char| (c as u32) < 0x20), "{format:?}: {line:?}");
        }
        let text = written(LogFormat::Text, |_| tracing::warn!(name = %hostile, "{hostile}"));
        assert!(!text.trim_end().contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
    }

    #[test]
    fn the_format_can_change_while_running() {
        let page = Page::default();
        let switch = line::Switch::new(LogFormat::Text);
        let (subscriber, _handle) = subscriber(Level::Info, &switch, false, page.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("one");
            switch.set(LogFormat::Json);
            tracing::info!("two");
        });
        let text = page.text();
        let (one, two) = text.split_once('\n').unwrap();
        assert!(one.ends_with(" INFO one"), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(two).unwrap()["message"], "two");
    }

    #[test]
    fn text_reads_message_first() {
        let text = written(LogFormat::Text, |_| tracing::info!(listener = %"web", shards = 2, "listening"));
        assert!(text.ends_with(" INFO listening listener=web shards=2\n"), "{text:?}");
    }

    #[test]
    fn the_level_can_change_while_running_and_dependencies_stay_quiet() {
        let text = written(LogFormat::Text, |handle| {
            tracing::debug!("before");
            handle.reload(targets(Level::Debug)).unwrap();
            tracing::debug!("after");
            tracing::info!(target: "hyper::proto", "chatter");
            tracing::warn!(target: "hyper::proto", "trouble");
        });
        assert!(!text.contains("before") && text.contains("after"), "{text}");
        assert!(!text.contains("chatter") && text.contains("trouble"), "{text}");
    }
}
