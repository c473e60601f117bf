//! The completion port: one queue of finished operations, shared by a few workers.
//!
//! The eight steps of the classic tutorial: create a port, start workers that
//! [`get`](CompletionPort::get), [`associate`](CompletionPort::associate) a listener,
//! [`submit`](Handle::submit) an accept; on an accept associate the connection and submit a
//! receive; on a receive use the data and submit the next; [`close`](Handle::close) the handle, or
//! drop it with nothing pending. The example `eight_steps` is exactly that.
//!
//! ```
//! use landfall::port::{CompletionPort, Packet};
//!
//! let port = CompletionPort::new(0)?;
//! port.post(Packet { bytes: 3, key: 7, token: 1 })?;
//! let completion = port.get(None)?;
//! assert_eq!((completion.key(), completion.bytes()), (7, 3));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod accepted;
mod address;
mod builder;
mod completion;
mod error;
mod handle;
mod operation;
mod os;
mod queue;
mod scheduler;
mod source;
mod timers;
mod watcher;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

pub use accepted::Accepted;
pub use builder::{BufferPolicy, Builder, DriverChoice, Facilities};
pub use completion::{Completion, CompletionKind, Packet};
pub use error::{AssociateError, GetError, PostError, SubmitError, is_aborted};
pub use handle::{Association, Handle};
pub use operation::{Accept, Operation, OperationId, SocketOption};
pub use source::Source;

#[cfg(unix)]
pub(crate) use address::Address;
pub(crate) use completion::Payload;
pub(crate) use scheduler::Posted;

use crate::driver::{Driver, Sink, SocketRef};
use queue::Queue;
use source::SourceKind;
use watcher::Watcher;

/// A completion port. Clones share it.
///
/// Dropping the last clone closes the port and returns when the system no longer holds any of the
/// buffers that were submitted.
#[derive(Clone)]
pub struct CompletionPort(Arc<Owner>);

struct Owner {
    shared: Arc<Shared>,
    watcher: Watcher,
}

/// What clones of the port, handles and workers share.
pub(crate) struct Shared {
    pub(crate) driver: Box<dyn Driver>,
    queue: Queue,
    closed: AtomicBool,
    owner: parking_lot::Mutex<Weak<Owner>>,
    driver_reason: String,
}

impl CompletionPort {
    /// Creates a port on which at most `concurrency` threads run at a time; 0 means one per
    /// processor.
    ///
    /// Start about twice as many workers: one that sleeps or waits in user code is noticed and
    /// covered by another.
    ///
    /// # Errors
    ///
    /// Fails when the system refuses the driver's set-up, with what it refused and what to do.
    pub fn new(concurrency: usize) -> io::Result<Self> {
        Builder::new().concurrency(concurrency).build()
    }

    /// A port with other settings than the default.
    pub fn builder() -> Builder {
        Builder::new()
    }

    fn from_parts(
        driver: Box<dyn Driver>,
        concurrency: usize,
        driver_reason: String,
    ) -> io::Result<Self> {
        let shared = Shared::new(driver, concurrency, driver_reason);
        let watcher = Watcher::start(&shared)?;
        Ok(Self::owned(shared, watcher))
    }

    fn owned(shared: Arc<Shared>, watcher: Watcher) -> Self {
        let owner = Arc::new(Owner { shared, watcher });
        *owner.shared.owner.lock() = Arc::downgrade(&owner);
        CompletionPort(owner)
    }

    /// A port over a simulated driver without a thread of its own: what happens, happens when the
    /// calling thread says so.
    #[cfg(all(test, unix, not(loom)))]
    pub(crate) fn simulated(driver: Box<dyn Driver>) -> Self {
        let shared = Shared::new(driver, 1, "a simulation".to_owned());
        Self::owned(shared, Watcher::without_thread())
    }

    /// Posts the timers of a simulated port that have run out by `now`; returns when the next one
    /// is due.
    #[cfg(all(test, unix, not(loom)))]
    pub(crate) fn post_due_timers(&self, now: Instant) -> Option<Instant> {
        self.0.watcher.post_due_timers(&self.0.shared, now)
    }

    fn of(shared: &Arc<Shared>) -> io::Result<Self> {
        let owner = shared.owner.lock().upgrade();
        owner.map(CompletionPort).ok_or_else(closed_port)
    }

    /// Associates a socket or a file with the port under a key, which comes back in every
    /// completion of the handle. It belongs to the port from then on; a file may be shared with the
    /// program (`Arc<File>`), and stays open as long as either has it.
    ///
    /// # Errors
    ///
    /// Fails when the port is closed, the connection was accepted by another port, or the system
    /// refuses the socket or the file (on Windows one that was not opened for overlapped operations,
    /// see [`Source`]). It comes back.
    pub fn associate(
        &self,
        source: impl Into<Source>,
        key: usize,
    ) -> Result<Handle, AssociateError> {
        self.associate_with(source, Association::new(key))
    }

