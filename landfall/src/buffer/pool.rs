//! Memory that a port hands to the system in pieces, and gets back when the program is done.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::Mutex;

/// Memory cut into pieces of one size: taken when there is data to receive, the warmest piece first.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Block>);

/// A piece belongs either to the free list or to exactly one [`PooledBuffer`]. The block is freed when
/// neither a pool nor a buffer refers to it.
struct Block {
    allocation: NonNull<u8>,
    layout: Layout,
    /// The pieces, within the allocation.
    memory: NonNull<u8>,
    /// Bytes of a piece.
    size: usize,
    /// The pieces that nobody has, the one that came back last at the end: it is still in the
    /// processor's cache, and pieces that were never needed stay untouched.
    free: Mutex<Vec<u16>>,
}

// SAFETY: the block is only reached through pieces, and each piece has one owner at a time, which
// may be on any thread.
unsafe impl Send for Block {}
// SAFETY: as above; `&Block` gives no access to the memory of a piece.
unsafe impl Sync for Block {}

/// Pieces start at page boundaries when their size is a multiple of the page size.
const ALIGNMENT: usize = 4096;

impl Pool {
    /// # Panics
    ///
    /// When there would be no bytes.
    pub(crate) fn new(size: usize, count: usize) -> io::Result<Pool> {
        let too_large = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{count} buffers of {size} bytes are more than can be addressed"),
            )
        };
        assert!(size > 0 && count > 0, "a pool of no bytes");
        let last = u16::try_from(count - 1).map_err(|_| too_large())?;
        let bytes = size.checked_mul(count).ok_or_else(too_large)?;
        // Asked for without an alignment above malloc's, zeroed memory comes from the system page
        // by page as it is used; with one, all of it would be written at once.
        let padded = bytes.checked_add(ALIGNMENT).ok_or_else(too_large)?;
        let layout = Layout::from_size_align(padded, 1).map_err(|_| too_large())?;
        // SAFETY: the layout has a size above zero.
        let Some(allocation) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        let skip = allocation.as_ptr().align_offset(ALIGNMENT);
        Ok(Pool(Arc::new(Block {
            allocation,
            layout,
            // SAFETY: less than ALIGNMENT bytes are skipped, and as many more were allocated.
            memory: unsafe { allocation.add(skip) },
            size,
            free: Mutex::new((0..=last).rev().collect()),
        })))
    }

    /// Bytes of a piece.
    pub(crate) fn size(&self) -> usize {
        self.0.size
    }

    /// A whole piece, unless others have them all.
    pub(crate) fn take(&self) -> Option<PooledBuffer> {
        let id = self.0.free.lock().pop()?;
        Some(PooledBuffer {
            block: self.0.clone(),
            id,
            start: 0,
            end: self.0.size as u32,
        })
    }

    /// Pieces that nobody has.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.0.free.lock().len()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout. Whoever has a piece keeps the block alive, so
        // nobody refers to it.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) };
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool(pieces of {} bytes)", self.0.size)
    }
}

/// A buffer of a port's pool, filled by a receive. It can be read, changed, and sent as it is;
/// dropped, it goes back to the pool.
///
/// A buffer may outlive its port.
pub struct PooledBuffer {
    block: Arc<Block>,
    id: u16,
    start: u32,
    end: u32,
}

impl PooledBuffer {
    pub(super) fn advance(&mut self, count: usize) {
        self.start += count as u32;
    }

    pub(crate) fn truncate(&mut self, length: usize) {
        self.end = self.start + length as u32;
    }

    fn piece(&self) -> *mut u8 {
        let offset = usize::from(self.id) * self.block.size;
        // SAFETY: the free list has numbers of pieces only, all of which lie within the block.
        unsafe { self.block.memory.as_ptr().add(offset) }
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: start..end lies within the piece, which this buffer alone owns; the block was
        // allocated zeroed, so every byte is initialised.
        unsafe {
            std::slice::from_raw_parts(
                self.piece().add(self.start as usize),
                (self.end - self.start) as usize,
            )
        }
    }
}

impl DerefMut for PooledBuffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `&mut self` makes the access exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.piece().add(self.start as usize),
                (self.end - self.start) as usize,
            )
        }
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        self.block.free.lock().push(self.id);
    }
}

impl fmt::Debug for PooledBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PooledBuffer({} bytes)", self.len())
    }
}
