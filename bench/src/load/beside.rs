//! What others do while requests are measured: a thread of their own, on the load's core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::Load;
use super::tally::Tally;
use super::worker::Worker;

/// What the thread does until it must stop; it counts who was answered.
type Work = Box<dyn FnOnce(&AtomicBool, &AtomicU64) -> Result<()> + Send>;

/// Requests of a worker, and others beside it who begin before anything is measured.
pub(crate) struct Beside {
    worker: Worker,
    work: Option<Work>,
    others: Option<Others>,
    /// The others are at it for at least so long before.
    rise: Duration,
}

impl Beside {
    pub(crate) fn new(
        worker: Worker,
        rise: Duration,
        work: impl FnOnce(&AtomicBool, &AtomicU64) -> Result<()> + Send + 'static,
    ) -> Self {
        Self { worker, work: Some(Box::new(work)), others: None, rise }
    }
}

impl Load for Beside {
    fn prepare(&mut self, warmup: Duration) -> Result<()> {
        self.worker.prepare(warmup)?;
        // Not quiet, as other loads are then: others who rise are not what is to be measured.
        self.others = Some(Others::start(self.work.take().context("it is prepared once")?));
        thread::sleep(self.rise);
        Ok(())
    }

    fn measure(&mut self, until: Instant) -> Result<Tally> {
        let others = self.others.take().context("it is prepared before it is measured")?;
        let before = others.answered.load(Ordering::Relaxed);
        let measured = self.worker.measure(until);
        let flooded = others.answered.load(Ordering::Relaxed) - before;
        others.end()?;
        let mut tally = measured?;
        tally.flooded = flooded;
        ensure!(flooded > 0, "nobody of the others was answered");
        Ok(tally)
    }
}

struct Others {
    thread: JoinHandle<Result<()>>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Others {
    fn start(work: Work) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (must_stop, count) = (Arc::clone(&stop), Arc::clone(&answered));
        // Pinned as the thread that starts it.
        let thread = thread::spawn(move || work(&must_stop, &count));
        Self { thread, stop, answered }
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the thread of the others has panicked"))?
    }
}
