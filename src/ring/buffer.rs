//! Buffers in hand: taken out of a chain, or private ones to be filled, for those who look at bytes and change them.

use std::cell::{Ref, RefCell, RefMut};
use std::io;
use std::rc::Rc;

use super::buffers::{PRIVATE_BUFFER, Pool};
use super::chain::Chain;

/// Bytes that are rather copied than sent from a buffer of their own.
const SMALL_PIECE: usize = 1024;
/// Pieces that a queue may have beyond those that are full, before they are put together.
const LOOSE_PIECES: usize = 4;

/// The buffers of a shard. Cheap to clone; all clones are the same pool.
#[derive(Clone)]
pub struct Buffers(Rc<RefCell<Pool>>);

impl Buffers {
    pub(super) fn new(pool: Pool) -> Self {
        Self(Rc::new(RefCell::new(pool)))
    }

    /// `count` private buffers with no kernel behind them, for work off the network; at most 32,767.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn detached(count: u16) -> io::Result<Self> {
        Pool::new(PRIVATE_BUFFER as u32, 0, u32::from(count.clamp(1, i16::MAX as u16)), 0).map(Self::new)
    }

    pub(super) fn borrow(&self) -> Ref<'_, Pool> {
        self.0.borrow()
    }

    pub(super) fn borrow_mut(&self) -> RefMut<'_, Pool> {
        self.0.borrow_mut()
    }

    /// Whether more buffers are in use than the pool began with: who holds few bytes for long should hold no buffer.
    #[must_use]
    pub fn is_under_pressure(&self) -> bool {
        self.borrow().has_grown()
    }

    /// An empty private buffer of [`PRIVATE_BUFFER`] bytes; `None` when all are in use.
    #[must_use]
    pub fn take(&self) -> Option<Buffer> {
        let id = self.borrow_mut().take_private()?;
        Some(self.in_hand(id))
    }

    /// Takes the front buffer out of `chain`.
    #[must_use]
    pub fn pop(&self, chain: &mut Chain) -> Option<Buffer> {
        let id = self.borrow_mut().pop(chain)?;
        Some(self.in_hand(id))
    }

    /// Puts a buffer behind all others of `chain`; an empty one goes back to the pool.
    pub fn push(&self, chain: &mut Chain, buffer: Buffer) {
        if let Some(id) = buffer.let_go() {
            self.borrow_mut().push(chain, id);
        }
    }

    /// Puts a buffer before all others of `chain`; an empty one goes back to the pool.
    pub fn push_front(&self, chain: &mut Chain, buffer: Buffer) {
        if let Some(id) = buffer.let_go() {
            self.borrow_mut().push_front(chain, id);
        }
    }

    /// Moves all of `other` behind `chain`.
    pub fn append(&self, chain: &mut Chain, other: Chain) {
        self.borrow_mut().append(chain, other);
    }

    /// Drops `len` bytes from the front of `chain`.
    pub fn advance(&self, chain: &mut Chain, len: usize) {
        self.borrow_mut().advance(chain, len);
    }

    /// Gives the buffers of a chain back.
    pub fn release(&self, chain: Chain) {
        self.borrow_mut().release(chain);
    }

    /// The bytes of the front buffer, which stays where it is.
    #[must_use]
    pub fn front<'a>(&'a self, chain: &'a Chain) -> &'a [u8] {
        let Some((base, len)) = self.borrow().pieces(chain).next() else { return &[] };
        // SAFETY: the chain owns the buffer, whose first `len` bytes at `base` are filled; it and the pool are borrowed
        // meanwhile.
        unsafe { std::slice::from_raw_parts(base, len) }
    }

    /// Copies the first bytes of `chain` to `to`, as many as fit; says how many.
    pub fn copy_front_into(&self, chain: &Chain, to: &mut [u8]) -> usize {
        let mut copied = 0;
        for (base, filled) in self.borrow().pieces(chain) {
            let part = filled.min(to.len() - copied);
            // SAFETY: the chain owns the buffer, whose first `filled` bytes at `base` are filled, and is borrowed.
            let bytes = unsafe { std::slice::from_raw_parts(base, part) };
            to[copied..copied + part].copy_from_slice(bytes);
            copied += part;
            if copied == to.len() {
                break;
            }
        }
        copied
    }

    /// Copies the first `len` bytes of `chain`, or as many as there are, behind `to`.
    pub fn copy_front(&self, chain: &Chain, len: usize, to: &mut Vec<u8>) {
        let start = to.len();
        to.resize(start + len.min(chain.len()), 0);
        self.copy_front_into(chain, &mut to[start..]);
    }

    fn in_hand(&self, id: u16) -> Buffer {
        let pool = self.borrow();
        let (base, len) = pool.piece(id);
        let spare = pool.spare(id);
        Buffer { buffers: self.clone(), id, base, len, spare }
    }
}

/// A chain with its pool: what is left in it goes back when it is dropped.
pub struct Queue {
    pool: Buffers,
    chain: Chain,
}

impl Queue {
    #[must_use]
    pub fn new(pool: &Buffers) -> Self {
        Self { pool: pool.clone(), chain: Chain::default() }
    }

    /// Moves `chain`, of the same pool, behind what is there.
    pub fn append(&mut self, chain: Chain) {
        self.pool.append(&mut self.chain, chain);
    }

