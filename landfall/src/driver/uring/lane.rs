//! One ring with its table of operations, behind a lock that is free almost always.
//!
//! The lock covers the two queues in user space and the tables; it is never held across a system
//! call. The kernel runs submissions of several threads one after another by itself.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types};
use parking_lot::{Mutex, MutexGuard};
use slab::Slab;

use super::accept::Streams;
use super::complete;
use super::message::Messages;
use super::op::{Kind, Op, POLL_FIRST, with_accept_flag};
use super::receive::{self, Readable};
use super::socket::{Place, Slots, Socket};
use super::waiters::Waiters;
use crate::buffer::Pool;
use crate::driver::outbox::Outbox;
use crate::driver::ticket::Ticket;
use crate::driver::{ABORTED, Sink, name};
use crate::port::{BufferPolicy, Completion, Facilities, OperationId};
use crate::sync::atomic::AtomicBool;

/// What the kernel echoes with a completion: a tag, and for operations the rest of their name.
pub(super) mod user_data {
    pub(in super::super) use crate::driver::name::{generation, index, rest, tag, tagged};

    pub(in super::super) const OPERATION: u64 = 0;
    pub(in super::super) const WAKE: u64 = 1;
    pub(in super::super) const IGNORE: u64 = 2;
    /// The low bits are a place of the ring's table that is free now.
    pub(in super::super) const CLOSED: u64 = 3;
    /// The answer to a cancel of the operation that the rest names, if it failed.
    pub(in super::super) const CANCEL: u64 = 4;
    /// What a stream of receives has received, beside its poll.
    pub(in super::super) const RECEIVED: u64 = 5;
}

/// Entries of the submission queue. What does not fit waits in the lane's backlog.
const SUBMISSIONS: u32 = 1024;
/// Entries of the completion queue. Should it run over, the kernel keeps the rest.
const COMPLETIONS: u32 = 8192;

pub(super) struct Lane {
    pub(super) index: usize,
    pub(super) ring: IoUring,
    /// Places in the ring's own table of sockets.
    pub(super) table: u32,
    pub(super) buffers: Pool,
    pub(super) facilities: Facilities,
    pub(super) streams: Arc<Streams>,
    pub(super) state: Mutex<State>,
    /// Sockets in the lane, to spread new ones evenly.
    pub(super) population: AtomicUsize,
    waiters: Waiters,
}

pub(super) struct State {
    pub(super) ops: Slab<Op>,
    pub(super) sockets: Slab<Socket>,
    pub(super) slots: Slots,
    pub(super) readable: Readable,
    /// Posted accepts, and connections whose first data is awaited.
    pub(super) accepting: Vec<u32>,
    pub(super) messages: Messages,
    /// Completions ready to be taken, ahead of what the ring holds.
    pub(super) outbox: Outbox,
    /// Entries that found no room, or come from threads that may not submit themselves.
    backlog: VecDeque<Entry>,
    pub(super) closed: bool,
    generation: u32,
}

impl State {
    /// Whether a thread that waits in the lane has something to do that the ring does not show:
    /// completions to take, or sockets to receive from.
    fn has_left(&self) -> bool {
        !self.outbox.is_empty() || !self.readable.is_empty()
    }
}

