//! Receives of a datagram socket, one at a time.
//!
//! A receive has its own vector with the port. When its future is dropped it is cancelled, which may
//! be too late: then the datagram is kept for the next receive. Another one is begun only when the last
//! has ended, so no more than one is ever kept.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::line::{Line, Place};
use super::{UdpSocket, is_too_long, too_long};
use crate::buffer::Buffer;
use crate::net::inbox::POLLED_AFTER_RESULT;
use crate::port::{Operation, OperationId};
use crate::runtime::Event;

/// The receiving side of a socket.
#[derive(Default)]
pub(super) struct Receives {
    turn: Turn,
    kept: Option<Kept>,
    line: Line,
}

/// Whose receive the port has.
#[derive(Default)]
enum Turn {
    #[default]
    Nobodys,
    /// A future's, that is to be woken. The operation is known once it has been submitted.
    Taken(Waker, Option<OperationId>),
    /// The same one's; it has ended.
    Ended(Received),
    /// A dropped future's.
    Forgotten,
}

/// How a receive, or a wait, has ended.
pub(super) struct Received {
    pub(super) result: io::Result<usize>,
    /// `None`: a wait has none.
    pub(super) vec: Option<Vec<u8>>,
    pub(super) peer: Option<SocketAddr>,
    /// Those at the end of the vector that have come.
    bytes: usize,
}

/// A datagram that came when nobody asked for it any more.
struct Kept {
    data: Buffer,
    /// It was longer.
    cut: bool,
    peer: Option<SocketAddr>,
}

impl Received {
    fn of(event: &mut Event<'_>) -> Self {
        Received {
            result: event.completion.result(),
            vec: event.buffer.take().map(Buffer::into_vec),
            peer: event.completion.peer(),
            bytes: event.completion.bytes(),
        }
    }

    fn failed(error: io::Error, vec: Option<Vec<u8>>) -> Self {
        Received {
            result: Err(error),
            vec,
            peer: None,
            bytes: 0,
        }
    }

    /// The datagram, if there is one.
    fn keep(self) -> Option<Kept> {
        let mut data = Buffer::from(self.vec?);
        let cut = match &self.result {
            Ok(_) => false,
            Err(error) if is_too_long(error) => true,
            Err(_) => return None,
        };
        data.advance(data.len() - self.bytes);
        Some(Kept {
            data,
            cut,
            peer: self.peer,
        })
    }
}

impl Kept {
    /// Is received after all, into another vector.
    fn into_vec(self, mut vec: Vec<u8>) -> Received {
        let bytes = self.data.len().min(vec.capacity() - vec.len());
        vec.extend_from_slice(&self.data[..bytes]);
        Received {
            result: match self.cut || bytes < self.data.len() {
                true => Err(too_long()),
                false => Ok(bytes),
            },
            vec: Some(vec),
            peer: self.peer,
            bytes,
        }
    }
}

impl Receives {
    /// Takes a receive completion in. Returns whom to wake.
    pub(super) fn arrive(&mut self, event: &mut Event<'_>) -> Option<Waker> {
        let received = Received::of(event);
        match std::mem::take(&mut self.turn) {
            Turn::Taken(waker, _) => {
                self.turn = Turn::Ended(received);
                Some(waker)
            }
            Turn::Forgotten => {
                self.kept = received.keep();
                self.line.call()
            }
            // Nothing was submitted.
            Turn::Nobodys | Turn::Ended(_) => None,
        }
    }

    /// Takes everybody out who waits.
    pub(super) fn abandon(&mut self) -> Vec<Waker> {
        let mut wakers: Vec<_> = std::iter::from_fn(|| self.line.call()).collect();
        if let Turn::Taken(waker, _) = &self.turn {
            wakers.push(waker.clone());
        }
        wakers
    }

    /// Whom to wake when one has left.
    fn next(&mut self) -> Option<Waker> {
        match self.turn {
            Turn::Nobodys => self.line.call(),
            _ => None,
        }
    }
}

/// A receive into a vector, or a wait for a datagram.
pub(super) struct Receive<'a> {
    socket: &'a UdpSocket,
    stage: Stage,
    place: Place,
}

enum Stage {
    Waiting(Option<Vec<u8>>),
    Submitted,
    Done,
}

impl<'a> Receive<'a> {
    pub(super) fn new(socket: &'a UdpSocket, vec: Option<Vec<u8>>) -> Self {
        Receive {
            socket,
            stage: Stage::Waiting(vec),
            place: Place::default(),
        }
    }
}

