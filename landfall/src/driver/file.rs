//! Operations on files, and ranges of files to send, as all drivers carry them.

use std::fs::File;
#[cfg(unix)]
use std::mem::MaybeUninit;
use std::sync::Arc;

use super::refusal::MOST_OFFSET;
use crate::buffer::Buffer;
#[cfg(unix)]
use crate::buffer::filled;
use crate::port::{CompletionKind, Operation, Payload};

/// An operation on a file.
pub(crate) enum FileOp {
    /// Into the spare capacity.
    Read {
        offset: u64,
        vec: Vec<u8>,
    },
    Write {
        offset: u64,
        buffer: Buffer,
    },
    Sync {
        /// With the metadata that reading the data does not need.
        all: bool,
    },
}

impl FileOp {
    /// What `refusal::check_file` has let pass.
    pub(crate) fn of(operation: Operation) -> Self {
        match operation {
            Operation::ReadAt { offset, buffer } => FileOp::Read {
                offset,
                vec: buffer,
            },
            Operation::WriteAt { offset, buffer } => FileOp::Write { offset, buffer },
            Operation::SyncData => FileOp::Sync { all: false },
            _ => FileOp::Sync { all: true },
        }
    }

    pub(crate) fn completion_kind(&self) -> CompletionKind {
        match self {
            FileOp::Read { .. } => CompletionKind::Read,
            FileOp::Write { .. } => CompletionKind::Write,
            FileOp::Sync { .. } => CompletionKind::Sync,
        }
    }

    /// The memory to give back with the completion.
    pub(crate) fn payload(self) -> Payload {
        match self {
            FileOp::Read { vec, .. } => Payload::Buffer(Buffer::Vec(vec)),
            FileOp::Write { buffer, .. } => Payload::Buffer(buffer),
            FileOp::Sync { .. } => Payload::None,
        }
    }
}

/// A range of a file that is to be sent.
pub(crate) struct FileRange {
    pub(crate) file: Arc<File>,
    offset: u64,
    length: usize,
}

impl FileRange {
    /// A range that begins where a file may have bytes, cut where none can have any.
    pub(crate) fn new(file: Arc<File>, offset: u64, length: u64) -> Self {
        let length = length.min(MOST_OFFSET - offset);
        FileRange {
            file,
            offset,
            length: usize::try_from(length).unwrap_or(usize::MAX),
        }
    }

    /// Where in the file the byte is that follows the first `done`.
    pub(crate) fn position(&self, done: usize) -> u64 {
        self.offset + done as u64
    }

    /// How many bytes there are, unless the file ends before.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// The file has turned out to end after so many bytes.
    pub(crate) fn ends_after(&mut self, done: usize) {
        self.length = done;
    }
}

/// The memory that a range goes through where the system does not send from files, or not without
/// waiting: as much as is read and sent at a time. It is held only while the socket takes bytes, so
/// that a slow peer costs none.
#[cfg(unix)]
pub(crate) struct Piece {
    bytes: Vec<u8>,
    /// Bytes of it that have gone.
    gone: usize,
    /// Bytes to be read next: more and more while the socket takes them all, since a large piece
    /// costs less, and as many as it took when it last took no more.
    next: usize,
}

#[cfg(unix)]
impl Piece {
    const LEAST: usize = 64 * 1024;
    const MOST: usize = 1024 * 1024;

    /// Where to read the next piece to, of a range of which so many bytes are left.
    pub(crate) fn room(&mut self, left: usize) -> &mut [MaybeUninit<u8>] {
        let length = self.next.min(left);
        self.bytes.clear();
        self.gone = 0;
        self.bytes.reserve_exact(length);
        &mut self.bytes.spare_capacity_mut()[..length]
    }

    /// So many bytes have been read into the room.
    pub(crate) fn filled(&mut self, bytes: usize) {
        self.bytes = filled(std::mem::take(&mut self.bytes), bytes);
    }

    /// What is to be sent of it.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    /// So many bytes of the rest have gone.
    pub(crate) fn went(&mut self, bytes: usize) {
        self.gone += bytes;
        if self.gone == self.bytes.len() {
            self.next = (self.next * 2).min(Self::MOST);
        }
    }

    /// The socket takes no more: what is left is read again once it does.
    pub(crate) fn let_go(&mut self) {
        self.next = self.gone.clamp(Self::LEAST, Self::MOST);
        self.bytes = Vec::new();
        self.gone = 0;
    }
}

#[cfg(unix)]
impl Default for Piece {
    fn default() -> Self {
        Piece {
            bytes: Vec::new(),
            gone: 0,
            next: Self::LEAST,
        }
    }
}
