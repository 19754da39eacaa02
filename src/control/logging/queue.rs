//! The bounded queue between whoever logs and a stderr that may block (a stopped terminal, a full pipe).
//!
//! Writing into it never waits: a full queue drops the line and counts it, and the count is written when there is
//! room again. One thread takes lines out and may block as long as it likes.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait; at some 200 bytes each this is about a megabyte.
const CAPACITY: usize = 8192;
/// How long the end of the process waits for a stderr that takes nothing.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The end that is written to; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    lines: Sender<Line>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Line {
    Text(Box<[u8]>),
    /// Everything before it is to be written; then the sender is dropped, which tells the one who waits.
    Flush(#[allow(dead_code)] Sender<()>),
}

/// Writes what still waits when it is dropped, for up to a second.
#[derive(Debug)]
#[must_use = "lines that wait are lost when the process ends without it"]
pub struct Flush(Queue);

pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<(Queue, Flush)> {
    let (lines, receiver) = bounded(CAPACITY);
    let queue = Queue { lines, dropped: Arc::default() };
    let dropped = Arc::clone(&queue.dropped);
    std::thread::Builder::new().name("log".into()).spawn(move || write_lines(&receiver, out, &dropped))?;
    Ok((queue.clone(), Flush(queue)))
}

/// Ends when every queue is gone. Errors are not told to anybody: there is nowhere left to tell them.
fn write_lines(lines: &Receiver<Line>, mut out: impl Write, dropped: &AtomicU64) {
    let mut told = 0;
    for line in lines {
        match line {
            Line::Text(text) => {
                let _ = out.write_all(&text);
            }
            Line::Flush(done) => {
                let _ = out.flush();
                drop(done);
            }
        }
        let lost = dropped.load(Ordering::Relaxed);
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
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Write for Queue {
    /// Takes one whole line; tracing-subscriber writes each event by one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(Line::Text(line.into())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
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
        let (done, written) = bounded(0);
        if self.0.lines.send_timeout(Line::Flush(done), FLUSH_TIMEOUT).is_ok() {
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
        let (mut queue, flush) = start(writer).unwrap();
        for i in 0..1000 {
            queue.write_all(format!("{i}\n").as_bytes()).unwrap();
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
        let (mut queue, flush) = start(writer).unwrap();
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
