//! Much at once: how it is noticed, and copied by fewer and larger receives and sends.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;

use super::direction::{Direction, Failure};
use super::quiet::Quiet;
use crate::buffer::Buffer;
use crate::port::Operation;

/// Bytes that one receive brings where there is much to receive: a buffer of the runtime's, if its size is
/// the usual one.
pub(super) const MUCH: usize = 16 * 1024;

/// So many receives in a row that bring much are bulk, and as many that do not are its end.
const IN_A_ROW: u32 = 4;

/// How long nothing may come before what bulk is moved with is given back.
const PAUSE: Duration = Duration::from_millis(200);

/// Counts receives in a row.
#[derive(Default)]
pub(super) struct Streak(u32);

impl Streak {
    /// Whether one more makes so many that they count.
    pub(super) fn grows_long(&mut self, counts: bool) -> bool {
        self.0 = if counts { self.0 + 1 } else { 0 };
        let is_long = self.0 >= IN_A_ROW;
        if is_long {
            self.0 = 0;
        }
        is_long
    }
}

/// Whether bulk still lasts.
pub(super) struct Bulk {
    /// It lasts to the end of the stream, whatever comes.
    for_good: bool,
    small: Streak,
    quiet: Quiet,
}

impl Bulk {
    pub(super) fn new(for_good: bool) -> Self {
        Bulk {
            for_good,
            small: Streak::default(),
            quiet: Quiet::new((!for_good).then_some(PAUSE), None),
        }
    }

    /// Whether a receive of so many bytes is the last of it.
    pub(super) fn is_over_after(&mut self, bytes: usize) -> bool {
        self.small.grows_long(bytes < MUCH) && !self.for_good
    }

    /// Waits until there is more to receive past the port. `false`: there is none for now, or the
    /// stream has ended.
    pub(super) async fn wait(&mut self, direction: &Direction<'_>) -> Result<bool, Failure> {
        let moved = direction.moved();
        let ready = poll_fn(|cx| match direction.from.poll_ready(cx) {
            Poll::Ready(ready) => Poll::Ready(ready),
            Poll::Pending => self.quiet.poll(moved, cx).map(|()| Ok(false)),
        });
        ready.await.map_err(|error| direction.receiving(error))
    }

    /// Copies bytes until it is over, or the stream is. What the port has received has been passed on.
    pub(super) async fn copy(
        mut self,
        direction: &Direction<'_>,
        large: &LargeBuffers,
    ) -> Result<(), Failure> {
        let Some(mut lent) = large.lend() else {
            return Ok(());
        };
        loop {
            let bytes = self.read(direction, &mut lent).await?;
            if bytes == 0 {
                return Ok(());
            }
            let buffer = Buffer::Vec(std::mem::take(&mut lent.vec));
            let sent = direction.to.call(Operation::Send(buffer));
            direction.count(bytes, false);
            let sent = sent.await;
            sent.result.map_err(|error| direction.sending(error))?;
            lent.vec = sent.buffer.map(Buffer::into_vec).unwrap_or_default();
            if self.is_over_after(bytes) {
                return Ok(());
            }
        }
    }

    /// Receives into the buffer. 0 bytes: nothing comes for now, or the stream has ended.
    async fn read(&mut self, direction: &Direction<'_>, lent: &mut Lent) -> Result<usize, Failure> {
        let moved = direction.moved();
        let mut read = pin!(direction.from.read(lent.take()));
        let mut is_over = false;
        let (result, vec) = poll_fn(|cx| {
            let polled = read.as_mut().poll(cx);
            if polled.is_pending() && !is_over && self.quiet.poll(moved, cx).is_ready() {
                is_over = true;
                // The buffer comes back by that.
                direction.from.end_receiving();
            }
            polled
        })
        .await;
        lent.vec = vec;
        result.map_err(|error| direction.receiving(error))
    }
}

/// Bytes of a large buffer: between 64 KiB and 256 KiB a byte costs much the same.
const SIZE: usize = 128 * 1024;

/// Large buffers that there may be, for all relays of one [`Relay`](super::Relay) and its clones; what
/// more of them could use is moved by buffers of the runtime's.
const MOST: usize = 256;

/// Those that are kept while nobody uses them.
const MOST_KEPT: usize = 16;

/// Buffers for bulk. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct LargeBuffers(Arc<Mutex<Buffers>>);

#[derive(Default)]
struct Buffers {
    kept: Vec<Vec<u8>>,
    lent: usize,
}

impl LargeBuffers {
    fn lend(&self) -> Option<Lent> {
        let mut buffers = self.0.lock();
        if buffers.lent >= MOST {
            return None;
        }
        buffers.lent += 1;
        Some(Lent {
            vec: buffers.kept.pop().unwrap_or_default(),
            owner: self.clone(),
        })
    }
}

impl fmt::Debug for LargeBuffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LargeBuffers")
            .field("lent", &self.0.lock().lent)
            .finish_non_exhaustive()
    }
}

struct Lent {
    /// Empty, and perhaps without memory, while the system has it.
    vec: Vec<u8>,
    owner: LargeBuffers,
}

impl Lent {
    /// The buffer, empty.
    fn take(&mut self) -> Vec<u8> {
        let mut vec = std::mem::take(&mut self.vec);
        vec.clear();
        if vec.capacity() < SIZE {
            vec = Vec::with_capacity(SIZE);
        }
        vec
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let vec = std::mem::take(&mut self.vec);
        let mut buffers = self.owner.0.lock();
        buffers.lent -= 1;
        if buffers.kept.len() < MOST_KEPT && vec.capacity() > 0 {
            buffers.kept.push(vec);
        }
    }
}
