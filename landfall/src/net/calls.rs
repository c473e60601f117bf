//! Operations that a stream waits for one at a time: sends above all, and connect, shutdown and
//! options.
//!
//! A future that is dropped leaves its operation with the port, which finishes it in its turn.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::idle;
use super::inbox;
use super::os::{BROKEN_PIPE, RESET};
use super::socket::{Socket, SocketState, error_code, register};
use crate::buffer::Buffer;
use crate::port::{CompletionKind, Operation};
use crate::rare_queue::RareQueue;
use crate::runtime::Event;

/// Unfinished operations, and bytes of theirs, past which a further send waits: what the sends of
/// dropped futures may take of memory. One send alone may be of any size.
const MOST_UNFINISHED: u32 = 8;
const MOST_BYTES: usize = 64 * 1024;

/// The sending side of a socket.
#[derive(Default)]
pub(super) struct Calls {
    /// Counts operations; the token of the next.
    next: u32,
    unfinished: u32,
    /// Bytes of unfinished sends,
    bytes: usize,
    /// but for files, which take no memory: of those, which they are.
    files: RareQueue<u32>,
    /// The operation that somebody waits for.
    awaited: Option<u32>,
    /// It has ended, and given this back.
    done: Option<Done>,
    /// Waits for `done`, for room, or for everything to be finished.
    waiter: Option<Waker>,
    /// What a send has failed with, and so will all later ones.
    broken: Option<i32>,
    /// This side has been shut down, or will be after what is queued.
    is_shut: bool,
    timed_out: bool,
}

/// How an operation ended, and its buffer if it had one.
pub(super) struct Done {
    pub(super) result: io::Result<()>,
    /// That were sent.
    pub(super) bytes: usize,
    pub(super) buffer: Option<Buffer>,
}

impl Calls {
    /// Whether an operation may be submitted now. What does not queue behind sends always may.
    fn has_room_for(&self, operation: &Operation) -> bool {
        let queues = is_send(operation) || matches!(operation, Operation::Shutdown(_));
        let has_bytes_free = self.bytes == 0 || self.bytes + length(operation) <= MOST_BYTES;
        !queues || (self.unfinished < MOST_UNFINISHED && has_bytes_free)
    }

    /// Counts an operation that is about to be submitted, and names it.
    fn begin(&mut self, operation: &Operation) -> u32 {
        let token = self.next;
        self.next = token.wrapping_add(1);
        self.unfinished += 1;
        self.bytes += length(operation);
        self.is_shut |= shuts(operation);
        if is_file(operation) {
            self.files.push_back(token);
        }
        token
    }

    /// Takes back what `begin` did, as the operation was refused.
    fn refused(&mut self, operation: &Operation, token: u32) {
        self.files.retain(|&file| file != token);
        // A failure meanwhile has taken everything off the count.
        self.unfinished = self.unfinished.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(length(operation));
        self.awaited = None;
    }

