//! One poller with its tables of sockets and operations, behind a lock that is free almost always.
//!
//! The lock is held across the calls that receive and send. None of them waits (`MSG_DONTWAIT`), a
//! long send is cut into pieces, and so the lock is held for microseconds. That is the price for
//! two things: the bytes of one direction keep their order whoever works on it, and no edge is
//! lost between a call that found nothing and the note that it did.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token, Waker};
use parking_lot::{Mutex, MutexGuard};
use slab::Slab;

use super::accept;
use super::complete;
use super::file::Read;
use super::op::{Kind, Op};
use super::socket::Socket;
use crate::buffer::Pool;
use crate::driver::accept_stream::{AcceptStream, Streams};
use crate::driver::outbox::Outbox;
use crate::driver::ticket::Ticket;
use crate::driver::{ABORTED, Sink, name};
use crate::port::{BufferPolicy, Completion, OperationId};
use crate::sync::atomic::AtomicBool;

/// In place of a socket in an event: somebody woke the lane.
const WAKE: Token = Token(usize::MAX);

/// Events taken from the system at a time. What does not fit is there at the next look.
const EVENTS: usize = 256;

/// The system may not know longer times, and the caller comes back anyway.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Who takes events, and so perhaps the one that was to wake a thread.
#[derive(Clone, Copy)]
enum Looker<'a> {
    /// The only thread that waits in this lane and no other: if it is released, a wake is its own.
    Waiter(&'a AtomicBool),
    /// A thread that does not wait, or waits in several lanes and was woken in who knows which.
    PasserBy,
}

pub(super) struct Lane {
    pub(super) index: usize,
    pub(super) streams: Arc<Streams>,
    pub(super) buffers: Pool,
    pub(super) state: Mutex<State>,
    /// Held by whoever waits, or looks, for events.
    poller: Mutex<Poller>,
    registry: Registry,
    waker: Waker,
    /// Sockets in the lane, to spread new ones evenly.
    pub(super) population: AtomicUsize,
    /// Threads in `wait`: one, or for a moment another that is taking over.
    waiting: AtomicUsize,
    /// Wakes that have not been answered.
    wakes: AtomicIsize,
}

struct Poller {
    poll: mio::Poll,
    events: mio::Events,
}

pub(super) struct State {
    pub(super) ops: Slab<Op>,
    pub(super) sockets: Slab<Socket>,
    pub(super) out: Outbox,
    /// Sockets with a send that a worker submitted. They rest until it comes back, as on a ring: a
    /// handler costs no system call, so that its worker is not taken for one that computes, and
    /// the send completes when its receive's completion is out of the way.
    pub(super) sends: VecDeque<u32>,
    /// Names of the operations that send a file and need more of it. Whoever takes completions reads
    /// it, with the lane unlocked.
    pub(super) reads: VecDeque<u64>,
    /// Sockets that may get on, each once, in the order in which they are served.
    runnable: VecDeque<u32>,
    /// When connections whose first data is awaited are closed, with the operation that waits.
    pub(super) deadlines: BTreeSet<(Instant, u32)>,
    /// Operations that wait for first data.
    pub(super) accepting: Vec<u32>,
    pub(super) closed: bool,
    /// To be done once the lane is unlocked.
    pub(super) after: Option<Box<After>>,
    generation: u32,
}

/// What must not be done with a lane locked.
#[derive(Default)]
pub(super) struct After {
    /// Sockets and files to close, which may linger.
    pub(super) closing: Vec<Arc<OwnedFd>>,
    pub(super) files: Vec<Arc<File>>,
    /// Completions that nobody will take. Dropping them runs code of the program.
    pub(super) dropped: Vec<Completion>,
    /// Accepts whose connection came to nothing, to be begun again in their listener's lane.
    pub(super) again: Vec<Arc<AcceptStream>>,
}

impl State {
    pub(super) fn after(&mut self) -> &mut After {
        self.after.get_or_insert_default()
    }

    /// Whether the table takes another operation.
    pub(super) fn has_room(&self) -> bool {
        self.ops.len() < name::MOST / 2
    }

