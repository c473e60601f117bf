//! The limit in another form, with cooperative task running: each connection has a multishot poll,
//! and those that have something are received from a few at a time, into the buffer that came back
//! last. So a connection is answered while the processor's cache still has its memory.
//!
//! Like `ring` it relies on one message in flight per connection, and ends at the first unexpected
//! error.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};
use io_uring::types::{Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::sys::resource::{Resource, getrlimit};

use super::{Expected, RECEIVE_SIZE};
use crate::protocol::attend;

const ENTRIES: u32 = 4096;
/// Connections received from between two answers to them.
const AT_A_TIME: usize = 32;

pub fn serve(listener: TcpListener, _: Expected) -> Result<()> {
    let mut builder = IoUring::builder();
    builder.setup_coop_taskrun().setup_no_sqarray();
    let ring = builder.build(ENTRIES)?;
    let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let slots = u32::try_from(descriptors).unwrap_or(u32::MAX).min(1 << 20);
    ring.submitter()
        .register_files_sparse(slots)
        .context("cannot register direct descriptors")?;
    let worker = Worker {
        ring,
        listener,
        readable: VecDeque::new(),
        receiving: 0,
        buffers: Buffers::default(),
    };
    worker.run()
}

/// What a completion belongs to, carried in its user data: 8 bits, 24 for a buffer, 32 for a socket.
#[derive(Clone, Copy)]
enum Operation {
    Accept,
    Poll { socket: u32 },
    Receive { socket: u32, buffer: u32 },
    Send { buffer: u32 },
    Close,
}

impl Operation {
    fn encode(self) -> u64 {
        let (kind, socket, buffer) = match self {
            Operation::Accept => (0, 0, 0),
            Operation::Poll { socket } => (1, socket, 0),
            Operation::Receive { socket, buffer } => (2, socket, buffer),
            Operation::Send { buffer } => (3, 0, buffer),
            Operation::Close => (4, 0, 0),
        };
        kind | u64::from(buffer) << 8 | u64::from(socket) << 32
    }

    fn decode(data: u64) -> Self {
        let socket = (data >> 32) as u32;
        let buffer = data as u32 >> 8;
        match data & 0xff {
            0 => Operation::Accept,
            1 => Operation::Poll { socket },
            2 => Operation::Receive { socket, buffer },
            3 => Operation::Send { buffer },
            _ => Operation::Close,
        }
    }
}

/// Buffers by number, and those that nobody uses, the warmest last. None is ever freed.
#[derive(Default)]
struct Buffers {
    all: Vec<Box<[u8]>>,
    free: Vec<u32>,
}

impl Buffers {
    fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.all.push(vec![0; RECEIVE_SIZE].into_boxed_slice());
            self.all.len() as u32 - 1
        })
    }
}

struct Worker {
    ring: IoUring,
    listener: TcpListener,
    /// Connections that have something, in the order in which they are received from.
    readable: VecDeque<u32>,
    receiving: usize,
    buffers: Buffers,
}

impl Worker {
    fn run(mut self) -> Result<()> {
        self.accept()?;
        let mut completions: Vec<cqueue::Entry> = Vec::with_capacity(2 * ENTRIES as usize);
        loop {
            self.receive_some()?;
            // What is received is there when the call returns.
            let awaited = usize::from(self.receiving == 0);
            match self.ring.submit_and_wait(awaited) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error.into());
                }
                _ => completions.extend(self.ring.completion()),
            }
            for completion in completions.drain(..) {
                self.complete(&completion)?;
            }
        }
    }

    fn receive_some(&mut self) -> Result<()> {
        while self.receiving < AT_A_TIME {
            let Some(socket) = self.readable.pop_front() else {
                break;
            };
            let buffer = self.buffers.take();
            let memory = self.buffers.all[buffer as usize].as_mut_ptr();
            let entry = opcode::Recv::new(Fixed(socket), memory, RECEIVE_SIZE as u32)
                .flags(libc::MSG_DONTWAIT)
                .build();
            self.push(entry, Operation::Receive { socket, buffer })?;
            self.receiving += 1;
        }
        Ok(())
    }

    fn complete(&mut self, completion: &cqueue::Entry) -> Result<()> {
        let more = cqueue::more(completion.flags());
        let result = completion.result();
        match Operation::decode(completion.user_data()) {
            Operation::Accept => {
                self.poll(check(result).context("accept failed")?)?;
                if !more {
                    self.accept()?;
                }
            }
            Operation::Poll { socket } if result > 0 => {
                self.readable.push_back(socket);
                if !more {
                    self.poll(socket)?;
                }
            }
            Operation::Receive { socket, buffer } => {
                self.receiving -= 1;
                self.received(socket, buffer, completion)?;
            }
            Operation::Send { buffer } => self.buffers.free.push(buffer),
            // Both of two receives under way may have found the end.
            Operation::Close if result == -libc::EBADF => {}
            Operation::Close => drop(check(result).context("close failed")?),
            Operation::Poll { .. } => {}
        }
        Ok(())
    }

    fn received(&mut self, socket: u32, buffer: u32, completion: &cqueue::Entry) -> Result<()> {
        let result = completion.result();
        if result > 0 {
            if cqueue::sock_nonempty(completion.flags()) {
                self.readable.push_back(socket);
            }
            return self.send(socket, buffer, result as usize);
        }
        self.buffers.free.push(buffer);
        match -result {
            // A notice that came late: all was received, or the socket closed.
            libc::EAGAIN | libc::EBADF => Ok(()),
            _ => self.close(socket),
        }
    }

    fn accept(&mut self) -> Result<()> {
        let listener = Fd(self.listener.as_raw_fd());
        let entry = opcode::AcceptMulti::new(listener)
            .allocate_file_index(true)
            .build();
        self.push(entry, Operation::Accept)
    }

    fn poll(&mut self, socket: u32) -> Result<()> {
        let entry = opcode::PollAdd::new(Fixed(socket), libc::POLLIN as u32)
            .multi(true)
            .build();
        self.push(entry, Operation::Poll { socket })
    }

    fn send(&mut self, socket: u32, buffer: u32, length: usize) -> Result<()> {
        let message = &self.buffers.all[buffer as usize][..length];
        attend(message);
        let entry = opcode::Send::new(Fixed(socket), message.as_ptr(), length as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        self.push(entry, Operation::Send { buffer })
    }

    /// The poll goes with the socket's last message: the kernel ends it when it is told to.
    fn close(&mut self, socket: u32) -> Result<()> {
        let poll = Operation::Poll { socket }.encode();
        let entry = opcode::AsyncCancel::new(poll).build();
        self.push(
            entry.flags(squeue::Flags::SKIP_SUCCESS),
            Operation::Poll { socket },
        )?;
        let entry = opcode::Close::new(Fixed(socket)).build();
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), Operation::Close)
    }

    fn push(&mut self, entry: squeue::Entry, operation: Operation) -> Result<()> {
        let entry = entry.user_data(operation.encode());
        if self.ring.submission().is_full() {
            self.ring.submit()?;
        }
        // SAFETY: the only memory an entry refers to is a buffer of `Buffers`, which is never freed,
        // and is taken by one operation at a time.
        unsafe { self.ring.submission().push(&entry) }.context("the submission queue is full")
    }
}

fn check(result: i32) -> Result<u32> {
    match u32::try_from(result) {
        Ok(value) => Ok(value),
        Err(_) => bail!(io::Error::from_raw_os_error(-result)),
    }
}
