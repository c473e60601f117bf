//! Sends of a datagram socket, and its other calls, of any number of tasks.
//!
//! A future that is dropped leaves its operation with the port, which finishes it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::UdpSocket;
use super::line::{Line, Place};
use crate::buffer::Buffer;
use crate::net::inbox::POLLED_AFTER_RESULT;
use crate::port::Operation;
use crate::runtime::Event;

/// Unfinished operations, and bytes of theirs, past which a further one waits. One alone may be of any
/// size.
const MOST_UNFINISHED: usize = 64;
const MOST_BYTES: usize = 256 * 1024;

/// The sending side of a socket.
#[derive(Default)]
pub(super) struct Sends {
    /// Their places are the tokens.
    pending: Slab<Pending>,
    unfinished: usize,
    bytes: usize,
    line: Line,
}

/// An operation that the port has, or whose future has not seen its end.
enum Pending {
    Awaited(Waker, usize),
    /// Of a dropped future, with so many bytes.
    Forgotten(usize),
    Done(Sent),
}

/// How it ended, and its buffer if it had one.
pub(super) struct Sent {
    pub(super) result: io::Result<()>,
    pub(super) buffer: Option<Buffer>,
}

impl Sends {
    fn has_room_for(&self, bytes: usize) -> bool {
        self.unfinished < MOST_UNFINISHED && (self.bytes == 0 || self.bytes + bytes <= MOST_BYTES)
    }

    fn begin(&mut self, waker: Waker, bytes: usize) -> usize {
        self.unfinished += 1;
        self.bytes += bytes;
        self.pending.insert(Pending::Awaited(waker, bytes))
    }

    /// An operation of so many bytes is over. Returns whom to wake: whoever waits for room.
    fn end(&mut self, bytes: usize) -> Option<Waker> {
        self.unfinished -= 1;
        self.bytes -= bytes;
        self.line.call()
    }

    /// Takes the completion of an operation in. Returns whom to wake.
    pub(super) fn finish(&mut self, event: &mut Event<'_>) -> [Option<Waker>; 2] {
        let key = event.completion.token();
        let Some(pending) = self.pending.get_mut(key) else {
            return [None, None];
        };
        if let Pending::Forgotten(bytes) = *pending {
            self.pending.remove(key);
            return [None, self.end(bytes)];
        }
        let done = Pending::Done(Sent {
            result: event.completion.result().map(drop),
            buffer: event.buffer.take(),
        });
        match std::mem::replace(pending, done) {
            Pending::Awaited(waker, bytes) => [Some(waker), self.end(bytes)],
            _ => [None, None],
        }
    }

    /// Everybody who waits.
    pub(super) fn abandon(&mut self) -> Vec<Waker> {
        let mut wakers: Vec<_> = std::iter::from_fn(|| self.line.call()).collect();
        wakers.extend(
            self.pending
                .iter()
                .filter_map(|(_, pending)| match pending {
                    Pending::Awaited(waker, _) => Some(waker.clone()),
                    _ => None,
                }),
        );
        wakers
    }
}

fn length(operation: &Operation) -> usize {
    match operation {
        Operation::Send(buffer) | Operation::SendTo { buffer, .. } => buffer.len(),
        _ => 0,
    }
}

/// The buffer of an operation that was not begun.
fn buffer_of(operation: Operation) -> Option<Buffer> {
    match operation {
        Operation::Send(buffer) | Operation::SendTo { buffer, .. } => Some(buffer),
        _ => None,
    }
}

/// An operation, and the wait for its end. Nothing happens until it is polled.
pub(super) struct Call<'a> {
    socket: &'a UdpSocket,
    stage: Stage,
    place: Place,
}

enum Stage {
    Waiting(Operation),
    /// Under this token.
    Submitted(usize),
    Done,
}

impl<'a> Call<'a> {
    pub(super) fn new(socket: &'a UdpSocket, operation: Operation) -> Self {
        Call {
            socket,
            stage: Stage::Waiting(operation),
            place: Place::default(),
        }
    }

