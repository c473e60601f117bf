//! What can go wrong before anything is queued, and while waiting.

use std::error::Error;
use std::fmt;
use std::io;

use super::completion::Packet;
use super::operation::Operation;
use super::source::Source;

/// Why [`CompletionPort::get`](crate::port::CompletionPort::get) took nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum GetError {
    /// The time ran out.
    TimedOut,
    /// The port was closed while this thread waited.
    Abandoned,
    /// The port had been closed before.
    Closed,
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GetError::TimedOut => "nothing completed within the time given",
            GetError::Abandoned => "the completion port was closed while waiting",
            GetError::Closed => "the completion port is closed",
        })
    }
}

impl Error for GetError {}

impl From<GetError> for io::Error {
    fn from(error: GetError) -> Self {
        let kind = match error {
            GetError::TimedOut => io::ErrorKind::TimedOut,
            GetError::Abandoned | GetError::Closed => io::ErrorKind::NotConnected,
        };
        io::Error::new(kind, error)
    }
}

macro_rules! returning_error {
    ($(#[$doc:meta])* $name:ident, $field:ident: $type:ty, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name {
            /// Why it was refused.
            pub error: io::Error,
            /// What was refused, unharmed.
            pub $field: $type,
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($what, ": {}"), self.error)
            }
        }

        impl Error for $name {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.error)
            }
        }

        impl From<$name> for io::Error {
            fn from(refused: $name) -> Self {
                refused.error
            }
        }
    };
}

returning_error! {
    /// An operation refused before anything was queued; it comes back with its buffers.
    SubmitError, operation: Operation, "operation not submitted"
}
returning_error! {
    /// A socket or a file refused by the port; it comes back open.
    AssociateError, source: Source, "not associated with the port"
}
returning_error! {
    /// A packet refused by a closed port, or by a system (Windows) without memory for it.
    PostError, packet: Packet, "packet not posted"
}

/// Whether an operation ended because it was cancelled or its handle or port was closed.
///
/// ```
/// # use landfall::port::is_aborted;
/// assert!(!is_aborted(&std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
/// ```
pub fn is_aborted(error: &io::Error) -> bool {
    error.raw_os_error() == Some(crate::driver::ABORTED)
}
