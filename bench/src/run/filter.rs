//! `arus plugin run` with the example `filter` as `upper`: how fast one core changes bytes, without a connection.

use std::fs::File;
use std::io::{PipeWriter, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::pipe::fcntl_setpipe_size;

use super::figures::Unit;
use super::meter::{Memory, Meter};
use super::peers::Programs;
use super::process::{Place, check_interrupted};
use super::report::Sample;
use crate::load::Tally;
use crate::net;
use crate::wire::{CHUNK, Pattern};

/// So much goes through before anything is measured.
const WARM: u64 = 64 << 20;
/// As much as a user without privileges may have; what is in it at the end counts as done.
const PIPE: usize = 1 << 20;
const SLICE: Duration = Duration::from_millis(20);

/// What came of feeding it.
struct Fed {
    bytes: u64,
    took: Duration,
    cpu: Duration,
}

/// Feeds it from CPU `load_cpu`; what comes out is thrown away.
pub(crate) fn measure(programs: &Programs, cpu: usize, load_cpu: usize, seconds: f64) -> Result<Sample> {
    let meter = Meter::new();
    let (reader, writer) = std::io::pipe()?;
    fcntl_setpipe_size(&writer, PIPE)?;
    let place = Place { cpu, cgroup: meter.cgroup(), environment: &[] };
    let args = ["plugin".as_ref(), "run".as_ref(), programs.plugins()?.filter.as_path(), "--config".as_ref()];
    let mut command = place.command(&programs.arus, args.into_iter().chain([Path::new("upper")]))?;
    command.stdin(reader).stdout(File::options().write(true).open("/dev/null")?).stderr(Stdio::null());
    let mut child = Ends(command.spawn().context("cannot start arus plugin run")?);
    // It would keep the end of the pipe open that its child reads from.
    drop(command);
    let pid = child.0.id();
    let fed = thread::scope(|scope| {
        let feeding = scope.spawn(|| feed(writer, load_cpu, Duration::from_secs_f64(seconds), &meter, pid));
        while !feeding.is_finished() {
            if let Err(interrupted) = check_interrupted() {
                // Then the pipe is broken, and nobody feeds any more.
                child.end();
                return Err(interrupted);
            }
            thread::sleep(SLICE);
        }
        feeding.join().map_err(|_| anyhow!("feeding has panicked"))?
    })?;
    let mut tally = Tally::new();
    tally.bytes = fed.bytes;
    let report = tally.report("filter", fed.took.as_secs_f64());
    Ok(Sample::new(Unit::Gib, &report, fed.cpu, Memory::default(), Memory::default()))
}

fn feed(mut to: PipeWriter, cpu: usize, time: Duration, meter: &Meter, pid: u32) -> Result<Fed> {
    net::pin(cpu)?;
    let pattern = Pattern::new();
    let mut feed = |offset: u64| -> Result<u64> {
        let piece = pattern.at(offset, CHUNK as u64);
        to.write_all(piece).context("arus plugin run has ended")?;
        Ok(offset + piece.len() as u64)
    };
    let mut offset = 0;
    while offset < WARM {
        offset = feed(offset)?;
    }
    let (started, warm, before) = (Instant::now(), offset, meter.cpu(pid)?);
    while started.elapsed() < time {
        offset = feed(offset)?;
    }
    Ok(Fed { bytes: offset - warm, took: started.elapsed(), cpu: meter.cpu(pid)?.saturating_sub(before) })
}

/// A child that is gone with this guard.
struct Ends(Child);

impl Ends {
    fn end(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.end();
    }
}
