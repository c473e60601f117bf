//! What drivers refuse, in the same words.

use std::io;

#[cfg(unix)]
use crate::explained::explained;
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
