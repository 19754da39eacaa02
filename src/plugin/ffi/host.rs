//! The functions that arus gives to plugins, and which call of a plugin this thread is in.
//!
//! A plugin hands back the pointers that it was given. They are compared with those of the current call and never
//! followed: what a function acts on is what this thread's current call has. So a stale or foreign pointer does nothing,
//! or is a fault. Texts that a plugin hands in cannot be checked, and are read within the header's bounds.

use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::{CStr, c_char};
use std::fmt;
use std::sync::atomic::AtomicU64;

use super::abi::{self, Connection, Host, Io};
use crate::plugin::fault::{Function, Lie};
use crate::plugin::watch::{LogLimit, now_ns};
use crate::plugin::work::Work;
use crate::stats::counters::add;
use crate::types::{Client, Generation, SessionId, ShardId};

/// What a connection is, for the attributes that plugins may ask for. Texts are made when somebody asks.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    pub session: SessionId,
    pub generation: Generation,
    /// Who connected.
    pub client: Client,
    /// The same, or what a trusted PROXY header said.
    pub source: Client,
    pub listener: &'a str,
    /// Where the client wants to go.
    pub target: Option<&'a dyn fmt::Display>,
    pub upstream: Option<&'a dyn fmt::Display>,
    pub backend: Option<&'a dyn fmt::Display>,
    pub sni: Option<&'a dyn fmt::Display>,
    pub alpn: Option<&'a dyn fmt::Display>,
    pub user: Option<&'a dyn fmt::Display>,
}

const ATTRIBUTES: usize = 10;

/// The texts of the attributes that were asked for; they hold for the call.
#[derive(Default)]
pub(super) struct Texts([OnceCell<String>; ATTRIBUTES]);

impl Texts {
    fn get<'a>(&'a self, facts: &Facts<'_>, attribute: u32) -> Option<&'a str> {
        let text = self.0.get((attribute as usize).checked_sub(1)?)?;
        let wanted = match attribute {
            1 => Some(format_args!("{}", facts.session).to_string()),
            2 => Some(facts.client.to_string()),
            3 => Some(facts.source.to_string()),
            4 => Some(facts.listener.to_owned()),
            5 => facts.target.map(|text| text.to_string()),
            6 => facts.upstream.map(|text| text.to_string()),
            7 => facts.backend.map(|text| text.to_string()),
            8 => facts.sni.map(|text| text.to_string()),
            9 => facts.alpn.map(|text| text.to_string()),
            10 => facts.user.map(|text| text.to_string()),
            _ => None,
        };
        wanted.map(|mut wanted| {
            let end = (0..=abi::ATTRIBUTE_MAX.min(wanted.len())).rev().find(|end| wanted.is_char_boundary(*end));
            wanted.truncate(end.unwrap_or(0));
            text.get_or_init(|| wanted).as_str()
        })
    }
}

/// A counter of a plugin's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCounter {
    pub name: String,
    pub help: String,
}

/// What only some functions may ask for.
pub(super) enum Role<'a> {
    Other,
    ProcessOpen(&'a RefCell<Vec<OwnCounter>>),
    ConnectionOpen(*const Connection, &'a Facts<'a>, &'a Texts),
    Data(*const Io, *mut Work),
}

/// A call into a plugin.
pub(super) struct Current<'a> {
    pub(super) plugin: &'a str,
    pub(super) generation: Generation,
    /// What the plugin knows its process by.
    pub(super) host: *const Host,
    pub(super) shard: Option<ShardId>,
    pub(super) session: Option<SessionId>,
    pub(super) function: Function,
    pub(super) role: Role<'a>,
    /// `None`: a few lines are allowed in any case.
    pub(super) log: Option<&'a LogLimit>,
    pub(super) log_dropped: Option<&'a AtomicU64>,
    /// The plugin's own counters on this shard.
    pub(super) own: &'a [AtomicU64],
}

