//! What this kernel's io_uring can do, found out by doing it.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use io_uring::IoUring;

use super::Features;
use super::buffers::Pool;
use super::core::setup;
use super::receive::{self, Ask, First};

/// Why the engine cannot run here: one line that says what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

/// Tries io_uring on this kernel: whether it is allowed at all, and which features work.
///
/// The environment variable `ARUS_RING_WITHOUT` (a list of `caps`, `bundles`, `multishot`, `splice`) takes features away, so that
/// tests can force each fall-back, and benchmarks each way of bytes.
///
/// # Errors
/// When io_uring is forbidden (seccomp, `kernel.io_uring_disabled`), its memory is limited, or the kernel is too old.
pub fn probe() -> Result<Features, Unusable> {
    let uring = setup(8, 64).map_err(|error| explain(&error))?;
    drop(uring);
    let without = std::env::var("ARUS_RING_WITHOUT").unwrap_or_default();
    let allowed = |feature: &str| !without.split(',').any(|word| word.trim() == feature);
    let (caps, bundles, multishot) = (allowed("caps"), allowed("bundles"), allowed("multishot"));
    let splice = allowed("splice");
    // From the best downwards; the first that passes is used.
    let candidates = [(true, true, true), (true, true, false), (true, false, true), (true, false, false)]
        .into_iter()
        .chain([(false, true, false), (false, false, false)])
        .map(|(multishot_recv, bundles, receive_caps)| Features { multishot_recv, bundles, receive_caps, splice })
        .filter(|wanted| {
            (multishot || !wanted.multishot_recv) && (bundles || !wanted.bundles) && (caps || !wanted.receive_caps)
        });
    for features in candidates {
        // A kernel that contradicts itself trips the pool's checks.
        match std::panic::catch_unwind(|| receive_in_order(features)).unwrap_or(Ok(false)) {
            Ok(true) => return Ok(features),
            Ok(false) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(explain(&error)),
        }
    }
    Err(Unusable("io_uring cannot receive into provided buffers on this kernel; arus needs Linux 6.1 or later".into()))
}

fn explain(error: &io::Error) -> Unusable {
    Unusable(match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is forbidden here: in a container, allow io_uring_setup, io_uring_enter and io_uring_register in \
             its seccomp profile (scripts/seccomp-arus.json); on a host, check `sysctl kernel.io_uring_disabled`"
                .into()
        }
        Some(libc::ENOSYS) => {
            "this kernel has no io_uring (or a seccomp profile hides it): arus needs Linux 6.1 or later with \
             CONFIG_IO_URING; in a container see scripts/seccomp-arus.json"
                .into()
        }
        Some(libc::EINVAL) => "this kernel's io_uring is too old: arus needs Linux 6.1 or later".into(),
        Some(libc::ENOMEM) => {
            "no memory for an io_uring: raise RLIMIT_MEMLOCK (`ulimit -l`, LimitMEMLOCK=) to at least 8 MiB".into()
        }
        Some(libc::EMFILE | libc::ENFILE) => "no descriptor for an io_uring: raise RLIMIT_NOFILE (`ulimit -n`)".into(),
        _ => format!("io_uring does not work here: {error}"),
    })
}

/// Receives a known text through a socketpair twice, the second time around the end of a small buffer ring, and says
/// whether every byte came in its place. Kernels 6.13.11 to 6.14.8 put the buffers of bundles into a wrong order.
fn receive_in_order(features: Features) -> io::Result<bool> {
    const SIZE: u32 = 256;
    const BUFFERS: u32 = 16;
    let mut uring = setup(8, 64)?;
    let mut pool = Pool::new(SIZE, BUFFERS, BUFFERS, 0)?;
    let (address, entries, group) = pool.registration();
    // SAFETY: the pool outlives the ring's use of it: `uring` is dropped first, and no receive is in flight then.
    unsafe { uring.submitter().register_buf_ring_with_flags(address, entries, group, 0) }?;
    pool.grow();
    let (mut writer, reader) = UnixStream::pair()?;
    let reader = OwnedFd::from(reader);
    let text: Vec<u8> = (0..SIZE * 11 + 77).map(|i| (i / 7 % 251) as u8).collect();
    for _ in 0..2 {
        writer.write_all(&text)?;
        let mut got = Vec::new();
        while got.len() < text.len() {
            let left = (text.len() - got.len()) as u32;
            let ask = Ask { total: left, at_once: left };
            let entry = receive::entry(features, reader.as_raw_fd(), group, ask, SIZE, First::Try).user_data(1);
            if !receive_once(&mut uring, &mut pool, &entry, text.len(), &mut got)? {
                return Ok(false);
            }
        }
        if got != text {
            return Ok(false);
        }
    }
    // Ends an armed multishot receive, so that nothing is in flight when the memory goes.
    drop(writer);
    let entry =
        receive::entry(features, reader.as_raw_fd(), group, Ask { total: SIZE, at_once: SIZE }, SIZE, First::Wait)
            .user_data(1);
    receive_once(&mut uring, &mut pool, &entry, usize::MAX, &mut Vec::new())?;
    Ok(pool.counts().free == BUFFERS)
}

/// Arms one receive and follows it until its last completion, or until `enough` bytes are there and it must be
/// cancelled. False when the kernel contradicts itself.
fn receive_once(
    uring: &mut IoUring,
    pool: &mut Pool,
    entry: &io_uring::squeue::Entry,
    enough: usize,
    got: &mut Vec<u8>,
) -> io::Result<bool> {
    use io_uring::{cqueue, opcode};
    // SAFETY: the descriptor is open until the last completion was seen; the buffers are the pool's.
    unsafe { uring.submission().push(entry) }.map_err(io::Error::other)?;
    let mut cancelled = false;
    loop {
        uring.submit_and_wait(1)?;
        let completions: Vec<cqueue::Entry> = uring.completion().collect();
        for completion in completions {
            if completion.user_data() != 1 {
                continue;
            }
            let result = completion.result();
            if result > 0 {
                let Some(first) = cqueue::buffer_select(completion.flags()) else { return Ok(false) };
                let chain = pool.taken(first, result as u32);
                for (base, len) in pool.pieces(&chain) {
                    // SAFETY: the piece is a filled part of a buffer that `chain` holds.
                    got.extend_from_slice(unsafe { std::slice::from_raw_parts(base, len) });
                }
                pool.release(chain);
            }
            if !cqueue::more(completion.flags()) {
                return match result {
                    0.. => Ok(true),
                    error if error == -libc::ECANCELED || error == -libc::ENOBUFS => Ok(true),
                    error => Err(io::Error::from_raw_os_error(-error)),
                };
            }
        }
        if got.len() >= enough && !cancelled {
            cancelled = true;
            let cancel = opcode::AsyncCancel::new(1).build().user_data(2);
            // SAFETY: a cancel names no memory.
            unsafe { uring.submission().push(&cancel) }.map_err(io::Error::other)?;
        }
    }
}
