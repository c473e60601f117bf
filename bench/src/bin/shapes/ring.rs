//! What every shape shares: a ring, its provided buffers, and the echo protocol's requests.

use std::alloc::{Layout, alloc_zeroed};
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};

const SUBMISSIONS: u32 = 4096;
const COMPLETIONS: u32 = 16384;
const BUFFER_GROUP: u16 = 0;

/// When the kernel posts what has completed: `IORING_SETUP_{COOP,DEFER}_TASKRUN`, or an interrupt at once.
#[derive(Clone, Copy, PartialEq)]
pub enum TaskRun {
    Interrupt,
    Cooperative,
    Deferred,
}

#[derive(Clone, Copy)]
pub struct BufferPlan {
    pub count: u16,
    pub size: u32,
}

/// One request's identity, packed into `user_data`.
#[derive(Clone, Copy)]
pub struct Token {
    pub kind: Kind,
    /// The ring whose buffer the request holds.
    pub home: u8,
    pub buffer: u16,
    pub fd: RawFd,
}

#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub enum Kind {
    Accept,
    Arm,
    Receive,
    Send,
    EventFd,
    Kick,
    Cover,
}

impl Token {
    pub fn of(kind: Kind, fd: RawFd) -> Self {
        Token {
            kind,
            home: 0,
            buffer: 0,
            fd,
        }
    }

    pub fn pack(self) -> u64 {
        (self.kind as u64) << 56
            | u64::from(self.home) << 48
            | u64::from(self.buffer) << 32
            | self.fd as u32 as u64
    }

    fn unpack(bits: u64) -> Self {
        const KINDS: [Kind; 7] = [
            Kind::Accept,
            Kind::Arm,
            Kind::Receive,
            Kind::Send,
            Kind::EventFd,
            Kind::Kick,
            Kind::Cover,
        ];
        Token {
            kind: KINDS[(bits >> 56) as usize],
            home: (bits >> 48) as u8,
            buffer: (bits >> 32) as u16,
            fd: bits as u32 as RawFd,
        }
    }
}

/// Received bytes, still in the provided buffer they arrived in.
#[derive(Clone, Copy)]
pub struct Message {
    pub fd: RawFd,
    pub home: u8,
    pub buffer: u16,
    pub len: u32,
}

/// A provided-buffer ring. The tail has one writer at a time, hence the lock.
pub struct Buffers {
    entries: *mut BufRingEntry,
    memory: *mut u8,
    plan: BufferPlan,
    tail: Mutex<u16>,
}

// SAFETY: the entries and the tail are written under `tail`'s lock; a buffer's bytes belong to whoever holds its id.
unsafe impl Send for Buffers {}
unsafe impl Sync for Buffers {}

impl Buffers {
    fn register(io: &IoUring, plan: BufferPlan) -> io::Result<Self> {
        let pages = |bytes: usize| {
            let layout = Layout::from_size_align(bytes, 4096).expect("a small power of two");
            // SAFETY: the size is not zero. Never freed: the process ends with its ring.
            unsafe { alloc_zeroed(layout) }
        };
        let entries =
            pages(usize::from(plan.count) * size_of::<BufRingEntry>()).cast::<BufRingEntry>();
        let memory = pages(usize::from(plan.count) * plan.size as usize);
        // SAFETY: both areas live as long as the process.
        unsafe {
            io.submitter().register_buf_ring_with_flags(
                entries as u64,
                plan.count,
                BUFFER_GROUP,
                0,
            )?
        };
        let buffers = Buffers {
            entries,
            memory,
            plan,
            tail: Mutex::new(0),
        };
        (0..plan.count).for_each(|id| buffers.give_back(id));
        Ok(buffers)
    }

    pub fn address(&self, id: u16) -> *mut u8 {
        // SAFETY: ids come from the kernel and are below `plan.count`.
        unsafe { self.memory.add(usize::from(id) * self.plan.size as usize) }
    }

    fn give_back(&self, id: u16) {
        let mut tail = self.tail.lock().expect("no panic while held");
        // SAFETY: the mask keeps the index inside the ring, and the kernel does not read at or past the tail.
        unsafe {
            let entry = &mut *self.entries.add(usize::from(*tail & (self.plan.count - 1)));
            entry.set_addr(self.address(id) as u64);
            entry.set_len(self.plan.size);
            entry.set_bid(id);
            *tail = tail.wrapping_add(1);
            (*BufRingEntry::tail(self.entries).cast::<AtomicU16>()).store(*tail, Ordering::Release);
        }
    }
}

