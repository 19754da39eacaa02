//! The scheduler's time slice of the thread that drives a ring.

use std::io;

/// What a shard asks for. The scheduler lets a thread that wakes up go before one whose slice is longer (kernel 6.12), and
/// else only when that one's is used up: 3 ms by default, for which a checked password or a written record would hold up
/// every connection of a shard on the same core.
const SLICE_NS: u64 = 100_000;

/// Asks for short slices for the calling thread, so that it is let in at once when something has come for it. Its share
/// of the CPU stays what it is. Older kernels take no notice.
///
/// # Errors
/// As sched_setattr(2); a policy that somebody has chosen for the process is left alone, without one.
pub fn ask_for_short_slices() -> io::Result<()> {
    let mut attributes = attributes()?;
    if attributes.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    attributes.sched_runtime = SLICE_NS;
    // SAFETY: the structure is whole and says its size; 0 is the calling thread, which is ours.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
}

fn attributes() -> io::Result<libc::sched_attr> {
    let size = size_of::<libc::sched_attr>() as u32;
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes `size` bytes at most.
    check(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) })?;
    Ok(attributes)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_short_and_nice_stays() {
        std::thread::spawn(|| {
            rustix::process::setpriority_process(None, 7).unwrap();
            let before = attributes().unwrap();
            ask_for_short_slices().unwrap();
            let after = attributes().unwrap();
            assert_eq!((after.sched_policy, after.sched_nice), (before.sched_policy, 7));
            // Kernels before 6.12 say 0 both times.
            assert!(after.sched_runtime == SLICE_NS || after.sched_runtime == before.sched_runtime);
        })
        .join()
        .unwrap();
    }
}
