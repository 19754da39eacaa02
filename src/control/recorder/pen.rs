//! The access log's thread: it writes, and may block as long as it likes. Whoever hands it lines never waits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

use super::sink::{Sink, Unwritten};
use crate::control::background;

/// Bytes that may wait, some 10,000 lines; what comes beyond is lost.
const WAITING: usize = 4 * 1024 * 1024;
/// Logs that were changed for others and still block. Each has a thread, a file and what waits for it.
const BLOCKED: usize = 4;

/// Writes one access log.
#[derive(Debug)]
pub(super) struct Pen {
    /// `None` where the log is switched off.
    thread: Option<Line>,
}

#[derive(Debug)]
struct Line {
    batches: Sender<Batch>,
    /// Bytes that are not written yet.
    waiting: Arc<AtomicUsize>,
    /// Memory to be used again.
    empty: Receiver<Vec<u8>>,
}

#[derive(Debug)]
struct Batch {
    text: Vec<u8>,
    lines: u64,
}

/// Whom the threads tell: what could not be written, and by its end that they have.
#[derive(Debug, Clone)]
pub(super) struct Telling {
    pub(super) unwritten: Sender<Unwritten>,
    pub(super) ended: Sender<()>,
    /// One more for each of them.
    pub(super) count: Arc<()>,
}

impl Pen {
    /// Takes a log up. Dropped, it writes what still waits, and ends.
    ///
    /// # Errors
    /// When the thread cannot be made, or too many from before still wait for their logs.
    pub(super) fn take_up(sink: Sink, telling: Telling) -> io::Result<Self> {
        if sink.is_off() {
            return Ok(Self { thread: None });
        }
        // Besides those of the threads: the recorder's, and this one.
        if Arc::strong_count(&telling.count) > 2 + BLOCKED {
            return Err(io::Error::other("logs from before take nothing, and still wait"));
        }
        let (batches, handed) = unbounded::<Batch>();
        let (emptied, empty) = bounded(2);
        let waiting = Arc::new(AtomicUsize::new(0));
        let still = Arc::clone(&waiting);
        std::thread::Builder::new().name("access-log".into()).spawn(move || {
            background::give_way(background::RECORDS);
            let mut sink = sink;
            for mut batch in handed {
                if let Err(unwritten) = sink.write(&batch.text, batch.lines) {
                    let _ = telling.unwritten.send(unwritten);
                }
                still.fetch_sub(batch.text.len(), Ordering::Relaxed);
                batch.text.clear();
                let _ = emptied.try_send(batch.text);
            }
            drop((telling.count, telling.ended));
        })?;
        Ok(Self { thread: Some(Line { batches, waiting, empty }) })
    }

    pub(super) fn is_off(&self) -> bool {
        self.thread.is_none()
    }

    /// Memory for a batch of up to `bytes`.
    pub(super) fn paper(&self, bytes: usize) -> Vec<u8> {
        let Some(line) = &self.thread else { return Vec::new() };
        line.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(bytes))
    }

    /// Has whole lines written.
    ///
    /// # Errors
    /// When too many wait, as the log takes nothing: these are lost.
    pub(super) fn write(&self, mut text: Vec<u8>, lines: u64) -> Result<(), Unwritten> {
        let Some(line) = self.thread.as_ref().filter(|_| lines > 0) else { return Ok(()) };
        let unwritten = |what: &str| Unwritten { lines, error: io::Error::new(io::ErrorKind::WouldBlock, what) };
        let len = text.len();
        let before = line.waiting.fetch_add(len, Ordering::Relaxed);
        if before + len > WAITING {
            line.waiting.fetch_sub(len, Ordering::Relaxed);
            return Err(unwritten("the log takes nothing, and too many lines wait"));
        }
        if before > 0 {
            // It may wait long: no more memory than it needs.
            text.shrink_to_fit();
        }
        line.batches.send(Batch { text, lines }).map_err(|_| unwritten("its thread has ended"))
    }
}