    /// Associates a socket or a file with more than a key; see [`Association`].
    ///
    /// # Errors
    ///
    /// As [`associate`](Self::associate).
    pub fn associate_with(
        &self,
        source: impl Into<Source>,
        association: Association,
    ) -> Result<Handle, AssociateError> {
        let shared = &self.0.shared;
        let refuse = |error, source| {
            Err(AssociateError {
                error,
                source: Source(source),
            })
        };
        let beside = association.beside.as_ref();
        match source.into().0 {
            source if shared.is_closed() => refuse(closed_port(), source),
            source if beside.is_some_and(|other| !other.is_of(shared)) => {
                let error = io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a socket can only be put beside one of the same port",
                );
                refuse(error, source)
            }
            SourceKind::Accepted(accepted) if !Arc::ptr_eq(&accepted.shared, shared) => {
                let error = io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the connection was accepted by another port and stays with it",
                );
                refuse(error, SourceKind::Accepted(accepted))
            }
            SourceKind::Accepted(mut accepted) => {
                let socket = accepted.socket.take().expect("not yet associated");
                Ok(Handle::new(
                    shared.clone(),
                    socket,
                    association,
                    accepted.peer,
                ))
            }
            SourceKind::Socket(socket, origin) => {
                let beside = association.beside.as_ref().map(Handle::socket);
                match shared.driver.attach(socket, origin, beside) {
                    Ok(socket) => Ok(Handle::new(shared.clone(), socket, association, None)),
                    Err((error, socket)) => refuse(error, SourceKind::Socket(socket, origin)),
                }
            }
            SourceKind::File(file) => match shared.driver.attach_file(file.clone()) {
                Ok(place) => Ok(Handle::new(shared.clone(), place, association, None)),
                Err(error) => refuse(error, SourceKind::File(file)),
            },
        }
    }

    /// Queues a packet of the program's own. Packets come out first in, first out. The thread that
    /// began to wait last is released for it, if fewer than the concurrency value are running.
    ///
    /// # Errors
    ///
    /// The port is closed, or the system (Windows) has no memory for the packet, which comes back.
    pub fn post(&self, packet: Packet) -> Result<(), PostError> {
        self.0.shared.post(packet, false)
    }

    /// As [`post`](Self::post), for a worker that will itself come back to `get` soon: another
    /// worker is released only when a packet was waiting already. Should this worker block or
    /// compute instead, another one is released within milliseconds.
    ///
    /// # Errors
    ///
    /// As [`post`](Self::post).
    pub fn post_later(&self, packet: Packet) -> Result<(), PostError> {
        self.0.shared.post(packet, true)
    }

    /// Queues a completion of kind [`Timer`](CompletionKind::Timer) for a moment to come; not
    /// before it, and usually within a tenth of a millisecond after it.
    ///
    /// # Errors
    ///
    /// The port is closed.
    pub fn timer(&self, deadline: Instant, key: usize, token: usize) -> io::Result<OperationId> {
        if self.0.shared.is_closed() {
            return Err(closed_port());
        }
        Ok(self.0.watcher.timer(
            deadline,
            Packet {
                bytes: 0,
                key,
                token,
            },
        ))
    }

    /// Takes a timer back. `false`: it has run out, or there is none of that name; its completion
    /// has been queued.
    pub fn cancel_timer(&self, id: OperationId) -> bool {
        self.0.watcher.cancel_timer(id)
    }

    /// Takes the next completion, waiting for one no longer than `timeout` (`None`: for ever).
    ///
    /// The calling thread becomes a worker of this port, and counts as running from the return of
    /// `get` to its next call, except while it blocks. On Linux its first call asks the system for slices
    /// of 0.1 ms (`sched_runtime` in sched_setattr(2)), so that workers that compute and workers that
    /// wait for a processor keep each other waiting for less. That stays with the thread, and threads and
    /// processes that it starts inherit it.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](GetError::TimedOut); [`Abandoned`](GetError::Abandoned) when the port is
    /// closed meanwhile; [`Closed`](GetError::Closed) when it was closed before.
    pub fn get(&self, timeout: Option<Duration>) -> Result<Completion, GetError> {
        let mut taken = None;
        self.0.shared.get(&mut Sink::One(&mut taken), 1, timeout)?;
        Ok(taken.expect("get returns with a completion"))
    }

    /// Appends up to `max` completions to `taken` and returns how many, as soon as there is at
    /// least one; never waits for more. Each has its own result.
    ///
    /// What one thread takes, no other can help with: take few (8 is plenty) when handlers may be
    /// slow.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// # Panics
    ///
    /// When `max` is 0.
    pub fn get_many(
        &self,
        taken: &mut Vec<Completion>,
        max: usize,
        timeout: Option<Duration>,
    ) -> Result<usize, GetError> {
        assert!(max > 0, "get_many was asked for no completion at all");
        self.0.shared.get(&mut Sink::Many(taken), max, timeout)
    }

    /// Closes the port: threads in `get` return [`Abandoned`](GetError::Abandoned), pending
    /// operations are ended and their buffers freed, what was queued is dropped. Returns when the
    /// system holds none of the port's memory any more. Closing twice does nothing.
    pub fn close(&self) {
        self.0.shared.close();
    }

    /// How many threads may run at a time.
    pub fn concurrency(&self) -> usize {
        self.0.shared.queue.concurrency()
    }

    /// The driver that runs: `uring`, `poll` or `iocp`.
    pub fn driver(&self) -> &'static str {
        self.0.shared.driver.name()
    }

    /// Why that driver was chosen, in a sentence.
    pub fn driver_reason(&self) -> &str {
        &self.0.shared.driver_reason
    }

    /// How many sockets the port can hold at most, as the system's limits were when it was created;
    /// `usize::MAX` where nothing but memory bounds them.
    ///
    /// On io_uring these are the places in the tables of the port's [lanes](Builder::lanes), each of
    /// which is as large as the limit on descriptors (`ulimit -n`) allows. Without
    /// [direct descriptors](Facilities::direct_descriptors) it is that limit itself, which the rest
    /// of the process shares.
    pub fn socket_capacity(&self) -> usize {
        self.0.shared.driver.socket_capacity()
    }

    /// Threads that run now: those that took a completion and are neither waiting nor blocked.
    ///
    /// On Windows those that are blocked in user code are counted as well: the kernel, which knows
    /// them, does not tell.
    pub fn running(&self) -> usize {
        self.0.shared.queue.running()
    }

    /// Whether one more thread would run if there was something to do.
    pub(crate) fn could_run_more(&self) -> bool {
        self.0.shared.queue.could_run_more()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.close();
        self.watcher.join();
    }
}

