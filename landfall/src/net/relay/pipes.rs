//! Pipes for zero copy: made on demand, kept for the next, never more than a limit.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::os::{self, Pipe};

/// Pipes that are kept while nobody uses them.
const MOST_KEPT: usize = 16;

/// The pipes that relays use for [zero copy](super::ZeroCopy). Clones are the same pool.
///
/// Each direction that moves bulk takes one, and with it four descriptors of the process, for as long
/// as that lasts.
#[derive(Clone)]
pub struct PipePool(Arc<Inner>);

struct Inner {
    limit: usize,
    pipes: Mutex<Pipes>,
    refusals: AtomicU64,
}

#[derive(Default)]
struct Pipes {
    kept: Vec<Pipe>,
    lent: usize,
}

impl PipePool {
    /// As many pipes at a time; 0: none ever.
    pub fn new(limit: usize) -> Self {
        PipePool(Arc::new(Inner {
            limit,
            pipes: Mutex::default(),
            refusals: AtomicU64::new(0),
        }))
    }

    /// How many pipes there can be at a time.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Pipes in use.
    pub fn in_use(&self) -> usize {
        self.0.pipes.lock().lent
    }

    /// How often bulk was copied because no pipe, or no descriptor to use it with, was to be had.
    pub fn refusals(&self) -> u64 {
        self.0.refusals.load(Ordering::Relaxed)
    }

    pub(super) fn count_refusal(&self) {
        self.0.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// An empty pipe.
    pub(super) fn lend(&self) -> io::Result<Lent> {
        if !os::IS_SUPPORTED {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "zero copy between sockets is done by splice(2), which only Linux has",
            ));
        }
        let kept = {
            let mut pipes = self.0.pipes.lock();
            if pipes.lent >= self.0.limit {
                return Err(io::Error::new(
                    io::ErrorKind::QuotaExceeded,
                    format!(
                        "all pipes of the pool are in use, of which it may have {}",
                        self.0.limit
                    ),
                ));
            }
            pipes.lent += 1;
            pipes.kept.pop()
        };
        let mut lent = Lent {
            pool: self.clone(),
            pipe: kept,
            is_empty: true,
        };
        if lent.pipe.is_none() {
            lent.pipe = Some(Pipe::new()?);
        }
        Ok(lent)
    }
}

/// As many as take a quarter of the descriptors that this process may have now; none where there is no
/// zero copy.
impl Default for PipePool {
    fn default() -> Self {
        PipePool::new(os::usual_limit())
    }
}

impl fmt::Debug for PipePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipePool")
            .field("limit", &self.0.limit)
            .field("in_use", &self.in_use())
            .finish_non_exhaustive()
    }
}

/// A pipe of a pool. It goes back when dropped, if it is empty; otherwise what is in it goes with it.
#[derive(Debug)]
pub(super) struct Lent {
    pool: PipePool,
    /// `None` only while it is made.
    pipe: Option<Pipe>,
    pub(super) is_empty: bool,
}

impl Lent {
    pub(super) fn pipe(&self) -> &Pipe {
        self.pipe.as_ref().expect("made before it is lent")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let pipe = self.pipe.take().filter(|_| self.is_empty);
        let mut pipes = self.pool.0.pipes.lock();
        pipes.lent -= 1;
        let closed = match pipes.kept.len() < MOST_KEPT {
            true => {
                pipes.kept.extend(pipe);
                None
            }
            false => pipe,
        };
        drop(pipes);
        drop(closed);
    }
}
