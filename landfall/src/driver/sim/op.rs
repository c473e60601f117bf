//! Operations that have not ended.

use std::time::Duration;

use crate::buffer::Buffer;
use crate::driver::ticket::Ticket;
use crate::port::{CompletionKind, Handle, Operation, Payload, SocketOption};

pub(super) struct Op {
    pub(super) generation: u32,
    /// Bytes sent so far.
    pub(super) done: usize,
    pub(super) ticket: Ticket,
    pub(super) socket: u32,
    pub(super) cancelled: bool,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Accept {
        once: bool,
    },
    Receive(Vec<u8>),
    ReceiveStream,
    ReceiveOnce,
    Readable,
    Writable,
    Send(Buffer),
    SendVectored(Vec<Buffer>),
    /// `unanswered`: it has been decided that it never is.
    Connect {
        unanswered: bool,
    },
    Shutdown(std::net::Shutdown),
    SetOption(SocketOption),
}

impl Op {
    pub(super) fn new(kind: Kind, socket: u32, token: usize, handle: Handle) -> Self {
        Op {
            generation: 0,
            done: 0,
            ticket: Ticket::new(Some(handle), token),
            socket,
            cancelled: false,
            kind,
        }
    }
}

impl Kind {
    pub(super) fn of(operation: Operation) -> Self {
        match operation {
            Operation::Accept(accept) => {
                assert!(accept.first_data.is_none(), "first data is not simulated");
                Kind::Accept { once: accept.once }
            }
            Operation::Receive(vec) => Kind::Receive(vec),
            Operation::ReceiveStream => Kind::ReceiveStream,
            Operation::ReceiveOnce => Kind::ReceiveOnce,
            Operation::WaitReadable => Kind::Readable,
            Operation::WaitWritable => Kind::Writable,
            Operation::Send(buffer) | Operation::SendZeroCopy(buffer) => Kind::Send(buffer),
            Operation::SendVectored(buffers) => Kind::SendVectored(buffers),
            Operation::Connect(_) => Kind::Connect { unanswered: false },
            Operation::Shutdown(how) => Kind::Shutdown(how),
            Operation::SetOption(option) => Kind::SetOption(option),
            Operation::SendTo { .. } | Operation::ReceiveFrom(_) => {
                unreachable!("refused on streams")
            }
            Operation::SendFile { .. }
            | Operation::ReadAt { .. }
            | Operation::WriteAt { .. }
            | Operation::SyncAll
            | Operation::SyncData => unreachable!("files are refused"),
        }
    }

    pub(super) fn completion_kind(&self) -> CompletionKind {
        match self {
            Kind::Accept { .. } => CompletionKind::Accept,
            Kind::Receive(_) | Kind::ReceiveStream | Kind::ReceiveOnce | Kind::Readable => {
                CompletionKind::Receive
            }
            Kind::Send(_) | Kind::SendVectored(_) | Kind::Writable => CompletionKind::Send,
            Kind::Connect { .. } => CompletionKind::Connect,
            Kind::Shutdown(_) => CompletionKind::Shutdown,
            Kind::SetOption(_) => CompletionKind::SetOption,
        }
    }

    pub(super) fn sends_bytes(&self) -> bool {
        matches!(self, Kind::Send(_) | Kind::SendVectored(_))
    }

    pub(super) fn resets_at_close(&self) -> Option<bool> {
        match self {
            Kind::SetOption(SocketOption::Linger(time)) => Some(*time == Some(Duration::ZERO)),
            _ => None,
        }
    }

    /// What a send has still to send after `done` bytes, in as many pieces as it has.
    pub(super) fn unsent(&self, done: usize) -> Vec<u8> {
        let all: Vec<u8> = match self {
            Kind::Send(buffer) => buffer.to_vec(),
            Kind::SendVectored(buffers) => buffers
                .iter()
                .flat_map(|part| part.iter().copied())
                .collect(),
            _ => Vec::new(),
        };
        all[done..].to_vec()
    }

    /// The memory to give back with the final completion.
    pub(super) fn payload(self) -> Payload {
        match self {
            Kind::Receive(vec) => Payload::Buffer(Buffer::Vec(vec)),
            Kind::Send(buffer) => Payload::Buffer(buffer),
            Kind::SendVectored(buffers) => Payload::Buffers(buffers),
            _ => Payload::None,
        }
    }
}
