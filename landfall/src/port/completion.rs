//! What a worker takes from the port.

use std::fmt;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

use super::accepted::Accepted;
use super::handle::Handle;
use super::operation::OperationId;
use crate::buffer::Buffer;

/// What kind of operation a completion reports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum CompletionKind {
    /// A packet posted by [`CompletionPort::post`](crate::port::CompletionPort::post).
    Packet,
    /// A timer that ran out.
    Timer,
    /// A connection, or the end of a stream of accepts.
    Accept,
    /// A connect.
    Connect,
    /// A receive of any form.
    Receive,
    /// A send of any form, of a file too.
    Send,
    /// A shutdown.
    Shutdown,
    /// An option was set.
    SetOption,
    /// A read of a file.
    Read,
    /// A write to a file.
    Write,
    /// A file's contents were stored.
    Sync,
}

/// A packet that a program posts to its own port.
///
/// The port gives all three numbers back verbatim and reads none of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Packet {
    /// Reported by [`Completion::bytes`].
    pub bytes: usize,
    /// Reported by [`Completion::key`].
    pub key: usize,
    /// Reported by [`Completion::token`].
    pub token: usize,
}

/// One finished operation, or one step of a stream of accepts or receives.
///
/// A completion of a serial handle holds that handle's next completion back until it is dropped.
pub struct Completion {
    pub(crate) kind: CompletionKind,
    pub(crate) last: bool,
    /// The system's error code, 0 for success.
    pub(crate) code: i32,
    pub(crate) sequence: u32,
    pub(crate) bytes: usize,
    pub(crate) key: usize,
    pub(crate) token: usize,
    pub(crate) id: OperationId,
    pub(crate) payload: Payload,
    pub(crate) handle: Option<Handle>,
}

/// What a completion brings along.
#[derive(Debug)]
pub(crate) enum Payload {
    None,
    Buffer(Buffer),
    Buffers(Vec<Buffer>),
    /// A datagram and its sender. The vector has capacity until it is taken.
    FromV4(Vec<u8>, SocketAddrV4),
    /// Boxed, as no completion is to be larger for it.
    FromV6(Vec<u8>, Box<SocketAddrV6>),
    /// Boxed, as it is rare and large.
    Accepted(Box<Accepted>),
}

impl Payload {
    /// What a receive has brought that asks for the sender; `None`: it has no internet address, or
    /// nothing came.
    pub(crate) fn datagram(vec: Vec<u8>, peer: Option<SocketAddr>) -> Self {
        match peer {
            None => Payload::Buffer(Buffer::Vec(vec)),
            Some(SocketAddr::V4(peer)) => Payload::FromV4(vec, peer),
            Some(SocketAddr::V6(peer)) => Payload::FromV6(vec, Box::new(peer)),
        }
    }
}

/// There are two for each message.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Completion>() <= 96);

impl Completion {
    /// A completion that belongs to no handle: a posted packet or a timer.
    pub(crate) fn unbound(kind: CompletionKind, id: OperationId, packet: Packet) -> Self {
        Completion {
            kind,
            last: true,
            code: 0,
            sequence: 0,
            bytes: packet.bytes,
            key: packet.key,
            token: packet.token,
            id,
            payload: Payload::None,
            handle: None,
        }
    }

    /// What finished.
    #[inline]
    pub fn kind(&self) -> CompletionKind {
        self.kind
    }

    /// The key given when the handle was associated, or the posted packet's. An accept carries
    /// the listener's key.
    #[inline]
    pub fn key(&self) -> usize {
        self.key
    }

    /// The token given at submission, or the posted packet's.
    #[inline]
    pub fn token(&self) -> usize {
        self.token
    }

    /// The operation, as [`Handle::submit`] named it.
    pub fn id(&self) -> OperationId {
        self.id
    }

    /// The bytes transferred.
    ///
    /// # Errors
    ///
    /// What the system ended the operation with, its raw code kept. An operation ended by a cancel or a close gives an error for which
    /// [`is_aborted`](crate::port::is_aborted) is true.
    #[inline]
    pub fn result(&self) -> io::Result<usize> {
        match self.code {
            0 => Ok(self.bytes),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    /// The bytes transferred, also by an operation that failed afterwards.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether this is the operation's last completion. Only streams of accepts and receives
    /// have others.
    #[inline]
    pub fn is_final(&self) -> bool {
        self.last
    }

    /// The place of this completion in its stream of receives, from 0.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// The handle that the operation was submitted on; `None` for a packet or a timer.
    #[inline]
    pub fn handle(&self) -> Option<&Handle> {
        self.handle.as_ref()
    }

    /// Takes the buffer: received or read data, or the memory that was sent or written.
    #[inline]
    pub fn take_buffer(&mut self) -> Option<Buffer> {
        // Moves the buffer alone: every message has one.
        let Payload::Buffer(buffer) = &mut self.payload else {
            return self.take_datagram();
        };
        let buffer = std::mem::take(buffer);
        self.payload = Payload::None;
        Some(buffer)
    }

    #[inline(never)]
    fn take_datagram(&mut self) -> Option<Buffer> {
        let (Payload::FromV4(vec, _) | Payload::FromV6(vec, _)) = &mut self.payload else {
            return None;
        };
        let vec = std::mem::take(vec);
        (vec.capacity() > 0).then_some(Buffer::Vec(vec))
    }

    /// Who has sent the datagram that a
    /// [`ReceiveFrom`](crate::port::Operation::ReceiveFrom) brought, one that was cut too. `None`: nothing
    /// came, the operation was another one, or the sender has no internet address, as those of Unix
    /// sockets.
    pub fn peer(&self) -> Option<SocketAddr> {
        match &self.payload {
            Payload::FromV4(_, peer) => Some((*peer).into()),
            Payload::FromV6(_, peer) => Some((**peer).into()),
            _ => None,
        }
    }

    /// Takes the buffers of a vectored send.
    pub fn take_buffers(&mut self) -> Option<Vec<Buffer>> {
        match std::mem::replace(&mut self.payload, Payload::None) {
            Payload::Buffers(buffers) => Some(buffers),
            other => {
                self.payload = other;
                None
            }
        }
    }

    /// Takes the connection that an accept brought. Left in the completion, it is closed with it.
    #[inline]
    pub fn take_accepted(&mut self) -> Option<Accepted> {
        self.take_boxed_accepted().map(|accepted| *accepted)
    }

    pub(crate) fn take_boxed_accepted(&mut self) -> Option<Box<Accepted>> {
        match std::mem::replace(&mut self.payload, Payload::None) {
            Payload::Accepted(accepted) => Some(accepted),
            other => {
                self.payload = other;
                None
            }
        }
    }
}

impl CompletionKind {
    /// Whether one holds back the next one of a serial handle. Accepts do not: they arrive through
    /// several lanes, and have no order.
    pub(crate) fn takes_turns(self) -> bool {
        self != CompletionKind::Accept
    }
}

impl Drop for Completion {
    #[inline]
    fn drop(&mut self) {
        if self.kind.takes_turns() {
            if let Some(handle) = &self.handle {
                handle.completion_dropped();
            }
        }
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion")
            .field("kind", &self.kind)
            .field("key", &self.key)
            .field("token", &self.token)
            .field("result", &self.result())
            .field("final", &self.last)
            .finish_non_exhaustive()
    }
}
