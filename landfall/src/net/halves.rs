//! The two directions of a connection, for two tasks.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::net::Shutdown;
use std::sync::Arc;

use super::family::Family;
use super::send_file::SendFile;
use super::socket::Owned;
use super::stream::{SendAll, SendOwned, Stream};
use super::tcp::Tcp;
use crate::buffer::Buffer;
use crate::port::{Operation, SocketOption};

/// The half of a connection that receives.
///
/// Dropped before the other half, nothing is received any more: what has arrived is thrown away,
/// and a peer that goes on sending is slowed down until it stops.
pub struct ReadHalf<F = Tcp> {
    /// Taken only when the halves are put together again or dropped.
    socket: Option<Arc<Owned>>,
    family: PhantomData<fn() -> F>,
}

/// The half of a connection that sends.
///
/// Dropped before the other half, it ends the stream for the peer, after what has been given to
/// send.
pub struct WriteHalf<F = Tcp> {
    /// As that of the other half.
    socket: Option<Arc<Owned>>,
    family: PhantomData<fn() -> F>,
}

pub(super) fn split<F>(socket: Owned) -> (ReadHalf<F>, WriteHalf<F>) {
    let socket = Arc::new(socket);
    (
        ReadHalf {
            socket: Some(socket.clone()),
            family: PhantomData,
        },
        WriteHalf {
            socket: Some(socket),
            family: PhantomData,
        },
    )
}

impl<F> ReadHalf<F> {
    fn socket(&self) -> &Arc<Owned> {
        self.socket.as_ref().expect("taken only at the end")
    }
}

impl<F: Family> ReadHalf<F> {
    /// Receives what comes next; see [`Stream::receive`].
    ///
    /// # Errors
    ///
    /// As [`Stream::receive`].
    pub fn receive(&mut self) -> impl Future<Output = io::Result<Option<Buffer>>> + Send + '_ {
        self.socket().receive()
    }

    /// Receives into a vector of the program's own; see [`Stream::read`].
    ///
    /// # Errors
    ///
    /// As [`Stream::read`].
    pub fn read(
        &mut self,
        vec: Vec<u8>,
    ) -> impl Future<Output = (io::Result<usize>, Vec<u8>)> + Send + '_ {
        self.socket().read(vec)
    }

    /// The address of this side.
    ///
    /// # Errors
    ///
    /// What the system answers.
    pub fn local_addr(&self) -> io::Result<F::Address> {
        F::local_addr(&self.socket().handle)
    }

    /// The address of the other side.
    ///
    /// # Errors
    ///
    /// What the system answers.
    pub fn peer_addr(&self) -> io::Result<F::Address> {
        F::peer_addr(&self.socket().handle)
    }

    /// Puts the connection together again.
    ///
    /// # Errors
    ///
    /// The halves are of different connections; they come back.
    pub fn reunite(mut self, mut other: WriteHalf<F>) -> Result<Stream<F>, ReuniteError<F>> {
        if !Arc::ptr_eq(self.socket(), other.socket()) {
            return Err(ReuniteError {
                read: self,
                write: other,
            });
        }
        drop(other.socket.take());
        let socket = self.socket.take().and_then(Arc::into_inner);
        Ok(Stream::from_owned(
            socket.expect("there are only two halves"),
        ))
    }
}

impl<F> WriteHalf<F> {
    fn socket(&self) -> &Arc<Owned> {
        self.socket.as_ref().expect("taken only at the end")
    }
}

