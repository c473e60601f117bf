//! What has arrived on a stream and has not been received by the program.

mod ready;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::idle;
use super::os::RESET;
use super::socket::{Socket, register};
use crate::buffer::Buffer;
#[cfg(all(test, unix, not(loom)))]
use crate::fuzz::broken::{self, Broken};
use crate::port::{Operation, OperationId, is_aborted};
use crate::rare_queue::RareQueue;
use crate::runtime::Event;

/// Buffers and bytes that wait for a slow reader. Past either the stream of receives is ended, so
/// that the peer is slowed down by its own window, and begun again when the reader has drained
/// them. What the system had received by then still comes.
const MOST_BUFFERS: usize = 8;
const MOST_BYTES: usize = 64 * 1024;

/// Tokens of receive completions.
pub(super) const STREAM: usize = 0;
pub(super) const ONCE: usize = 1;
const READY: usize = 2;

/// The receiving side of a socket.
#[derive(Default)]
pub(super) struct Inbox {
    /// The oldest buffer; apart, so that a stream whose reader keeps up needs no queue.
    first: Option<Buffer>,
    rest: RareQueue<Buffer>,
    receiving: Receiving,
    reader: Option<Waker>,
    end: Option<End>,
    /// A [`Read`] waits for its own vector to come back.
    reading: bool,
    /// It has come back with so many bytes, and is `first`.
    own: Option<u32>,
    /// There is something to receive past the port.
    ready: bool,
    /// Nobody will receive any more.
    unwanted: bool,
    timed_out: bool,
    draining: bool,
    /// Only the peer ends the stream.
    outlasts_drain: bool,
}

/// What the port is doing for the inbox.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Receiving {
    #[default]
    Nothing,
    /// About to be submitted, or submitted just now.
    Begun,
    Stream(OperationId),
    Once(OperationId),
    /// A cancel has been asked for.
    Ending,
}

impl Receiving {
    /// The operation, if nobody has asked for its end.
    fn id(self) -> Option<OperationId> {
        match self {
            Receiving::Stream(id) | Receiving::Once(id) => Some(id),
            Receiving::Nothing | Receiving::Begun | Receiving::Ending => None,
        }
    }
}

#[derive(Clone, Copy)]
enum End {
    Closed,
    Failed(i32),
}

