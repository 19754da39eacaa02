//! The buffer pool of a shard: receive buffers that are provided to the kernel by a buffer ring
//! (IORING_REGISTER_PBUF_RING, kernel 5.19) and come back filled, as chains.
//!
//! All of them lie in one mapping whose pages exist only where they were used. The pool begins small, so that it stays
//! in the cache, and grows in steps under need. An idle connection holds no buffer.
//!
//! Beside them lie private buffers, which the kernel never fills: output of plugins and TLS, in chains like the others.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::buffer::Counts;
use super::chain::{Chain, NIL};
use super::mapping::Mapping;

/// Bytes of a private buffer: a TLS record with its header and everything a cipher may add (RFC 8446 section 5.2: 5 +
/// 16,384 + 256; TLS 1.2 allows 2,048 more, which no cipher here makes use of).
pub const PRIVATE_BUFFER: usize = 17 * 1024;
/// Free private buffers that keep their memory while the shard has nothing to do.
const PRIVATE_KEPT: usize = 32;

/// What of a buffer is filled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filled {
    pub(super) offset: u32,
    pub(super) len: u32,
    next: u16,
    /// Where in the buffer ring it was last provided.
    position: u16,
    owner: Owner,
}

/// Who has a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// It is provided to the kernel.
    Kernel,
    /// It is filled, and part of a chain.
    Chain,
    /// It was not needed any more when it came back; or it is a private one in nobody's use.
    Nobody,
}

pub(super) struct Pool {
    /// `capacity` buffers of `size` bytes.
    memory: Mapping,
    /// `capacity` entries, shared with the kernel.
    entries: Mapping,
    table: Vec<Filled>,
    /// Ids from `capacity` on, as many as were ever in use at once.
    private_memory: Mapping,
    private_table: Vec<Filled>,
    private_free: Vec<u16>,
    private_capacity: usize,
    size: u32,
    /// To begin with, and to grow by.
    step: u16,
    capacity: u32,
    /// Buffers that the pool wants: ids below this. Those above are retired as they come back.
    wanted: u32,
    /// Buffers that the kernel or a chain has.
    total: u32,
    /// Buffers that the kernel has.
    provided: u32,
    /// Most buffers ever held by chains at once, and since the last look at whether the pool could be smaller.
    watermark: u32,
    peak: u32,
    /// Free-running; the kernel takes it modulo the ring.
    tail: u16,
    group: u16,
}

impl Pool {
    /// A pool of `step` buffers of `size` bytes that can grow to `capacity`, a power of two up to 32,768. Its entries
    /// are registered with [`Pool::registration`].
    pub(super) fn new(size: u32, step: u32, capacity: u32, group: u16) -> io::Result<Self> {
        // Who holds a private one may need another to go on: if they ran out, nobody would give one back.
        let private = if step == 0 { capacity as usize } else { usize::from(NIL) - capacity as usize };
        Self::with_private(size, step, capacity, group, private)
    }

    /// As [`Pool::new`], without private buffers.
    pub(super) fn received_only(size: u32, step: u32, capacity: u32, group: u16) -> io::Result<Self> {
        Self::with_private(size, step, capacity, group, 0)
    }

    fn with_private(size: u32, step: u32, capacity: u32, group: u16, private_capacity: usize) -> io::Result<Self> {
        let (step, ids) = (step.min(capacity), capacity as usize);
        let memory = Mapping::new(size as usize * ids)?;
        let entries = Mapping::new(ids * size_of::<BufRingEntry>())?;
        let private_memory = Mapping::new(private_capacity.max(1) * PRIVATE_BUFFER)?;
        Ok(Self {
            memory,
            entries,
            table: Vec::new(),
            private_memory,
            private_table: Vec::new(),
            private_free: Vec::new(),
            private_capacity,
            size,
            step: step as u16,
            capacity,
            wanted: 0,
            total: 0,
            provided: 0,
            watermark: 0,
            peak: 0,
            tail: 0,
            group,
        })
    }

    /// Address and entries of the buffer ring, and the group under which to register it.
    pub(super) fn registration(&self) -> (u64, u16, u16) {
        (self.entries.base.as_ptr() as u64, self.capacity as u16, self.group)
    }

    pub(super) fn group(&self) -> u16 {
        self.group
    }

    pub(super) fn buffer_size(&self) -> u32 {
        self.size
    }

    /// Buffers that could be had, received or private. Private ones beyond are for who could not go on without.
    pub(super) fn available(&self) -> usize {
        let private = self.private_table.len() - self.private_free.len();
        let received = self.provided + self.capacity.saturating_sub(self.total);
        received.min(self.capacity.saturating_sub(private as u32)) as usize
    }

    /// Whether none is free and none can be made.
    pub(super) fn is_exhausted(&self) -> bool {
        self.provided == 0 && self.wanted >= self.capacity
    }

    pub(super) fn has_grown(&self) -> bool {
        self.wanted > u32::from(self.step)
    }