impl<F: Family> WriteHalf<F> {
    /// Sends all of a buffer; see [`Stream::send`].
    ///
    /// # Errors
    ///
    /// As [`Stream::send`].
    pub fn send(
        &mut self,
        buffer: impl Into<Buffer>,
    ) -> impl Future<Output = io::Result<()>> + Send + '_ {
        SendAll(self.socket().call(Operation::Send(buffer.into())))
    }

    /// As [`send`](Self::send), and gives the buffer back; see [`Stream::send_owned`].
    ///
    /// # Errors
    ///
    /// As [`Stream::send`].
    pub fn send_owned(
        &mut self,
        buffer: impl Into<Buffer>,
    ) -> impl Future<Output = (io::Result<()>, Buffer)> + Send + '_ {
        SendOwned(self.socket().call(Operation::Send(buffer.into())))
    }

    /// Sends several buffers as if they were one.
    ///
    /// # Errors
    ///
    /// As [`Stream::send`].
    pub fn send_vectored(
        &mut self,
        buffers: Vec<Buffer>,
    ) -> impl Future<Output = io::Result<()>> + Send + '_ {
        SendAll(self.socket().call(Operation::SendVectored(buffers)))
    }

    /// Sends without copying where the system can; see [`Stream::send_zero_copy`].
    ///
    /// # Errors
    ///
    /// As [`Stream::send`].
    pub fn send_zero_copy(
        &mut self,
        buffer: impl Into<Buffer>,
    ) -> impl Future<Output = (io::Result<()>, Buffer)> + Send + '_ {
        SendOwned(self.socket().call(Operation::SendZeroCopy(buffer.into())))
    }

    /// Sends a range of a file; see [`Stream::send_file`].
    ///
    /// # Errors
    ///
    /// As [`Stream::send_file`].
    pub fn send_file(
        &mut self,
        file: impl Into<Arc<std::fs::File>>,
        offset: u64,
        length: u64,
    ) -> impl Future<Output = io::Result<u64>> + Send + '_ {
        SendFile::new(self.socket(), file.into(), offset, length)
    }

    /// Shuts one or both directions down; see [`Stream::shutdown`].
    ///
    /// # Errors
    ///
    /// As [`Stream::shutdown`].
    pub fn shutdown(&mut self, how: Shutdown) -> impl Future<Output = io::Result<()>> + Send + '_ {
        SendAll(self.socket().call(Operation::Shutdown(how)))
    }

    /// The address of this side.
    ///
    /// # Errors
    ///
    /// What the system answers.
    pub fn local_addr(&self) -> io::Result<F::Address> {
        F::local_addr(&self.socket().handle)
    }

    /// The address of the other side.
    ///
    /// # Errors
    ///
    /// What the system answers.
    pub fn peer_addr(&self) -> io::Result<F::Address> {
        F::peer_addr(&self.socket().handle)
    }
}

impl WriteHalf {
    /// Sends small segments at once instead of waiting to fill them (`TCP_NODELAY`).
    ///
    /// # Errors
    ///
    /// What the system answers.
    pub async fn set_nodelay(&mut self, on: bool) -> io::Result<()> {
        self.socket().set_option(SocketOption::NoDelay(on)).await
    }
}

impl<F> Drop for ReadHalf<F> {
    fn drop(&mut self) {
        if let Some(socket) = unless_last(self.socket.take()) {
            socket.stop_receiving();
        }
    }
}

impl<F> Drop for WriteHalf<F> {
    fn drop(&mut self) {
        if let Some(socket) = unless_last(self.socket.take()) {
            if !socket.state.calls.lock().is_shut() {
                socket.begin_unawaited(Operation::Shutdown(Shutdown::Write));
            }
        }
    }
}

/// The last half closes the socket, and has nothing to do before.
fn unless_last(socket: Option<Arc<Owned>>) -> Option<Arc<Owned>> {
    socket.filter(|socket| Arc::strong_count(socket) > 1)
}

impl<F> fmt::Debug for ReadHalf<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadHalf")
            .field("handle", &self.socket().handle)
            .finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for WriteHalf<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteHalf")
            .field("handle", &self.socket().handle)
            .finish_non_exhaustive()
    }
}

/// The halves given to [`ReadHalf::reunite`] are not of one connection.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReuniteError<F = Tcp> {
    /// The half that was asked.
    pub read: ReadHalf<F>,
    /// The half that was given.
    pub write: WriteHalf<F>,
}

impl<F> fmt::Display for ReuniteError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the two halves are of different connections")
    }
}

impl<F: Family> Error for ReuniteError<F> {}