    /// Puts an operation into the table.
    #[inline]
    pub(super) fn insert(&mut self, kind: Kind, socket: u32, ticket: Ticket) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        let place = self.ops.vacant_entry();
        let key = place.key() as u32;
        place.insert(Op {
            generation: self.generation,
            done: 0,
            ticket,
            socket,
            kind,
        });
        key
    }

    /// The operation of that name, if it is still in the table.
    pub(super) fn find(&self, id: u64) -> Option<u32> {
        let key = name::index(id);
        let op = self.ops.get(key as usize)?;
        (op.generation == name::generation(id)).then_some(key)
    }

    /// Has a socket looked at, after those that are waiting for that already.
    pub(super) fn queue(&mut self, index: u32) {
        if let Some(socket) = self.sockets.get_mut(index as usize) {
            if !std::mem::replace(&mut socket.queued, true) {
                self.runnable.push_back(index);
            }
        }
    }

    /// Makes a completion ready to be taken. On a closed lane nobody will take it.
    #[inline]
    pub(super) fn give(&mut self, completion: Completion) {
        match self.closed {
            true => self.drop_later(completion),
            false => self.out.push(completion),
        }
    }

    #[cold]
    fn drop_later(&mut self, completion: Completion) {
        self.after().dropped.push(completion);
    }

    pub(super) fn has_work(&self) -> bool {
        !self.out.is_empty()
            || !self.sends.is_empty()
            || !self.reads.is_empty()
            || !self.runnable.is_empty()
    }

    /// Notes what an event says.
    fn apply(&mut self, event: &Event) {
        let index = event.token().0 as u32;
        // An event may be older than the closing of its socket, and the place in use again: then
        // one call is made in vain.
        let Some(socket) = self.sockets.get_mut(index as usize) else {
            return;
        };
        let ended = event.is_read_closed() || event.is_error() || is_urgent(event);
        socket.ended |= ended;
        socket.readable |= event.is_readable() || ended;
        socket.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
        let receives = socket.receives.current.is_some() || !socket.accepts.is_empty();
        let wanted =
            socket.readable && receives || socket.writable && socket.sends.current.is_some();
        if wanted {
            self.queue(index);
        }
    }
}

/// A receive stops before urgent data, though more may follow it.
fn is_urgent(event: &Event) -> bool {
    cfg!(any(target_os = "linux", target_os = "android")) && event.is_priority()
}