    /// Submits the operation when there is room for it.
    ///
    /// As the next one, it gives a result or the stage to go on with.
    fn poll_begin(&mut self, operation: Operation, cx: &Context<'_>) -> Result<Sent, Stage> {
        if let Some(error) = self.socket.shared.abandoned() {
            return Ok(Sent {
                result: Err(error),
                buffer: buffer_of(operation),
            });
        }
        let bytes = length(&operation);
        let mut sends = self.socket.state.sends.lock();
        if !sends.has_room_for(bytes) {
            let outdated = sends.line.wait(&mut self.place, cx);
            drop(sends);
            drop(outdated);
            return Err(Stage::Waiting(operation));
        }
        let outdated = sends.line.leave(&mut self.place);
        let key = sends.begin(cx.waker().clone(), bytes);
        // There may be room for more than one.
        let next = sends.line.call();
        drop(sends);
        drop(outdated);
        if let Some(next) = next {
            next.wake();
        }
        match self.socket.handle.submit(operation, key) {
            Ok(_) => Err(Stage::Submitted(key)),
            Err(refused) => {
                let mut sends = self.socket.state.sends.lock();
                let outdated = sends.pending.try_remove(key);
                let next = sends.end(bytes);
                drop(sends);
                drop(outdated);
                if let Some(next) = next {
                    next.wake();
                }
                match self.socket.shared.refused(refused.error) {
                    Poll::Ready(error) => Ok(Sent {
                        result: Err(error),
                        buffer: buffer_of(refused.operation),
                    }),
                    Poll::Pending => Err(Stage::Waiting(refused.operation)),
                }
            }
        }
    }

    fn poll_done(&mut self, key: usize, cx: &Context<'_>) -> Result<Sent, Stage> {
        let abandoned = self.socket.shared.abandoned();
        let mut sends = self.socket.state.sends.lock();
        if let Some(Pending::Awaited(waker, _)) = sends.pending.get_mut(key) {
            if let Some(error) = abandoned {
                drop(sends);
                self.forget(key);
                return Ok(Sent {
                    result: Err(error),
                    buffer: None,
                });
            }
            let outdated = std::mem::replace(waker, cx.waker().clone());
            drop(sends);
            drop(outdated);
            return Err(Stage::Submitted(key));
        }
        match sends.pending.try_remove(key) {
            Some(Pending::Done(sent)) => Ok(sent),
            _ => unreachable!("its place is kept until the future has seen the end"),
        }
    }

    /// Leaves an operation to the port.
    fn forget(&self, key: usize) {
        let mut sends = self.socket.state.sends.lock();
        let leftover = match sends.pending.get_mut(key) {
            Some(&mut Pending::Awaited(_, bytes)) => {
                let pending = &mut sends.pending[key];
                Some(std::mem::replace(pending, Pending::Forgotten(bytes)))
            }
            _ => sends.pending.try_remove(key),
        };
        drop(sends);
        drop(leftover);
    }
}

impl Future for Call<'_> {
    type Output = Sent;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Sent> {
        let polled = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Waiting(operation) => self.poll_begin(operation, cx),
            Stage::Submitted(key) => self.poll_done(key, cx),
            Stage::Done => panic!("{POLLED_AFTER_RESULT}"),
        };
        match polled {
            Ok(sent) => Poll::Ready(sent),
            Err(stage) => {
                self.stage = stage;
                Poll::Pending
            }
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        match self.stage {
            Stage::Done => {}
            Stage::Submitted(key) => self.forget(key),
            Stage::Waiting(_) => {
                let mut sends = self.socket.state.sends.lock();
                let outdated = sends.line.leave(&mut self.place);
                // This one may have been called.
                let next = sends.line.call();
                drop(sends);
                drop(outdated);
                if let Some(next) = next {
                    next.wake();
                }
            }
        }
    }
}