    /// Takes a completion in. Returns whom to wake.
    fn finish(&mut self, event: &mut Event<'_>, failure: Option<i32>) -> Option<Waker> {
        self.unfinished = self.unfinished.saturating_sub(1);
        let token = event.completion.token() as u32;
        let files = self.files.len();
        self.files.retain(|&file| file != token);
        let was_file = self.files.len() < files;
        match failure {
            // Nothing of what is queued will go any more.
            Some(code) if event.completion.kind() == CompletionKind::Send => {
                self.broken = Some(code);
                self.bytes = 0;
                self.files = RareQueue::default();
            }
            _ if event.completion.kind() == CompletionKind::Send && !was_file => {
                self.bytes = self.bytes.saturating_sub(event.completion.bytes())
            }
            _ => {}
        }
        match self.awaited {
            Some(awaited) if awaited != token => return None,
            Some(_) => {
                self.awaited = None;
                let result = failure.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code)));
                self.done = Some(Done {
                    result,
                    bytes: event.completion.bytes(),
                    buffer: event.buffer.take(),
                });
            }
            None => {}
        }
        self.waiter.take()
    }

    /// Whether sends that will still go are unfinished.
    pub(super) fn has_bytes_to_send(&self) -> bool {
        self.bytes > 0 || !self.files.is_empty()
    }

    /// Whether something may be sent past the port just now: nothing is queued before it, and no send
    /// has failed.
    pub(super) fn check_idle(&self) -> io::Result<()> {
        match self.failure() {
            Some(error) => Err(error),
            None if self.unfinished > 0 => Err(io::ErrorKind::WouldBlock.into()),
            None => Ok(()),
        }
    }

    /// What a send has failed with.
    pub(super) fn failure(&self) -> Option<io::Error> {
        self.broken.map(io::Error::from_raw_os_error)
    }

    pub(super) fn is_shut(&self) -> bool {
        self.is_shut
    }

    /// The future that waited was dropped, or will not hear any more. Returns its waker.
    pub(super) fn stop_waiting(&mut self) -> Option<Waker> {
        self.timed_out = false;
        self.waiter.take()
    }

    /// Tells a sender that waits that it has waited for too long.
    pub(super) fn expire(&mut self) -> Option<Waker> {
        let waiter = self.waiter.take();
        self.timed_out = waiter.is_some();
        waiter
    }
}

fn length(operation: &Operation) -> usize {
    match operation {
        Operation::Send(buffer) | Operation::SendZeroCopy(buffer) => buffer.len(),
        Operation::SendVectored(buffers) => buffers.iter().map(|buffer| buffer.len()).sum(),
        _ => 0,
    }
}

fn shuts(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Shutdown(std::net::Shutdown::Write | std::net::Shutdown::Both)
    )
}

fn is_send(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Send(_)
            | Operation::SendVectored(_)
            | Operation::SendZeroCopy(_)
            | Operation::SendFile { .. }
    )
}

fn is_file(operation: &Operation) -> bool {
    matches!(operation, Operation::SendFile { .. })
}

/// The buffer of an operation that was not begun.
fn buffer_of(operation: Operation) -> Option<Buffer> {
    match operation {
        Operation::Send(buffer) | Operation::SendZeroCopy(buffer) => Some(buffer),
        _ => None,
    }
}

impl SocketState {
    /// Takes the completion of a call in. Returns whom to wake.
    pub(super) fn finish_call(&self, event: &mut Event<'_>) -> Option<Waker> {
        let code = error_code(event);
        let mut calls = self.calls.lock();
        let failure = match code {
            Some(BROKEN_PIPE)
                if event.completion.kind() == CompletionKind::Send && !calls.is_shut =>
            {
                Some(RESET)
            }
            code => code,
        };
        if failure == Some(RESET) {
            self.set_reset();
        }
        calls.finish(event, failure)
    }
}

impl Socket {
    /// An operation, and the wait for its end. Nothing happens until it is polled.
    pub(super) fn call(&self, operation: Operation) -> Call<'_> {
        Call {
            socket: self,
            stage: Stage::Waiting(operation),
        }
    }

    /// Submits a send when there is room for it, and does not wait for its end. The next one fails if
    /// this one does.
    pub(super) async fn queue(&self, operation: Operation) -> io::Result<()> {
        let mut waiting = Some(operation);
        poll_fn(|cx| {
            let operation = waiting.take().expect(inbox::POLLED_AFTER_RESULT);
            match self.poll_begin(operation, false, cx) {
                Ok(done) => Poll::Ready(done.result),
                Err(Stage::Waiting(operation)) => {
                    waiting = Some(operation);
                    Poll::Pending
                }
                Err(_) => Poll::Ready(Ok(())),
            }
        })
        .await
    }

    /// Submits an operation whose end nobody waits for.
    pub(super) fn begin_unawaited(&self, operation: Operation) {
        let token = self.state.calls.lock().begin(&operation);
        if let Err(refused) = self.handle.submit(operation, token as usize) {
            self.state.calls.lock().refused(&refused.operation, token);
        }
    }

    /// Waits until every operation has ended.
    pub(super) fn poll_flushed(&self, cx: &Context<'_>) -> Poll<()> {
        let mut calls = self.state.calls.lock();
        if calls.unfinished == 0 || self.abandoned().is_some() {
            return Poll::Ready(());
        }
        let outdated = register(&mut calls.waiter, cx);
        drop(calls);
        drop(outdated);
        Poll::Pending
    }
}

