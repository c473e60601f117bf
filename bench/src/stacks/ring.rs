//! The limit: a loop written by hand on one ring a thread, with everything the kernel offers and
//! nothing on top. Multishot accept into direct descriptors, multishot receive into a provided
//! buffer ring, sends straight from the received buffer. It relies on each connection having one
//! message in flight (two sends of one connection could overtake each other), and ends at the first
//! unexpected error: no library could do either.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, bail};
use io_uring::types::{BufRingEntry, Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::sys::resource::{Resource, getrlimit};

use super::{Expected, RECEIVE_SIZE};
use crate::protocol::attend;

const ENTRIES: u32 = 4096;
const BUFFER_GROUP: u16 = 0;

/// With `COOP_TASKRUN` completions wait for the owner's next system call of any kind.
pub fn serve_cooperative(listener: TcpListener, expected: Expected) -> Result<()> {
    let mut builder = IoUring::builder();
    builder.setup_coop_taskrun().setup_no_sqarray();
    Worker::new(builder.build(ENTRIES)?, listener, expected)?.run()
}

/// With `DEFER_TASKRUN` they wait for the owner to ask for them.
pub fn serve_deferred(listener: TcpListener, expected: Expected) -> Result<()> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_no_sqarray();
    Worker::new(builder.build(ENTRIES)?, listener, expected)?.run()
}

/// What a completion belongs to, carried in its user data.
#[derive(Clone, Copy)]
enum Operation {
    Accept,
    Receive { socket: u32 },
    Send { buffer: u16 },
    Close,
}

impl Operation {
    fn encode(self) -> u64 {
        match self {
            Operation::Accept => 0,
            Operation::Receive { socket } => 1 | u64::from(socket) << 32,
            Operation::Send { buffer } => 2 | u64::from(buffer) << 32,
            Operation::Close => 3,
        }
    }

    fn decode(data: u64) -> Self {
        match data as u32 {
            0 => Operation::Accept,
            1 => Operation::Receive {
                socket: (data >> 32) as u32,
            },
            2 => Operation::Send {
                buffer: (data >> 32) as u16,
            },
            _ => Operation::Close,
        }
    }
}

struct Worker {
    ring: IoUring,
    listener: TcpListener,
    buffers: Buffers,
    /// Connections whose receive ended because no buffer was left.
    starved: Vec<u32>,
}

impl Worker {
    fn new(ring: IoUring, listener: TcpListener, expected: Expected) -> Result<Self> {
        let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let slots = u32::try_from(descriptors).unwrap_or(u32::MAX).min(1 << 20);
        ring.submitter()
            .register_files_sparse(slots)
            .context("cannot register direct descriptors")?;
        let buffers = Buffers::register(&ring, pooled_buffers(expected))
            .context("cannot register the buffer ring")?;
        Ok(Self {
            ring,
            listener,
            buffers,
            starved: Vec::new(),
        })
    }

    fn run(mut self) -> Result<()> {
        self.accept()?;
        let mut completions: Vec<cqueue::Entry> = Vec::with_capacity(2 * ENTRIES as usize);
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                _ => completions.extend(self.ring.completion()),
            }
            for completion in completions.drain(..) {
                self.complete(&completion)?;
            }
            self.feed_the_starved()?;
        }
    }

    fn complete(&mut self, completion: &cqueue::Entry) -> Result<()> {
        let more = cqueue::more(completion.flags());
        let result = completion.result();
        match Operation::decode(completion.user_data()) {
            Operation::Accept => {
                self.receive(check(result).context("accept failed")?)?;
                if !more {
                    self.accept()?;
                }
            }
            Operation::Receive { socket } => {
                match cqueue::buffer_select(completion.flags()) {
                    Some(buffer) if result > 0 => {
                        self.send(socket, buffer, result.cast_unsigned())?
                    }
                    Some(buffer) => {
                        self.buffers.take(buffer, 0);
                        self.buffers.give(buffer);
                    }
                    None => {}
                }
                match result {
                    _ if more => {}
                    1.. => self.receive(socket)?,
                    _ if result == -libc::ENOBUFS => self.starved.push(socket),
                    _ => self.close(socket)?,
                }
            }
            Operation::Send { buffer } => self.buffers.give(buffer),
            Operation::Close => drop(check(result).context("close failed")?),
        }
        Ok(())
    }

    /// Receives that found no buffer start again once there is one.
    fn feed_the_starved(&mut self) -> Result<()> {
        if self.buffers.held < self.buffers.count {
            while let Some(socket) = self.starved.pop() {
                self.receive(socket)?;
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        let listener = Fd(self.listener.as_raw_fd());
        let entry = opcode::AcceptMulti::new(listener)
            .allocate_file_index(true)
            .build();
        self.push(entry, Operation::Accept)
    }

    fn receive(&mut self, socket: u32) -> Result<()> {
        let entry = opcode::RecvMulti::new(Fixed(socket), BUFFER_GROUP).build();
        self.push(entry, Operation::Receive { socket })
    }

    fn send(&mut self, socket: u32, buffer: u16, length: u32) -> Result<()> {
        let message = self.buffers.take(buffer, length as usize);
        attend(message);
        let entry = opcode::Send::new(Fixed(socket), message.as_ptr(), length)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        self.push(entry, Operation::Send { buffer })
    }

    fn close(&mut self, socket: u32) -> Result<()> {
        let entry = opcode::Close::new(Fixed(socket)).build();
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), Operation::Close)
    }

    fn push(&mut self, entry: squeue::Entry, operation: Operation) -> Result<()> {
        let entry = entry.user_data(operation.encode());
        if self.ring.submission().is_full() {
            self.ring.submit()?;
        }
        // SAFETY: the only memory an entry refers to is a buffer of `Buffers`, which is never freed,
        // and which `take` has withheld from the kernel's receives until its send completes.
        unsafe { self.ring.submission().push(&entry) }.context("the submission queue is full")
    }
}

