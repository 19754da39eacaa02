//! The process as the kernel sees it, under the names that every Prometheus client library gives it.

use std::fs;
use std::time::SystemTime;

use nix::sys::resource::{Resource, getrlimit};

use super::text::{Kind, Page};

/// Of times in /proc: USER_HZ, which is 100 on every architecture that Linux has left.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn write(page: &mut Page, started: SystemTime) {
    let cpu = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_seconds(&stat));
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limit = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft as f64);
    let started = started.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs_f64());
    let bytes = |key| number(&status, key).map(|kib| kib * 1024.0);
    for (name, kind, help, value) in [
        ("process_cpu_seconds_total", Kind::Counter, "Processor time, of all threads.", cpu),
        ("process_open_fds", Kind::Gauge, "Open file descriptors.", open_descriptors()),
        ("process_max_fds", Kind::Gauge, "How many file descriptors may be open (RLIMIT_NOFILE).", limit),
        ("process_virtual_memory_bytes", Kind::Gauge, "Virtual memory.", bytes("VmSize:")),
        ("process_resident_memory_bytes", Kind::Gauge, "Resident memory.", bytes("VmRSS:")),
        ("process_threads", Kind::Gauge, "Threads.", number(&status, "Threads:")),
        ("process_start_time_seconds", Kind::Gauge, "When the process started, since the Unix epoch.", started),
    ] {
        let mut family = page.family(name, kind, help);
        if let Some(value) = value {
            family.sample(&[], value);
        }
    }
}

/// User and system time. The second field, the program's name, may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

fn number(status: &str, key: &str) -> Option<f64> {
    status.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

/// The directory's size is their number since Linux 6.2, and 0 before.
fn open_descriptors() -> Option<f64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    let count = if size > 0 { size } else { fs::read_dir("/proc/self/fd").ok()?.count() as u64 };
    Some(count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        assert_eq!(cpu_seconds("1 (a) b) S 0 0 0 0 0 0 0 0 0 0 150 50 0 0"), Some(2.0));
        assert_eq!(cpu_seconds("1 (a"), None);
        assert!(open_descriptors().is_some_and(|count| count >= 3.0));
    }
}
