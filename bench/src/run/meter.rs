//! CPU and memory of a proxy's whole process tree.
//!
//! CPU comes from a cgroup of its own (v1 cpuacct or v2, nanoseconds or microseconds, the dead
//! included); without one, from the scheduler's counts of every living thread of the tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Where a v1 cpuacct hierarchy or the v2 hierarchy is usually mounted.
const V1_MOUNTS: [&str; 2] = ["/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct"];
const V2_MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

pub(crate) enum Meter {
    Cgroup(Cgroup),
    /// No cgroup may be made here.
    Proc,
}

/// A cgroup that is removed, and emptied before, with this guard.
pub(crate) struct Cgroup {
    dir: PathBuf,
    is_v2: bool,
}

/// Resident memory of a process tree.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) rss_kib: u64,
    /// Shared pages counted once over the tree.
    pub(crate) pss_kib: u64,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Cgroup::create().map_or(Self::Proc, Self::Cgroup)
    }

    pub(crate) fn cgroup(&self) -> Option<&Path> {
        match self {
            Self::Cgroup(cgroup) => Some(&cgroup.dir),
            Self::Proc => None,
        }
    }

    pub(crate) fn source(&self) -> &'static str {
        match self {
            Self::Cgroup(Cgroup { is_v2: false, .. }) => "cgroup v1 cpuacct.usage",
            Self::Cgroup(Cgroup { is_v2: true, .. }) => "cgroup v2 cpu.stat",
            Self::Proc => "/proc/PID/task/*/schedstat",
        }
    }

    /// User and system time spent so far by the tree of process `root`.
    pub(crate) fn cpu(&self, root: u32) -> Result<Duration> {
        match self {
            Self::Cgroup(cgroup) => cgroup.cpu(),
            Self::Proc => tree(root).into_iter().map(threads_cpu).sum(),
        }
    }

    pub(crate) fn memory(&self, root: u32) -> Result<Memory> {
        let pids = match self {
            Self::Cgroup(cgroup) => cgroup.pids()?,
            Self::Proc => tree(root),
        };
        let mut sum = Memory::default();
        for pid in pids {
            sum.rss_kib += kib_field(&format!("/proc/{pid}/status"), "VmRSS:")?;
            sum.pss_kib += kib_field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")?;
        }
        Ok(sum)
    }
}

impl Cgroup {
    fn create() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("arus-bench-{}-{count}", std::process::id());
        let v1 = V1_MOUNTS.map(|mount| (mount, "cpuacct.usage", false));
        let v2 = V2_MOUNTS.map(|mount| (mount, "cpu.stat", true));
        for (mount, meter, is_v2) in v1.into_iter().chain(v2) {
            let dir = Path::new(mount).join(&name);
            if !Path::new(mount).join("cgroup.procs").exists() || fs::create_dir(&dir).is_err() {
                continue;
            }
            let cgroup = Self { dir, is_v2 };
            if cgroup.dir.join(meter).exists() {
                return Some(cgroup);
            }
        }
        None
    }

    fn cpu(&self) -> Result<Duration> {
        if !self.is_v2 {
            let usage = fs::read_to_string(self.dir.join("cpuacct.usage"))?;
            return Ok(Duration::from_nanos(usage.trim().parse()?));
        }
        let stat = fs::read_to_string(self.dir.join("cpu.stat"))?;
        let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
        let usage = usage.context("cpu.stat without usage_usec")?;
        Ok(Duration::from_micros(usage.trim().parse()?))
    }

    fn pids(&self) -> Result<Vec<u32>> {
        let procs = fs::read_to_string(self.dir.join("cgroup.procs"))?;
        Ok(procs.lines().filter_map(|line| line.parse().ok()).collect())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Only what this harness started, or its offspring, can be in here.
        for _ in 0..200 {
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            for pid in self.pids().unwrap_or_default() {
                if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
        eprintln!("arus-bench: cannot remove {}", self.dir.display());
    }
}

/// A process and all its living descendants.
fn tree(root: u32) -> Vec<u32> {
    let mut pids = vec![root];
    let mut next = 0;
    while let Some(&pid) = pids.get(next) {
        next += 1;
        for task in tasks(pid) {
            let children = fs::read_to_string(task.join("children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    pids
}

fn tasks(pid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn threads_cpu(pid: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in tasks(pid) {
        // "running waiting slices", in nanoseconds.
        let schedstat = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
        if let Some(running) = schedstat.split_whitespace().next() {
            sum += Duration::from_nanos(running.parse()?);
        }
    }
    Ok(sum)
}

fn kib_field(path: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0 kB");
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