/// What [`Socket::call`] returns.
pub(super) struct Call<'a> {
    socket: &'a Socket,
    stage: Stage,
}

impl Call<'_> {
    /// Whether the port has the operation, and has not reported on it.
    pub(super) fn is_submitted(&self) -> bool {
        matches!(self.stage, Stage::Submitted)
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }
}

enum Stage {
    Waiting(Operation),
    Submitted,
    Done,
}

impl Future for Call<'_> {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        let socket = self.socket;
        let polled = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Waiting(operation) => socket.poll_begin(operation, true, cx),
            Stage::Submitted => socket.poll_done(cx),
            Stage::Done => panic!("{}", inbox::POLLED_AFTER_RESULT),
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
        if !self.is_done() {
            let mut calls = self.socket.state.calls.lock();
            calls.awaited = None;
            let leftover = (calls.done.take(), calls.stop_waiting());
            drop(calls);
            drop(leftover);
        }
    }
}

impl Socket {
    /// Submits an operation when there is room for it.
    ///
    /// As the next one, it gives a result or the stage to go on with.
    fn poll_begin(
        &self,
        operation: Operation,
        awaited: bool,
        cx: &Context<'_>,
    ) -> Result<Done, Stage> {
        let mut calls = self.state.calls.lock();
        let timed_out = std::mem::take(&mut calls.timed_out).then(idle::timed_out);
        let broken = calls
            .broken
            .filter(|_| is_send(&operation))
            .map(io::Error::from_raw_os_error);
        if let Some(error) = broken.or(timed_out).or_else(|| self.abandoned()) {
            return Ok(Done {
                result: Err(error),
                bytes: 0,
                buffer: buffer_of(operation),
            });
        }
        let has_room = calls.has_room_for(&operation);
        // What nobody waits for wakes nobody when it ends.
        let outdated = match awaited || !has_room {
            true => register(&mut calls.waiter, cx),
            false => None,
        };
        let token = has_room.then(|| calls.begin(&operation));
        calls.awaited = token.filter(|_| awaited);
        drop(calls);
        drop(outdated);
        let Some(token) = token else {
            return Err(Stage::Waiting(operation));
        };
        // A file is taken to have bytes.
        self.state
            .touch(length(&operation) + usize::from(is_file(&operation)));
        match self.handle.submit(operation, token as usize) {
            Ok(_) => Err(Stage::Submitted),
            Err(refused) => {
                self.state.calls.lock().refused(&refused.operation, token);
                match self.refused(refused.error) {
                    Poll::Ready(error) => Ok(Done {
                        result: Err(error),
                        bytes: 0,
                        buffer: buffer_of(refused.operation),
                    }),
                    Poll::Pending => Err(Stage::Waiting(refused.operation)),
                }
            }
        }
    }

    fn poll_done(&self, cx: &Context<'_>) -> Result<Done, Stage> {
        let mut calls = self.state.calls.lock();
        if let Some(done) = calls.done.take() {
            // In time after all.
            calls.timed_out = false;
            return Ok(done);
        }
        let timed_out = std::mem::take(&mut calls.timed_out).then(idle::timed_out);
        if let Some(error) = timed_out.or_else(|| self.abandoned()) {
            calls.awaited = None;
            return Ok(Done {
                result: Err(error),
                bytes: 0,
                buffer: None,
            });
        }
        let outdated = register(&mut calls.waiter, cx);
        drop(calls);
        drop(outdated);
        Err(Stage::Submitted)
    }
}
