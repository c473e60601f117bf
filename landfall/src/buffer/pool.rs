//! Memory that a port hands to the system in pieces, and gets back when the program is done.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// Where pooled buffers go when they are dropped.
pub(crate) trait Home: Send + Sync {
    /// Takes piece `id`, which starts at `address`, back.
    fn give_back(&self, id: u16, address: *mut u8);
}

/// One block of memory, cut into pieces of one size.
///
/// A piece belongs either to the pool's home (the system may write to it) or to exactly one
/// [`PooledBuffer`]. The block is freed when neither the home nor a buffer refers to it.
pub(crate) struct Pool {
    allocation: NonNull<u8>,
    layout: Layout,
    /// The block, within the allocation.
    memory: NonNull<u8>,
    /// Bytes of the block.
    bytes: usize,
    size: usize,
    home: Box<dyn Home>,
}

// SAFETY: the block is only reached through pieces, and each piece has one owner at a time, which
// may be on any thread; the home is Send and Sync itself.
unsafe impl Send for Pool {}
// SAFETY: as above; `&Pool` gives no access to the memory of a piece.
unsafe impl Sync for Pool {}

/// Pieces start at page boundaries when their size is a multiple of the page size.
const ALIGNMENT: usize = 4096;

impl Pool {
    /// A block of `count` pieces of `size` bytes. `home` is built with the address of the block,
    /// and owns all pieces at first.
    pub(crate) fn new<H: Home + 'static>(
        size: usize,
        count: usize,
        home: impl FnOnce(*mut u8) -> std::io::Result<H>,
    ) -> std::io::Result<Arc<Pool>> {
        let too_large = || {
            std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                format!("{count} buffers of {size} bytes are more than can be addressed"),
            )
        };
        let bytes = size.checked_mul(count).ok_or_else(too_large)?;
        assert!(bytes > 0, "a pool of no bytes");
        // Asked for without an alignment above malloc's, zeroed memory comes from the system page
        // by page as it is used; with one, all of it would be written at once.
        let padded = bytes.checked_add(ALIGNMENT).ok_or_else(too_large)?;
        let layout = Layout::from_size_align(padded, 1).map_err(|_| too_large())?;
        // SAFETY: the layout has a size above zero.
        let Some(allocation) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        };
        let skip = allocation.as_ptr().align_offset(ALIGNMENT);
        // SAFETY: less than ALIGNMENT bytes are skipped, and as many more were allocated.
        let memory = unsafe { allocation.add(skip) };
        match home(memory.as_ptr()) {
            Ok(home) => Ok(Arc::new(Pool {
                allocation,
                layout,
                memory,
                bytes,
                size,
                home: Box::new(home),
            })),
            Err(error) => {
                // SAFETY: allocated above with this layout, and nothing refers to it.
                unsafe { dealloc(allocation.as_ptr(), layout) };
                Err(error)
            }
        }
    }

    /// Bytes of one piece.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Makes a buffer of the first `length` bytes of a piece.
    ///
    /// # Safety
    ///
    /// The home has given piece `id` up: the system will not write to it, and no other buffer is
    /// made of it, until [`Home::give_back`] gets it.
    pub(crate) unsafe fn buffer(self: &Arc<Self>, id: u16, length: usize) -> PooledBuffer {
        assert!(
            length <= self.size,
            "{length} bytes in a buffer of {}",
            self.size
        );
        assert!(
            (usize::from(id) + 1) * self.size <= self.bytes,
            "no piece {id}"
        );
        PooledBuffer {
            pool: self.clone(),
            id,
            start: 0,
            end: length as u32,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout. Buffers keep the pool alive, and the
        // driver keeps it until the system has let go of the pieces, so nobody refers to it.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) };
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} bytes in pieces of {})", self.bytes, self.size)
    }
}

/// A buffer of a port's pool, filled by a receive. It can be read, changed, and sent as it is;
/// dropped, it goes back to the pool.
///
/// A buffer may outlive its port.
pub struct PooledBuffer {
    pool: Arc<Pool>,
    id: u16,
    start: u32,
    end: u32,
}

impl PooledBuffer {
    pub(super) fn advance(&mut self, count: usize) {
        self.start += count as u32;
    }

    pub(super) fn truncate(&mut self, length: usize) {
        self.end = self.start + length as u32;
    }

    fn piece(&self) -> *mut u8 {
        // SAFETY: `Pool::buffer` checked that the piece lies within the block.
        unsafe {
            self.pool
                .memory
                .as_ptr()
                .add(usize::from(self.id) * self.pool.size)
        }
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
        self.pool.home.give_back(self.id, self.piece());
    }
}

impl fmt::Debug for PooledBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PooledBuffer({} bytes)", self.len())
    }
}
