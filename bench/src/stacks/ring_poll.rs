//! The limit in another form: each connection has a multishot poll, and what is ready is received in small batches,
//! each answered before the next is received, so that a connection's memory is still in the cache when
//! it is answered.

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

pub fn serve(listener: TcpListener, _: Expected) -> Result<()> {
    let mut builder = IoUring::builder();
    builder.setup_coop_taskrun().setup_no_sqarray();
    let ring = builder.build(ENTRIES)?;
    let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let slots = u32::try_from(descriptors).unwrap_or(u32::MAX).min(1 << 20);
    ring.submitter().register_files_sparse(slots)?;
    let batch = std::env::var("RING_POLL_BATCH").ok().and_then(|v| v.parse().ok()).unwrap_or(32);
    let mut worker = Worker { ring, listener, batch, ready: VecDeque::new(), pending: 0, free: Vec::new(), buffers: Vec::new() };
    worker.run()
}

struct Worker {
    ring: IoUring,
    listener: TcpListener,
    batch: usize,
    ready: VecDeque<u32>,
    pending: usize,
    free: Vec<u32>,
    buffers: Vec<Box<[u8]>>,
}

const ACCEPT: u64 = 0;
const POLL: u64 = 1;
const RECEIVE: u64 = 2;
const SEND: u64 = 3;
const CLOSE: u64 = 4;

fn pack(kind: u64, socket: u32, buffer: u32) -> u64 {
    kind | u64::from(buffer) << 8 | u64::from(socket) << 32
}

impl Worker {
    fn run(&mut self) -> Result<()> {
        self.accept()?;
        let mut completions: Vec<cqueue::Entry> = Vec::with_capacity(2 * ENTRIES as usize);
        loop {
            for _ in 0..self.batch {
                let Some(socket) = self.ready.pop_front() else { break };
                let buffer = self.free.pop().unwrap_or_else(|| {
                    self.buffers.push(vec![0; RECEIVE_SIZE].into_boxed_slice());
                    self.buffers.len() as u32 - 1
                });
                let memory = self.buffers[buffer as usize].as_mut_ptr();
                let entry = opcode::Recv::new(Fixed(socket), memory, RECEIVE_SIZE as u32)
                    .flags(libc::MSG_DONTWAIT)
                    .build();
                self.push(entry, pack(RECEIVE, socket, buffer))?;
                self.pending += 1;
            }
            let want = usize::from(self.pending == 0);
            match self.ring.submit_and_wait(want) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
                _ => completions.extend(self.ring.completion()),
            }
            for completion in completions.drain(..) {
                self.complete(&completion)?;
            }
        }
    }

    fn complete(&mut self, completion: &cqueue::Entry) -> Result<()> {
        let more = cqueue::more(completion.flags());
        let result = completion.result();
        let data = completion.user_data();
        let socket = (data >> 32) as u32;
        let buffer = (data >> 8) as u32 & 0xff_ffff;
        match data & 0xff {
            ACCEPT => {
                let Ok(socket) = u32::try_from(result) else { bail!("accept {result}") };
                self.poll(socket)?;
                if !more {
                    self.accept()?;
                }
            }
            POLL => {
                if result > 0 {
                    self.ready.push_back(socket);
                    if !more {
                        self.poll(socket)?;
                    }
                }
            }
            RECEIVE => {
                self.pending -= 1;
                match result {
                    1.. => {
                        let message = &self.buffers[buffer as usize][..result as usize];
                        attend(message);
                        let entry = opcode::Send::new(Fixed(socket), message.as_ptr(), result as u32)
                            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
                            .build();
                        self.push(entry, pack(SEND, socket, buffer))?;
                        if cqueue::sock_nonempty(completion.flags()) {
                            self.ready.push_back(socket);
                        }
                    }
                    _ => {
                        self.free.push(buffer);
                        if result != -libc::EAGAIN {
                            let entry = opcode::Close::new(Fixed(socket)).build();
                            let entry = entry.flags(squeue::Flags::SKIP_SUCCESS);
                            self.push(entry, CLOSE)?;
                        }
                    }
                }
            }
            SEND => self.free.push(buffer),
            _ => {}
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        let entry = opcode::AcceptMulti::new(Fd(self.listener.as_raw_fd()))
            .allocate_file_index(true)
            .build();
        self.push(entry, ACCEPT)
    }

    fn poll(&mut self, socket: u32) -> Result<()> {
        let entry = opcode::PollAdd::new(Fixed(socket), libc::POLLIN as u32)
            .multi(true)
            .build();
        self.push(entry, pack(POLL, socket, 0))
    }

    fn push(&mut self, entry: squeue::Entry, data: u64) -> Result<()> {
        let entry = entry.user_data(data);
        if self.ring.submission().is_full() {
            self.ring.submit()?;
        }
        // SAFETY: buffers are never freed, and never used twice at a time.
        unsafe { self.ring.submission().push(&entry) }.context("the submission queue is full")
    }
}
