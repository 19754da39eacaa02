//! The one task that drives a shard's ring: submit, wait, reap, let the woken tasks run, and again.
//!
//! Everything that wakes a task of the shard comes through the ring (completions, the doorbell of other threads) or
//! through its timer wheel, so the driver alone decides when the thread sleeps, and it sleeps in the ring itself, with
//! no tick: an idle shard costs nothing, and a first byte wakes it at once. glommio's own reactor has nothing to wait
//! for; it gets its turn by itself whenever its preemption timer has run out.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::Ring;
use super::core::Wait;
use crate::config::plan::BusyPoll;
use crate::stats::counters::{ShardStats, add};

/// Rounds of tasks waking tasks that go into one submission.
const ROUNDS_PER_TURN: u32 = 8;
/// A shard that slept so long gives memory back when next it wakes.
const TRIM_AFTER: Duration = Duration::from_secs(1);
/// Between two looks at the CPU time that the thread has used, while it is not idle.
const CPU_LOOK: Duration = Duration::from_millis(100);
/// Between two looks at whether the pool could be smaller.
const POOL_LOOK: Duration = Duration::from_secs(5);
/// Spinning looks at the clock after so many looks at the ring.
const SPINS_PER_LOOK: u32 = 64;

/// What decides how the driver waits; may change from turn to turn.
#[derive(Debug, Clone, Copy)]
pub struct Pacing {
    pub busy_poll: BusyPoll,
    /// Some task was woken that has to run before the driver sleeps.
    pub more_to_run: bool,
}

impl Ring {
    /// Drives the ring until `turn`, called once a turn, breaks.
    ///
    /// # Errors
    /// As io_uring_enter(2), for errors that no retry can mend.
    pub async fn drive(&self, stats: &ShardStats, mut turn: impl FnMut() -> ControlFlow<(), Pacing>) -> io::Result<()> {
        let core = &*self.0;
        let (mut looked_at_cpu, mut looked_at_pool) = (Duration::ZERO, Duration::ZERO);
        loop {
            stats.is_in_turn.store(true, Relaxed);
            let more_to_run = self.run_tasks().await;
            let ControlFlow::Continue(pacing) = turn() else { return Ok(()) };
            core.tend_pool();
            self.report(stats);
            if core.now() - looked_at_cpu >= CPU_LOOK {
                looked_at_cpu = core.now();
                report_cpu(stats, core.epoch());
            }
            if core.now() - looked_at_pool >= POOL_LOOK {
                looked_at_pool = core.now();
                core.shrink_pools();
            }

            let wait = if more_to_run || pacing.more_to_run { Wait::No } else { self.wait() };
            if wait == Wait::No {
                core.enter(Wait::No)?;
            } else if !self.spin(pacing.busy_poll)? {
                stats.is_in_turn.store(false, Relaxed);
                core.enter(wait)?;
            }
            let before = core.now();
            core.update_clock();
            core.reap();
            if core.now() - before > TRIM_AFTER {
                core.trim_pool();
            }
            core.wheel.borrow_mut().advance(core.now().as_millis() as u64);
            core.look_for_missed_ends();
        }
    }

    /// Lets every task run that is ready, and those that they wake, so that all they submit goes in one system call.
    /// Returns whether some may still be ready.
    async fn run_tasks(&self) -> bool {
        for _ in 0..ROUNDS_PER_TURN {
            let before = self.0.activity();
            futures_lite::future::yield_now().await;
            if self.0.activity() == before {
                return false;
            }
        }
        true
    }

    fn wait(&self) -> Wait {
        // Those that were fed may have nothing to receive, and then no completion comes of it.
        if self.0.can_feed() {
            return Wait::No;
        }
        let now = self.0.now();
        let timer = self.0.wheel.borrow().next().map(Duration::from_millis);
        match timer.into_iter().chain(self.0.doubts.look_at()).min() {
            None => Wait::Forever,
            Some(at) if at.as_millis() <= now.as_millis() => Wait::No,
            Some(at) => {
                self.0.set_alarm(at.as_millis() as u64, at.saturating_sub(now));
                Wait::Forever
            }
        }
    }

    /// Looks for completions without sleeping, for as long as `busy_poll` says. Returns whether to reap now.
    fn spin(&self, busy_poll: BusyPoll) -> io::Result<bool> {
        let limit = match busy_poll {
            BusyPoll::Off => return Ok(false),
            BusyPoll::For(limit) => Some(limit),
            BusyPoll::Always => None,
        };
        if self.0.enter(Wait::No)? {
            return Ok(true);
        }
        let start = Instant::now();
        loop {
            for _ in 0..SPINS_PER_LOOK {
                if self.0.is_ready() {
                    return self.0.enter(Wait::No);
                }
                std::hint::spin_loop();
            }
            let spun = start.elapsed();
            if limit.is_some_and(|limit| spun >= limit) {
                return Ok(false);
            }
            // Timers and commands must not wait for traffic.
            if limit.is_none() && spun >= Duration::from_millis(1) {
                return Ok(true);
            }
        }
    }

    fn report(&self, stats: &ShardStats) {
        let counts = self.buffers();
        stats.buffers_free.store(u64::from(counts.free), Relaxed);
        stats.buffers_total.store(u64::from(counts.total), Relaxed);
        stats.buffers_watermark.store(u64::from(counts.watermark), Relaxed);
        stats.operations.store(u64::from(self.0.in_flight()), Relaxed);
        stats.completions.store(self.0.counters.completions.get(), Relaxed);
        stats.enobufs.store(self.0.counters.enobufs.get(), Relaxed);
        stats.cq_overflows.store(self.0.counters.overflows.get(), Relaxed);
        add(&stats.turns, 1);
    }
}

/// Busy is what the thread has used of its CPU, in the kernel too; idle is the rest of its time.
fn report_cpu(stats: &ShardStats, epoch: Instant) {
    let (busy, lived) = (crate::net::thread_cpu_time(), epoch.elapsed());
    stats.busy_ns.store(busy.as_nanos() as u64, Relaxed);
    stats.idle_ns.store(lived.saturating_sub(busy).as_nanos() as u64, Relaxed);
}