pub struct Ring {
    pub io: IoUring,
    pub buffers: Buffers,
    index: u8,
    lock: Mutex<()>,
}

impl Ring {
    /// A deferred ring starts disabled, so that the thread that enables it owns it.
    pub fn new(index: u8, task_run: TaskRun, plan: BufferPlan) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS).setup_submit_all();
        match task_run {
            TaskRun::Interrupt => {}
            TaskRun::Cooperative => drop(builder.setup_coop_taskrun()),
            TaskRun::Deferred => drop(
                builder
                    .setup_single_issuer()
                    .setup_defer_taskrun()
                    .setup_r_disabled(),
            ),
        }
        let io = builder.build(SUBMISSIONS)?;
        let buffers = Buffers::register(&io, plan)?;
        Ok(Ring {
            io,
            buffers,
            index,
            lock: Mutex::new(()),
        })
    }

    pub fn lock(&self) -> Queues<'_> {
        Queues {
            ring: self,
            _guard: Some(self.lock.lock().expect("no panic while held")),
        }
    }

    pub fn try_lock(&self) -> Option<Queues<'_>> {
        self.lock.try_lock().ok().map(|guard| Queues {
            ring: self,
            _guard: Some(guard),
        })
    }

    /// # Safety
    /// One thread alone uses the ring's queues.
    pub unsafe fn unlocked(&self) -> Queues<'_> {
        Queues {
            ring: self,
            _guard: None,
        }
    }

    pub fn submit(&self) {
        self.submit_and_wait(0);
    }

    pub fn submit_and_wait(&self, want: usize) {
        match self.io.submitter().submit_and_wait(want) {
            Ok(_) => {}
            // Both mean "look at the completions and come back".
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) => {}
            Err(e) => panic!("io_uring_enter: {e}"),
        }
    }
}

/// A ring's two queues, in the hands of one thread.
pub struct Queues<'a> {
    ring: &'a Ring,
    _guard: Option<MutexGuard<'a, ()>>,
}

