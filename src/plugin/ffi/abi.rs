//! The mirror of `c_plugins/arus_plugin.h`: structures, numbers, and their layout, asserted as the header asserts it.

use std::ffi::{c_char, c_void};
use std::mem::offset_of;

pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"arusplg1");
pub(super) const MAJOR: u16 = 1;
pub(super) const MINOR: u16 = 0;
/// The exported function that gives the table.
pub(super) const SYMBOL: &str = "arus_plugin_v1";

/// New bytes in one data call.
pub(in crate::plugin) const INPUT_MAX: usize = 16 * 1024;
/// Bytes of one reservation.
pub(in crate::plugin) const RESERVE_MAX: usize = 16 * 1024;
pub(super) const HOLDBACK_LIMIT: u32 = 64 * 1024;
pub(super) const CONNECTION_LIMIT: u32 = 64 * 1024;
pub(super) const NAME_MAX: usize = 64;
pub(super) const LOG_MAX: usize = 1024;
pub(super) const ATTRIBUTE_MAX: usize = 512;
pub(super) const COUNTERS_MAX: usize = 32;
/// Answers of MORE_OUTPUT in a row without a byte consumed or produced.
pub(in crate::plugin) const IDLE_CALLS_MAX: u32 = 16;
/// Bytes of the error buffer that the open functions get.
pub(super) const ERROR_MAX: usize = 512;

pub(super) const UP: u32 = 1;
pub(super) const DOWN: u32 = 2;
pub(super) const END: u32 = 1;

pub(in crate::plugin) const OK: i32 = 0;
pub(in crate::plugin) const NEED_MORE: i32 = 1;
pub(in crate::plugin) const MORE_OUTPUT: i32 = 2;
pub(in crate::plugin) const DETACH: i32 = 3;
pub(in crate::plugin) const CLOSE: i32 = 4;
pub(in crate::plugin) const RESET: i32 = 5;
pub(in crate::plugin) const ERROR: i32 = 6;
pub(in crate::plugin) const BYPASS: i32 = 7;

#[repr(C)]
pub(super) struct Connection {
    pub(super) size: u32,
    pub(super) shard: u32,
    pub(super) host: *const Host,
    pub(super) session: [u8; 16],
    pub(super) generation: u64,
}

#[repr(C)]
pub(super) struct Io {
    pub(super) size: u32,
    pub(super) flags: u32,
    pub(super) direction: u32,
    pub(super) reserved: u32,
    pub(super) input: *const u8,
    pub(super) input_len: usize,
    pub(super) host: *const Host,
}

#[repr(C)]
pub(super) struct Host {
    pub(super) size: u32,
    pub(super) abi_major: u16,
    pub(super) abi_minor: u16,
    pub(super) version: *const c_char,
    pub(super) pass: extern "C" fn(*mut Io, usize),
    pub(super) drop: extern "C" fn(*mut Io, usize),
    pub(super) rewrite: extern "C" fn(*mut Io, usize) -> *mut u8,
    pub(super) reserve: extern "C" fn(*mut Io, usize) -> *mut u8,
    pub(super) commit: extern "C" fn(*mut Io, usize),
    pub(super) attribute: unsafe extern "C" fn(*const Connection, u32, *mut usize) -> *const c_char,
    pub(super) log: unsafe extern "C" fn(*const Host, u32, *const c_char, usize),
    pub(super) counter: unsafe extern "C" fn(*const Host, *const c_char, *const c_char) -> i32,
    pub(super) counter_add: extern "C" fn(*const Host, i32, u64),
    pub(super) clock: extern "C" fn(*const Host) -> u64,
}

pub(super) type ProcessOpen =
    unsafe extern "C" fn(*const Host, *const c_char, usize, *mut c_char, usize, *mut *mut c_void) -> i32;
