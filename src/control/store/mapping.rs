//! SQLite maps the `-shm` file of a database into memory. When somebody cuts that file short (by copying another over it,
//! say), the kernel ends the process at the next access, and every connection of the proxy with it. Here the access
//! finds zeros instead: SQLite knows such a page for none of its own and makes its contents anew, and the writer is told
//! to open the database again.
#![allow(unsafe_code)] // sigaction(2) and mmap(2); listed in tests/tidy.rs

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};

thread_local! {
    /// What is to be set when a file was cut; null where the thread is not in SQLite. Plain memory: a signal handler may
    /// read it.
    static WAS_CUT: Cell<*const AtomicBool> = const { Cell::new(ptr::null()) };
}

static PAGE: AtomicUsize = AtomicUsize::new(4096);
/// What handled the signal before, once it is known.
static BEFORE: OnceLock<libc::sigaction> = std::sync::OnceLock::new();

/// For as long as it lives, its thread is held to be in SQLite. It stays on its thread, as the pointer does.
pub(super) struct Here<'f>(PhantomData<(&'f AtomicBool, *const ())>);

impl<'f> Here<'f> {
    /// `was_cut` is set when a file was.
    pub(super) fn enter(was_cut: &'f AtomicBool) -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(install);
        WAS_CUT.set(was_cut);
        Self(PhantomData)
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        WAS_CUT.set(ptr::null());
    }
}

fn install() {
    // SAFETY: sysconf takes a number.
    if let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) {
        PAGE.store(page, Ordering::Relaxed);
    }
    // SAFETY: all zero is a valid sigaction: no handler, no flags, an empty mask.
    let (mut action, mut before): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: both structures live over the call, and the handler is async-signal-safe.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut before) } == 0 {
        let _ = BEFORE.set(before);
    }
}

extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid siginfo with SA_SIGINFO.
    let info = unsafe { &*info };
    // SAFETY: with this signal it has an address, or something else that is not looked at.
    let (code, address) = (info.si_code, unsafe { info.si_addr() } as usize);
    // SAFETY: while `Here` lives, what it was given does.
    let was_cut = unsafe { WAS_CUT.get().as_ref() };
    if let Some(was_cut) = was_cut.filter(|_| code == libc::BUS_ADRERR && put_zeros(address)) {
        was_cut.store(true, Ordering::Relaxed);
        // The access is tried again.
        return;
    }
    // SAFETY: all zero is a valid sigaction: the default action.
    let action = BEFORE.get().copied().unwrap_or(unsafe { std::mem::zeroed() });
    // SAFETY: `action` lives over the call; it is what was in force before, or the default.
    unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    if code <= 0 {
        // By kill or raise: it does not happen again by itself.
        // SAFETY: raise takes no pointers.
        unsafe { libc::raise(signal) };
    }
}

/// Puts memory of zeros where a page of a file is gone.
fn put_zeros(address: usize) -> bool {
    let page = PAGE.load(Ordering::Relaxed);
    let (at, protection) = (address & !(page - 1), libc::PROT_READ | libc::PROT_WRITE);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: the page was mapped from a file that has no such page any more, so nothing that could be read or written is
    // replaced, and Rust holds no reference to it: on this thread only SQLite maps files, and reads them by pointers.
    unsafe { libc::mmap(at as *mut libc::c_void, page, protection, flags, -1, 0) != libc::MAP_FAILED }
}