impl fmt::Debug for CompletionPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionPort")
            .field("driver", &self.0.shared.driver)
            .field("concurrency", &self.concurrency())
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn new(driver: Box<dyn Driver>, concurrency: usize, driver_reason: String) -> Arc<Self> {
        let queue = Queue::new(driver.as_ref(), concurrency);
        Arc::new(Shared {
            driver,
            queue,
            closed: AtomicBool::new(false),
            owner: parking_lot::Mutex::new(Weak::new()),
            driver_reason,
        })
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn get(
        self: &Arc<Self>,
        sink: &mut Sink<'_>,
        max: usize,
        timeout: Option<Duration>,
    ) -> Result<usize, GetError> {
        self.queue.get(self, sink, max, timeout)
    }

    fn post(&self, packet: Packet, later: bool) -> Result<(), PostError> {
        let item = Posted {
            kind: CompletionKind::Packet,
            id: OperationId(0),
            packet,
        };
        self.queue
            .post(self.driver.as_ref(), item, later)
            .map_err(|error| PostError { error, packet })
    }

    fn submit(
        &self,
        handle: &Handle,
        operation: Operation,
        token: usize,
    ) -> Result<OperationId, SubmitError> {
        // What stays with its submitter is left to a worker of the lane, which takes what it brings.
        let stays_in = self
            .driver
            .stays_with_submitter(handle.socket(), &operation);
        let worker = match stays_in {
            Some(lanes) => self.queue.is_at_home(lanes),
            None => self.queue.is_worker(),
        };
        let submitted = self.driver.submit(handle, operation, token, worker)?;
        self.touched(submitted.lanes, worker);
        Ok(submitted.id)
    }

    fn cancel(&self, socket: SocketRef, id: OperationId) -> bool {
        let worker = self.queue.is_worker();
        let lanes = self.driver.cancel(socket, id, worker);
        self.touched_at_once(lanes.unwrap_or(0), worker);
        lanes.is_some()
    }

    fn cancel_all(&self, socket: SocketRef) -> usize {
        let worker = self.queue.is_worker();
        let (count, lanes) = self.driver.cancel_all(socket, worker);
        self.touched_at_once(lanes, worker);
        count
    }

    fn close_socket(&self, socket: SocketRef) {
        let worker = self.queue.is_worker();
        let lanes = self.driver.close(socket, worker);
        self.touched(lanes, worker);
    }

    pub(crate) fn release(&self, socket: SocketRef) {
        let worker = self.queue.is_worker();
        let lanes = self.driver.release(socket, worker);
        self.touched(lanes, worker);
    }

    fn next_turn(&self, socket: SocketRef) {
        self.driver.next_turn(socket);
        self.touched(1 << socket.lane, self.queue.is_worker());
    }

    /// A worker flushes what it touched when it comes back to `get`; for another thread, whoever
    /// waits on the lanes is woken to do it.
    fn touched(&self, lanes: u64, worker: bool) {
        if worker {
            self.queue.mark_dirty(lanes);
        } else {
            self.queue.nudge(self.driver.as_ref(), lanes);
        }
    }

    /// As `touched`, for what is not to wait until a worker is done: until a receive is cancelled,
    /// it goes on to take data in.
    fn touched_at_once(&self, lanes: u64, worker: bool) {
        if worker {
            self.queue.flush_lanes(self.driver.as_ref(), lanes);
        }
        self.touched(lanes, worker);
    }

    fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.queue.close(self.driver.as_ref());
            self.driver.shutdown();
        }
    }
}

fn closed_port() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the completion port is closed")
}
