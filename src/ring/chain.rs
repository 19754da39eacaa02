//! Filled buffers in order.

/// Marks the end of a chain.
pub(super) const NIL: u16 = u16::MAX;

/// Filled buffers in order: a list through the pool's table, so that moving and joining chains allocates nothing.
/// The holder owns the buffers and must give them back with [`Pool::release`].
#[derive(Debug, PartialEq, Eq)]
pub struct Chain {
    pub(super) head: u16,
    pub(super) tail: u16,
    /// Buffers.
    pub(super) count: u16,
    /// Bytes in all buffers.
    pub(super) len: u32,
}

impl Default for Chain {
    fn default() -> Self {
        Self { head: NIL, tail: NIL, count: 0, len: 0 }
    }
}

impl Chain {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Buffers.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }
}
