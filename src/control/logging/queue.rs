//! The bounded queue between whoever logs and a stderr that may block (a stopped terminal, a full pipe).
//!
//! Writing into it never waits: a full queue drops the line and counts it, and the count is written when there is
//! room again. One thread takes lines out and may block as long as it likes. It is not there from the beginning:
//! root is given up while there is one thread only, and until [`Queue::detach`] lines are written by whoever logs.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait; at some 200 bytes each this is about a megabyte.
const CAPACITY: usize = 8192;
/// How long the end of the process waits for a stderr that takes nothing.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The end that is written to; cheap to clone.
#[derive(Clone)]
pub(super) struct Queue(Arc<Inner>);

struct Inner {
    lines: Sender<Line>,
    dropped: AtomicU64,
    is_detached: AtomicBool,
    /// What the thread will own. A shard never finds it locked: there are none before `detach`.
    attached: Mutex<Option<Attached>>,
}

struct Attached {
    lines: Receiver<Line>,
    out: Box<dyn Write + Send>,
}

enum Line {
    Text(Box<[u8]>),
    /// Everything before it is to be written; then the sender is dropped, which tells the one who waits.
    Flush(#[allow(dead_code)] Sender<()>),
}

/// Writes what still waits when it is dropped, for up to a second.
#[must_use = "lines that wait are lost when the process ends without it"]
pub struct Flush(Queue);

pub(super) fn new(out: impl Write + Send + 'static) -> (Queue, Flush) {
    let (lines, receiver) = bounded(CAPACITY);
    let queue = Queue(Arc::new(Inner {
        lines,
        dropped: AtomicU64::new(0),
        is_detached: AtomicBool::new(false),
        attached: Mutex::new(Some(Attached { lines: receiver, out: Box::new(out) })),
    }));
    (queue.clone(), Flush(queue))
}

/// Ends when every queue is gone. Errors are not told to anybody: there is nowhere left to tell them.
fn write_lines(Attached { lines, mut out }: Attached, dropped: impl Fn() -> u64) {
    let mut told = 0;
    for line in &lines {
        match line {
            Line::Text(text) => {
                let _ = out.write_all(&text);
            }
            Line::Flush(done) => {
                let _ = out.flush();
                drop(done);
            }
        }
        let lost = dropped();
        if lost != told && lines.is_empty() {
            told = lost;
            // Through the front door, so that it has the format of all other lines.
            tracing::warn!(
                lines = lost,
                "log lines were dropped because stderr did not take them (total since the start)"
            );
        }
    }
}

impl Queue {
    /// From here on nobody who logs waits for stderr. A second call changes nothing.
    pub(super) fn detach(&self) -> io::Result<()> {
        let mut attached = self.0.attached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(attached) = attached.take() {
            // Weak, so that the thread does not keep the queue alive that it waits on.
            let queue = Arc::downgrade(&self.0);
            let dropped = move || queue.upgrade().map_or(0, |queue| queue.dropped.load(Ordering::Relaxed));
            std::thread::Builder::new().name("log".into()).spawn(move || write_lines(attached, dropped))?;
            self.0.is_detached.store(true, Ordering::Release);
        }
        Ok(())
    }

    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Whether the line was written by the caller, because there is no thread yet that would.
    fn write_attached(&self, line: &[u8]) -> io::Result<bool> {
        if self.0.is_detached.load(Ordering::Acquire) {
            return Ok(false);
        }
        match &mut *self.0.attached.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(attached) => attached.out.write_all(line).map(|()| true),
            None => Ok(false),
        }
    }
}

impl Write for Queue {
    /// Takes one whole line; tracing-subscriber writes each event by one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.write_attached(line)? && self.0.lines.try_send(Line::Text(line.into())).is_err() {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        if !self.0.0.is_detached.load(Ordering::Acquire) {
            return;
        }
        let (done, written) = bounded(0);
        if self.0.0.lines.send_timeout(Line::Flush(done), FLUSH_TIMEOUT).is_ok() {
            // Nothing is ever sent: the other end is dropped when all is written.
            let _: Result<(), RecvTimeoutError> = written.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_waits_is_written_at_the_end_in_order() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        let (mut queue, flush) = new(writer);
        for i in 0..1000 {
            queue.write_all(format!("{i}\n").as_bytes()).unwrap();
            if i == 10 {
                queue.detach().unwrap();
                queue.detach().unwrap();
            }
        }
        drop(flush);
        drop(queue);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, (0..1000).map(|i| format!("{i}\n")).collect::<String>());
    }

    #[test]
    fn a_writer_that_blocks_costs_lines_and_no_time() {
        let (writer, reader) = UnixStream::pair().unwrap();
        let (mut queue, flush) = new(writer);
        queue.detach().unwrap();
        let line = [b'x'; 1024];
        let begun = Instant::now();
        for _ in 0..4 * CAPACITY {
            queue.write_all(&line).unwrap();
        }
        assert!(queue.dropped() > 0, "nobody reads, so lines must have been dropped");
        drop(flush);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        drop(reader);
    }
}