impl Queues<'_> {
    pub fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: `self` is the only user of the queues; what the entry points to outlives the request.
            if unsafe { self.ring.io.submission_shared().push(&entry) }.is_ok() {
                return;
            }
            self.ring.submit();
        }
    }

    pub fn reply(&mut self, port: &Port, message: Message) {
        let address = port.rings[usize::from(message.home)]
            .buffers
            .address(message.buffer);
        let token = Token {
            kind: Kind::Send,
            home: message.home,
            buffer: message.buffer,
            fd: message.fd,
        };
        self.push(
            opcode::Send::new(Fd(message.fd), address, message.len)
                .build()
                .user_data(token.pack()),
        );
    }

    /// Takes completions until one is a message. Everything else is bookkeeping, done here.
    pub fn take(&mut self, port: &Port) -> Option<Message> {
        loop {
            // SAFETY: `self` is the only user of the queues.
            let completion = unsafe { self.ring.io.completion_shared() }.next()?;
            if let Some(message) = self.settle(port, &completion) {
                return Some(message);
            }
        }
    }

    fn settle(&mut self, port: &Port, completion: &cqueue::Entry) -> Option<Message> {
        let token = Token::unpack(completion.user_data());
        let (result, more) = (completion.result(), cqueue::more(completion.flags()));
        match token.kind {
            Kind::Accept => self.accepted(port, result, more),
            Kind::Arm => self.receive(token.fd),
            Kind::Receive => return self.received(token.fd, completion),
            Kind::Send => {
                // An error means that the client has gone.
                assert!(
                    result <= 0 || (result as usize).is_multiple_of(crate::MESSAGE),
                    "send: {result}"
                );
                port.rings[usize::from(token.home)]
                    .buffers
                    .give_back(token.buffer);
            }
            Kind::EventFd => self.push(port.wake.request()),
            Kind::Cover => port.cover_armed.store(0, Ordering::SeqCst),
            Kind::Kick => assert!(result >= 0, "message to another ring: {result}"),
        }
        None
    }

    pub fn accept(&mut self, port: &Port) {
        let token = Token::of(Kind::Accept, port.listener);
        self.push(
            opcode::AcceptMulti::new(Fd(port.listener))
                .build()
                .user_data(token.pack()),
        );
    }

    /// Deals connections out to the rings in turn.
    fn accepted(&mut self, port: &Port, fd: i32, more: bool) {
        assert!(fd >= 0, "accept: {}", io::Error::from_raw_os_error(-fd));
        if !more {
            self.accept(port);
        }
        let home = &port.rings[port.dealt.fetch_add(1, Ordering::Relaxed) % port.rings.len()];
        if home.index == self.ring.index {
            return self.receive(fd);
        }
        let target = Fd(std::os::fd::AsRawFd::as_raw_fd(&home.io));
        let arm =
            opcode::MsgRingData::new(target, 0, Token::of(Kind::Arm, fd).pack(), None).build();
        self.push(
            arm.flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(Token::of(Kind::Kick, 0).pack()),
        );
    }

    fn receive(&mut self, fd: RawFd) {
        let token = Token::of(Kind::Receive, fd);
        self.push(
            opcode::RecvMulti::new(Fd(fd), BUFFER_GROUP)
                .build()
                .user_data(token.pack()),
        );
    }

    fn received(&mut self, fd: RawFd, completion: &cqueue::Entry) -> Option<Message> {
        match completion.result() {
            len @ 1.. => {
                if !cqueue::more(completion.flags()) {
                    self.receive(fd);
                }
                let buffer = cqueue::buffer_select(completion.flags())
                    .expect("a receive with data names its buffer");
                Some(Message {
                    fd,
                    home: self.ring.index,
                    buffer,
                    len: len as u32,
                })
            }
            result if result == -libc::ENOBUFS => {
                self.receive(fd);
                None
            }
            _ => {
                // SAFETY: closes a socket that no other request uses: its receive has just ended.
                unsafe { libc::close(fd) };
                None
            }
        }
    }

    pub fn has_completions(&self) -> bool {
        // SAFETY: `self` is the only user of the queues.
        !unsafe { self.ring.io.completion_shared() }.is_empty()
    }

    pub fn has_submissions(&self) -> bool {
        // SAFETY: as above.
        !unsafe { self.ring.io.submission_shared() }.is_empty()
    }
}

/// An eventfd with a read posted on the ring it wakes.
pub struct Wake {
    fd: RawFd,
    counter: Box<[u8; 8]>,
}

impl Wake {
    fn new() -> Self {
        // SAFETY: no pointers involved.
        Wake {
            fd: unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) },
            counter: Box::new([0; 8]),
        }
    }

    pub fn request(&self) -> squeue::Entry {
        let counter = self.counter.as_ptr().cast_mut();
        opcode::Read::new(Fd(self.fd), counter, 8)
            .build()
            .user_data(Token::of(Kind::EventFd, 0).pack())
    }

    pub fn ring(&self) {
        // SAFETY: writes eight bytes from a live array.
        unsafe { libc::write(self.fd, 1u64.to_ne_bytes().as_ptr().cast(), 8) };
    }
}

/// The server's side that does not depend on its shape.
pub struct Port {
    pub rings: Vec<Ring>,
    pub listener: RawFd,
    pub wake: Wake,
    /// Whether a poll on a stuck worker's ring is outstanding (stealing shape only).
    pub cover_armed: AtomicUsize,
    dealt: AtomicUsize,
}

impl Port {
    pub fn new(
        rings: usize,
        task_run: TaskRun,
        plan: BufferPlan,
        listener: RawFd,
    ) -> io::Result<Self> {
        let rings = (0..rings)
            .map(|index| Ring::new(index as u8, task_run, plan))
            .collect::<io::Result<_>>()?;
        let (cover_armed, dealt) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Ok(Port {
            rings,
            listener,
            wake: Wake::new(),
            cover_armed,
            dealt,
        })
    }

    /// Runs the user's handler on the messages received.
    pub fn handle(&self, message: Message) {
        let address = self.rings[usize::from(message.home)]
            .buffers
            .address(message.buffer);
        // SAFETY: the kernel gave these bytes away with the completion, and this message alone names them.
        let bytes = unsafe { std::slice::from_raw_parts(address, message.len as usize) };
        bytes
            .chunks(crate::MESSAGE)
            .for_each(|message| crate::handler::handle(message[0]));
    }
}