impl End {
    fn report(self) -> io::Result<()> {
        match self {
            End::Closed => Ok(()),
            End::Failed(code) => Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// What to do once the inbox is unlocked.
#[derive(Default)]
pub(super) struct Arrival {
    pub(super) reader: Option<Waker>,
    pub(super) cancel: Option<OperationId>,
    _unwanted: Option<Buffer>,
}

impl Inbox {
    /// Takes a receive completion in.
    pub(super) fn arrive(&mut self, event: &mut Event<'_>, was_reset: bool) -> Arrival {
        let mut arrival = Arrival::default();
        let cancelled = self.receiving == Receiving::Ending;
        if event.completion.is_final() {
            self.receiving = Receiving::Nothing;
        }
        let result = event.completion.result();
        match &result {
            Ok(0) if event.completion.token() == READY => self.ready = true,
            Ok(0) if was_reset => self.end = Some(End::Failed(RESET)),
            Ok(0) => self.end = Some(End::Closed),
            Ok(_) => {}
            Err(error) if cancelled && is_aborted(error) => {}
            Err(error) => self.end = Some(End::Failed(error.raw_os_error().unwrap_or(RESET))),
        }
        let bytes = result.unwrap_or(0);
        if let Some(mut buffer) = event.buffer.take() {
            if self.reading && event.completion.token() == ONCE {
                // The system receives less than 2 GiB at a time.
                self.own = Some(bytes as u32);
                self.push(buffer);
            } else if self.unwanted || bytes == 0 {
                arrival._unwanted = Some(buffer);
            } else {
                // Only a single receive has bytes of the program's own before those that came.
                buffer.advance(buffer.len() - bytes);
                self.push(buffer);
            }
        }
        // The completion may be here before the call that submitted the operation has returned.
        let is_stream = matches!(self.receiving, Receiving::Begun | Receiving::Stream(_));
        if is_stream && event.completion.token() == STREAM && self.is_full() {
            self.receiving = Receiving::Ending;
            arrival.cancel = Some(event.completion.id());
        }
        #[cfg(all(test, unix, not(loom)))]
        if broken::is(Broken::ForgetsTheReader) && bytes == 1 {
            return arrival;
        }
        arrival.reader = self.reader.take();
        arrival
    }

    fn push(&mut self, buffer: Buffer) {
        match self.first {
            None => self.first = Some(buffer),
            Some(_) => self.rest.push_back(buffer),
        }
    }

    fn pop(&mut self) -> Option<Buffer> {
        let first = self.first.take();
        self.first = self.rest.pop_front();
        first
    }

    fn put_back(&mut self, buffer: Buffer) {
        #[cfg(all(test, unix, not(loom)))]
        if broken::is(Broken::PutsTheRestBehind) {
            return self.push(buffer);
        }
        if let Some(second) = self.first.replace(buffer) {
            self.rest.push_front(second);
        }
    }

    fn is_full(&self) -> bool {
        let buffers = self.first.iter().chain(self.rest.iter());
        self.rest.len() + 1 >= MOST_BUFFERS
            || buffers.map(|buffer| buffer.len()).sum::<usize>() >= MOST_BYTES
    }

    /// The next buffer, or why there will be none; nothing while it may yet come.
    fn next(&mut self) -> Option<io::Result<Option<Buffer>>> {
        if let Some(buffer) = self.pop() {
            // In time after all.
            self.timed_out = false;
            return Some(Ok(Some(buffer)));
        }
        if let Some(end) = self.end {
            return Some(end.report().map(|()| None));
        }
        if std::mem::take(&mut self.timed_out) {
            return Some(Err(idle::timed_out()));
        }
        self.draining.then_some(Ok(None))
    }

    /// The reader's future was dropped. Returns its waker.
    pub(super) fn stop_waiting(&mut self) -> Option<Waker> {
        self.timed_out = false;
        self.reader.take()
    }

    /// Nobody waits for the vector of a read any more: what came in it is for the next receive. If
    /// nothing did, it is nobody's.
    fn disown(&mut self) -> Option<Buffer> {
        self.reading = false;
        let bytes = self.own.take()? as usize;
        #[cfg(all(test, unix, not(loom)))]
        let bytes = match broken::is(Broken::LosesWhatADroppedReadBrought) {
            true => 0,
            false => bytes,
        };
        if bytes == 0 {
            return self.pop();
        }
        if let Some(first) = &mut self.first {
            first.advance(first.len() - bytes);
        }
        None
    }

    /// Tells a reader that waits that it has waited for too long.
    pub(super) fn expire(&mut self) -> Option<Waker> {
        let reader = self.reader.take();
        self.timed_out = reader.is_some();
        reader
    }

    /// Has the reader see the end of the stream only where the peer has made one: it will pass it on.
    pub(super) fn outlast_drain(&mut self) {
        self.draining = false;
        self.outlasts_drain = true;
    }

    /// Ends the stream for the reader once it has received what is there.
    pub(super) fn drain(&mut self) -> Option<Waker> {
        if self.outlasts_drain {
            return None;
        }
        self.draining = true;
        self.reader.take()
    }

    /// Gives up what has come and what will come. Returns the operation to cancel, and what is to
    /// be dropped.
    fn discard(&mut self) -> (Option<OperationId>, Vec<Buffer>) {
        self.unwanted = true;
        (self.end(), std::iter::from_fn(|| self.pop()).collect())
    }

    /// Ends what the port is doing. Returns the operation to cancel.
    fn end(&mut self) -> Option<OperationId> {
        let id = self.receiving.id();
        if id.is_some() {
            self.receiving = Receiving::Ending;
        }
        id
    }
}

pub(super) const POLLED_AFTER_RESULT: &str = "polled after it gave its result";

impl Socket {
    /// Receives the next buffer.
    pub(super) fn poll_receive(&self, cx: &Context<'_>) -> Poll<io::Result<Option<Buffer>>> {
        let mut inbox = self.state.inbox.lock();
        if let Some(next) = inbox.next() {
            return Poll::Ready(next);
        }
        if let Some(error) = self.abandoned() {
            return Poll::Ready(Err(error));
        }
        let outdated = register(&mut inbox.reader, cx);
        let begin = inbox.receiving == Receiving::Nothing;
        if begin {
            inbox.receiving = Receiving::Begun;
        }
        drop(inbox);
        drop(outdated);
        if begin {
            if let Err((error, _)) = self.begin_receiving(Operation::ReceiveStream, STREAM) {
                return self.refused(error).map(Err);
            }
        }
        Poll::Pending
    }

    /// Submits a receive that the inbox already counts on.
    fn begin_receiving(
        &self,
        operation: Operation,
        token: usize,
    ) -> Result<(), (io::Error, Operation)> {
        let submitted = self.handle.submit(operation, token);
        let mut inbox = self.state.inbox.lock();
        match submitted {
            Ok(id) => {
                // It may have completed by now, or have been asked to end. Only one reader at a
                // time polls, so this is not yet the next one.
                if inbox.receiving == Receiving::Begun {
                    inbox.receiving = if token == STREAM {
                        Receiving::Stream(id)
                    } else {
                        Receiving::Once(id)
                    };
                }
                Ok(())
            }
            Err(refused) => {
                inbox.receiving = Receiving::Nothing;
                inbox.reading = false;
                Err((refused.error, refused.operation))
            }
        }
    }

    /// Drops what has come, and ends the stream of receives.
    pub(super) fn stop_receiving(&self) {
        let (id, discarded) = self.state.inbox.lock().discard();
        #[cfg(all(test, unix, not(loom)))]
        if broken::is(Broken::LeaksWhatNobodyReceives) {
            std::mem::forget(discarded);
            return;
        }
        drop(discarded);
        if let Some(id) = id {
            self.handle.cancel(id);
        }
    }

    /// Ends the stream of receives without losing what has come; gives it all once nothing more
    /// comes.
    pub(super) fn poll_detach(&self, cx: &Context<'_>) -> Poll<Vec<Buffer>> {
        let mut inbox = self.state.inbox.lock();
        if inbox.receiving == Receiving::Nothing || self.abandoned().is_some() {
            return Poll::Ready(std::iter::from_fn(|| inbox.pop()).collect());
        }
        let id = inbox.end();
        let outdated = register(&mut inbox.reader, cx);
        drop(inbox);
        drop(outdated);
        if let Some(id) = id {
            self.handle.cancel(id);
        }
        Poll::Pending
    }

    /// Waits for the next buffer.
    pub(super) fn receive(&self) -> Receive<'_> {
        Receive { socket: Some(self) }
    }

    /// Waits for bytes in the program's own vector.
    pub(super) fn read(&self, vec: Vec<u8>) -> Read<'_> {
        Read {
            socket: self,
            stage: Stage::Waiting(vec),
        }
    }
}

/// What [`Socket::receive`] returns.
pub(super) struct Receive<'a> {
    /// Taken when it gives its result.
    socket: Option<&'a Socket>,
}

