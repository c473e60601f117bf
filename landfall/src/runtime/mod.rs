//! Tasks run by the workers of one completion port.
//!
//! The port is the run queue. A worker takes a completion, tells whoever waits for it, runs the
//! task that this woke, and comes back to the port for the next; a task that is woken in any other
//! way is queued, with a packet posted for it. So any worker runs any task, no worker has a queue
//! of its own that others would have to steal from, and a task is never run by two at once.
//!
//! A task may simply block (sleep, lock, read a file, compute): the port notices and lets another
//! worker go on, and when all of them are blocked the runtime starts more, within a bound.
//!
//! ```
//! use std::time::Duration;
//! use landfall::runtime::{self, Runtime, time};
//!
//! let runtime = Runtime::new()?;
//! let sum = runtime.block_on(async {
//!     let slow = runtime::spawn(async {
//!         time::sleep(Duration::from_millis(10)).await;
//!         40
//!     });
//!     let blocking = runtime::spawn(async {
//!         std::thread::sleep(Duration::from_millis(10));
//!         2
//!     });
//!     Ok::<i32, runtime::JoinError>(slow.await? + blocking.await?)
//! })?;
//! assert_eq!(sum, 42);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod alarm;
mod block_on;
mod builder;
mod cover;
mod join;
mod ready;
mod respond;
mod task;
pub mod time;
mod worker;

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

pub(crate) use alarm::Alarm;
pub use builder::Builder;
pub use join::{JoinError, JoinHandle};
pub(crate) use respond::{Event, Observer, Respond};
pub(crate) use worker::worker_index;

use crate::port::CompletionPort;
use alarm::Alarms;
use cover::Cover;
use ready::Ready;
use respond::Responders;
use task::Tasks;

/// Workers of one port, and the tasks they run.
///
/// Dropping the runtime drops every task at the point where it waits, ends what the system still
/// does for it and returns when all workers have ended, so it waits for a task that blocks. What
/// had been handed to [`send`](crate::net::TcpStream::send) and not been taken by the system is
/// lost; a [`Server`](crate::server::Server) waits for it when it drains. Dropped by one of its own
/// workers, a runtime ends in the background instead.
pub struct Runtime {
    shared: Arc<Shared>,
}

/// What tasks, sockets and workers of one runtime share.
pub(crate) struct Shared {
    pub(crate) port: CompletionPort,
    ready: Ready,
    tasks: Tasks,
    alarms: Alarms,
    responders: Responders,
    cover: Cover,
    closing: AtomicBool,
    close_deadline: Duration,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Runtime {
    /// A runtime with the default settings: two workers per processor, as many of them running at
    /// a time as there are processors.
    ///
    /// # Errors
    ///
    /// The system refuses the port's set-up or a thread.
    pub fn new() -> io::Result<Self> {
        Builder::new().build()
    }

    /// A runtime with other settings.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Runs a future on the calling thread, which waits while it is not ready. Tasks that it
    /// spawns run on the workers.
    ///
    /// The calling thread is no worker: each time the future waits for something, a worker has to
    /// wake it. Where that matters, spawn a task and block on its [`JoinHandle`].
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let _current = enter(self.shared.clone());
        block_on::block_on(future)
    }

    /// Starts a task. It runs whether or not the handle is awaited.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        task::spawn(&self.shared, future)
    }

    /// The port that carries the runtime, to look at: its driver, its concurrency value.
    ///
    /// The runtime's workers take every completion of this port, so it is of no use for operations
    /// of the program's own.
    pub fn port(&self) -> &CompletionPort {
        &self.shared.port
    }

    /// How many workers there are now, spares included.
    pub fn workers(&self) -> usize {
        self.shared.cover.workers()
    }
}

#[cfg(all(test, unix, not(loom)))]
impl Runtime {
    /// Does what a worker does with one completion, on the calling thread. `false`: there is none.
    pub(crate) fn step(&self) -> bool {
        self.shared.work_once()
    }