impl Future for Receive<'_> {
    type Output = Received;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Received> {
        let polled = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Waiting(Some(vec)) if vec.len() == vec.capacity() => {
                let error = io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the vector has no spare capacity to receive into; reserve some",
                );
                Ok(Received::failed(error, Some(vec)))
            }
            Stage::Waiting(vec) => self.poll_turn(vec, cx),
            Stage::Submitted => self.poll_ended(cx),
            Stage::Done => panic!("{POLLED_AFTER_RESULT}"),
        };
        match polled {
            Ok(received) => Poll::Ready(received),
            Err(stage) => {
                self.stage = stage;
                Poll::Pending
            }
        }
    }
}

impl Receive<'_> {
    /// Takes what is there, or submits the receive if nobody else has one.
    ///
    /// As the next one, it gives a result or the stage to go on with.
    fn poll_turn(&mut self, vec: Option<Vec<u8>>, cx: &Context<'_>) -> Result<Received, Stage> {
        if let Some(error) = self.socket.shared.abandoned() {
            return Ok(Received::failed(error, vec));
        }
        let mut receives = self.socket.state.receives.lock();
        if !matches!(receives.turn, Turn::Nobodys) {
            let outdated = receives.line.wait(&mut self.place, cx);
            drop(receives);
            drop(outdated);
            return Err(Stage::Waiting(vec));
        }
        let outdated = receives.line.leave(&mut self.place);
        if receives.kept.is_none() {
            receives.turn = Turn::Taken(cx.waker().clone(), None);
            drop(receives);
            drop(outdated);
            return self.submit(vec);
        }
        let received = match (vec, &mut receives.kept) {
            (Some(vec), kept) => kept.take().map(|kept| kept.into_vec(vec)),
            (None, _) => None,
        };
        let next = receives.next();
        drop(receives);
        drop(outdated);
        if let Some(next) = next {
            next.wake();
        }
        // Who only waits leaves it there.
        Ok(received.unwrap_or(Received {
            result: Ok(0),
            vec: None,
            peer: None,
            bytes: 0,
        }))
    }

    /// Submits a receive whose turn it is.
    fn submit(&mut self, vec: Option<Vec<u8>>) -> Result<Received, Stage> {
        let operation = match vec {
            Some(vec) => Operation::ReceiveFrom(vec),
            None => Operation::WaitReadable,
        };
        let submitted = self.socket.handle.submit(operation, 0);
        let mut receives = self.socket.state.receives.lock();
        let refused = match submitted {
            Ok(submitted) => {
                // It may have ended by now.
                if let Turn::Taken(_, id) = &mut receives.turn {
                    *id = Some(submitted);
                }
                return Err(Stage::Submitted);
            }
            Err(refused) => refused,
        };
        let outdated = std::mem::take(&mut receives.turn);
        let next = receives.next();
        drop(receives);
        drop(outdated);
        if let Some(next) = next {
            next.wake();
        }
        let vec = match refused.operation {
            Operation::ReceiveFrom(vec) => Some(vec),
            _ => None,
        };
        match self.socket.shared.refused(refused.error) {
            Poll::Ready(error) => Ok(Received::failed(error, vec)),
            Poll::Pending => Err(Stage::Waiting(vec)),
        }
    }

    fn poll_ended(&mut self, cx: &Context<'_>) -> Result<Received, Stage> {
        let abandoned = self.socket.shared.abandoned();
        let mut receives = self.socket.state.receives.lock();
        let (result, outdated, next) = match std::mem::take(&mut receives.turn) {
            Turn::Ended(received) => (Ok(received), None, receives.next()),
            turn => {
                let (waker, id) = match turn {
                    Turn::Taken(waker, id) => (Some(waker), id),
                    _ => (None, None),
                };
                match abandoned {
                    // The vector went with the port.
                    Some(error) => {
                        receives.turn = Turn::Forgotten;
                        (Ok(Received::failed(error, None)), waker, None)
                    }
                    None => {
                        receives.turn = Turn::Taken(cx.waker().clone(), id);
                        (Err(Stage::Submitted), waker, None)
                    }
                }
            }
        };
        drop(receives);
        drop(outdated);
        if let Some(next) = next {
            next.wake();
        }
        result
    }
}

impl Drop for Receive<'_> {
    fn drop(&mut self) {
        if matches!(self.stage, Stage::Done) {
            return;
        }
        let mut receives = self.socket.state.receives.lock();
        let mut outdated = receives.line.leave(&mut self.place);
        let mut cancel = None;
        if matches!(self.stage, Stage::Submitted) {
            match std::mem::replace(&mut receives.turn, Turn::Forgotten) {
                Turn::Ended(received) => {
                    receives.turn = Turn::Nobodys;
                    receives.kept = received.keep();
                }
                Turn::Taken(waker, id) => {
                    outdated = Some(waker);
                    cancel = id;
                }
                other => receives.turn = other,
            }
        }
        let next = receives.next();
        drop(receives);
        drop(outdated);
        if let Some(id) = cancel {
            self.socket.handle.cancel(id);
        }
        if let Some(next) = next {
            next.wake();
        }
    }
}