pub(super) type ShardOpen = unsafe extern "C" fn(*mut c_void, u32, *mut c_char, usize, *mut *mut c_void) -> i32;
/// `process_close` and `shard_close`.
pub(super) type Close = unsafe extern "C" fn(*mut c_void);
pub(super) type ConnectionOpen = unsafe extern "C" fn(*mut c_void, *const Connection, *mut c_void) -> i32;
pub(super) type ConnectionClose = unsafe extern "C" fn(*mut c_void, *mut c_void, u32);
pub(super) type Data = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut Io) -> i32;

/// The table, as plain words: nothing of it is believed before `table::check` has looked at it, so that the functions are
/// addresses here.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Table {
    pub(super) magic: u64,
    pub(super) abi_major: u16,
    pub(super) abi_minor: u16,
    pub(super) size: u32,
    pub(super) name: usize,
    pub(super) version: usize,
    pub(super) flags: u32,
    pub(super) connection_size: u32,
    pub(super) holdback_max: u32,
    pub(super) reserved: u32,
    pub(super) process_open: usize,
    pub(super) process_close: usize,
    pub(super) shard_open: usize,
    pub(super) shard_close: usize,
    pub(super) connection_open: usize,
    pub(super) connection_close: usize,
    pub(super) data: usize,
}

const _: () = {
    assert!(size_of::<usize>() == 8);

    assert!(offset_of!(Connection, size) == 0);
    assert!(offset_of!(Connection, shard) == 4);
    assert!(offset_of!(Connection, host) == 8);
    assert!(offset_of!(Connection, session) == 16);
    assert!(offset_of!(Connection, generation) == 32);
    assert!(size_of::<Connection>() == 40);

    assert!(offset_of!(Io, size) == 0);
    assert!(offset_of!(Io, flags) == 4);
    assert!(offset_of!(Io, direction) == 8);
    assert!(offset_of!(Io, reserved) == 12);
    assert!(offset_of!(Io, input) == 16);
    assert!(offset_of!(Io, input_len) == 24);
    assert!(offset_of!(Io, host) == 32);
    assert!(size_of::<Io>() == 40);

    assert!(offset_of!(Host, size) == 0);
    assert!(offset_of!(Host, abi_major) == 4);
    assert!(offset_of!(Host, abi_minor) == 6);
    assert!(offset_of!(Host, version) == 8);
    assert!(offset_of!(Host, pass) == 16);
    assert!(offset_of!(Host, drop) == 24);
    assert!(offset_of!(Host, rewrite) == 32);
    assert!(offset_of!(Host, reserve) == 40);
    assert!(offset_of!(Host, commit) == 48);
    assert!(offset_of!(Host, attribute) == 56);
    assert!(offset_of!(Host, log) == 64);
    assert!(offset_of!(Host, counter) == 72);
    assert!(offset_of!(Host, counter_add) == 80);
    assert!(offset_of!(Host, clock) == 88);
    assert!(size_of::<Host>() == 96);

    assert!(offset_of!(Table, magic) == 0);
    assert!(offset_of!(Table, abi_major) == 8);
    assert!(offset_of!(Table, abi_minor) == 10);
    assert!(offset_of!(Table, size) == 12);
    assert!(offset_of!(Table, name) == 16);
    assert!(offset_of!(Table, version) == 24);
    assert!(offset_of!(Table, flags) == 32);
    assert!(offset_of!(Table, connection_size) == 36);
    assert!(offset_of!(Table, holdback_max) == 40);
    assert!(offset_of!(Table, reserved) == 44);
    assert!(offset_of!(Table, process_open) == 48);
    assert!(offset_of!(Table, process_close) == 56);
    assert!(offset_of!(Table, shard_open) == 64);
    assert!(offset_of!(Table, shard_close) == 72);
    assert!(offset_of!(Table, connection_open) == 80);
    assert!(offset_of!(Table, connection_close) == 88);
    assert!(offset_of!(Table, data) == 96);
    assert!(size_of::<Table>() == 104);
};
