//! What drivers refuse, in the same words.

use std::fs::File;
use std::io;
#[cfg(unix)]
use std::io::Seek;

#[cfg(unix)]
use crate::explained::explained;
use crate::port::Operation;

/// Whether an operation fits a socket, as far as that can be told without the system.
pub(crate) fn check(operation: &Operation, datagram: bool) -> io::Result<()> {
    #[cfg(windows)]
    if let Operation::WaitWritable = operation {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            NO_ROOM_TO_WAIT_FOR,
        ));
    }
    let error = match operation {
        Operation::SendTo { .. } | Operation::ReceiveFrom(_) if !datagram => {
            "datagrams with addresses need a datagram socket; this one is a stream"
        }
        Operation::Receive(buffer) | Operation::ReceiveFrom(buffer)
            if buffer.capacity() == buffer.len() =>
        {
            "the vector has no spare capacity to receive into; reserve some"
        }
        Operation::ReceiveStream if datagram => {
            "a stream of receives needs a stream socket; this one has datagrams"
        }
        Operation::SendFile { .. } if datagram => {
            "sending a file needs a stream socket; this one has datagrams"
        }
        Operation::SendFile { offset, .. } if *offset > MOST_OFFSET => TOO_FAR,
        Operation::SendFile { file, .. } if !has_offsets(file) => NO_OFFSETS,
        Operation::ReadAt { .. }
        | Operation::WriteAt { .. }
        | Operation::SyncAll
        | Operation::SyncData => "the operation is for files; this handle is a socket's",
        _ => return Ok(()),
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Whether an operation fits a file, as far as that can be told without the system.
pub(crate) fn check_file(operation: &Operation) -> io::Result<()> {
    let too_far = |offset: u64, length: usize| {
        let end = offset.checked_add(length as u64);
        end.is_none_or(|end| end > MOST_OFFSET)
    };
    let error = match operation {
        Operation::ReadAt { buffer, .. } if buffer.capacity() == buffer.len() => {
            "the vector has no spare capacity to read into; reserve some"
        }
        Operation::ReadAt { offset, buffer }
            if too_far(*offset, buffer.capacity() - buffer.len()) =>
        {
            TOO_FAR
        }
        Operation::WriteAt { offset, buffer } if too_far(*offset, buffer.len()) => TOO_FAR,
        Operation::ReadAt { .. }
        | Operation::WriteAt { .. }
        | Operation::SyncAll
        | Operation::SyncData => return Ok(()),
        _ => "the operation is for sockets; this handle is a file's",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Whether a file has places to read at: a pipe, a terminal or the like has not, and what was read
/// from it is gone.
#[cfg(unix)]
pub(crate) fn has_offsets(mut file: &File) -> bool {
    file.stream_position().is_ok()
}

#[cfg(windows)]
fn has_offsets(_file: &File) -> bool {
    true
}

#[cfg(unix)]
pub(crate) fn no_offsets() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, NO_OFFSETS)
}

const NO_OFFSETS: &str =
    "the file has no offsets (a pipe or a terminal): read it by the standard library";

#[cfg(windows)]
const NO_ROOM_TO_WAIT_FOR: &str = "Windows does not tell when a socket has room for bytes to send: submit a send, which waits for it";

/// The end of the largest file there can be.
pub(crate) const MOST_OFFSET: u64 = i64::MAX as u64;

const TOO_FAR: &str = "the range ends past the end of the largest file there can be (2^63 - 1)";

pub(crate) fn closed() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "the handle or its port is closed",
    )
}

pub(crate) fn not_listening() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "accepting needs a listening socket",
    )
}

#[cfg(windows)]
pub(crate) fn not_a_socket() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "the handle is a file's, which is no socket and has no address",
    )
}

#[cfg(unix)]
pub(crate) fn too_many() -> io::Error {
    io::Error::new(
        io::ErrorKind::ResourceBusy,
        "8.4 million operations are pending in one lane of the port, which is as many as it has \
         names for; wait for some of them",
    )
}

/// A refused set-up: what to do about it. The system's own error, with its code, is its source.
#[cfg(unix)]
pub(crate) fn set_up(advice: &'static str, system: io::Error) -> io::Error {
    explained(advice, system)
}