    pub(super) fn counts(&self) -> Counts {
        Counts { free: self.provided, total: self.total, watermark: self.watermark }
    }

    /// Whether less than an eighth of the buffers is with the kernel.
    pub(super) fn is_low(&self) -> bool {
        self.provided < self.wanted / 8
    }

    /// Adds one step of buffers; false when the pool is as large as it may be.
    pub(super) fn grow(&mut self) -> bool {
        let first = self.wanted;
        self.wanted = (first + u32::from(self.step)).min(self.capacity);
        for id in first..self.wanted {
            if id as usize == self.table.len() {
                self.table.push(Filled { offset: 0, len: 0, next: NIL, position: 0, owner: Owner::Nobody });
            }
            if self.table[id as usize].owner == Owner::Nobody {
                self.total += 1;
                self.provide(id as u16);
            }
        }
        self.publish();
        self.wanted > first
    }

    /// Takes one step of buffers back where, since the last call, half of what would be left was enough. They go as they
    /// come back from use.
    pub(super) fn shrink(&mut self) {
        let peak = std::mem::replace(&mut self.peak, self.total - self.provided);
        let fewer = self.wanted.saturating_sub(u32::from(self.step));
        if fewer >= u32::from(self.step) && peak < fewer / 2 {
            self.wanted = fewer;
        }
    }

    /// An empty private buffer, the one that was last in use (its memory is in the cache); `None` when all are in use.
    pub(super) fn take_private(&mut self) -> Option<u16> {
        let empty = Filled { offset: 0, len: 0, next: NIL, position: 0, owner: Owner::Chain };
        if let Some(id) = self.private_free.pop() {
            *self.filled(id) = empty;
            return Some(id);
        }
        if self.private_table.len() == self.private_capacity {
            return None;
        }
        self.private_table.push(empty);
        Some((self.capacity as usize + self.private_table.len() - 1) as u16)
    }

    /// The buffers that a completed receive of `len` bytes filled: `first`, and as many behind it in the ring's order
    /// as the bytes need. Numbers from the kernel, checked all the same.
    pub(super) fn taken(&mut self, first: u16, len: u32) -> Chain {
        let mut chain = Chain::default();
        if len == 0 {
            return chain;
        }
        assert!(usize::from(first) < self.table.len(), "the kernel named buffer {first}");
        let mut position = self.table[usize::from(first)].position;
        let mut left = len;
        while left > 0 {
            let id = self.entry_id(position);
            let buffer = &mut self.table[usize::from(id)];
            assert!(buffer.owner == Owner::Kernel, "the kernel filled buffer {id} that it did not have");
            buffer.owner = Owner::Chain;
            buffer.offset = 0;
            buffer.len = left.min(self.size);
            buffer.next = NIL;
            left -= buffer.len;
            self.provided -= 1;
            self.push(&mut chain, id);
            position = position.wrapping_add(1) & (self.capacity - 1) as u16;
        }
        self.peak = self.peak.max(self.total - self.provided);
        self.watermark = self.watermark.max(self.peak);
        chain
    }

    /// Gives the buffers back to the kernel.
    pub(super) fn release(&mut self, chain: Chain) {
        if chain.is_empty() {
            return;
        }
        let mut id = chain.head;
        while id != NIL {
            let next = self.filled(id).next;
            self.take_back(id);
            id = next;
        }
        self.publish();
    }

    /// Moves all of `other` behind `chain`.
    pub(super) fn append(&mut self, chain: &mut Chain, other: Chain) {
        if other.is_empty() {
            return;
        }
        if chain.is_empty() {
            *chain = other;
            return;
        }
        self.filled(chain.tail).next = other.head;
        chain.tail = other.tail;
        chain.count += other.count;
        chain.len += other.len;
    }

    /// Takes up to `count` buffers from the front of `chain`.
    pub(super) fn split(&mut self, chain: &mut Chain, count: usize) -> Chain {
        if chain.count() <= count {
            return std::mem::take(chain);
        }
        let mut front = Chain::default();
        while front.count() < count
            && let Some(id) = self.pop(chain)
        {
            self.push(&mut front, id);
        }
        front
    }

    /// Takes the front buffer out of `chain`.
    pub(super) fn pop(&mut self, chain: &mut Chain) -> Option<u16> {
        if chain.is_empty() {
            return None;
        }
        let id = chain.head;
        let Filled { next, len, .. } = *self.filled(id);
        self.filled(id).next = NIL;
        match chain.count {
            1 => *chain = Chain::default(),
            _ => {
                chain.head = next;
                chain.count -= 1;
                chain.len -= len;
            }
        }
        Some(id)
    }

    /// Puts a buffer that is in no chain before all others of `chain`.
    pub(super) fn push_front(&mut self, chain: &mut Chain, id: u16) {
        let rest = std::mem::take(chain);
        self.push(chain, id);
        self.append(chain, rest);
    }

