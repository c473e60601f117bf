//! Operations of a file, and who waits for them. They end in any order.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use slab::Slab;

use crate::buffer::Buffer;
use crate::port::{Handle, Operation, OperationId};
use crate::runtime::{Event, Respond, Shared};

/// The operations of one file that the port has. An operation's place is its token.
pub(super) struct Calls {
    shared: Arc<Shared>,
    pending: Mutex<Slab<Pending>>,
    /// Its number among the runtime's responders.
    number: OnceLock<usize>,
}

enum Pending {
    Awaited(Waker),
    /// Its future was dropped: what it brings is nobody's.
    Unwanted,
    Done(Done),
}

/// How an operation ended, and its buffer if it had one.
pub(super) struct Done {
    pub(super) result: io::Result<usize>,
    pub(super) buffer: Option<Buffer>,
}

impl Calls {
    pub(super) fn associate(
        shared: Arc<Shared>,
        file: Arc<std::fs::File>,
    ) -> io::Result<(Handle, Arc<Self>)> {
        let calls = Arc::new(Calls {
            shared,
            pending: Mutex::default(),
            number: OnceLock::new(),
        });
        let (handle, number) = calls.shared.associate(file, calls.clone(), None)?;
        calls.number.get_or_init(|| number);
        Ok((handle, calls))
    }
}

impl Respond for Calls {
    fn respond(&self, _handle: &Handle, event: Event<'_>) {
        let done = Done {
            result: event.completion.result(),
            buffer: event.buffer,
        };
        let place = event.completion.token();
        let mut pending = self.pending.lock();
        let Some(call) = pending.get_mut(place) else {
            return;
        };
        match std::mem::replace(call, Pending::Done(done)) {
            Pending::Awaited(waker) => {
                drop(pending);
                waker.wake();
            }
            Pending::Unwanted | Pending::Done(_) => {
                let unwanted = pending.remove(place);
                drop(pending);
                drop(unwanted);
            }
        }
    }

    fn abandon(&self) {
        let mut wakers = Vec::new();
        for (_, call) in &*self.pending.lock() {
            if let Pending::Awaited(waker) = call {
                wakers.push(waker.clone());
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        if let Some(number) = self.number.get() {
            self.shared.forget(*number);
        }
    }
}

/// An operation, and the wait for its end. Nothing happens until it is polled.
pub(super) struct Call<'a> {
    handle: &'a Handle,
    calls: &'a Calls,
    stage: Stage,
}

enum Stage {
    Waiting(Operation),
    Submitted {
        place: usize,
        /// A read, to be ended when nobody waits for it any more.
        reading: Option<OperationId>,
    },
    Done,
}

impl<'a> Call<'a> {
    pub(super) fn new(handle: &'a Handle, calls: &'a Calls, operation: Operation) -> Self {
        Call {
            handle,
            calls,
            stage: Stage::Waiting(operation),
        }
    }

    /// Submits the operation. As the next one, it gives a result or the stage to go on with.
    fn begin(&self, operation: Operation, cx: &Context<'_>) -> Result<Done, Stage> {
        let calls = self.calls;
        if let Some(error) = calls.shared.abandoned() {
            return Ok(not_begun(error, operation));
        }
        let is_read = matches!(operation, Operation::ReadAt { .. });
        let awaited = Pending::Awaited(cx.waker().clone());
        let place = calls.pending.lock().insert(awaited);
        let refused = match self.handle.submit(operation, place) {
            Ok(id) => {
                return Err(Stage::Submitted {
                    place,
                    reading: is_read.then_some(id),
                });
            }
            Err(refused) => refused,
        };
        let outdated = calls.pending.lock().remove(place);
        drop(outdated);
        match calls.shared.refused(refused.error) {
            Poll::Ready(error) => Ok(not_begun(error, refused.operation)),
            Poll::Pending => Err(Stage::Waiting(refused.operation)),
        }
    }

    fn look(
        &self,
        place: usize,
        reading: Option<OperationId>,
        cx: &Context<'_>,
    ) -> Result<Done, Stage> {
        let mut pending = self.calls.pending.lock();
        if let Pending::Done(_) = pending[place] {
            if let Pending::Done(done) = pending.remove(place) {
                return Ok(done);
            }
        }
        let abandoned = self.calls.shared.abandoned();
        let next = match abandoned {
            Some(_) => Pending::Unwanted,
            None => Pending::Awaited(cx.waker().clone()),
        };
        let outdated = std::mem::replace(&mut pending[place], next);
        drop(pending);
        drop(outdated);
        match abandoned {
            // The buffer went with the port.
            Some(error) => Ok(Done {
                result: Err(error),
                buffer: None,
            }),
            None => Err(Stage::Submitted { place, reading }),
        }
    }
}

impl Future for Call<'_> {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        let polled = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Waiting(operation) => self.begin(operation, cx),
            Stage::Submitted { place, reading } => self.look(place, reading, cx),
            Stage::Done => panic!("polled after it gave its result"),
        };
        match polled {
            Ok(done) => Poll::Ready(done),
            Err(stage) => {
                self.stage = stage;
                Poll::Pending
            }
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let Stage::Submitted { place, reading } = self.stage else {
            return;
        };
        let mut pending = self.calls.pending.lock();
        let leftover = match &mut pending[place] {
            Pending::Done(_) => pending.remove(place),
            call => std::mem::replace(call, Pending::Unwanted),
        };
        drop(pending);
        if let (Pending::Awaited(_), Some(id)) = (&leftover, reading) {
            self.handle.cancel(id);
        }
        drop(leftover);
    }
}

/// The operation comes back as it was.
fn not_begun(error: io::Error, operation: Operation) -> Done {
    let buffer = match operation {
        Operation::ReadAt { buffer, .. } => Some(Buffer::Vec(buffer)),
        Operation::WriteAt { buffer, .. } => Some(buffer),
        _ => None,
    };
    Done {
        result: Err(error),
        buffer,
    }
}
