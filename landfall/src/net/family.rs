//! The kinds of stream sockets.

use std::io;

use crate::driver::OwnedDescriptor;
use crate::port::{Handle, Source};

/// A kind of stream sockets: [`Tcp`](super::Tcp) or, not on Windows, `Unix`.
///
/// What takes a connection of any kind is generic over it:
///
/// ```
/// use landfall::net::{Family, Stream};
///
/// async fn echo<F: Family>(mut stream: Stream<F>) -> std::io::Result<()> {
///     while let Some(data) = stream.receive().await? {
///         stream.send(data).await?;
///     }
///     Ok(())
/// }
/// ```
///
/// There are no others: the trait is implemented here only.
pub trait Family: sealed::Sealed {
    /// Names one end of a connection.
    type Address;
    /// The standard library's connection.
    type StdStream: From<OwnedDescriptor> + Into<Source>;
    /// The standard library's listener.
    type StdListener: Into<Source>;

    #[doc(hidden)]
    fn local_addr(handle: &Handle) -> io::Result<Self::Address>;

    #[doc(hidden)]
    fn peer_addr(handle: &Handle) -> io::Result<Self::Address>;
}

pub(super) mod sealed {
    use std::fmt::Debug;

    pub trait Sealed: Debug + 'static {
        /// What its connections are called,
        const STREAM: &str;
        /// and its listeners.
        const LISTENER: &str;
    }
}