    /// Drops `len` bytes from the front of `chain`; emptied buffers go back to the kernel.
    pub(super) fn advance(&mut self, chain: &mut Chain, len: usize) {
        let mut left = len as u32;
        while left > 0 && !chain.is_empty() {
            let buffer = self.filled(chain.head);
            let step = left.min(buffer.len);
            buffer.offset += step;
            buffer.len -= step;
            chain.len -= step;
            left -= step;
            if buffer.len == 0 {
                let (id, next) = (chain.head, buffer.next);
                chain.head = next;
                chain.count -= 1;
                self.take_back(id);
            }
        }
        if chain.is_empty() {
            *chain = Chain::default();
        }
        self.publish();
    }

    /// Address and length of each buffer of `chain`, in order.
    pub(super) fn pieces(&self, chain: &Chain) -> impl Iterator<Item = (*mut u8, usize)> {
        let mut id = chain.head;
        std::iter::from_fn(move || {
            if id == NIL {
                return None;
            }
            let (piece, next) = (self.piece(id), self.get(id).next);
            id = next;
            Some(piece)
        })
    }

    /// Address and length of what is filled of one buffer.
    pub(super) fn piece(&self, id: u16) -> (*mut u8, usize) {
        let Filled { offset, len, .. } = *self.get(id);
        let private = usize::from(id).checked_sub(self.capacity as usize);
        let at = match private {
            Some(index) => self.private_memory.at(index * PRIVATE_BUFFER + offset as usize),
            None => self.memory.at(usize::from(id) * self.size as usize + offset as usize),
        };
        (at, len as usize)
    }

    /// Bytes behind what is filled of one buffer.
    pub(super) fn spare(&self, id: u16) -> usize {
        let Filled { offset, len, .. } = *self.get(id);
        let size = if u32::from(id) < self.capacity { self.size as usize } else { PRIVATE_BUFFER };
        size - offset as usize - len as usize
    }

    fn get(&self, id: u16) -> &Filled {
        match usize::from(id).checked_sub(self.capacity as usize) {
            Some(private) => &self.private_table[private],
            None => &self.table[usize::from(id)],
        }
    }

    pub(super) fn filled(&mut self, id: u16) -> &mut Filled {
        match usize::from(id).checked_sub(self.capacity as usize) {
            Some(private) => &mut self.private_table[private],
            None => &mut self.table[usize::from(id)],
        }
    }

    /// Puts a buffer that is in no chain behind all others of `chain`.
    pub(super) fn push(&mut self, chain: &mut Chain, id: u16) {
        match chain.is_empty() {
            true => chain.head = id,
            false => self.filled(chain.tail).next = id,
        }
        chain.tail = id;
        chain.count += 1;
        chain.len += self.get(id).len;
    }

    /// A buffer that is in no chain any more comes back.
    pub(super) fn give_back(&mut self, id: u16) {
        self.take_back(id);
        self.publish();
    }

    /// A buffer comes back from a chain: to the kernel, or out of use. One that lacks its place in the kernel's ring
    /// until [`Pool::publish`].
    fn take_back(&mut self, id: u16) {
        if u32::from(id) >= self.capacity {
            self.filled(id).owner = Owner::Nobody;
            self.private_free.push(id);
        } else if u32::from(id) < self.wanted {
            self.provide(id);
        } else {
            self.table[usize::from(id)].owner = Owner::Nobody;
            self.total -= 1;
            self.memory.discard(usize::from(id) * self.size as usize, self.size as usize);
        }
    }

    fn provide(&mut self, id: u16) {
        let position = self.tail & (self.capacity - 1) as u16;
        let address = self.memory.at(usize::from(id) * self.size as usize) as u64;
        // SAFETY: `position` is below `capacity`, the number of entries in the mapping, which is page-aligned; the
        // kernel does not look at an entry before the tail has passed it, so nobody else refers to it now.
        let entry = unsafe { &mut *self.entry(position) };
        entry.set_addr(address);
        entry.set_len(self.size);
        entry.set_bid(id);
        let buffer = &mut self.table[usize::from(id)];
        buffer.position = position;
        buffer.owner = Owner::Kernel;
        self.tail = self.tail.wrapping_add(1);
        self.provided += 1;
    }

    /// Shows the kernel what was provided.
    fn publish(&self) {
        // SAFETY: the mapping begins with an entry.
        let tail = unsafe { BufRingEntry::tail(self.entries.base.as_ptr().cast()) };
        // SAFETY: the tail is an aligned u16 inside the mapping, which lives as long as `self`.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// An entry of the buffer ring; inside the mapping for a position below `capacity`.
    fn entry(&self, position: u16) -> *mut BufRingEntry {
        self.entries.base.as_ptr().cast::<BufRingEntry>().wrapping_add(usize::from(position))
    }

    fn entry_id(&self, position: u16) -> u16 {
        // SAFETY: `position` comes from `provide` or was reduced modulo `capacity`; the kernel only reads entries.
        let entry = unsafe { &*self.entry(position) };
        entry.bid()
    }
}

#[cfg(test)]
mod tests;
mod trim;
