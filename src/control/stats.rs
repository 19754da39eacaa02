//! The stats thread: once a second it takes the pulse of the shards, for the rates and the latencies.
//!
//! While nothing happens it looks at four counters a shard and goes back to sleep; totals are summed up when something
//! did, and whenever somebody asks (`Control::totals`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::handle::{Control, ShardView};
use super::history::Sample;
use super::notice::Notice;
use crate::shard::command::{Command, Reply};
use crate::stats::latency::{Latencies, Measure};
use crate::stats::totals::{ShardTotals, Totals};
use crate::types::ShardId;

const INTERVAL: Duration = Duration::from_secs(1);
/// A shard answers within a turn; one that takes longer is asked again the next second.
const ANSWER: Duration = Duration::from_millis(500);

/// The thread runs until this is dropped.
#[derive(Debug)]
pub(super) struct StatsThread {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StatsThread {
    pub(super) fn spawn(control: Control) -> io::Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        let mut pulse = Pulse::new(control);
        let thread = std::thread::Builder::new().name("stats".into()).spawn(move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                pulse.take();
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for StatsThread {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The counters of a shard that move whenever anything happens on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Beat {
    accepted: u64,
    active: u64,
    bytes_up: u64,
    bytes_down: u64,
    failed: u64,
    rejected: u64,
}

impl Beat {
    fn of(shard: &ShardView) -> Self {
        let stats = &shard.stats;
        Self {
            accepted: stats.accepted.load(Ordering::Relaxed),
            active: stats.active.load(Ordering::Relaxed),
            bytes_up: stats.bytes_up.load(Ordering::Relaxed),
            bytes_down: stats.bytes_down.load(Ordering::Relaxed),
            failed: stats.failed.load(Ordering::Relaxed),
            rejected: stats.rejected.load(Ordering::Relaxed),
        }
    }

    /// Whether a session was connected or ended since `before`: something to be found in the histograms. A first byte
    /// without either is found later.
    fn has_sessions_since(self, before: Self) -> bool {
        (self.accepted, self.active) != (before.accepted, before.active)
    }
}

struct Pulse {
    control: Control,
    beats: Vec<Beat>,
    last: Arc<Totals>,
    notice: Notice,
}

impl Pulse {
    fn new(control: Control) -> Self {
        let beats = control.shards().iter().map(Beat::of).collect();
        let last = Arc::new(control.read_totals());
        Self { control, beats, last, notice: Notice::default() }
    }

    fn take(&mut self) {
        self.control.set_stuck(self.notice.look_at_shards(self.control.shards(), self.control.events()));
        let beats: Vec<Beat> = self.control.shards().iter().map(Beat::of).collect();
        let is_quiet = beats == self.beats;
        if is_quiet && self.last.traffic.is_quiet() {
            self.stay_quiet();
            self.notice.look_at_skew(&self.last, self.control.events());
            self.sample(&None, (0, 0), 1.0);
            return;
        }
        let pairs = self.control.shards().iter().zip(beats.iter().zip(&self.beats));
        let asked = pairs.filter(|(_, (now, before))| now.has_sessions_since(**before)).filter_map(|(shard, _)| {
            let (reply, answer) = Reply::channel();
            shard.mailbox.send(Command::Latencies(reply)).ok().map(|()| (shard.id, answer))
        });
        let asked: Vec<(ShardId, Receiver<_>)> = asked.collect();
        let deadline = Instant::now() + ANSWER;
        let mut second: Option<Latencies> = None;
        for (shard, answer) in asked {
            if let Ok(recent) = answer.recv_deadline(deadline) {
                self.control.merge_latencies(shard, &recent);
                match &mut second {
                    Some(second) => second.merge(&recent),
                    None => second = Some(recent),
                }
            }
        }
        let mut totals = self.control.read_totals();
        totals.rates_since(&self.last);
        let seconds = totals.at_ms.saturating_sub(self.last.at_ms).max(1) as f64 / 1000.0;
        let grown = |count: fn(&Beat) -> u64| {
            let sum = |beats: &[Beat]| beats.iter().map(count).fold(0, u64::wrapping_add);
            sum(&beats).saturating_sub(sum(&self.beats))
        };
        let failures = (grown(|beat| beat.failed), grown(|beat| beat.rejected));
        self.last = Arc::new(totals);
        self.beats = beats;
        self.control.set_paced(Arc::clone(&self.last));
        self.sample(&second, failures, seconds);
        self.notice.look(&self.last, &self.control.view().snapshot, self.control.events());
    }

    /// Notes the last second for the graphs.
    fn sample(&self, latencies: &Option<Latencies>, (failed, rejected): (u64, u64), seconds: f64) {
        let quantile = |measure, quantile| {
            let histogram =
                latencies.as_ref().map(|latencies| latencies.get(measure)).filter(|histogram| !histogram.is_empty());
            histogram.map_or(f32::NAN, |histogram| histogram.value_at_quantile(quantile) as f32 / 1000.0)
        };
        let Totals { traffic, shards, .. } = &*self.last;
        let active: u64 = self.beats.iter().map(|beat| beat.active).sum();
        let values = [
            active as f32,
            traffic.connections_per_second as f32,
            traffic.bytes_up_per_second as f32,
            traffic.bytes_down_per_second as f32,
            (failed as f64 / seconds) as f32,
            (rejected as f64 / seconds) as f32,
            quantile(Measure::Connect, 0.5),
            quantile(Measure::Connect, 0.99),
            quantile(Measure::FirstByte, 0.99),
        ];
        let busy = shards.iter().map(|shard| shard.busy as f32).collect();
        self.control.history().add(Instant::now(), Sample { values, busy });
    }

    /// Nothing has changed but the time, and what the shards spent of it: so that the first second with traffic again
    /// is measured against the one before it.
    fn stay_quiet(&mut self) {
        let last = Arc::make_mut(&mut self.last);
        last.at_ms = crate::stats::clock_ms();
        for (totals, shard) in last.shards.iter_mut().zip(self.control.shards()) {
            let ShardTotals { busy, busy_ns, idle_ns, .. } = totals;
            let (busy_now, idle_now) =
                (shard.stats.busy_ns.load(Ordering::Relaxed), shard.stats.idle_ns.load(Ordering::Relaxed));
            let (worked, slept) = (busy_now.saturating_sub(*busy_ns), idle_now.saturating_sub(*idle_ns));
            *busy = if worked + slept > 0 { worked as f64 / (worked + slept) as f64 } else { 0.0 };
            (*busy_ns, *idle_ns) = (busy_now, idle_now);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::fixture::{self, plan};
    use super::*;
    use crate::stats::counters::add;
    use crate::stats::latency::{Latencies, Measure};
    use std::path::Path;

    #[test]
    fn asks_only_shards_that_had_sessions_and_merges_what_they_say() {
        let plan = plan(Path::new("/x")).with_listener("web", &["127.0.0.1:0"]);
        let (control, _requests, shards) = fixture::control(plan);
        let mut pulse = Pulse::new(control.clone());
        pulse.take();
        assert!(shards.iter().all(|shard| shard.inbox.commands.is_empty()), "a quiet shard is left alone");

        add(&shards[1].stats.accepted, 3);
        add(&shards[1].stats.bytes_down, 1 << 20);
        let inbox = shards[1].inbox.commands.clone();
        let shard = std::thread::spawn(move || match inbox.recv().unwrap() {
            Command::Latencies(reply) => {
                let mut latencies = Latencies::default();
                latencies.record(Measure::Connect, Duration::from_millis(2));
                reply.send(latencies);
            }
            other => panic!("{other:?}"),
        });
        pulse.take();
        shard.join().unwrap();
        assert!(shards[0].inbox.commands.is_empty());
        assert_eq!(control.latencies().get(Measure::Connect).len(), 1);
        let totals = control.totals();
        assert_eq!((totals.traffic.connections, totals.shards[1].traffic.connections), (3, 3));
        assert!(totals.traffic.bytes_down_per_second > 0.0 && !totals.traffic.is_quiet());
        assert_eq!(totals.latency[Measure::Connect as usize].count, 1);
        assert_eq!(totals.listeners[0].addresses, ["127.0.0.1:0"]);

        pulse.take();
        assert!(control.totals().traffic.is_quiet(), "the rates end with the traffic");
    }

    #[test]
    fn the_thread_ends_when_dropped() {
        let (control, _requests, _shards) = fixture::control(plan(Path::new("/x")));
        drop(StatsThread::spawn(control).unwrap());
    }
}