impl Lane {
    pub(super) fn new(
        index: usize,
        buffers: BufferPolicy,
        facilities: Facilities,
        streams: Arc<Streams>,
    ) -> io::Result<Self> {
        let mut ring = match build_ring(true) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => build_ring(false)?,
            ring => ring?,
        };
        let table = match facilities.direct_descriptors {
            true => register_table(&ring)?,
            false => 0,
        };
        let facilities = Facilities {
            direct_descriptors: table > 0,
            poll_first: facilities.poll_first && knows_accept_flag(&mut ring, POLL_FIRST)?,
            ..facilities
        };
        Ok(Lane {
            index,
            ring,
            table,
            buffers: Pool::new(buffers.size, buffers.count)?,
            facilities,
            streams,
            state: Mutex::new(State {
                ops: Slab::new(),
                sockets: Slab::new(),
                slots: Slots::new(table),
                readable: Readable::default(),
                accepting: Vec::new(),
                messages: Messages::default(),
                outbox: Outbox::default(),
                backlog: VecDeque::new(),
                closed: false,
                generation: 0,
            }),
            population: AtomicUsize::new(0),
            waiters: Waiters::default(),
        })
    }

    /// Queues an entry: for a worker in the ring, where its next flush takes it; for others in the
    /// backlog, until a worker comes.
    pub(super) fn push(&self, state: &mut State, entry: Entry, worker: bool) {
        if worker && state.backlog.is_empty() && self.push_to_ring(&entry) {
            return;
        }
        state.backlog.push_back(entry);
    }

    /// Callers hold the lock.
    fn push_to_ring(&self, entry: &Entry) -> bool {
        // SAFETY: the lane's lock makes this the only use of the submission queue's tail, and the
        // memory that the entry points to belongs to an operation in the table (or to nothing).
        unsafe { self.ring.submission_shared().push(entry).is_ok() }
    }

    /// Moves what waits into the ring. Callers hold the lock.
    fn move_backlog(&self, state: &mut State) {
        while let Some(entry) = state.backlog.front() {
            if !self.push_to_ring(entry) {
                break;
            }
            state.backlog.pop_front();
        }
    }

    /// Whether the table takes another operation of the program's. Those of our own (a deadline, a
    /// descriptor to be installed, accepts) are far fewer than what is left for them.
    pub(super) fn has_room(state: &State) -> bool {
        state.ops.len() < name::MOST / 2
    }

    /// Puts an operation into the table. Its entry is still to be pushed.
    #[inline]
    pub(super) fn insert(&self, state: &mut State, kind: Kind, socket: u32, ticket: Ticket) -> u32 {
        state.generation = state.generation.wrapping_add(1);
        let entry = state.ops.vacant_entry();
        let key = entry.key();
        entry.insert(Op::new(state.generation, kind, socket, ticket));
        debug_assert!(key < name::MOST, "see has_room");
        key as u32
    }

    pub(super) fn name(state: &State, key: u32) -> u64 {
        state.ops[key as usize].name(key)
    }

    pub(super) fn id(&self, op: &Op, key: u32) -> OperationId {
        OperationId(op.name(key) | (self.index as u64) << 56)
    }

    /// The operation of that name, if it is still in the table.
    pub(super) fn find(state: &State, data: u64) -> Option<u32> {
        let key = user_data::index(data);
        let op = state.ops.get(key as usize)?;
        (op.generation == user_data::generation(data)).then_some(key)
    }

    /// Hands an operation, or the rest of it, to the kernel.
    pub(super) fn start(&self, state: &mut State, key: u32, worker: bool) {
        let State { ops, sockets, .. } = state;
        let op = &mut ops[key as usize];
        let target = match &op.kind {
            // Names its listener itself.
            Kind::Accept(_) | Kind::Deadline(..) => super::socket::Target::plain(-1),
            _ => {
                let socket = &mut sockets[op.socket as usize];
                let Some(target) = socket.target() else {
                    return complete::finish(self, state, key, ABORTED);
                };
                socket.in_kernel += u32::from(!op.in_kernel);
                target
            }
        };
        op.in_kernel = true;
        let name = op.name(key);
        let entry = op.entry(target, self.facilities.zero_copy).user_data(name);
        self.push(state, entry, worker);
    }

    /// Asks the kernel to end an operation that it has.
    pub(super) fn cancel_in_kernel(&self, state: &mut State, key: u32, worker: bool) {
        state.ops[key as usize].cancelled = true;
        self.push_cancel(state, key, worker);
    }

    /// Sends the kernel after an operation.
    pub(super) fn push_cancel(&self, state: &mut State, key: u32, worker: bool) {
        let name = Self::name(state, key);
        let entry = opcode::AsyncCancel::new(name).build();
        let answer = user_data::tagged(user_data::CANCEL, user_data::rest(name));
        let entry = entry.user_data(answer).flags(Flags::SKIP_SUCCESS);
        self.push(state, entry, worker);
    }

    /// Makes the close to come a reset if a zero-copy send waits for its acknowledgement: only then
    /// does the kernel let go of the memory without the peer's help.
    pub(super) fn reset_if_unacknowledged(&self, state: &mut State, socket: u32, worker: bool) {
        static RESET: libc::linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        let entry = &state.sockets[socket as usize];
        let sending = entry.sends.current.map(|key| &state.ops[key as usize].kind);
        let (Some(Kind::SendZeroCopy(_, Some(_))), Some(target)) = (sending, entry.target()) else {
            return;
        };
        let (level, name) = (libc::SOL_SOCKET as u32, libc::SO_LINGER as u32);
        let length = size_of::<libc::linger>() as u32;
        let fd = types::Fd(target.number);
        let value = (&raw const RESET).cast();
        let entry = opcode::SetSockOpt::new(fd, level, name, value, length).build();
        let entry = target.apply(entry);
        let data = user_data::tagged(user_data::IGNORE, 0);
        self.push(state, entry.user_data(data), worker);
    }

    /// Closes a socket that the kernel has no operation of.
    pub(super) fn close_now(&self, state: &mut State, socket: u32, worker: bool) {
        let place = std::mem::replace(&mut state.sockets[socket as usize].place, Place::Closed);
        match place {
            Place::Direct(slot) => {
                let entry = opcode::Close::new(types::Fixed(slot)).build();
                let data = user_data::tagged(user_data::CLOSED, u64::from(slot));
                self.push(state, entry.user_data(data), worker);
            }
            // A listener is shared with its posted accepts; the last to let go closes it. Other
            // sockets are closed by the kernel, where a lingering close blocks nobody.
            Place::Plain(fd) => {
                if let Some(fd) = Arc::into_inner(fd) {
                    self.close_in_kernel(state, fd, worker);
                }
            }
            Place::File(file) => self.let_go_of_file(state, file, worker),
            Place::Closed => {}
        }
        if state.sockets[socket as usize].released {
            state.sockets.remove(socket as usize);
            self.population.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Closes a file in the kernel if nobody else has it: that may wait for its storage, and the lane is
    /// locked.
    pub(super) fn let_go_of_file(&self, state: &mut State, file: Arc<File>, worker: bool) {
        if let Some(file) = Arc::into_inner(file) {
            self.close_in_kernel(state, file.into(), worker);
        }
    }

    pub(super) fn close_in_kernel(&self, state: &mut State, fd: OwnedFd, worker: bool) {
        let fd = std::os::fd::IntoRawFd::into_raw_fd(fd);
        let entry = opcode::Close::new(types::Fd(fd)).build();
        let data = user_data::tagged(user_data::IGNORE, 0);
        self.push(state, entry.user_data(data), worker);
    }

    pub(super) fn reap(&self, max: usize, sink: &mut Sink<'_>) -> usize {
        if max == 0 {
            return 0;
        }
        let (taken, left) = self.take(max, sink);
        if taken > 0 || !left {
            return taken;
        }
        // Sockets to receive from: what they have is there at once.
        self.flush();
        self.take(max, sink).0
    }

    /// Takes completions. Returns how many, and whether there is more that the ring does not show.
    fn take(&self, max: usize, sink: &mut Sink<'_>) -> (usize, bool) {
        let mut state = self.state.lock();
        state.outbox.begin(sink, max);
        let woken = self.work_off(&mut state, |state| state.outbox.is_wanted());
        let taken = state.outbox.end(sink, max);
        let left = state.has_left();
        drop(state);
        self.waiters.taken(left, woken, || self.post_wake());
        (taken, left)
    }

    /// Works off what the ring has, as long as `more` is wanted. Returns whether a wake was among
    /// it.
    #[inline]
    fn work_off(&self, state: &mut MutexGuard<'_, State>, more: impl Fn(&State) -> bool) -> bool {
        // SAFETY: the lane's lock, which the guard shows, makes this the only use of the completion
        // queue's head: nothing below takes from the queue, and what else does takes the lock first.
        let mut queue = unsafe { self.ring.completion_shared() };
        let mut woken = false;
        while more(state) {
            let Some(cqe) = queue.next() else {
                break;
            };
            woken |= user_data::tag(cqe.user_data()) == user_data::WAKE;
            complete::process(self, state, &cqe);
        }
        woken
    }

    /// Whether there is anything to take, or only to clear away.
    pub(super) fn stirred(&self) -> bool {
        self.state.try_lock().is_some_and(|state| {
            // SAFETY: as in `work_off`.
            state.has_left() || !unsafe { self.ring.completion_shared().is_empty() }
        })
    }

    /// Whether there is something to take. Looks past wakes and answers to cancels, so that nobody
    /// is sent for those.
    pub(super) fn pending(&self) -> bool {
        self.state.try_lock().is_some_and(|state| {
            if state.has_left() {
                return true;
            }
            // SAFETY: as in `work_off`.
            let mut queue = unsafe { self.ring.completion_shared() };
            let found = queue.any(|cqe| {
                let tag = user_data::tag(cqe.user_data());
                tag == user_data::OPERATION || tag == user_data::RECEIVED
            });
            // Dropped, it would tell the kernel that what it passed was taken.
            std::mem::forget(queue);
            found
        })
    }

    /// Hands over what waits, and lets the kernel post what it holds back.
    pub(super) fn flush(&self) -> bool {
        let mut entered = false;
        loop {
            let (enter, again, ready) = {
                let mut state = self.state.lock();
                receive::start_some(self, &mut state);
                self.move_backlog(&mut state);
                // SAFETY: as in `push_to_ring`.
                let queue = unsafe { self.ring.submission_shared() };
                let enter = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
                (enter, !state.backlog.is_empty(), !state.outbox.is_empty())
            };
            if ready {
                self.rouse();
            }
            if !enter {
                return entered;
            }
            // An error leaves the entries where they are, for the next flush: the kernel is out
            // of memory or wants its completions taken first.
            let submitted = self.ring.submit().is_ok();
            entered = true;
            if !submitted || !again {
                return entered;
            }
        }
    }

    /// Flushes and waits for a completion, a wake, or the end of the time.
    pub(super) fn wait(&self, timeout: Option<Duration>, released: &AtomicBool) {
        self.waiters.begin();
        let (more_than_fits, mut left) = {
            let mut state = self.state.lock();
            receive::start_some(self, &mut state);
            self.move_backlog(&mut state);
            (!state.backlog.is_empty(), state.has_left())
        };
        if more_than_fits {
            self.flush();
            left = self.state.lock().has_left();
        }
        // Whoever releases this thread from here on, or leaves something, sees that it waits.
        let awaited = usize::from(!left && !released.load(Ordering::SeqCst));
        let result = match timeout {
            None => self.ring.submitter().submit_and_wait(awaited),
            Some(timeout) => {
                let time = types::Timespec::from(timeout);
                let arguments = types::SubmitArgs::new().timespec(&time);
                self.ring.submitter().submit_with_args(awaited, &arguments)
            }
        };
        // Interrupted, out of time, or completions to be taken first: in each case the caller
        // looks at the queue.
        drop(result);
        self.end_wait();
    }

    /// Prepares a wait in several lanes at once.
    pub(super) fn begin_shared_wait(&self) {
        self.waiters.begin();
        self.flush();
    }

    pub(super) fn end_wait(&self) {
        self.waiters.end();
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring's descriptor is open as long as the lane.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    /// Rouses a waiting thread that has been released.
    pub(super) fn wake(&self) {
        self.waiters.wake(|| self.post_wake());
    }

    pub(super) fn woken(&self) {
        self.waiters.woken();
    }

    /// Has the thread that waits in the lane, if there is one, look again.
    pub(super) fn rouse(&self) {
        self.waiters.rouse(|| self.post_wake());
    }

    /// Completes an operation that does nothing.
    fn post_wake(&self) {
        let entry = opcode::Nop::new().build();
        let entry = entry.user_data(user_data::tagged(user_data::WAKE, 0));
        let mut pushed = false;
        loop {
            if !pushed {
                let _state = self.state.lock();
                pushed = self.push_to_ring(&entry);
            }
            // Fails while the kernel is out of memory.
            if self.ring.submit().is_ok() && pushed {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// Works off everything that the ring has, so that an answer among it is seen.
    pub(super) fn drain(&self) {
        let mut state = self.state.lock();
        let woken = self.work_off(&mut state, |_| true);
        let left = state.has_left();
        drop(state);
        self.waiters.taken(left, woken, || self.post_wake());
    }

    /// Ends every operation and returns when the kernel has none left.
    pub(super) fn shutdown(&self, poke: &dyn Fn()) {
        self.cancel_everything();
        loop {
            self.flush();
            self.drain();
            // Frees handles, which lock the lane, and may let held-back completions out.
            let (dropped, some_left) = self.take_undelivered();
            let nothing_dropped = dropped.is_empty();
            drop(dropped);
            if some_left {
                poke();
                self.await_one(Duration::from_millis(1));
            } else if nothing_dropped {
                break;
            }
        }
        self.flush();
    }

    /// Completions that nobody will take, and whether operations are left.
    fn take_undelivered(&self) -> (Vec<Completion>, bool) {
        let mut state = self.state.lock();
        let mut undelivered = state.outbox.clear();
        for (_, socket) in &mut state.sockets {
            undelivered.extend(socket.held.take());
        }
        (undelivered, !state.ops.is_empty())
    }

    /// Lets the kernel post what it has, for so long at most. Nobody is told to wake this.
    fn await_one(&self, time: Duration) {
        let time = types::Timespec::from(time);
        let arguments = types::SubmitArgs::new().timespec(&time);
        // Out of time or interrupted: the caller looks at the queue either way.
        let _ = self.ring.submitter().submit_with_args(1, &arguments);
    }

    fn cancel_everything(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let keys: Vec<u32> = state.ops.iter().map(|(key, _)| key as u32).collect();
        for key in keys {
            if !state.ops.contains(key as usize) {
                continue;
            }
            complete::cancel(self, &mut state, key, true);
            let Some(op) = state.ops.get(key as usize) else {
                continue;
            };
            if matches!(op.kind, Kind::SendZeroCopy(_, Some(_))) {
                let socket = op.socket;
                self.reset_if_unacknowledged(&mut state, socket, true);
                self.close_now(&mut state, socket, true);
            }
        }
    }
}

/// Sets a ring up; `direct_queue` leaves out an indirection that nobody uses, from Linux 6.6.
fn build_ring(direct_queue: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .dontfork()
        .setup_clamp()
        .setup_submit_all()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_cqsize(COMPLETIONS);
    if direct_queue {
        builder.setup_no_sqarray();
    }
    builder.build(SUBMISSIONS)
}

/// Registers an empty table as large as the process's limit allows, and returns its size; 0 when
/// the kernel has no such tables.
fn register_table(ring: &IoUring) -> io::Result<u32> {
    // Linux bounds each table by RLIMIT_NOFILE, and all by 2^20 (IORING_MAX_FIXED_FILES).
    let size = crate::driver::os::descriptor_limit().min(1 << 20) as u32;
    let registered = unless_unsupported(ring.submitter().register_files_sparse(size))?;
    Ok(registered.map_or(0, |()| size))
}

/// Whether the kernel knows a flag of accepts: it looks at the flags before it finds that there is no listener.
fn knows_accept_flag(ring: &mut IoUring, flag: u16) -> io::Result<bool> {
    let accept = opcode::Accept::new(types::Fd(-1), std::ptr::null_mut(), std::ptr::null_mut());
    let accept = with_accept_flag(accept.build(), flag);
    // SAFETY: the entry points to no memory.
    unsafe { ring.submission().push(&accept) }.expect("the queue is empty");
    loop {
        match ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        if let Some(answer) = ring.completion().next() {
            return Ok(answer.result() != -libc::EINVAL);
        }
    }
}

/// A facility that this kernel does not have is done without; anything else that goes wrong, a
/// lack of memory above all, is an error.
fn unless_unsupported<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(facility) => Ok(Some(facility)),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Makes an owned descriptor of what the kernel returned.
///
/// # Safety
///
/// The number is a descriptor that the kernel just opened for us and nobody else knows.
pub(super) unsafe fn own(number: i32) -> OwnedFd {
    // SAFETY: the caller's promise.
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::super::file::SendFile;
    use super::super::op::NO_SOCKET;
    use super::*;
    use crate::driver::file::FileRange;

    impl Lane {
        /// `None` where io_uring is forbidden, as the whole suite is run there too.
        pub(in super::super) fn for_test() -> Option<Lane> {
            let buffers = BufferPolicy { size: 64, count: 1 };
            let streams = Arc::new(Streams::default());
            match Lane::new(0, buffers, Facilities::default(), streams) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
                lane => Some(lane.expect("io_uring")),
            }
        }
    }

    fn insert(lane: &Lane, state: &mut State) -> u32 {
        lane.insert(state, Kind::Readable, NO_SOCKET, Ticket::default())
    }

    #[test]
    fn a_name_is_not_given_again_soon() {
        let Some(lane) = Lane::for_test() else {
            eprintln!("skipped: io_uring is forbidden here");
            return;
        };
        let state = &mut *lane.state.lock();
        let key = insert(&lane, state);
        let stale = Lane::name(state, key);
        assert_eq!(Lane::find(state, stale), Some(key));
        state.ops.remove(key as usize);
        // As after so many more operations, of which the last has the place of the first.
        for operations in [1, 1 << 16, 1 << 24, u32::MAX - 1] {
            state.generation = user_data::generation(stale).wrapping_add(operations - 1);
            assert_eq!(insert(&lane, state), key);
            assert_eq!(Lane::find(state, stale), None, "{operations} later");
            state.ops.remove(key as usize);
        }
    }

    #[test]
    fn a_flag_of_accepts_that_the_kernel_does_not_know_is_told_from_one_that_it_knows() {
        let mut ring = match build_ring(false) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("skipped: io_uring is forbidden here");
                return;
            }
            ring => ring.expect("io_uring"),
        };
        const MULTISHOT: u16 = 1 << 0;
        const NONE: u16 = 1 << 15;
        assert!(!knows_accept_flag(&mut ring, NONE).expect("it answers"));
        // Known since Linux 5.19.
        assert!(knows_accept_flag(&mut ring, MULTISHOT).expect("it answers"));
        assert!(ring.completion().is_empty());
    }

    #[test]
    fn a_file_that_only_its_sending_had_is_closed_once_the_lane_is_unlocked() {
        let Some(lane) = Lane::for_test() else {
            eprintln!("skipped: io_uring is forbidden here");
            return;
        };
        // In place of a file, something whose closing shows.
        let (file, mut peer) = UnixStream::pair().expect("a pair");
        let file = Arc::new(File::from(OwnedFd::from(file)));
        let mut state = lane.state.lock();
        let kind = Kind::SendFile(SendFile::new(FileRange::new(file, 0, 1)));
        let key = lane.insert(&mut state, kind, NO_SOCKET, Ticket::default());
        complete::finish(&lane, &mut state, key, ABORTED);
        peer.set_nonblocking(true).expect("a socket");
        let open = peer.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(open, Err(io::ErrorKind::WouldBlock), "closed while locked");
        drop(state);
        lane.flush();
        peer.set_nonblocking(false).expect("a socket");
        let patience = Some(Duration::from_secs(10));
        peer.set_read_timeout(patience).expect("a socket");
        assert_eq!(peer.read(&mut [0]).expect("no error"), 0, "the other end");
    }
}
