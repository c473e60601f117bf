//! The pool's pieces that nobody uses.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::buffer::{Buffer, Home, Pool};
use crate::port::BufferPolicy;

/// Buffers for receives, taken when there is data.
pub(super) struct Buffers {
    pool: Arc<Pool>,
    free: Arc<Free>,
}

/// Pieces that are free, the last one used first, and pieces never used.
struct Free(Mutex<(Vec<u16>, Range<u16>)>);

impl Free {
    fn take(&self) -> Option<u16> {
        let (free, unused) = &mut *self.0.lock();
        free.pop().or_else(|| unused.next())
    }
}

impl Home for Arc<Free> {
    fn give_back(&self, id: u16, _address: *mut u8) {
        self.0.lock().0.push(id);
    }
}

impl Buffers {
    pub(super) fn new(policy: BufferPolicy) -> io::Result<Self> {
        let count = policy.count.next_power_of_two();
        let free = Arc::new(Free(Mutex::new((Vec::new(), 0..count as u16))));
        let pool = Pool::new(policy.size, count, |_| Ok(free.clone()))?;
        Ok(Buffers { pool, free })
    }

    /// Bytes of a buffer.
    pub(super) fn size(&self) -> usize {
        self.pool.size()
    }

    /// Runs `fill` on a buffer and keeps as much of it as `fill` says. The buffer is a pooled one,
    /// or memory of its own while the pool is empty.
    pub(super) fn fill(
        &self,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Buffer> {
        let Some(id) = self.free.take() else {
            let mut vec = vec![0; self.size()];
            let length = fill(&mut vec)?;
            vec.truncate(length);
            return Ok(Buffer::Vec(vec));
        };
        // SAFETY: the piece was free and is now this buffer's alone.
        let mut pooled = unsafe { self.pool.buffer(id, self.size()) };
        let length = fill(&mut pooled)?;
        let mut buffer = Buffer::Pooled(pooled);
        buffer.truncate(length);
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_is_empty_gives_memory_of_its_own() {
        let policy = BufferPolicy { size: 8, count: 1 };
        let buffers = Buffers::new(policy).expect("8 bytes");
        let fill = |bytes: &mut [u8]| {
            bytes[..2].copy_from_slice(b"ab");
            Ok(2)
        };
        let first = buffers.fill(fill).expect("filled");
        let second = buffers.fill(fill).expect("filled");
        assert!(matches!(first, Buffer::Pooled(_)));
        assert!(matches!(second, Buffer::Vec(_)));
        assert_eq!((&first[..], &second[..]), (&b"ab"[..], &b"ab"[..]));
        drop(first);
        let third = buffers.fill(fill).expect("filled");
        assert!(matches!(third, Buffer::Pooled(_)));
    }
}
