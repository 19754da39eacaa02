//! `arus plugin run` with the example `filter` as `upper`: how fast one core changes bytes, without a connection.
//!
//! It reads zeros from a file in memory that has no pages of its own, and writes to /dev/null. From a pipe that another
//! core fills it takes three times as long, nearly all of it in the kernel, which waits for the pipe's lock.

use std::fs::File;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::figures::Unit;
use super::meter::{Memory, Meter};
use super::peers::Programs;
use super::process::{Place, check_interrupted};
use super::report::Sample;
use crate::load::Tally;

/// So much goes through for each second that a measurement is to take; starting takes a hundredth of that time.
const BYTES_PER_SECOND: f64 = 6.0 * (1_u64 << 30) as f64;
const SLICE: Duration = Duration::from_millis(1);

pub(crate) fn measure(programs: &Programs, cpu: usize, seconds: f64) -> Result<Sample> {
    let bytes = (seconds * BYTES_PER_SECOND) as u64;
    let zeros = memfd_create("zeros", MemfdFlags::CLOEXEC)?;
    ftruncate(&zeros, bytes)?;
    let meter = Meter::new();
    let place = Place { cpu, cgroup: meter.cgroup(), environment: &[] };
    let filter = programs.plugins()?.filter.to_string_lossy();
    let mut command = place.command(&programs.arus, ["plugin", "run", filter.as_ref(), "--config", "upper"])?;
    command.stdin(zeros).stdout(File::options().write(true).open("/dev/null")?).stderr(Stdio::null());
    let started = Instant::now();
    let mut child = Ends(command.spawn().context("cannot start arus plugin run")?);
    let pid = Pid::from_child(&child.0);
    // What it has spent is read when it has ended, but is not forgotten yet.
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    while waitid(WaitId::Pid(pid), ended)?.is_none() {
        check_interrupted()?;
        thread::sleep(SLICE);
    }
    let (took, cpu) = (started.elapsed(), meter.cpu(child.0.id())?);
    let status = child.0.wait()?;
    ensure!(status.success(), "arus plugin run: {status}");
    let mut tally = Tally::new();
    tally.bytes = bytes;
    let report = tally.report("filter", took.as_secs_f64());
    Ok(Sample::new(Unit::Gib, &report, cpu, Memory::default(), Memory::default()))
}

/// A child that is gone with this guard.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
