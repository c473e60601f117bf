//! Waiting for a task.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread;

use parking_lot::Mutex;

use super::task::Outcome;

/// The result of a task, once it has ended. Dropped, it leaves the task running on its own.
///
/// ```
/// # let runtime = landfall::runtime::Runtime::new()?;
/// let answer = runtime.spawn(async { 6 * 7 });
/// assert_eq!(runtime.block_on(answer)?, 42);
///
/// let mut endless = runtime.spawn(std::future::pending::<()>());
/// endless.abort();
/// assert!(runtime.block_on(endless).unwrap_err().is_cancelled());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping the handle lets the task run on its own; say so with `drop`"]
pub struct JoinHandle<T>(State<T>);

enum State<T> {
    Running(Outcome<T>),
    Aborting(Pin<Box<dyn Future<Output = Option<thread::Result<T>>> + Send + Sync>>),
    /// In a mutex so that the handle is `Sync` whatever the result is.
    Known(Mutex<Option<thread::Result<T>>>),
}

impl<T> State<T> {
    fn nothing() -> Self {
        State::Known(Mutex::new(None))
    }
}

impl<T> JoinHandle<T> {
    pub(super) fn new(outcome: Outcome<T>) -> Self {
        JoinHandle(State::Running(outcome))
    }

    pub(super) fn cancelled() -> Self {
        JoinHandle(State::nothing())
    }

    /// Whether the task has ended, by its end, a panic, or because it was aborted.
    pub fn is_finished(&self) -> bool {
        match &self.0 {
            State::Running(outcome) => outcome.is_finished(),
            State::Aborting(_) | State::Known(_) => true,
        }
    }
}

impl<T: Send + 'static> JoinHandle<T> {
    /// Drops the task at the point where it waits. One that runs at this moment, or blocks, is
    /// dropped when it next waits.
    ///
    /// Await the handle to wait until the task has been dropped. It gives the result if the task
    /// had ended before.
    pub fn abort(&mut self) {
        self.0 = match std::mem::replace(&mut self.0, State::nothing()) {
            State::Running(outcome) => {
                let mut aborting = Box::pin(outcome.cancel());
                // Cancels at the first poll; the others only wait.
                match aborting
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()))
                {
                    Poll::Pending => State::Aborting(aborting),
                    Poll::Ready(outcome) => State::Known(Mutex::new(outcome)),
                }
            }
            aborted => aborted,
        }
    }
}

// Nothing in it is pinned by it.
impl<T> Unpin for JoinHandle<T> {}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = match &mut self.0 {
            State::Running(outcome) => Pin::new(outcome).poll(cx),
            State::Aborting(aborting) => aborting.as_mut().poll(cx),
            State::Known(outcome) => Poll::Ready(outcome.get_mut().take()),
        };
        if polled.is_ready() {
            self.0 = State::nothing();
        }
        polled.map(|outcome| match outcome {
            Some(Ok(output)) => Ok(output),
            Some(Err(panic)) => Err(JoinError(Cause::Panic(Mutex::new(panic)))),
            None => Err(JoinError(Cause::Cancelled)),
        })
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let State::Running(outcome) = std::mem::replace(&mut self.0, State::nothing()) {
            outcome.detach();
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("finished", &self.is_finished())
            .finish()
    }
}

/// Why a task gave no result.
pub struct JoinError(Cause);

enum Cause {
    Cancelled,
    /// In a mutex because a panic's payload is not `Sync`, and errors are expected to be.
    Panic(Mutex<Box<dyn Any + Send>>),
}

impl JoinError {
    /// Whether the task was aborted, or its runtime dropped.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.0, Cause::Cancelled)
    }

    /// Whether the task panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self.0, Cause::Panic(_))
    }

    /// What the task panicked with, for [`std::panic::resume_unwind`]; the error itself when it
    /// did not.
    ///
    /// # Errors
    ///
    /// The task was cancelled.
    pub fn into_panic(self) -> Result<Box<dyn Any + Send>, JoinError> {
        match self.0 {
            Cause::Panic(panic) => Ok(panic.into_inner()),
            Cause::Cancelled => Err(self),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cause::Panic(panic) = &self.0 else {
            return f.write_str("the task was cancelled");
        };
        let panic = panic.lock();
        let text = panic.downcast_ref::<&str>().copied();
        match text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)) {
            Some(text) => write!(f, "the task panicked: {text}"),
            None => f.write_str("the task panicked"),
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinError({self})")
    }
}

impl Error for JoinError {}

impl From<JoinError> for io::Error {
    fn from(error: JoinError) -> Self {
        io::Error::other(error)
    }
}
