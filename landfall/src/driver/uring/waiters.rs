//! Threads that wait in a lane, and wakes that are on their way to them.
//!
//! A thread that waits sleeps in the kernel until the ring has a completion, and is woken by one
//! that means nothing else. Any thread may take that away before the sleeper has seen it, and then
//! owes it another.

use crate::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use crate::sync::one_order_for_all;

#[derive(Default)]
pub(crate) struct Waiters {
    /// Threads in `wait`: one, or for a moment another that is taking over.
    waiting: AtomicUsize,
    /// Wakes that have not been answered.
    wakes: AtomicIsize,
}

impl Waiters {
    /// A thread is about to look whether it has been released, and to wait if not.
    ///
    /// Either it then sees that it has been, or whoever releases it, or takes its wake away, sees it
    /// here.
    pub(crate) fn begin(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        one_order_for_all();
    }

    pub(crate) fn end(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Rouses a waiting thread that has been released. Until it answers, whoever takes the
    /// completion meant for it posts another.
    pub(crate) fn wake(&self, post: impl FnOnce()) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        post();
    }

    /// The answer to one `wake`.
    pub(crate) fn woken(&self) {
        self.wakes.fetch_sub(1, Ordering::SeqCst);
    }

    /// Has the thread that waits, if there is one, look again.
    pub(crate) fn rouse(&self, post: impl FnOnce()) {
        one_order_for_all();
        if self.waiting.load(Ordering::SeqCst) > 0 {
            post();
        }
    }

    /// After completions were taken. A thread that waits sees what the ring holds, not what was
    /// taken out of it: neither a wake meant for it nor what is `left` to be handed out.
    pub(crate) fn taken(&self, left: bool, was_wake: bool, post: impl FnOnce()) {
        if left || was_wake && self.wakes.load(Ordering::SeqCst) > 0 {
            self.rouse(post);
        }
    }
}
