//! The provided-buffer ring: 16 KiB buffers that the kernel fills as data comes.
//!
//! With bundles one completion names only its first buffer; the others are those that follow it in
//! ring order, so the pool remembers in which order it gave buffers out.

// The kernel reads the ring and writes the buffers behind the compiler's back.
#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// The buffer size of every peer.
pub(super) const BUFFER: usize = 16 * 1024;
/// The only buffer group.
pub(super) const GROUP: u16 = 0;
const PAGE: usize = 4_096;

#[repr(align(4096))]
#[derive(Clone)]
struct Page {
    _bytes: [u8; PAGE],
}

/// Bytes in a buffer that was received into.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) buffer: u16,
    pub(super) len: u16,
}

pub(super) struct Pool {
    entries: *mut BufRingEntry,
    buffers: *mut u8,
    mask: u16,
    tail: u16,
    free: u16,
    /// Which buffer stands at a place of the ring, and at which place a buffer stands.
    at_place: Box<[u16]>,
    place_of: Box<[u16]>,
}

impl Pool {
    /// Makes `count` buffers, a power of two, and hands them all to the kernel.
    pub(super) fn register(uring: &IoUring, count: u16) -> io::Result<Self> {
        if !count.is_power_of_two() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a power of two"));
        }
        let entries = pages(usize::from(count) * size_of::<BufRingEntry>()).cast::<BufRingEntry>();
        let buffers = pages(usize::from(count) * BUFFER);
        // SAFETY: the entries are zeroed, page-aligned, `count` long, and live as long as the
        // process, for they are leaked.
        unsafe { uring.submitter().register_buf_ring_with_flags(entries as u64, count, GROUP, 0)? };
        let places = (0..count).collect::<Box<[u16]>>();
        let mut pool =
            Self { entries, buffers, mask: count - 1, tail: 0, free: 0, at_place: places.clone(), place_of: places };
        (0..count).for_each(|buffer| pool.give_back(buffer));
        pool.publish();
        Ok(pool)
    }

    /// Takes what was received with `bytes` from buffer `first` on, buffer by buffer.
    pub(super) fn take(&mut self, first: u16, bytes: usize) -> impl Iterator<Item = Piece> {
        let place = self.place_of[usize::from(first)];
        let count = bytes.div_ceil(BUFFER);
        self.free -= count as u16;
        let (mask, at_place) = (self.mask, &self.at_place);
        (0..count).map(move |nth| {
            let place = place.wrapping_add(nth as u16) & mask;
            let len = (bytes - nth * BUFFER).min(BUFFER) as u16;
            Piece { buffer: at_place[usize::from(place)], len }
        })
    }

    /// Where the bytes of a piece are.
    pub(super) fn address(&self, buffer: u16) -> *mut u8 {
        debug_assert!(buffer <= self.mask);
        self.buffers.wrapping_add(usize::from(buffer) * BUFFER)
    }

    /// Lets the kernel fill a buffer again, from the next [`Pool::publish`] on.
    pub(super) fn give_back(&mut self, buffer: u16) {
        let place = self.tail & self.mask;
        self.at_place[usize::from(place)] = buffer;
        self.place_of[usize::from(buffer)] = place;
        let address = self.address(buffer) as u64;
        let entry = self.entries.wrapping_add(usize::from(place));
        // SAFETY: `place` is masked, so it is within the entries; the kernel does not read an
        // entry before the tail has passed it, and never writes one.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(BUFFER as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        self.free += 1;
    }

    /// Whether it is worth trying again where no buffer was left. What is not free is being sent,
    /// so this becomes true.
    pub(super) fn has_enough(&self) -> bool {
        self.free > self.mask / 8
    }

    pub(super) fn publish(&self) {
        // SAFETY: the pointer is to the first entry of a registered ring.
        let tail = unsafe { BufRingEntry::tail(self.entries) };
        // SAFETY: the tail is aligned, lives as long as the ring, and is shared with the kernel,
        // which only loads it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Zeroed pages that live as long as the process.
fn pages(bytes: usize) -> *mut u8 {
    vec![Page { _bytes: [0; PAGE] }; bytes.div_ceil(PAGE)].leak().as_mut_ptr().cast()
}