impl Future for Receive<'_> {
    type Output = io::Result<Option<Buffer>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let socket = self.socket.expect(POLLED_AFTER_RESULT);
        let polled = socket.poll_receive(cx);
        if polled.is_ready() {
            self.socket = None;
        }
        polled
    }
}

impl Drop for Receive<'_> {
    fn drop(&mut self) {
        if let Some(socket) = self.socket {
            let outdated = socket.state.inbox.lock().stop_waiting();
            drop(outdated);
        }
    }
}

/// What [`Socket::read`] returns.
pub(super) struct Read<'a> {
    socket: &'a Socket,
    stage: Stage,
}

enum Stage {
    Waiting(Vec<u8>),
    /// The vector is with the port.
    Submitted,
    Done,
}

impl Future for Read<'_> {
    type Output = (io::Result<usize>, Vec<u8>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let socket = self.socket;
        let polled = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Waiting(vec) if vec.len() == vec.capacity() => {
                let error = io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the vector has no spare capacity to read into",
                );
                return Poll::Ready((Err(error), vec));
            }
            Stage::Waiting(vec) => socket.poll_read(vec, cx),
            Stage::Submitted => socket.poll_submitted_read(cx),
            Stage::Done => panic!("{POLLED_AFTER_RESULT}"),
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

