//! Giving the memory of free buffers back to the system.

use super::{Owner, PRIVATE_BUFFER, PRIVATE_KEPT, Pool};

impl Pool {
    /// Gives the memory of free buffers above the first step back to the system; they stay usable.
    pub(in super::super) fn trim(&mut self) {
        // Those that were used last stay.
        let rarely = self.private_free.len().saturating_sub(PRIVATE_KEPT);
        for id in &self.private_free[..rarely] {
            self.private_memory.discard((usize::from(*id) - self.capacity as usize) * PRIVATE_BUFFER, PRIVATE_BUFFER);
        }
        self.trim_beyond(u32::from(self.step));
    }

    /// Gives the memory of free buffers back that the kernel fills, from the `first` on.
    pub(in super::super) fn trim_beyond(&mut self, first: u32) {
        let mut id = first;
        let total = self.table.len() as u32;
        while id < total {
            let first = id;
            while id < total && self.table[id as usize].owner != Owner::Chain {
                id += 1;
            }
            if id > first {
                let start = first as usize * self.size as usize;
                self.memory.discard(start, (id - first) as usize * self.size as usize);
            }
            id += 1;
        }
    }
}
