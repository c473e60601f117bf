//! Who decides which thread gets what: the port's own scheduler, for drivers with lanes, or the
//! system, where it keeps the queue.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use super::scheduler::{Looked, Posted, Scheduler, Suspects};
use super::{GetError, Shared, closed_port};
use crate::driver::{Driver, Sink, SystemQueue};

pub(super) enum Queue {
    Lanes(Scheduler),
    System(System),
}

/// The queue of a system that decides by itself who waits, who is released, and how many run.
pub(super) struct System {
    queue: Arc<dyn SystemQueue>,
    limit: usize,
    running: Arc<AtomicUsize>,
}

/// Counts a thread as running from one `get` until the next, at whatever port, or its end.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Running(count.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

impl System {
    fn get(
        &self,
        sink: &mut Sink<'_>,
        max: usize,
        timeout: Option<Duration>,
    ) -> Result<usize, GetError> {
        RUNNING.with_borrow_mut(|running| *running = None);
        let taken = self.queue.take(sink, max, timeout)?;
        RUNNING.with_borrow_mut(|running| *running = Some(Running::new(&self.running)));
        Ok(taken)
    }
}

impl Queue {
    pub(super) fn new(driver: &dyn Driver, limit: usize) -> Self {
        match driver.system_queue() {
            None => Queue::Lanes(Scheduler::new(limit, driver.lanes())),
            Some(queue) => Queue::System(System {
                queue,
                limit,
                running: Arc::default(),
            }),
        }
    }

    pub(super) fn concurrency(&self) -> usize {
        match self {
            Queue::Lanes(scheduler) => scheduler.concurrency(),
            Queue::System(system) => system.limit,
        }
    }

    pub(super) fn running(&self) -> usize {
        match self {
            Queue::Lanes(scheduler) => scheduler.running(),
            Queue::System(system) => system.running.load(Ordering::Relaxed),
        }
    }

    /// Whether fewer run than may. Where only the system knows, it is left to it: a thread too many
    /// waits there.
    pub(super) fn could_run_more(&self) -> bool {
        match self {
            Queue::Lanes(scheduler) => scheduler.running() < scheduler.concurrency(),
            Queue::System(_) => true,
        }
    }

    /// Whether what the calling thread submits may rest until it comes back to `get`.
    pub(super) fn is_worker(&self) -> bool {
        match self {
            Queue::Lanes(scheduler) => scheduler.is_worker(),
            Queue::System(_) => false,
        }
    }

    /// Whether the calling thread is such a worker, and no other is at home in these lanes.
    pub(super) fn is_at_home(&self, lanes: u64) -> bool {
        match self {
            Queue::Lanes(scheduler) => scheduler.is_at_home(lanes),
            Queue::System(_) => false,
        }
    }

    pub(super) fn mark_dirty(&self, lanes: u64) {
        if let Queue::Lanes(scheduler) = self {
            scheduler.mark_dirty(lanes);
        }
    }

    pub(super) fn flush_lanes(&self, driver: &dyn Driver, lanes: u64) {
        if let Queue::Lanes(scheduler) = self {
            scheduler.flush_lanes(driver, lanes);
        }
    }

    pub(super) fn nudge(&self, driver: &dyn Driver, lanes: u64) {
        if let Queue::Lanes(scheduler) = self {
            scheduler.nudge(driver, lanes);
        }
    }

    pub(super) fn post(&self, driver: &dyn Driver, item: Posted, later: bool) -> io::Result<()> {
        match self {
            Queue::Lanes(scheduler) => match scheduler.post(driver, item, later) {
                true => Ok(()),
                false => Err(closed_port()),
            },
            // The system releases another thread only when this one has come back or blocks, if
            // as many run as may.
            Queue::System(system) => system.queue.post(item),
        }
    }

    pub(super) fn get(
        &self,
        shared: &Arc<Shared>,
        sink: &mut Sink<'_>,
        max: usize,
        timeout: Option<Duration>,
    ) -> Result<usize, GetError> {
        match self {
            Queue::Lanes(scheduler) => scheduler.get(shared, sink, max, timeout),
            Queue::System(system) => system.get(sink, max, timeout),
        }
    }

    pub(super) fn close(&self, driver: &dyn Driver) {
        match self {
            Queue::Lanes(scheduler) => scheduler.close(driver),
            Queue::System(system) => system.queue.close(),
        }
    }

    pub(super) fn set_watcher(&self, thread: Thread) {
        if let Queue::Lanes(scheduler) = self {
            scheduler.set_watcher(thread);
        }
    }

    pub(super) fn watcher_naps(&self) {
        if let Queue::Lanes(scheduler) = self {
            scheduler.watcher_naps();
        }
    }

    /// Whether the watcher may sleep until woken: with a queue of the system's it has but timers
    /// to see to.
    pub(super) fn watcher_may_sleep(&self) -> bool {
        match self {
            Queue::Lanes(scheduler) => scheduler.watcher_may_sleep(),
            Queue::System(_) => true,
        }
    }

    pub(super) fn look(&self, driver: &dyn Driver, suspects: &mut Suspects) -> Looked {
        match self {
            Queue::Lanes(scheduler) => scheduler.look(driver, suspects),
            Queue::System(_) => Looked::default(),
        }
    }
}
