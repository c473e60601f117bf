//! Settings of a runtime.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;

use super::alarm::Alarms;
use super::cover::Cover;
use super::ready::Ready;
use super::respond::Responders;
use super::task::Tasks;
use super::{Runtime, Shared};
use crate::port::{self, CompletionPort, DriverChoice};

/// Spare workers, unless told otherwise. A blocked thread costs its stack, some 10 KiB of it used
/// as a rule, so this many cost a few MiB; the blocking pools of other runtimes stop at the same
/// number.
const MOST_SPARES: usize = 512;

/// How long a dropped stream may take to send what is queued, unless told otherwise.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Builds a [`Runtime`].
///
/// ```
/// use landfall::runtime::Runtime;
///
/// let runtime = Runtime::builder().concurrency(1).workers(2).build()?;
/// assert_eq!(runtime.port().concurrency(), 1);
/// assert_eq!(runtime.workers(), 2);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "there is no runtime before `build`"]
pub struct Builder {
    port: port::Builder,
    workers: usize,
    most_spares: usize,
    close_deadline: Duration,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            port: CompletionPort::builder(),
            workers: 0,
            most_spares: MOST_SPARES,
            close_deadline: CLOSE_DEADLINE,
        }
    }
}

impl Builder {
    /// The default settings.
    pub fn new() -> Self {
        Builder::default()
    }

    /// Settings of the port itself. Replaces what [`concurrency`](Self::concurrency) and
    /// [`driver`](Self::driver) have set.
    pub fn port(mut self, port: port::Builder) -> Self {
        self.port = port;
        self
    }

    /// How many threads take completions; 0 means twice the concurrency value, which is two per
    /// processor by default.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// How many workers run at a time; 0 means one per processor. A worker that is blocked does
    /// not count.
    pub fn concurrency(mut self, threads: usize) -> Self {
        self.port = self.port.concurrency(threads);
        self
    }

    /// How many workers are added, one by one, while all there are block; 512 by default. Once
    /// started, a spare stays until the runtime ends, asleep while it is not needed. When they are
    /// all blocked as well, or the system refuses one more thread, completions wait until a worker
    /// comes back.
    pub fn max_spares(mut self, spares: usize) -> Self {
        self.most_spares = spares;
        self
    }

    /// Which driver the port uses.
    pub fn driver(mut self, driver: DriverChoice) -> Self {
        self.port = self.port.driver(driver);
        self
    }

    /// How long a dropped stream may take to send what is queued before it is reset; 10 s by
    /// default.
    pub fn close_deadline(mut self, deadline: Duration) -> Self {
        self.close_deadline = deadline;
        self
    }

    /// Creates the port and starts the workers.
    ///
    /// # Errors
    ///
    /// The system refuses the port's set-up or a thread.
    pub fn build(self) -> io::Result<Runtime> {
        let port = self.port.clone().build()?;
        self.build_on(port)
    }

    /// Starts the workers of a port that nobody else takes from.
    pub(crate) fn build_on(self, port: CompletionPort) -> io::Result<Runtime> {
        let workers = match self.workers {
            0 => 2 * port.concurrency(),
            workers => workers,
        };
        // Dropped on failure, the runtime ends the threads that have been started.
        let runtime = self.without_workers(port, workers);
        for _ in 0..workers {
            runtime.shared.start_worker()?;
        }
        runtime.shared.start_cover()?;
        Ok(runtime)
    }

    /// A runtime with room for so many workers, of which none has been started.
    pub(crate) fn without_workers(&self, port: CompletionPort, workers: usize) -> Runtime {
        let shared = Arc::new(Shared {
            port,
            ready: Ready::default(),
            tasks: Tasks::default(),
            alarms: Alarms::default(),
            responders: Responders::default(),
            cover: Cover::new(workers, self.most_spares),
            closing: AtomicBool::new(false),
            close_deadline: self.close_deadline,
            threads: Mutex::new(Vec::new()),
        });
        Runtime { shared }
    }
}
