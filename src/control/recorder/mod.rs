//! The recorder thread: takes the summaries of finished sessions, puts them on the store's shelf, and makes the lines of
//! the access log, which a thread of its own writes (`pen`): a log that blocks holds up nothing else.
//!
//! Shards hand summaries over through a bounded channel and never wait for it. What the log cannot take (a full disk,
//! a pipe that nobody reads) is counted, and said once a minute.

mod line;
mod pen;
mod sink;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, after, bounded, never, select, unbounded};

use super::background;
use super::store::Store;
use super::users;
use crate::config::plan::{Log, LogFormat};
use crate::stats::counters::ShardStats;
use crate::stats::summary::Summary;
use pen::{Pen, Telling};
pub(super) use sink::Sink;
use sink::Unwritten;

/// Summaries that may wait for the recorder: some 100 ms of a busy machine.
pub(super) const CAPACITY: usize = 16 * 1024;
/// How long the recorder sleeps after a batch, so that a shard almost never finds it parked and has to wake it.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of a batch: one write.
const BATCH_BYTES: usize = 256 * 1024;
/// Failures of writes that may wait to be heard of; the thread that has more waits itself.
const UNHEARD: usize = 64;
/// Records that are put on the shelf at once.
const BATCH_RECORDS: usize = 1024;
/// How often losses are said.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Lines that the access log did not take, since the start of the process.
static UNWRITTEN: AtomicU64 = AtomicU64::new(0);

/// Lines that were handed over and could not be written: a full disk.
pub(super) fn unwritten_lines() -> u64 {
    UNWRITTEN.load(Ordering::Relaxed)
}

/// The control side's end of the recorder.
#[derive(Debug)]
pub(super) struct Recorder {
    orders: Sender<Order>,
    finished: Receiver<()>,
    /// Not joined: a log that blocks must not keep the process from ending.
    _thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Order {
    /// Write elsewhere, or to the same file opened anew (log rotation).
    Use(Sink, LogFormat, Sender<()>),
    /// Answer once everything that has come is on the store's shelf.
    Settle(Sender<()>),
    Finish,
}

impl Recorder {
    /// Starts the thread. `sink` is opened by the caller: the first one while the process still may.
    pub(super) fn spawn(
        summaries: Receiver<Summary>,
        sink: Sink,
        format: LogFormat,
        shards: Vec<Arc<ShardStats>>,
        store: Option<Store>,
    ) -> io::Result<Self> {
        let (orders, receiver) = unbounded();
        let (ended, finished) = bounded::<()>(1);
        let (unwritten, unheard) = bounded(UNHEARD);
        let telling = Telling { unwritten, ended, count: Arc::default() };
        let pen = Pen::take_up(sink, telling.clone())?;
        let journal = Journal { pen, format, shards, store, lost: Losses::new(), telling, unheard };
        let thread = std::thread::Builder::new().name("recorder".into()).spawn(move || {
            background::give_way(background::RECORDS);
            journal.run(&summaries, &receiver);
        })?;
        Ok(Self { orders, finished, _thread: thread })
    }

    /// Opens the access log of a new configuration; where that fails the old one goes on. One that `is_another` is in use
    /// when this returns (but a blocked one is not waited for long), so that whoever asked for it finds in it what ends
    /// from then on.
    pub(super) fn reopen(&self, log: &Log, is_another: bool) {
        match Sink::open(&log.access) {
            Ok(sink) => {
                let (reply, used) = bounded(1);
                if self.orders.send(Order::Use(sink, log.format, reply)).is_ok() && is_another {
                    let _ = used.recv_timeout(10 * PAUSE);
                }
            }
            Err(error) => tracing::warn!("{error}; the access log goes on where it was"),
        }
    }

    /// Something to ask by that all sessions which have ended so far be on the shelf.
    pub(super) fn settler(&self) -> Settler {
        Settler(self.orders.clone())
    }