impl<'a> Current<'a> {
    /// A call on a control thread.
    pub(super) fn control(plugin: &'a str, generation: Generation, function: Function, role: Role<'a>) -> Self {
        Self {
            plugin,
            generation,
            host: std::ptr::null(),
            shard: None,
            session: None,
            function,
            role,
            log: None,
            log_dropped: None,
            own: &[],
        }
    }
}

thread_local! {
    /// Null while this thread is in no plugin. Without a destructor, so that a signal handler may read it.
    static CURRENT: Cell<*const Current<'static>> = const { Cell::new(std::ptr::null()) };
}

/// Calls into a plugin.
pub(super) fn enter<R>(current: &Current<'_>, call: impl FnOnce() -> R) -> R {
    CURRENT.set(std::ptr::from_ref(current).cast());
    let result = call();
    CURRENT.set(std::ptr::null());
    result
}

/// What this thread is in, if it is in a plugin. Async-signal-safe.
pub(super) fn current<R>(look: impl FnOnce(&Current<'_>) -> R) -> Option<R> {
    let current = CURRENT.get();
    // SAFETY: not null means that `enter` is further up on this thread's stack, and borrows what this points to until its
    // call has returned.
    let current = unsafe { current.as_ref() }?;
    Some(look(current))
}

/// As `current`, for the plugin that knows its process by `host`.
fn current_of<R>(host: *const Host, look: impl FnOnce(&Current<'_>) -> R) -> Option<R> {
    current(|current| (current.host == host).then(|| look(current))).flatten()
}

/// What the data call with this `io` works on; `None` where there is none, or it is another's.
fn work<R>(io: *mut Io, act: impl FnOnce(&mut Work) -> R) -> Option<R> {
    current(|current| {
        let Role::Data(own, work) = current.role else { return None };
        // SAFETY: `Opened::data` borrows the work alone until the plugin returns, and uses it only through this pointer
        // meanwhile; host functions do not call each other, so that this is the only reference.
        let work = unsafe { &mut *work };
        if !std::ptr::eq(io, own) {
            work.fail(Lie::ForeignIo);
            return None;
        }
        Some(act(work))
    })
    .flatten()
}

extern "C" fn pass(io: *mut Io, n: usize) {
    work(io, |work| work.pass(n));
}

extern "C" fn drop(io: *mut Io, n: usize) {
    work(io, |work| work.drop(n));
}

extern "C" fn rewrite(io: *mut Io, n: usize) -> *mut u8 {
    work(io, |work| work.rewrite(n)).unwrap_or(std::ptr::null_mut())
}

extern "C" fn reserve(io: *mut Io, n: usize) -> *mut u8 {
    work(io, |work| work.reserve(n)).unwrap_or(std::ptr::null_mut())
}

extern "C" fn commit(io: *mut Io, n: usize) {
    work(io, |work| work.commit(n));
}

/// # Safety
/// `len` is null or points to a writable `usize`, as the header says.
unsafe extern "C" fn attribute(connection: *const Connection, attribute: u32, len: *mut usize) -> *const c_char {
    let (mut text, mut text_len) = (std::ptr::null(), 0);
    current(|current| {
        let Role::ConnectionOpen(own, facts, texts) = &current.role else { return };
        if let Some(found) = texts.get(facts, attribute).filter(|_| std::ptr::eq(connection, *own)) {
            (text, text_len) = (found.as_ptr().cast(), found.len());
        }
    });
    if !len.is_null() {
        // SAFETY: the caller's promise.
        unsafe { *len = text_len };
    }
    text
}

/// # Safety
/// `text` is null or points to `len` readable bytes, as the header says.
unsafe extern "C" fn log(host: *const Host, level: u32, text: *const c_char, len: usize) {
    if text.is_null() {
        return;
    }
    current_of(host, |current| {
        if !current.log.is_none_or(|limit| limit.take(now_ns())) {
            current.log_dropped.into_iter().for_each(|counter| add(counter, 1));
            return;
        }
        // SAFETY: the caller's promise, cut to the header's bound.
        let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len.min(abi::LOG_MAX)) };
        write_log(current, level, &printable(bytes));
    });
}