    /// Tasks that have not ended, and sockets that have not been forgotten.
    pub(crate) fn census(&self) -> (usize, usize) {
        (self.shared.tasks.len(), self.shared.responders.len())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let shared = self.shared.clone();
        if !shared.is_own_thread() {
            return shared.shut_down();
        }
        // A worker cannot wait for its own end. Without a thread to wait in its place everything
        // is still told to end; only nobody waits for it.
        shared.begin_shut_down();
        let waiter = thread::Builder::new().name("landfall-end".to_owned());
        drop(waiter.spawn(move || shared.shut_down()));
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("port", &self.shared.port)
            .field("workers", &self.workers())
            .field("tasks", &self.shared.tasks.len())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Whether the runtime is being dropped: its tasks are not run any more.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// How long a dropped stream may take to send what is queued.
    pub(crate) fn close_deadline(&self) -> Duration {
        self.close_deadline
    }

    /// Whether the calling thread is a worker of this runtime, or blocks on it.
    pub(crate) fn is_current(&self) -> bool {
        let is_this = |current: &Arc<Shared>| std::ptr::eq(Arc::as_ptr(current), self);
        CURRENT
            .try_with(|current| current.borrow().as_ref().is_some_and(is_this))
            .unwrap_or(false)
    }

    /// What to answer when the port has refused an operation. In a task of a runtime that is being
    /// dropped nothing is answered any more: the task is dropped as soon as it waits, and one that
    /// tries again and again would not end.
    pub(crate) fn refused(&self, error: io::Error) -> Poll<io::Error> {
        match self.is_closing() && self.is_current() {
            true => Poll::Pending,
            false => Poll::Ready(error),
        }
    }

    /// The error for code that is run by somebody else and waits for a socket or a file of a runtime
    /// that has been dropped.
    pub(crate) fn abandoned(&self) -> Option<io::Error> {
        let abandoned = self.is_closing() && !self.is_current();
        abandoned.then(|| {
            io::Error::new(
                io::ErrorKind::NotConnected,
                "the socket's or file's runtime has been dropped",
            )
        })
    }

    fn is_own_thread(&self) -> bool {
        let this = thread::current().id();
        self.threads
            .lock()
            .iter()
            .any(|thread| thread.thread().id() == this)
    }

    /// Has every task polled, for one that is to look at something that has changed.
    pub(crate) fn wake_all_tasks(&self) {
        self.tasks.wake_all();
    }

    fn begin_shut_down(&self) {
        self.closing.store(true, Ordering::Release);
        self.cover.close();
    }

    fn shut_down(&self) {
        self.begin_shut_down();
        // The thread that starts spares ends first, so that no worker comes late.
        let threads = std::mem::take(&mut *self.threads.lock());
        let (starters, workers): (Vec<_>, Vec<_>) = threads
            .into_iter()
            .partition(|t| t.thread().name() == Some(cover::THREAD_NAME));
        join_all(starters);
        self.port.close();
        join_all(workers);
        join_all(std::mem::take(&mut *self.threads.lock()));
        self.tasks.close(&self.ready);
        self.responders.abandon();
        self.alarms.abandon();
    }
}

fn join_all(threads: Vec<thread::JoinHandle<()>>) {
    for thread in threads {
        // Panics of tasks are caught; one of our own has been reported by the panic hook.
        let _ = thread.join();
    }
}

/// Starts a task on the runtime that the calling code runs in.
///
/// # Panics
///
/// Outside of a runtime: on a thread that is neither a worker nor in [`Runtime::block_on`].
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match current() {
        Some(shared) => task::spawn(&shared, future),
        None => panic!("{OUTSIDE}"),
    }
}

/// Starts a task on a runtime that the caller knows.
pub(crate) fn spawn_on<F>(shared: &Arc<Shared>, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    task::spawn(shared, future)
}

/// Lets other ready tasks run first.
pub fn yield_now() -> impl Future<Output = ()> + Send {
    YieldNow { yielded: false }
}

struct YieldNow {
    yielded: bool,
}

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// What to say when something needs a runtime and there is none.
pub(crate) const OUTSIDE: &str =
    "no Landfall runtime here: call this in a task of one, or inside Runtime::block_on";

thread_local! {
    static CURRENT: RefCell<Option<Arc<Shared>>> = const { RefCell::new(None) };
}

/// The runtime that the calling thread is a worker of or blocks on.
pub(crate) fn current() -> Option<Arc<Shared>> {
    CURRENT
        .try_with(|current| current.borrow().clone())
        .ok()
        .flatten()
}

/// As [`current`], for functions that can fail.
pub(crate) fn current_or_error() -> io::Result<Arc<Shared>> {
    current().ok_or_else(|| io::Error::other(OUTSIDE))
}

/// Makes a runtime the calling thread's own until the result is dropped.
fn enter(shared: Arc<Shared>) -> impl Drop {
    struct Leave(Option<Arc<Shared>>);
    impl Drop for Leave {
        fn drop(&mut self) {
            CURRENT.with(|current| current.replace(self.0.take()));
        }
    }
    Leave(CURRENT.with(|current| current.replace(Some(shared))))
}