    /// Writes what is left, waiting for a blocked log only so long.
    pub(super) fn finish(self, wait: Duration) {
        let _ = self.orders.send(Order::Finish);
        let _ = self.finished.recv_timeout(wait);
    }
}

/// See [`Recorder::settler`].
#[derive(Debug, Clone)]
pub(in crate::control) struct Settler(Sender<Order>);

impl Settler {
    /// Waits until what has ended is on the shelf, or so long; a blocked access log may hold it up.
    pub(super) fn settle(&self, wait: Duration) {
        let (reply, settled) = bounded(1);
        if self.0.send(Order::Settle(reply)).is_ok() {
            let _ = settled.recv_timeout(wait);
        }
    }
}

/// What the thread owns.
struct Journal {
    pen: Pen,
    format: LogFormat,
    shards: Vec<Arc<ShardStats>>,
    store: Option<Store>,
    lost: Losses,
    /// For pens to come.
    telling: Telling,
    unheard: Receiver<Unwritten>,
}

impl Journal {
    fn run(mut self, summaries: &Receiver<Summary>, orders: &Receiver<Order>) {
        loop {
            let complaint = self.lost.due_in().map_or_else(never, after);
            select! {
                recv(summaries) -> summary => match summary {
                    Ok(summary) => {
                        self.write_batch(summary, summaries);
                        // While more wait, go on at once.
                        if summaries.is_empty() {
                            std::thread::sleep(PAUSE);
                        }
                    }
                    Err(_) => return self.end(),
                },
                recv(self.unheard) -> unwritten => {
                    if let Ok(unwritten) = unwritten {
                        self.lost.unwritten(&unwritten);
                    }
                }
                recv(orders) -> order => match order {
                    Ok(Order::Use(sink, format, reply)) => {
                        // What ended before the change belongs to the log before it.
                        self.write_waiting(summaries);
                        match Pen::take_up(sink, self.telling.clone()) {
                            Ok(pen) => (self.pen, self.format) = (pen, format),
                            Err(error) => {
                                tracing::warn!(%error, "the access log cannot be changed; it goes on where it was");
                            }
                        }
                        let _ = reply.try_send(());
                    }
                    Ok(Order::Settle(reply)) => {
                        self.write_waiting(summaries);
                        let _ = reply.try_send(());
                    }
                    Ok(Order::Finish) | Err(_) => {
                        while let Ok(summary) = summaries.try_recv() {
                            self.write_batch(summary, summaries);
                        }
                        return self.end();
                    }
                },
                recv(complaint) -> _ => self.lost.complain(),
            }
        }
    }

    /// Hears from the pens to their ends.
    fn end(self) {
        let Self { pen, telling, unheard, mut lost, .. } = self;
        let Telling { unwritten, ended, .. } = telling;
        drop((pen, unwritten));
        for unwritten in unheard {
            lost.unwritten(&unwritten);
        }
        lost.complain();
        drop(ended);
    }

    /// Writes what waits now, and not what comes meanwhile: that has no end.
    fn write_waiting(&mut self, summaries: &Receiver<Summary>) {
        for _ in 0..summaries.len() {
            let Ok(summary) = summaries.try_recv() else { break };
            self.write_batch(summary, summaries);
        }
    }

    /// Hands on `first` and what waits behind it, to be written with one write.
    fn write_batch(&mut self, first: Summary, summaries: &Receiver<Summary>) {
        let mut batch = self.pen.paper(BATCH_BYTES + BATCH_BYTES / 16);
        let mut lines = 0;
        let mut next = Some(first);
        let mut finished = Vec::new();
        while let Some(summary) = next {
            users::note(&summary);
            if !self.pen.is_off() {
                line::append(&mut batch, &summary, self.format);
                lines += 1;
            }
            if self.store.is_some() {
                finished.push(Arc::new(summary));
            }
            next = if batch.len() < BATCH_BYTES && finished.len() < BATCH_RECORDS {
                summaries.try_recv().ok()
            } else {
                None
            };
        }
        if let Some(store) = &self.store {
            store.put(finished);
        }
        if let Err(unwritten) = self.pen.write(batch, lines) {
            self.lost.unwritten(&unwritten);
        }
        let dropped = self.shards.iter().map(|shard| shard.summaries_dropped.load(Ordering::Relaxed));
        self.lost.dropped(dropped.sum());
    }
}

/// Lines that did not make it.
#[derive(Debug)]
struct Losses {
    /// Since the last complaint.
    unwritten: u64,
    error: String,
    /// Dropped by the shards since the start, now and at the last complaint.
    dropped: u64,
    dropped_said: u64,
    next: Instant,
}

impl Losses {
    fn new() -> Self {
        Self { unwritten: 0, error: String::new(), dropped: 0, dropped_said: 0, next: Instant::now() }
    }

    fn unwritten(&mut self, unwritten: &Unwritten) {
        self.unwritten += unwritten.lines;
        UNWRITTEN.fetch_add(unwritten.lines, Ordering::Relaxed);
        self.error = unwritten.error.to_string();
    }

    fn dropped(&mut self, since_start: u64) {
        self.dropped = since_start;
    }

    fn is_none(&self) -> bool {
        self.unwritten == 0 && self.dropped == self.dropped_said
    }

    /// When to complain; `None`: nothing to complain of.
    fn due_in(&self) -> Option<Duration> {
        (!self.is_none()).then(|| self.next.saturating_duration_since(Instant::now()))
    }

