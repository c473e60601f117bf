//! Operations on files, and ranges of files to send, as all drivers carry them.

use std::fs::File;
use std::sync::Arc;

use super::refusal::{self, MOST_OFFSET};
use crate::buffer::Buffer;
use crate::port::{CompletionKind, Operation, Payload, SubmitError};

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
    /// An operation that fits a file, or a refusal.
    pub(crate) fn of(operation: Operation) -> Result<Self, SubmitError> {
        Ok(match refusal::check_file(operation)? {
            Operation::ReadAt { offset, buffer } => FileOp::Read {
                offset,
                vec: buffer,
            },
            Operation::WriteAt { offset, buffer } => FileOp::Write { offset, buffer },
            Operation::SyncData => FileOp::Sync { all: false },
            _ => FileOp::Sync { all: true },
        })
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
