//! The last line of a process that a plugin has crashed: which one, and in what.
//!
//! A handler for the signals of crashes looks whether the thread is in a plugin. If so it writes one line to stderr and to
//! the crash file, and lets the process die by the signal's default action, so that a core dump shows the crash itself.
//! If not, whatever handled the signal before does so again. Everything here, from [`on_crash`] down, is
//! async-signal-safe: no allocation, no lock, no formatting machinery that could panic.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use super::host::{self, Current};

const SIGNALS: [(libc::c_int, &str); 5] = [
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGABRT, "SIGABRT"),
];

/// In the state directory.
pub const FILE: &str = "plugin-crash.log";

/// -1: none.
static CRASH_FILE: AtomicI32 = AtomicI32::new(-1);

/// What handled each of [`SIGNALS`] before.
static BEFORE: OnceLock<[libc::sigaction; SIGNALS.len()]> = OnceLock::new();

/// Watches over plugins from now on; the file is opened for later, in `state_dir` where there is one. A second call
/// changes nothing but the file, where there was none.
///
/// # Errors
/// When the file cannot be opened; crashes are told on stderr all the same.
pub fn install(state_dir: Option<&Path>) -> io::Result<()> {
    BEFORE.get_or_init(|| SIGNALS.map(|(signal, _)| take_over(signal)));
    let Some(state_dir) = state_dir.filter(|_| CRASH_FILE.load(Ordering::Relaxed) < 0) else { return Ok(()) };
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(state_dir.join(FILE))?;
    let fd = file.into_raw_fd();
    if CRASH_FILE.compare_exchange(-1, fd, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        // SAFETY: it was opened above and is not known to anybody else.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

fn take_over(signal: libc::c_int) -> libc::sigaction {
    // SAFETY: all zero is a valid sigaction: no handler, no flags, an empty mask.
    let (mut action, mut before): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_crash;
    action.sa_sigaction = handler as usize;
    // On the stack that std gives each thread for such signals: the ordinary one may be what ran out.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: both structures live over the call, and the handler is async-signal-safe.
    unsafe { libc::sigaction(signal, &raw const action, &raw mut before) };
    before
}

extern "C" fn on_crash(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    let is_plugin = host::current(|current| tell(signal, current)).is_some();
    let index = SIGNALS.iter().position(|(known, _)| *known == signal);
    let before = BEFORE.get().zip(index).map(|(before, index)| before[index]);
    // SAFETY: all zero is a valid sigaction: the default action.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    let action = before.filter(|_| !is_plugin).unwrap_or(default);
    // SAFETY: `action` lives over the call; it is what was in force before, or the default.
    unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    // SAFETY: the kernel gives a valid siginfo with SA_SIGINFO.
    let was_sent = unsafe { (*info).si_code } <= 0;
    if was_sent {
        // By kill or raise: it does not happen again by itself. The signal is blocked here, and comes after the return.
        // SAFETY: raise takes no pointers.
        unsafe { libc::raise(signal) };
    }
    // Otherwise the instruction that failed is tried again, and fails again, with `action` in force.
}

/// Text of a fixed size; what does not fit is left out.
struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Line {
    fn text(&mut self, text: &str) -> &mut Self {
        for byte in text.bytes() {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
        self
    }

    fn number(&mut self, mut number: u64) -> &mut Self {
        let (mut digits, mut at) = ([0_u8; 20], 20);
        loop {
            at -= 1;
            if let Some(digit) = digits.get_mut(at) {
                *digit = b'0' + (number % 10) as u8;
            }
            number /= 10;
            if number == 0 || at == 0 {
                break;
            }
        }
        let digits = digits.get(at..).unwrap_or_default();
        self.text(std::str::from_utf8(digits).unwrap_or_default())
    }

    /// As a UUID is written.
    fn uuid(&mut self, id: u128) -> &mut Self {
        const HEX: [&str; 16] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b", "c", "d", "e", "f"];
        for nibble in 0..32 {
            if matches!(nibble, 8 | 12 | 16 | 20) {
                self.text("-");
            }
            self.text(HEX[((id >> (124 - 4 * nibble)) & 15) as usize]);
        }
        self
    }
}

fn tell(signal: libc::c_int, current: &Current<'_>) {
    let name = SIGNALS.iter().find(|(known, _)| *known == signal).map_or("a signal", |(_, name)| name);
    let mut line = Line { bytes: [0; 512], len: 0 };
    line.text("arus: plugin ").text(current.plugin).text(" crashed with ").text(name);
    line.text(" in ").text(current.function.label()).text(": generation ").number(current.generation.0);
    if let Some(shard) = current.shard {
        line.text(", shard ").number(u64::from(shard.0));
    }
    if let Some(session) = current.session {
        line.text(", connection ").uuid(session.0);
    }
    line.text("; arus cannot go on\n");
    for fd in [libc::STDERR_FILENO, CRASH_FILE.load(Ordering::Relaxed)] {
        if fd >= 0 {
            // SAFETY: the first `len` bytes of the line are there; write(2) is async-signal-safe.
            let _ = unsafe { libc::write(fd, line.bytes.as_ptr().cast(), line.len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_within_their_bounds() {
        let mut line = Line { bytes: [0; 512], len: 0 };
        line.text("a ").number(0).text(" ").number(u64::MAX).text(" ").uuid(0x0192_3e4f_0000_7000_8000_0000_0000_00ff);
        assert_eq!(
            std::str::from_utf8(&line.bytes[..line.len]),
            Ok("a 0 18446744073709551615 01923e4f-0000-7000-8000-0000000000ff")
        );
        for _ in 0..100 {
            line.text("0123456789");
        }
        assert_eq!(line.len, 512);
    }
}
