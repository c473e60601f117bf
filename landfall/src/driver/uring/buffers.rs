//! A provided buffer ring: the pieces of a pool that the kernel may pick from.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use parking_lot::Mutex;

use crate::buffer::{Home, Pool};
use crate::port::BufferPolicy;

/// The one buffer group of each ring.
pub(super) const GROUP: u16 = 0;

/// The ring that the kernel takes buffers from at its head and we return them to at its tail.
/// Layout: `io_uring_buf_ring` in io_uring_register_buf_ring(3).
struct BufferRing {
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    mask: u16,
    length: u32,
    /// Writing the tail is for one thread at a time.
    tail: Mutex<u16>,
}

// SAFETY: the entries are written with `tail` locked, and read only by the kernel.
unsafe impl Send for BufferRing {}
// SAFETY: as above.
unsafe impl Sync for BufferRing {}

/// Registers a pool of buffers with a ring.
pub(super) fn register(ring: &IoUring, policy: BufferPolicy) -> io::Result<Arc<Pool>> {
    let count = policy.count.next_power_of_two();
    Pool::new(policy.size, count, |piece| {
        let buffers = BufferRing::new(count as u16, policy.size as u32);
        // SAFETY: the entries are page-aligned and zeroed, `count` of them, and live in the pool's
        // home. The lane keeps the pool until its ring is gone.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                buffers.entries.as_ptr() as u64,
                count as u16,
                GROUP,
                0,
            )?;
        }
        (0..count).for_each(|id| buffers.give_back(id as u16, piece(id)));
        Ok(buffers)
    })
}

impl BufferRing {
    fn new(count: u16, length: u32) -> Self {
        let layout = Layout::array::<BufRingEntry>(usize::from(count))
            .and_then(|layout| layout.align_to(4096))
            .expect("at most 32,768 entries of 16 bytes");
        // SAFETY: the layout's size is above zero: a pool has at least one buffer.
        let Some(memory) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            handle_alloc_error(layout);
        };
        BufferRing {
            entries: memory.cast(),
            layout,
            mask: count - 1,
            length,
            tail: Mutex::new(0),
        }
    }
}

impl Home for BufferRing {
    fn give_back(&self, id: u16, address: *mut u8) {
        let mut tail = self.tail.lock();
        // SAFETY: the index is below the number of entries, the tail is locked, and the kernel
        // does not read an entry before the tail passed it. The tail lies in the reserved field of
        // the first entry, which no entry uses.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(usize::from(*tail & self.mask));
            entry.set_addr(address as u64);
            entry.set_len(self.length);
            entry.set_bid(id);
            *tail = tail.wrapping_add(1);
            let shared = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*shared).store(*tail, Ordering::Release);
        }
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout. The pool, whose home this is, outlives the
        // kernel's use of it.
        unsafe { dealloc(self.entries.as_ptr().cast(), self.layout) };
    }
}