impl Lane {
    pub(super) fn new(
        index: usize,
        buffers: BufferPolicy,
        streams: Arc<Streams>,
    ) -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        Ok(Lane {
            index,
            streams,
            buffers: Pool::new(buffers.size, buffers.count)?,
            state: Mutex::new(State {
                ops: Slab::new(),
                sockets: Slab::new(),
                out: Outbox::default(),
                sends: VecDeque::with_capacity(64),
                reads: VecDeque::new(),
                runnable: VecDeque::with_capacity(64),
                deadlines: BTreeSet::new(),
                accepting: Vec::new(),
                closed: false,
                after: None,
                generation: 0,
            }),
            registry: poll.registry().try_clone()?,
            waker: Waker::new(poll.registry(), WAKE)?,
            poller: Mutex::new(Poller {
                poll,
                events: mio::Events::with_capacity(EVENTS),
            }),
            population: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            wakes: AtomicIsize::new(0),
        })
    }

    /// Works on the lane with it locked, then does what must be done unlocked.
    pub(super) fn locked<R>(&self, lanes: &[Lane], work: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let result = work(&mut state);
        let after = state.after.take();
        drop(state);
        settle(lanes, after);
        result
    }

    pub(super) fn id(&self, state: &State, key: u32) -> OperationId {
        let generation = state.ops[key as usize].generation;
        OperationId(name::tagged(self.index as u64, name::of(generation, key)))
    }

    /// Takes a socket in. It is registered once, for both directions and all its life.
    pub(super) fn register(&self, socket: Socket) -> Result<u32, io::Error> {
        let fd = socket.fd.clone();
        let index = self.state.lock().sockets.insert(socket) as u32;
        self.population.fetch_add(1, Ordering::Relaxed);
        let number = fd.map_or(-1, |fd| fd.as_raw_fd());
        let both = Interest::READABLE | Interest::WRITABLE;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let both = both | Interest::PRIORITY;
        let token = Token(index as usize);
        match self.registry.register(&mut SourceFd(&number), token, both) {
            Ok(()) => Ok(index),
            Err(error) => {
                self.state.lock().sockets.remove(index as usize);
                self.population.fetch_sub(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Takes a file in. It is always ready, and has nothing to be registered for.
    pub(super) fn insert_file(&self, file: Arc<File>) -> u32 {
        self.population.fetch_add(1, Ordering::Relaxed);
        let file = Some(file);
        let entry = Socket {
            file,
            ..Socket::default()
        };
        self.state.lock().sockets.insert(entry) as u32
    }

    /// Closes a socket that has no operation.
    pub(super) fn close_now(&self, state: &mut State, index: u32) {
        let file = state.sockets[index as usize].file.take();
        if file.is_some() {
            state.after().files.extend(file);
        }
        if let Some(fd) = state.sockets[index as usize].fd.take() {
            // The program may have a descriptor of the same socket, so that closing ours would not
            // end the registration. An error would mean that it has ended.
            let _ = self.registry.deregister(&mut SourceFd(&fd.as_raw_fd()));
            state.after().closing.push(fd);
        }
    }

    /// Forgets a closed socket.
    pub(super) fn forget(&self, state: &mut State, index: u32) {
        state.sockets.remove(index as usize);
        self.population.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn reap(&self, lanes: &[Lane], max: usize, sink: &mut Sink<'_>) -> usize {
        if max == 0 {
            return 0;
        }
        let mut taken = 0;
        let mut may_read = true;
        loop {
            let mut state = self.state.lock();
            // One piece of a file at a time, so that neither files nor the rest wait for all of the
            // other; but what has been taken does not wait for the disk.
            may_read &= taken == 0;
            let read = if may_read {
                Read::next(&mut state)
            } else {
                None
            };
            if let Some(read) = read {
                may_read = false;
                self.read(lanes, state, read);
                continue;
            }
            state.out.begin(sink, max - taken);
            let accepts = self.work_off(&mut state);
            taken += state.out.end(sink, max - taken);
            let reads = may_read && taken == 0 && !state.reads.is_empty();
            self.unlock(lanes, state);
            match accepts {
                Some(stream) => accept::accept(lanes, &stream),
                None if reads => {}
                None => return taken,
            }
        }
    }

    /// Lets sockets get on until whoever takes completions has enough or nothing is left to be done.
    /// Returns the stream of a listener that may have a connection for it, if that is what is next.
    fn work_off(&self, state: &mut State) -> Option<Arc<AcceptStream>> {
        while state.out.is_wanted() {
            if self.send_next(state) {
                continue;
            }
            let socket = state.runnable.pop_front()?;
            let accepts = complete::run(self, state, socket);
            if accepts.is_some() {
                return accepts;
            }
        }
        None
    }

    /// Reads a piece of a file that is being sent, with the lane unlocked for that long.
    fn read(&self, lanes: &[Lane], state: MutexGuard<'_, State>, read: Read) {
        self.unlock(lanes, state);
        let has_read = read.carry_out();
        has_read.apply(self, &mut self.state.lock());
    }

    /// Unlocks the lane, does what must be done unlocked, and leaves what is left to whoever waits
    /// here, who sees events and not what others found.
    fn unlock(&self, lanes: &[Lane], mut state: MutexGuard<'_, State>) {
        let left = state.has_work();
        let after = state.after.take();
        drop(state);
        settle(lanes, after);
        if left {
            self.rouse();
        }
    }

    /// Sends what rests on one socket; whether there was one.
    fn send_next(&self, state: &mut State) -> bool {
        let Some(index) = state.sends.pop_front() else {
            return false;
        };
        if state.sockets.contains(index as usize) {
            complete::send(self, state, index);
        }
        true
    }

    /// Whether there is something to take, or a socket that may bring it.
    pub(super) fn pending(&self) -> bool {
        self.state.try_lock().is_some_and(|state| state.has_work())
    }

    /// Sends what rests here, and looks for events without waiting. Returns whether there is
    /// something to take.
    pub(super) fn flush(&self, lanes: &[Lane]) -> bool {
        // The lock is given up between sends, since there may be any number of them.
        while self.locked(lanes, |state| self.send_next(state)) {}
        let found = match self.poller.try_lock() {
            Some(mut poller) => {
                self.look(lanes, &mut poller, Some(Duration::ZERO), Looker::PasserBy)
            }
            // Whoever waits sees them.
            None => false,
        };
        if self.waiting.load(Ordering::SeqCst) > 0 && self.state.lock().has_work() {
            self.wake_up();
        }
        found
    }

    /// Waits for an event, a wake, or the end of the time.
    pub(super) fn wait(&self, lanes: &[Lane], timeout: Option<Duration>, released: &AtomicBool) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let timeout = self.until_deadline(timeout);
        let poller = match timeout {
            None => Some(self.poller.lock()),
            Some(timeout) => self.poller.try_lock_for(timeout),
        };
        // Checked last: whoever releases this thread or finds something for it afterwards sees that
        // it waits, and makes an event.
        let idle = || !released.load(Ordering::SeqCst) && !self.state.lock().has_work();
        if let Some(mut poller) = poller.filter(|_| idle()) {
            self.look(lanes, &mut poller, timeout, Looker::Waiter(released));
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Prepares a wait in several lanes at once. Returns how long that may be.
    pub(super) fn begin_shared_wait(&self, timeout: Option<Duration>) -> Option<Duration> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.until_deadline(timeout)
    }

    pub(super) fn end_shared_wait(&self, lanes: &[Lane]) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if let Some(mut poller) = self.poller.try_lock() {
            self.look(lanes, &mut poller, Some(Duration::ZERO), Looker::PasserBy);
        }
    }

    /// A time, cut off at the lane's next deadline and at what the system knows.
    fn until_deadline(&self, timeout: Option<Duration>) -> Option<Duration> {
        let first = self.state.lock().deadlines.first().copied();
        let left = first.map(|(deadline, _)| deadline.saturating_duration_since(Instant::now()));
        let shortest = left.into_iter().chain(timeout).min()?;
        Some(shortest.min(LONGEST_WAIT))
    }

    /// Takes events from the system, waiting no longer than `timeout` for one, and works off what
    /// they and the deadlines say.
    fn look(
        &self,
        lanes: &[Lane],
        poller: &mut Poller,
        timeout: Option<Duration>,
        looker: Looker<'_>,
    ) -> bool {
        if poller.poll.poll(&mut poller.events, timeout).is_err() {
            // Interrupted: the caller comes back.
            return false;
        }
        let mut woken = false;
        let found = self.locked(lanes, |state| {
            for event in &poller.events {
                match event.token() {
                    WAKE => woken = true,
                    _ => state.apply(event),
                }
            }
            accept::expire(self, state);
            state.has_work()
        });
        // A wake for another thread is passed on, and so is one that only says to look again.
        let for_another = match looker {
            Looker::Waiter(released) => {
                let own = isize::from(released.load(Ordering::SeqCst));
                self.wakes.load(Ordering::SeqCst) > own
            }
            Looker::PasserBy => {
                self.wakes.load(Ordering::SeqCst) > 0 || self.waiting.load(Ordering::SeqCst) > 0
            }
        };
        if woken && for_another {
            self.wake_up();
        }
        found
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the registry keeps its descriptor open as long as the lane.
        unsafe { BorrowedFd::borrow_raw(self.registry.as_raw_fd()) }
    }

    /// Rouses a waiting thread that has been released. Until it answers, whoever sees the event
    /// meant for it makes another.
    pub(super) fn wake(&self) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        self.wake_up();
    }

    pub(super) fn woken(&self) {
        self.wakes.fetch_sub(1, Ordering::SeqCst);
    }

    /// Has the thread that waits in the lane, if there is one, look again.
    pub(super) fn rouse(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.wake_up();
        }
    }

    fn wake_up(&self) {
        // Fails while the kernel is out of memory.
        while self.waker.wake().is_err() {
            std::thread::yield_now();
        }
    }

    /// Ends every operation. Nothing is with the system between calls.
    pub(super) fn shutdown(&self, lanes: &[Lane]) {
        self.locked(lanes, |state| {
            let keys: Vec<u32> = state.ops.iter().map(|(key, _)| key as u32).collect();
            for key in keys {
                match state.ops.get(key as usize).map(|op| &op.kind) {
                    Some(Kind::FirstData(_)) => accept::abandon(self, state, key),
                    Some(_) => complete::withdraw(self, state, key, ABORTED),
                    None => {}
                }
            }
            let mut undelivered = state.out.clear();
            for (_, socket) in &mut state.sockets {
                undelivered.extend(socket.held.take());
            }
            state.after().dropped.extend(undelivered);
        });
    }
}

/// Does what was left to be done without a lock.
fn settle(lanes: &[Lane], after: Option<Box<After>>) {
    let Some(after) = after else {
        return;
    };
    let After {
        closing,
        files,
        dropped,
        again,
    } = *after;
    for stream in again {
        accept::begin(lanes, &stream);
    }
    drop(closing);
    drop(files);
    drop(dropped);
}
