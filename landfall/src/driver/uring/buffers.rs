//! A provided buffer ring: the pieces of a pool that the kernel may pick from.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use parking_lot::Mutex;

use super::op::Stage;
use crate::buffer::{Home, Pool};
use crate::port::BufferPolicy;

/// The one buffer group of each ring.
pub(super) const GROUP: u16 = 0;

/// Pieces brought into use at a time. The kernel uses all in turn, so as few as will do stay in the
/// processor's cache.
const STEP: u16 = 64;

/// The ring that the kernel takes buffers from at its head and we return them to at its tail.
/// Layout: `io_uring_buf_ring` in io_uring_register_buf_ring(3).
struct BufferRing {
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    mask: u16,
    /// Bytes of a piece.
    length: u32,
    /// The block that the pieces are cut from.
    block: *mut u8,
    /// Writing the tail is for one thread at a time.
    tail: Mutex<Tail>,
}

struct Tail {
    tail: u16,
    /// Pieces that the kernel has never had.
    unused: Range<u16>,
}

// SAFETY: the entries are written with `tail` locked, and read only by the kernel; the block is
// only computed with.
unsafe impl Send for BufferRing {}
// SAFETY: as above.
unsafe impl Sync for BufferRing {}

/// A pool, and the ring in which the kernel finds its pieces.
#[derive(Clone)]
pub(super) struct Provided {
    pub(super) pool: Arc<Pool>,
    ring: Arc<BufferRing>,
}

/// Registers a pool of buffers with a ring.
pub(super) fn register(ring: &IoUring, policy: BufferPolicy) -> io::Result<Provided> {
    let count = policy.count.next_power_of_two();
    let mut registered = None;
    let pool = Pool::new(policy.size, count, |block| {
        let buffers = Arc::new(BufferRing::new(count as u16, policy.size as u32, block));
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
        buffers.grow();
        registered = Some(buffers.clone());
        Ok(buffers)
    })?;
    let ring = registered.expect("set when the pool was made");
    Ok(Provided { pool, ring })
}

impl Provided {
    /// The kernel found no piece: brings pieces into use that have not been so far; whether there
    /// were any.
    pub(super) fn grow(&self) -> bool {
        self.ring.grow()
    }

    /// How many pieces the kernel has been given so far, each time counted, modulo 2^16.
    fn given(&self) -> u16 {
        self.ring.tail.lock().tail
    }
}

impl BufferRing {
    fn new(count: u16, length: u32, block: *mut u8) -> Self {
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
            block,
            tail: Mutex::new(Tail {
                tail: 0,
                unused: 0..count,
            }),
        }
    }

    fn push(&self, tail: &mut Tail, id: u16, address: *mut u8) {
        // SAFETY: the index is below the number of entries, the tail is locked, and the kernel
        // does not read an entry before the tail passed it. The tail lies in the reserved field of
        // the first entry, which no entry uses.
        unsafe {
            let entry = &mut *self
                .entries
                .as_ptr()
                .add(usize::from(tail.tail & self.mask));
            entry.set_addr(address as u64);
            entry.set_len(self.length);
            entry.set_bid(id);
            tail.tail = tail.tail.wrapping_add(1);
            let shared = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*shared).store(tail.tail, Ordering::Release);
        }
    }

    fn grow(&self) -> bool {
        let mut tail = self.tail.lock();
        let unused = tail.unused.clone();
        let end = unused.end.min(unused.start.saturating_add(STEP));
        for id in unused.start..end {
            let address = self
                .block
                .wrapping_add(usize::from(id) * self.length as usize);
            self.push(&mut tail, id, address);
        }
        tail.unused.start = end;
        !unused.is_empty()
    }
}

impl Home for Arc<BufferRing> {
    fn give_back(&self, id: u16, address: *mut u8) {
        self.push(&mut self.tail.lock(), id, address);
    }
}

/// Receives that the kernel found no buffer for, the oldest first.
///
/// Each starts again when a buffer has come back. That keeps the memory in use small, and so in the
/// processor's cache; on the other hand the program may keep its buffers for ever, so the lane asks
/// now and then whether to wait at all.
#[derive(Default)]
pub(super) struct Starved {
    /// Names of operations. Those that have ended or started meanwhile are passed over.
    names: VecDeque<u64>,
    /// Buffers that the kernel has picked so far, modulo 2^16.
    picked: u16,
    /// What the kernel had been given when receives were last started.
    given: u16,
    /// Looks in a row at which no buffer had come back.
    in_vain: u32,
}

/// What a starved receive does next.
pub(super) enum Next {
    /// Has the kernel pick a buffer.
    Select(u64),
    /// Uses memory of its own.
    Own(u64),
}

/// Looks, one at 64 completions, until starved receives give up waiting although the lane has other
/// things to do.
const PATIENCE: u32 = 32;

impl Starved {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The kernel has picked a buffer.
    pub(super) fn picked(&mut self) {
        self.picked = self.picked.wrapping_add(1);
    }

    pub(super) fn push(&mut self, name: u64, provided: &Provided) {
        if self.names.is_empty() {
            self.given = provided.given();
            self.in_vain = 0;
        }
        self.names.push_back(name);
    }

    /// How many receives may start, and whether the others are to go without the pool. `idle`: the
    /// lane has nothing else to do, so that what the kernel has picked is known.
    pub(super) fn turn(&mut self, provided: &Provided, idle: bool) -> Turn {
        let given = provided.given();
        let came_back = given.wrapping_sub(std::mem::replace(&mut self.given, given));
        self.in_vain = if came_back > 0 { 0 } else { self.in_vain + 1 };
        let last = idle || self.in_vain > PATIENCE;
        Turn {
            select: match last {
                true => given.wrapping_sub(self.picked),
                false => came_back,
            },
            rest: last,
        }
    }

    /// The next receive to start in this turn.
    pub(super) fn next(&mut self, turn: &mut Turn) -> Option<Next> {
        if turn.select == 0 && !turn.rest {
            return None;
        }
        let name = self.names.pop_front()?;
        if turn.select > 0 {
            turn.select -= 1;
            return Some(Next::Select(name));
        }
        Some(Next::Own(name))
    }
}

/// How many starved receives may start.
pub(super) struct Turn {
    /// With a buffer of the pool's.
    select: u16,
    /// All others, without.
    rest: bool,
}

impl Turn {
    /// A receive that was to start had ended or started already: its buffer is for the next.
    pub(super) fn passed_over(&mut self, stage: &Stage) {
        if matches!(stage, Stage::Select) {
            self.select += 1;
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
