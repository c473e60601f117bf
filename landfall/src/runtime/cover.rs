//! Spare workers. While every worker is in code of the program and one of them is blocked there,
//! nobody would take completions: one more is started, within a bound.
//!
//! Spares stay until the runtime ends, asleep in the port while they are not needed: what a thread
//! has submitted ends with the thread.

use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::Shared;
use crate::explained::no_thread;

pub(super) const THREAD_NAME: &str = "landfall-cover";

/// Before a look, at first. The port needs about as long to notice that a worker is blocked.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
/// Before a look when the last ones found no spare to be needed, or to be had.
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

pub(super) struct Cover {
    /// For each worker that there may ever be, whether it is in code of the program.
    inside: Box<[Flag]>,
    workers: AtomicUsize,
    /// Whether the thread that starts spares sleeps until a worker wakes it.
    asleep: AtomicBool,
    closed: AtomicBool,
    thread: OnceLock<Thread>,
}

/// A flag in a cache line of its own: each worker writes its own at every task it runs.
#[repr(align(64))]
#[derive(Default)]
struct Flag(AtomicBool);

/// One worker's place.
pub(super) struct Seat<'a> {
    cover: &'a Cover,
    index: usize,
    /// A worker that was not in the program's code when last looked; most probably it still is
    /// not, as those that wait in the port go on waiting.
    idle: usize,
}

impl Cover {
    pub(super) fn new(workers: usize, most_spares: usize) -> Self {
        Cover {
            inside: (0..workers + most_spares)
                .map(|_| Flag::default())
                .collect(),
            workers: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            thread: OnceLock::new(),
        }
    }

    pub(super) fn workers(&self) -> usize {
        self.workers.load(Ordering::Relaxed)
    }

    /// The index of a new worker. Only one thread at a time adds workers.
    pub(super) fn add_worker(&self) -> usize {
        self.workers.fetch_add(1, Ordering::SeqCst)
    }

    pub(super) fn take_worker_back(&self) {
        self.workers.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn seat(&self, index: usize) -> Seat<'_> {
        Seat {
            cover: self,
            index,
            idle: 0,
        }
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// A worker that is not in code of the program, looked for from `first` on.
    fn idle_worker(&self, first: usize) -> Option<usize> {
        let workers = self.workers.load(Ordering::SeqCst);
        let from_first = (first..workers).chain(0..first.min(workers));
        from_first
            .into_iter()
            .find(|&index| !self.inside[index].0.load(Ordering::SeqCst))
    }

    fn may_grow(&self) -> bool {
        self.workers() < self.inside.len()
    }
}

impl Seat<'_> {
    /// Wakes the thread that starts spares when nobody is left to take completions.
    ///
    /// Of two workers that enter at once, one sees both inside, as the flags and the sleep of that
    /// thread are written and read in one order for all.
    pub(super) fn enter_user_code(&mut self) {
        let cover = self.cover;
        cover.inside[self.index].0.swap(true, Ordering::SeqCst);
        match cover.idle_worker(self.idle) {
            Some(idle) => self.idle = idle,
            None if cover.asleep.load(Ordering::SeqCst) => cover.wake(),
            None => {}
        }
    }

    pub(super) fn leave_user_code(&mut self) {
        self.cover.inside[self.index]
            .0
            .store(false, Ordering::Release);
    }
}

impl Shared {
    /// Starts the thread that starts spares.
    pub(super) fn start_cover(self: &Arc<Self>) -> io::Result<()> {
        let shared = self.clone();
        let thread = thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .spawn(move || shared.cover_blocked_workers())
            .map_err(|error| no_thread("the one that covers blocked workers", error))?;
        self.cover.thread.get_or_init(|| thread.thread().clone());
        self.threads.lock().push(thread);
        Ok(())
    }

    fn cover_blocked_workers(self: Arc<Self>) {
        let cover = &self.cover;
        let mut pause = SHORTEST_PAUSE;
        while !cover.closed.load(Ordering::SeqCst) {
            cover.asleep.store(true, Ordering::SeqCst);
            if cover.idle_worker(0).is_some() {
                let since = Instant::now();
                thread::park();
                if since.elapsed() > LONGEST_PAUSE {
                    pause = SHORTEST_PAUSE;
                }
            }
            cover.asleep.store(false, Ordering::SeqCst);
            // Most tasks give their worker back at once. Where there are no more workers than may
            // run, each would call for a look.
            thread::park_timeout(pause);
            // A thread that the system refuses now is asked for again after the next pause.
            if self.needs_spare() && self.start_worker().is_ok() {
                pause = SHORTEST_PAUSE;
            } else {
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        }
    }

    fn needs_spare(&self) -> bool {
        let cover = &self.cover;
        self.port.could_run_more()
            && cover.idle_worker(0).is_none()
            && cover.may_grow()
            && !self.is_closing()
    }
}