    /// As [`Queue::append`]; a small piece behind a single buffer with room is copied there, as to send one buffer costs
    /// less than two.
    pub fn join(&mut self, mut chain: Chain) {
        if self.count() == 1
            && chain.count() == 1
            && chain.len() <= SMALL_PIECE
            && let Some(mut buffer) = self.pool.pop(&mut self.chain)
        {
            if chain.len() <= buffer.spare().len() {
                buffer.extend(self.pool.front(&chain));
                self.pool.release(std::mem::take(&mut chain));
            }
            self.pool.push(&mut self.chain, buffer);
        }
        self.append(chain);
    }

    /// Appends a copy of `bytes`, in private buffers; false, and nothing is appended, when there are not enough.
    #[must_use]
    pub fn extend(&mut self, mut bytes: &[u8]) -> bool {
        let mut copy = Self::new(&self.pool);
        while !bytes.is_empty() {
            let Some(mut buffer) = self.pool.take() else { return false };
            bytes = &bytes[buffer.extend(bytes)..];
            self.pool.push(&mut copy.chain, buffer);
        }
        self.append(copy.take());
        true
    }

    /// The chain, to work on; its buffers stay the pool's.
    pub fn chain_mut(&mut self) -> &mut Chain {
        &mut self.chain
    }

    /// Buffers.
    #[must_use]
    pub fn count(&self) -> usize {
        self.chain.count()
    }

    /// Puts what came in many small pieces together, so that it does not hold many buffers.
    pub fn compact(&mut self) {
        if self.count() <= LOOSE_PIECES + self.len() / PRIVATE_BUFFER {
            return;
        }
        let mut dense = Self::new(&self.pool);
        while !self.is_empty() {
            let Some(mut buffer) = self.pool.take() else { break };
            let len = self.pool.copy_front_into(&self.chain, buffer.spare());
            buffer.commit(len);
            self.advance(len);
            self.pool.push(&mut dense.chain, buffer);
        }
        // Where private buffers ran out, the rest stays as it is.
        dense.append(self.take());
        self.append(dense.take());
    }

    /// All of it.
    #[must_use]
    pub fn take(&mut self) -> Chain {
        std::mem::take(&mut self.chain)
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chain.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chain.is_empty()
    }

    /// The bytes of the first buffer.
    #[must_use]
    pub fn front(&self) -> &[u8] {
        self.pool.front(&self.chain)
    }

    /// Copies the first `len` bytes, or as many as there are, behind `to`.
    pub fn copy_front(&self, len: usize, to: &mut Vec<u8>) {
        self.pool.copy_front(&self.chain, len, to);
    }

    /// Copies the first bytes to `to`, as many as fit; says how many.
    pub fn copy_front_into(&self, to: &mut [u8]) -> usize {
        self.pool.copy_front_into(&self.chain, to)
    }

    /// Drops `len` bytes from the front.
    pub fn advance(&mut self, len: usize) {
        self.pool.advance(&mut self.chain, len);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let rest = self.take();
        self.pool.release(rest);
    }
}

/// How full a pool is, in buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub free: u32,
    pub total: u32,
    pub watermark: u32,
}

/// One buffer in the hands of whoever works on its bytes: what is filled, and room behind it. Goes back to the pool when
/// it is dropped.
pub struct Buffer {
    buffers: Buffers,
    id: u16,
    /// Where the filled bytes begin.
    base: *mut u8,
    len: usize,
    spare: usize,
}

impl Buffer {
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        // SAFETY: `len` bytes at `base` are this buffer's, which nobody else has while it is in hand: it is in no chain
        // and not with the kernel. The pool, and so the memory, lives as long as `buffers`.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }
    }

    #[must_use]
    pub fn filled_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `filled`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.len) }
    }

    /// The room behind what is filled. Whatever bytes are there are old ones of this shard, or zeros.
    #[must_use]
    pub fn spare(&mut self) -> &mut [u8] {
        // SAFETY: `len` bytes at `base` lie inside this buffer.
        let room = unsafe { self.base.add(self.len) };
        // SAFETY: so do the `spare` bytes behind them; the rest as in `filled_mut`. The mapping began as zeros, so that
        // every byte has a value.
        unsafe { std::slice::from_raw_parts_mut(room, self.spare) }
    }

    /// Counts the first `len` bytes of the room as filled, at most all of it.
    pub fn commit(&mut self, len: usize) {
        let len = len.min(self.spare);
        self.len += len;
        self.spare -= len;
    }

    /// Appends as much of `bytes` as there is room for; says how much.
    pub fn extend(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(self.spare);
        self.spare()[..len].copy_from_slice(&bytes[..len]);
        self.commit(len);
        len
    }

    /// Drops `len` bytes from the front, at most all.
    pub fn advance(&mut self, len: usize) {
        let len = len.min(self.len);
        // SAFETY: at most `self.len` bytes further is inside the buffer or at its end.
        self.base = unsafe { self.base.add(len) };
        self.len -= len;
    }

    /// Keeps the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        let cut = self.len.saturating_sub(len);
        self.len -= cut;
        self.spare += cut;
    }

    /// Notes what is filled in the pool, for the buffer's way into a chain; `None` where nothing is.
    fn let_go(self) -> Option<u16> {
        if self.len == 0 {
            return None;
        }
        let buffer = std::mem::ManuallyDrop::new(self);
        // SAFETY: `buffer` is not dropped, so that its handle is read out once.
        let buffers = unsafe { std::ptr::read(&raw const buffer.buffers) };
        let mut pool = buffers.borrow_mut();
        let (old, _) = pool.piece(buffer.id);
        let filled = pool.filled(buffer.id);
        filled.offset += (buffer.base as usize - old as usize) as u32;
        filled.len = buffer.len as u32;
        Some(buffer.id)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.buffers.borrow_mut().give_back(self.id);
    }
}
