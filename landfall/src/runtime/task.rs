//! Tasks: their allocation, and the list of those that have not ended.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;

use parking_lot::Mutex;
use pin_project_lite::pin_project;
use slab::Slab;

use super::Shared;
use super::join::JoinHandle;
use super::ready::{self, Ready};

/// A task that is ready to run. Its runtime is kept beside it, and found by wakers.
pub(super) type Runnable = async_task::Runnable<Arc<Shared>>;

/// The other end of a task: what it gives, or the panic that ended it; nothing when it was
/// cancelled.
pub(super) type Outcome<T> = async_task::FallibleTask<thread::Result<T>, Arc<Shared>>;

/// Starts a task. On a runtime that is being dropped it is cancelled at once.
pub(super) fn spawn<F>(shared: &Arc<Shared>, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let listed = shared.tasks.list(|key| {
        let task = Task {
            future: Some(future),
            shared: shared.clone(),
            key,
        };
        let builder = async_task::Builder::new().metadata(shared.clone());
        let (runnable, task) = builder.spawn(|_| task, ready::schedule);
        (runnable.waker(), (runnable, task))
    });
    match listed {
        Listed::Yes((runnable, task)) => {
            runnable.schedule();
            JoinHandle::new(task.fallible())
        }
        Listed::Closed => JoinHandle::cancelled(),
    }
}

pin_project! {
    /// A future that ends by a panic as by a result, however deep it panics, and then leaves the
    /// list of tasks.
    struct Task<F> {
        // Taken out, so that its destructor's panics are caught as well.
        #[pin]
        future: Option<F>,
        shared: Arc<Shared>,
        key: usize,
    }

    impl<F> PinnedDrop for Task<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            // The panic hook has reported it; the rest of the future has been dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| this.future.set(None)));
            this.shared.tasks.remove(*this.key);
        }
    }
}

impl<F: Future> Future for Task<F> {
    type Output = thread::Result<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self
            .project()
            .future
            .as_pin_mut()
            .expect("only dropping takes it out");
        match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

/// Wakers of the tasks that have not ended, to end them when the runtime does. `None` after that.
pub(super) struct Tasks(Mutex<Option<Slab<Waker>>>);

impl Default for Tasks {
    fn default() -> Self {
        Tasks(Mutex::new(Some(Slab::new())))
    }
}

enum Listed<T> {
    Yes(T),
    Closed,
}

impl Tasks {
    /// Adds what `make` makes for a key.
    fn list<T>(&self, make: impl FnOnce(usize) -> (Waker, T)) -> Listed<T> {
        match &mut *self.0.lock() {
            Some(tasks) => {
                let entry = tasks.vacant_entry();
                let (waker, made) = make(entry.key());
                entry.insert(waker);
                Listed::Yes(made)
            }
            None => Listed::Closed,
        }
    }

    fn remove(&self, key: usize) {
        let waker = match &mut *self.0.lock() {
            Some(tasks) => tasks.try_remove(key),
            None => None,
        };
        drop(waker);
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().as_ref().map_or(0, Slab::len)
    }

    /// Has every task polled.
    pub(super) fn wake_all(&self) {
        let tasks: Vec<Waker> = match &*self.0.lock() {
            Some(tasks) => tasks.iter().map(|(_, waker)| waker.clone()).collect(),
            None => return,
        };
        tasks.into_iter().for_each(Waker::wake);
    }

    /// Drops every task, once no worker runs any more. Later ones are refused.
    pub(super) fn close(&self, ready: &Ready) {
        let tasks = self.0.lock().take();
        for (_, waker) in tasks.into_iter().flatten() {
            // Queues the task if it is not queued yet.
            waker.wake();
        }
        drop(ready.close());
    }
}