fn write_log(current: &Current<'_>, level: u32, text: &str) {
    let (plugin, shard) = (current.plugin, current.shard.map(|shard| shard.0));
    let session = current.session.map(tracing::field::display);
    match level {
        1 => tracing::error!(plugin, shard, session, "{text}"),
        2 => tracing::warn!(plugin, shard, session, "{text}"),
        3 => tracing::info!(plugin, shard, session, "{text}"),
        _ => tracing::debug!(plugin, shard, session, "{text}"),
    }
}

/// Text from a plugin as one line of ours.
pub(super) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut line = String::with_capacity(text.len());
    for character in text.trim_end().chars() {
        match character.is_control() {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    line
}

/// # Safety
/// `name` and `help` are null or end with NUL, as the header says.
unsafe extern "C" fn counter(host: *const Host, name: *const c_char, help: *const c_char) -> i32 {
    if name.is_null() || help.is_null() {
        return -1;
    }
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) };
    // SAFETY: as above.
    let help = unsafe { CStr::from_ptr(help) };
    let added = current_of(host, |current| {
        let Role::ProcessOpen(counters) = current.role else { return None };
        add_counter(&mut counters.borrow_mut(), name.to_bytes(), help.to_bytes())
    });
    added.flatten().map_or(-1, |number| number as i32)
}

fn add_counter(counters: &mut Vec<OwnCounter>, name: &[u8], help: &[u8]) -> Option<usize> {
    let name = std::str::from_utf8(name).ok().filter(|name| is_counter_name(name))?;
    if let Some(number) = counters.iter().position(|counter| counter.name == name) {
        return Some(number);
    }
    let help = printable(&help[..help.len().min(abi::LOG_MAX)]);
    (counters.len() < abi::COUNTERS_MAX).then(|| {
        counters.push(OwnCounter { name: name.to_owned(), help });
        counters.len() - 1
    })
}

fn is_counter_name(name: &str) -> bool {
    name.len() <= abi::NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

extern "C" fn counter_add(host: *const Host, counter: i32, n: u64) {
    current_of(host, |current| {
        if let Some(counter) = usize::try_from(counter).ok().and_then(|number| current.own.get(number)) {
            add(counter, n);
        }
    });
}

extern "C" fn clock(_host: *const Host) -> u64 {
    now_ns()
}

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"?",
};

/// A table of these functions.
pub(super) fn table() -> Host {
    Host {
        size: size_of::<Host>() as u32,
        abi_major: abi::MAJOR,
        abi_minor: abi::MINOR,
        version: VERSION.as_ptr(),
        pass,
        drop,
        rewrite,
        reserve,
        commit,
        attribute,
        log,
        counter,
        counter_add,
        clock,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_of_a_call_nothing_happens() {
        let mut io = std::mem::MaybeUninit::<Io>::uninit();
        let host = table();
        pass(io.as_mut_ptr(), 5);
        assert!(reserve(io.as_mut_ptr(), 5).is_null() && rewrite(std::ptr::null_mut(), 0).is_null());
        counter_add(&raw const host, 0, 1);
        // SAFETY: both texts end with NUL.
        assert_eq!(unsafe { counter(&raw const host, c"a".as_ptr(), c"b".as_ptr()) }, -1);
    }

    #[test]
    fn counters_have_names_that_metrics_may_have() {
        let mut counters = Vec::new();
        assert_eq!(add_counter(&mut counters, b"lines_2", b"Lines\nseen"), Some(0));
        assert_eq!(add_counter(&mut counters, b"other", b""), Some(1));
        assert_eq!(add_counter(&mut counters, b"lines_2", b""), Some(0));
        for bad in [&b""[..], b"2a", b"_a", b"A", b"a-b", b"a b", b"\xff", &[b'a'; 65]] {
            assert_eq!(add_counter(&mut counters, bad, b""), None);
        }
        assert_eq!(counters[0].help, "Lines\\nseen");
        for number in 2..abi::COUNTERS_MAX {
            assert_eq!(add_counter(&mut counters, format!("c{number}").as_bytes(), b""), Some(number));
        }
        assert_eq!(add_counter(&mut counters, b"one_more", b""), None);
    }
}
