//! What every driver refuses at submission, in the same words.

use std::io;

use crate::port::{Operation, SubmitError};

/// Whether an operation fits a socket, as far as that can be told without the system; else it is
/// given back.
pub(crate) fn check(operation: Operation, datagram: bool) -> Result<Operation, SubmitError> {
    let error = match &operation {
        Operation::Receive(buffer) if buffer.capacity() == buffer.len() => {
            "the vector has no spare capacity to receive into; reserve some"
        }
        Operation::ReceiveStream if datagram => {
            "a stream of receives needs a stream socket; this one has datagrams"
        }
        _ => return Ok(operation),
    };
    Err(SubmitError {
        error: io::Error::new(io::ErrorKind::InvalidInput, error),
        operation,
    })
}

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
