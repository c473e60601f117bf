//! What an accepted connection costs the server, from a burst of connects into a table of direct descriptors.

use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use io_uring::types::{DestinationSlot, Fd};
use io_uring::{IoUring, cqueue, opcode};

const TABLE: u32 = 16_384;
const POSTED: u32 = 32;

#[derive(Clone, Copy)]
pub enum How {
    /// 32 single-shot accepts, each into a slot of ours and with room for the peer's address, re-posted.
    Slots,
    /// Multishot accept, then `getpeername`, `register_files_update` and `close` for each descriptor.
    Register,
    /// As `Register`, one update for all that came together, closes submitted through the ring.
    RegisterBatch,
    /// Multishot accept into slots of the kernel's choice; no addresses.
    Automatic,
    /// Multishot accept of plain descriptors that stay so, with `getpeername`.
    Plain,
}

type Address = (MaybeUninit<libc::sockaddr_storage>, libc::socklen_t);

pub struct Acceptor {
    io: IoUring,
    listener: RawFd,
    addresses: Vec<Address>,
    accepted: u32,
    next_slot: u32,
}

impl Acceptor {
    pub fn new(listener: RawFd) -> Self {
        let io = IoUring::builder()
            .setup_coop_taskrun()
            .setup_cqsize(TABLE)
            .build(256)
            .expect("a ring");
        io.submitter()
            .register_files_sparse(TABLE)
            .expect("a table within RLIMIT_NOFILE");
        let room = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        let addresses = (0..POSTED).map(|_| (MaybeUninit::zeroed(), room)).collect();
        Acceptor {
            io,
            listener,
            addresses,
            accepted: 0,
            next_slot: 0,
        }
    }

    pub fn prepare(&mut self, how: How) {
        match how {
            How::Slots => (0..POSTED).for_each(|post| self.post(post)),
            How::Automatic => self.push(
                opcode::AcceptMulti::new(Fd(self.listener))
                    .allocate_file_index(true)
                    .build(),
            ),
            _ => self.push(opcode::AcceptMulti::new(Fd(self.listener)).build()),
        }
        self.io.submit().expect("submissions");
    }

    /// Accepts `count` connections.
    pub fn run(&mut self, how: How, count: u32) {
        while self.accepted < count {
            self.io.submit_and_wait(1).expect("a completion");
            let arrived: Vec<_> = self
                .io
                .completion()
                .filter(|entry| entry.user_data() != CLOSE)
                .collect();
            arrived
                .iter()
                .for_each(|entry| assert!(entry.result() >= 0, "accept: {}", entry.result()));
            match how {
                How::Slots => arrived.iter().for_each(|entry| self.repost(entry)),
                How::Register => arrived
                    .iter()
                    .for_each(|entry| self.register(entry.result())),
                How::RegisterBatch => self.register_batch(&arrived),
                How::Plain => arrived.iter().for_each(|entry| peer_name(entry.result())),
                How::Automatic => {}
            }
            self.accepted += arrived.len() as u32;
        }
    }

    fn repost(&mut self, entry: &cqueue::Entry) {
        let post = entry.user_data() as u32;
        self.addresses[post as usize].1 = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        self.post(post);
    }

    /// A slot of its own for every connection, as none is closed here.
    fn post(&mut self, post: u32) {
        let slot = DestinationSlot::try_from_slot_target(self.next_slot).expect("a small number");
        self.next_slot += 1;
        let (address, len) = &mut self.addresses[post as usize];
        let accept = opcode::Accept::new(Fd(self.listener), address.as_mut_ptr().cast(), len)
            .file_index(Some(slot));
        self.push(accept.build().user_data(u64::from(post)));
    }

    fn register(&mut self, fd: RawFd) {
        peer_name(fd);
        self.io
            .submitter()
            .register_files_update(self.next_slot, &[fd])
            .expect("a free slot");
        self.next_slot += 1;
        // SAFETY: the table holds the socket now.
        unsafe { libc::close(fd) };
    }

    fn register_batch(&mut self, arrived: &[cqueue::Entry]) {
        let fds: Vec<_> = arrived.iter().map(cqueue::Entry::result).collect();
        if fds.is_empty() {
            return;
        }
        fds.iter().for_each(|&fd| peer_name(fd));
        self.io
            .submitter()
            .register_files_update(self.accepted, &fds)
            .expect("free slots");
        fds.iter()
            .for_each(|&fd| self.push(opcode::Close::new(Fd(fd)).build().user_data(CLOSE)));
    }

    fn push(&mut self, entry: io_uring::squeue::Entry) {
        // SAFETY: addresses live as long as the ring.
        while unsafe { self.io.submission().push(&entry) }.is_err() {
            self.io.submit().expect("submissions");
        }
    }
}

const CLOSE: u64 = u64::MAX;

fn peer_name(fd: RawFd) {
    let mut address = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the length says how much room there is.
    assert_eq!(
        unsafe { libc::getpeername(fd, address.as_mut_ptr().cast(), &mut len) },
        0
    );
}