    fn complain(&mut self) {
        if self.is_none() {
            return;
        }
        let (unwritten, dropped) = (self.unwritten, self.dropped - self.dropped_said);
        tracing::warn!(unwritten, dropped, error = %self.error, "the access log has lost lines");
        *self = Self {
            dropped: self.dropped,
            dropped_said: self.dropped,
            next: Instant::now() + COMPLAINT_INTERVAL,
            ..Self::new()
        };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;
    use crate::config::plan::AccessLog;
    use crate::control::fixture::at;
    use crate::types::{Blame, Client, Generation, Protocol, Reason, Service, SessionId, ShardId, Stage, State};
    use crate::upstream::state::{BackendId, BackendState};
    use std::path::{Path, PathBuf};
    use std::time::SystemTime;

    pub(super) fn summary(listener: &str) -> Summary {
        let backend = BackendState::new(BackendId(1), "u".into(), at("192.0.2.1:80"), 1, 1);
        Summary {
            id: SessionId(42),
            shard: ShardId(0),
            generation: Generation(1),
            listener: listener.into(),
            client: Client::Ip("[2001:db8::1]:40000".parse().unwrap()),
            source: Client::Ip("[2001:db8::1]:40000".parse().unwrap()),
            service: Service::Tcp,
            protocol: Protocol::Tcp,
            user: None,
            target: None,
            rule: None,
            tls: None,
            backend: Some(Arc::new(backend)),
            remote: None,
            start: SystemTime::UNIX_EPOCH + Duration::from_millis(1_714_979_289_123),
            duration: Duration::from_millis(1500),
            connect: Some(Duration::from_micros(250)),
            first_byte: None,
            bytes_up: 12,
            bytes_down: 345,
            datagrams_up: 0,
            datagrams_down: 0,
            state: State::Closed,
            stage: Stage::Relay,
            blame: Some(Blame::Client),
            reason: Some(Reason::Reset),
        }
    }

    fn log(path: &Path) -> Log {
        let access = AccessLog::File(PathBuf::from(path));
        Log { level: crate::config::plan::Level::Info, format: LogFormat::Text, access }
    }

    fn recorder(path: &Path) -> (Sender<Summary>, Recorder) {
        let (sender, receiver) = bounded(CAPACITY);
        let sink = Sink::open(&log(path).access).unwrap();
        (sender, Recorder::spawn(receiver, sink, LogFormat::Text, Vec::new(), None).unwrap())
    }

    fn lines(path: &Path) -> usize {
        std::fs::read_to_string(path).unwrap().lines().count()
    }

    #[test]
    fn writes_every_line_and_follows_a_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let (path, rotated) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
        let (sender, recorder) = recorder(&path);
        (0..1000).for_each(|_| sender.send(summary("before")).unwrap());
        while lines(&path) < 1000 {
            std::thread::yield_now();
        }
        std::fs::rename(&path, &rotated).unwrap();
        recorder.reopen(&log(&path), false);
        while !recorder.orders.is_empty() {
            std::thread::yield_now();
        }
        (0..10).for_each(|_| sender.send(summary("after")).unwrap());
        recorder.finish(Duration::from_secs(10));
        assert_eq!((lines(&rotated), lines(&path)), (1000, 10));
    }

    #[test]
    fn a_log_that_cannot_be_reopened_goes_on_in_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let (sender, recorder) = recorder(&path);
        recorder.reopen(&log(Path::new("/nonexistent/access.log")), true);
        sender.send(summary("web")).unwrap();
        recorder.finish(Duration::from_secs(10));
        assert_eq!(lines(&path), 1);
    }

    #[test]
    fn a_full_disk_is_counted_and_blocks_nobody() {
        let mut journal = journal(&AccessLog::File("/dev/full".into()));
        let (sender, summaries) = bounded(CAPACITY);
        (0..9).for_each(|_| sender.send(summary("web")).unwrap());
        journal.write_batch(summary("web"), &summaries);
        let unwritten = journal.unheard.recv_timeout(Duration::from_secs(10)).unwrap();
        journal.lost.unwritten(&unwritten);
        assert_eq!(journal.lost.unwritten, 10);
        assert!(journal.lost.error.contains("No space left"), "{:?}", journal.lost);
        assert_eq!(journal.lost.due_in(), Some(Duration::ZERO));
        journal.lost.complain();
        assert_eq!(journal.lost.due_in(), None);
        journal.lost.dropped(7);
        assert!(journal.lost.due_in().unwrap() > Duration::from_secs(50), "at most once a minute");
    }

    #[test]
    fn switched_off_it_only_takes() {
        let mut journal = journal(&AccessLog::Off);
        let (sender, summaries) = bounded(CAPACITY);
        sender.send(summary("web")).unwrap();
        journal.write_batch(summary("web"), &summaries);
        assert!(summaries.is_empty() && journal.pen.is_off() && journal.lost.is_none());
    }

    fn journal(log: &AccessLog) -> Journal {
        let ((unwritten, unheard), (ended, _)) = (bounded(UNHEARD), bounded(1));
        let telling = Telling { unwritten, ended, count: Arc::default() };
        let pen = Pen::take_up(Sink::open(log).unwrap(), telling.clone()).unwrap();
        let (shards, store, lost) = (Vec::new(), None, Losses::new());
        Journal { pen, format: LogFormat::Json, shards, store, lost, telling, unheard }
    }

    /// A pipe that is full and is not read.
    #[test]
    fn a_log_that_blocks_loses_lines_and_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _reader = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut journal = journal(&AccessLog::File(path));
        let (sender, summaries) = bounded(CAPACITY);
        let mut sent = 0;
        while journal.lost.unwritten == 0 {
            assert!(sent < 100_000, "the pipe takes no end of lines");
            (0..999).for_each(|_| sender.send(summary("web")).unwrap());
            journal.write_batch(summary("web"), &summaries);
            journal.write_waiting(&summaries);
            sent += 1000;
        }
        assert!(journal.lost.error.contains("too many lines wait"), "{:?}", journal.lost);
    }
}
