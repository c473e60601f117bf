//! Pooled memory, of a lane where there are lanes: taken when there is data to receive, the warmest piece
//! first.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::buffer::{Home, Pool, PooledBuffer};
use crate::port::BufferPolicy;

pub(super) struct Buffers {
    pool: Arc<Pool>,
    free: Arc<FreeList>,
}

/// The pieces that nobody has, the one that came back last at the end: it is still in the
/// processor's cache, and pieces that were never needed stay untouched.
struct FreeList(Mutex<Vec<u16>>);

impl Home for Arc<FreeList> {
    fn give_back(&self, id: u16, _address: *mut u8) {
        self.0.lock().push(id);
    }
}

impl Buffers {
    pub(super) fn new(policy: BufferPolicy) -> io::Result<Self> {
        let last = (policy.count.next_power_of_two() - 1) as u16;
        let free = Arc::new(FreeList(Mutex::new((0..=last).rev().collect())));
        let count = usize::from(last) + 1;
        let pool = Pool::new(policy.size, count, |_| Ok(free.clone()))?;
        Ok(Buffers { pool, free })
    }

    /// Bytes of a piece.
    pub(super) fn size(&self) -> usize {
        self.pool.size()
    }

    pub(super) fn take(&self) -> Option<PooledBuffer> {
        let id = self.free.0.lock().pop()?;
        // SAFETY: the piece was on the free list, so no other buffer is made of it, and the system
        // never has pieces between calls.
        Some(unsafe { self.pool.buffer(id, self.pool.size()) })
    }

    /// Pieces that nobody has.
    #[cfg(all(test, unix))]
    pub(super) fn free(&self) -> usize {
        self.free.0.lock().len()
    }
}
