//! What a worker does: take a completion, tell whoever waits for it, run the task that woke.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use super::cover::Seat;
use super::task::Runnable;
use super::{Shared, enter, ready};
use crate::explained::no_thread;
use crate::port::{Completion, CompletionKind};

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// The place of the calling worker among its runtime's; 0 on other threads. Spreads counters.
pub(crate) fn worker_index() -> usize {
    INDEX.with(Cell::get)
}

impl Shared {
    /// Starts one more worker.
    pub(super) fn start_worker(self: &Arc<Self>) -> io::Result<()> {
        let index = self.cover.add_worker();
        let shared = self.clone();
        // Locked until the thread is in the list, where it may look for itself.
        let mut threads = self.threads.lock();
        let started = thread::Builder::new()
            .name(format!("landfall-{index}"))
            .spawn(move || shared.work(index));
        match started {
            Ok(thread) => {
                threads.push(thread);
                Ok(())
            }
            Err(error) => {
                self.cover.take_worker_back();
                let what = format!("worker {} of the runtime", index + 1);
                Err(no_thread(&what, error))
            }
        }
    }

    fn work(self: Arc<Self>, index: usize) {
        INDEX.with(|place| place.set(index));
        let _current = enter(self.clone());
        let mut seat = self.cover.seat(index);
        // Ends when the port is closed.
        while let Ok(completion) = self.port.get(None) {
            self.handle(completion, &mut seat);
        }
    }

    fn handle(self: &Arc<Self>, mut completion: Completion, seat: &mut Seat<'_>) {
        let task = self.dispatch(&mut completion);
        // Lets the next completion of the same handle out, before the task takes its time.
        drop(completion);
        if let Some(task) = task {
            seat.enter_user_code();
            // A task catches its own panics; this is for the wakers it calls.
            let _ = catch_unwind(AssertUnwindSafe(|| task.run()));
            seat.leave_user_code();
        }
    }

    /// Does what a worker of a simulated port does with one completion. `false`: there is none.
    #[cfg(all(test, unix, not(loom)))]
    pub(super) fn work_once(self: &Arc<Self>) -> bool {
        let _current = enter(self.clone());
        match self.port.get(None) {
            Ok(idle) if idle.bytes() == crate::driver::sim::IDLE.bytes => false,
            Ok(completion) => {
                self.handle(completion, &mut self.cover.seat(0));
                true
            }
            Err(_) => false,
        }
    }

    /// Tells whoever waits for a completion, and returns the task to run.
    fn dispatch(self: &Arc<Self>, completion: &mut Completion) -> Option<Runnable> {
        match completion.kind() {
            CompletionKind::Packet => self.ready.pop(),
            CompletionKind::Timer => ready::collect(self, || {
                self.alarms.ring(completion.key(), completion.token());
            }),
            _ => ready::collect(self, || self.responders.dispatch(completion)),
        }
    }
}