impl Drop for Read<'_> {
    fn drop(&mut self) {
        if !matches!(self.stage, Stage::Done) {
            let mut inbox = self.socket.state.inbox.lock();
            let leftover = (inbox.stop_waiting(), inbox.disown());
            drop(inbox);
            drop(leftover);
        }
    }
}

impl Socket {
    /// Fills the vector from what is there, or submits it.
    fn poll_read(
        &self,
        mut vec: Vec<u8>,
        cx: &Context<'_>,
    ) -> Result<(io::Result<usize>, Vec<u8>), Stage> {
        let mut inbox = self.state.inbox.lock();
        match inbox.next() {
            Some(Ok(Some(mut buffer))) => {
                let count = buffer.len().min(vec.capacity() - vec.len());
                vec.extend_from_slice(&buffer[..count]);
                buffer.advance(count);
                if !buffer.is_empty() {
                    inbox.put_back(buffer);
                }
                #[cfg(all(test, unix, not(loom)))]
                if broken::is(Broken::ReceivesTwice) {
                    inbox.put_back(vec[vec.len() - count..].to_vec().into());
                }
                return Ok((Ok(count), vec));
            }
            Some(Ok(None)) => return Ok((Ok(0), vec)),
            Some(Err(error)) => return Ok((Err(error), vec)),
            None => {}
        }
        if let Some(error) = self.abandoned() {
            return Ok((Err(error), vec));
        }
        let outdated = register(&mut inbox.reader, cx);
        let begin = inbox.receiving == Receiving::Nothing;
        if begin {
            inbox.receiving = Receiving::Begun;
            inbox.reading = true;
        }
        drop(inbox);
        drop(outdated);
        if !begin {
            return Err(Stage::Waiting(vec));
        }
        match self.begin_receiving(Operation::Receive(vec), ONCE) {
            Ok(()) => Err(Stage::Submitted),
            Err((error, Operation::Receive(vec))) => match self.refused(error) {
                Poll::Ready(error) => Ok((Err(error), vec)),
                Poll::Pending => Err(Stage::Waiting(vec)),
            },
            Err((error, _)) => Ok((Err(error), Vec::new())),
        }
    }

    /// Takes the vector back when it has come.
    fn poll_submitted_read(&self, cx: &Context<'_>) -> Result<(io::Result<usize>, Vec<u8>), Stage> {
        let mut inbox = self.state.inbox.lock();
        if let Some(bytes) = inbox.own.take() {
            inbox.reading = false;
            let result = match (bytes, inbox.end, std::mem::take(&mut inbox.timed_out)) {
                (0, Some(end), _) => end.report().map(|()| 0),
                (0, None, true) => Err(idle::timed_out()),
                // None at all: the server drains.
                (bytes, _, _) => Ok(bytes as usize),
            };
            let vec = inbox.pop().map(Buffer::into_vec);
            return Ok((result, vec.unwrap_or_default()));
        }
        if let Some(error) = self.abandoned() {
            // The vector went with the port.
            return Ok((Err(error), Vec::new()));
        }
        // The vector comes back only when the operation has ended.
        let id = if inbox.timed_out || inbox.draining {
            inbox.end()
        } else {
            None
        };
        let outdated = register(&mut inbox.reader, cx);
        drop(inbox);
        drop(outdated);
        if let Some(id) = id {
            self.handle.cancel(id);
        }
        Err(Stage::Submitted)
    }
}
