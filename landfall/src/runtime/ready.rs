//! Tasks that are ready to run.
//!
//! What a completion wakes is run by the worker that took the completion, as soon as it has let the
//! completion go. Everything else waits in one queue, with one packet posted to the port for each:
//! whoever takes a packet runs the oldest.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Shared;
use super::task::Runnable;
use crate::port::Packet;

/// The queue; `None` once the runtime is gone.
pub(super) struct Ready(Mutex<Option<VecDeque<Runnable>>>);

impl Default for Ready {
    fn default() -> Self {
        Ready(Mutex::new(Some(VecDeque::new())))
    }
}

impl Ready {
    /// Gives the task back when nobody will run it any more.
    pub(super) fn push(&self, runnable: Runnable) -> Result<(), Runnable> {
        match &mut *self.0.lock() {
            Some(queue) => queue.push_back(runnable),
            None => return Err(runnable),
        }
        Ok(())
    }

    pub(super) fn pop(&self) -> Option<Runnable> {
        self.0.lock().as_mut()?.pop_front()
    }

    /// Ends the queue and returns what is in it.
    pub(super) fn close(&self) -> VecDeque<Runnable> {
        self.0.lock().take().unwrap_or_default()
    }
}

/// This worker's hand: the task that the completion in it has woken.
struct Hand {
    /// The runtime whose completion is being dispatched on this thread; only compared.
    dispatching: Cell<*const Shared>,
    task: Cell<Option<Runnable>>,
}

thread_local! {
    static HAND: Hand = const { Hand { dispatching: Cell::new(std::ptr::null()), task: Cell::new(None) } };
}

/// Calls `dispatch` and returns the first task of this runtime that it woke.
///
/// No task is held back while code of the program runs: `dispatch` only calls wakers. One of the
/// program's own that panics has been reported by the panic hook, and harms nobody else.
pub(super) fn collect(shared: &Arc<Shared>, dispatch: impl FnOnce()) -> Option<Runnable> {
    HAND.with(|hand| {
        hand.dispatching.set(Arc::as_ptr(shared));
        let _ = catch_unwind(AssertUnwindSafe(dispatch));
        hand.dispatching.set(std::ptr::null());
        hand.task.take()
    })
}

/// Makes a woken task run soon. Called by wakers, from any thread.
pub(super) fn schedule(runnable: Runnable) {
    let mut runnable = Some(runnable);
    // A thread that is ending has no hand any more.
    let _ = HAND.try_with(|hand| hand.offer(&mut runnable));
    if let Some(runnable) = runnable {
        // Kept alive on its own: the task may be run, and gone, before its packet is posted.
        let shared = runnable.metadata().clone();
        match shared.ready.push(runnable) {
            // A closed port refuses: the runtime is being dropped, and drops what is queued.
            Ok(()) => drop(shared.port.post_later(Packet::default())),
            // Too late even for that. Nobody but this thread has the task now.
            Err(runnable) => drop(runnable),
        }
    }
}

impl Hand {
    /// Takes the task if this thread is dispatching for its runtime and the hand is free.
    fn offer(&self, offered: &mut Option<Runnable>) {
        let runtime = offered
            .as_ref()
            .map(|runnable| Arc::as_ptr(runnable.metadata()));
        if runtime != Some(self.dispatching.get()) {
            return;
        }
        let held = self.task.take().or_else(|| offered.take());
        self.task.set(held);
    }
}

#[cfg(all(test, unix, not(loom)))]
mod tests {
    use super::*;
    use crate::port::CompletionPort;
    use crate::runtime::Runtime;

    /// Without workers: the test does their work.
    fn runtime() -> Runtime {
        let port = CompletionPort::new(1).expect("a port");
        Runtime::builder().without_workers(port, 1)
    }

    /// Starts tasks that note their numbers when they run.
    fn spawn_noting(runtime: &Runtime, numbers: std::ops::Range<usize>) -> Arc<Mutex<Vec<usize>>> {
        let ran = Arc::new(Mutex::new(Vec::new()));
        for number in numbers {
            let ran = ran.clone();
            drop(runtime.spawn(async move { ran.lock().push(number) }));
        }
        ran
    }

    #[test]
    fn whoever_takes_a_packet_runs_the_oldest_task() {
        let runtime = runtime();
        let ran = spawn_noting(&runtime, 0..5);
        (0..5).for_each(|_| assert!(runtime.step()));
        assert_eq!(*ran.lock(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn what_is_queued_is_dropped_with_the_runtime() {
        let runtime = runtime();
        let ran = spawn_noting(&runtime, 0..5);
        drop(runtime);
        assert_eq!(Arc::strong_count(&ran), 1, "the tasks are gone");
        assert!(ran.lock().is_empty(), "and have not run");
    }

    #[test]
    fn an_ended_queue_gives_tasks_back() {
        let runtime = runtime();
        let ran = spawn_noting(&runtime, 0..2);
        let ready = Ready::default();
        let mut tasks = runtime.shared.ready.close();
        let (first, second) = (tasks.pop_front(), tasks.pop_front());
        assert!(ready.push(first.expect("two tasks")).is_ok());
        assert_eq!(ready.close().len(), 1);
        assert!(ready.push(second.expect("two tasks")).is_err());
        assert!(ready.pop().is_none());
        drop(runtime);
        assert_eq!(Arc::strong_count(&ran), 1, "nobody has them any more");
    }
}