/// As many as can be in use at once, and few enough for the warm ones to stay in the cache: the
/// kernel takes them in turn.
fn pooled_buffers(expected: Expected) -> u16 {
    expected.connections.next_power_of_two().min(256) as u16
}

/// The provided buffers of one ring. Their memory is never freed: the worker runs until the process
/// ends, and the kernel may use it until then.
struct Buffers {
    entries: *mut BufRingEntry,
    memory: *mut u8,
    /// A power of two.
    count: u16,
    /// Entries ever published; the kernel reads its low bits.
    tail: u16,
    /// Buffers taken and not yet given back.
    held: u16,
}

/// The kernel wants the entries at the start of a page.
#[derive(Clone)]
#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "read by the kernel only")] [u8; 4096]);

impl Buffers {
    fn register(ring: &IoUring, count: u16) -> io::Result<Self> {
        let pages = (usize::from(count) * size_of::<BufRingEntry>()).div_ceil(4096);
        let entries = vec![Page([0; 4096]); pages]
            .leak()
            .as_mut_ptr()
            .cast::<BufRingEntry>();
        let memory = vec![0; usize::from(count) * RECEIVE_SIZE]
            .leak()
            .as_mut_ptr();
        // SAFETY: `entries` is page-aligned, holds that many entries, and is never freed.
        unsafe {
            let submitter = ring.submitter();
            submitter.register_buf_ring_with_flags(entries as u64, count, BUFFER_GROUP, 0)?;
        }
        let mut buffers = Self {
            entries,
            memory,
            count,
            tail: 0,
            held: count,
        };
        for buffer in 0..count {
            buffers.give(buffer);
        }
        Ok(buffers)
    }

    /// What the kernel received into `buffer`, which is ours until `give`.
    fn take(&mut self, buffer: u16, length: usize) -> &[u8] {
        assert!(buffer < self.count && length <= RECEIVE_SIZE);
        self.held += 1;
        // SAFETY: in bounds by the assertion; the kernel has handed this buffer out and writes to it
        // no more until `give`, which needs `&mut self` and so ends this borrow.
        unsafe {
            let start = self.memory.add(usize::from(buffer) * RECEIVE_SIZE);
            std::slice::from_raw_parts(start, length)
        }
    }

    /// Provides `buffer` to the kernel for another receive.
    fn give(&mut self, buffer: u16) {
        assert!(buffer < self.count);
        self.held -= 1;
        let place = usize::from(self.tail & (self.count - 1));
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `place` and `buffer` are in bounds. There are as many entries as buffers, so the
        // kernel has consumed the one at `place`; it reads it again only after the tail says so. The
        // tail lies in a field of the first entry that the setters do not touch.
        unsafe {
            let entry = &mut *self.entries.add(place);
            entry.set_addr(self.memory.add(usize::from(buffer) * RECEIVE_SIZE) as u64);
            entry.set_len(RECEIVE_SIZE as u32);
            entry.set_bid(buffer);
            let tail = BufRingEntry::tail(self.entries).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

fn check(result: i32) -> Result<u32> {
    match u32::try_from(result) {
        Ok(value) => Ok(value),
        Err(_) => bail!(io::Error::from_raw_os_error(-result)),
    }
}
