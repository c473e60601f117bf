//! What frames are read from and sent on.

use std::future::Future;
use std::io;

use crate::buffer::Buffer;
use crate::net::{Family, ReadHalf, Stream, WriteHalf};

/// A stream that is received from, a buffer at a time.
pub trait Receive: Send {
    /// Receives what comes next; `None` at the end of the stream. A future that is dropped loses
    /// nothing.
    ///
    /// # Errors
    ///
    /// Those of the stream.
    fn receive(&mut self) -> impl Future<Output = io::Result<Option<Buffer>>> + Send;
}

/// A stream that is sent on, several buffers at a time.
pub trait SendVectored: Send {
    /// Sends several buffers as if they were one. They are sent to the end or not at all, even if the
    /// future is dropped.
    ///
    /// # Errors
    ///
    /// Those of the stream.
    fn send_vectored(
        &mut self,
        buffers: Vec<Buffer>,
    ) -> impl Future<Output = io::Result<()>> + Send;
}

impl<F: Family> Receive for Stream<F> {
    fn receive(&mut self) -> impl Future<Output = io::Result<Option<Buffer>>> + Send {
        Stream::receive(self)
    }
}

impl<F: Family> Receive for ReadHalf<F> {
    fn receive(&mut self) -> impl Future<Output = io::Result<Option<Buffer>>> + Send {
        ReadHalf::receive(self)
    }
}

impl<R: Receive> Receive for &mut R {
    fn receive(&mut self) -> impl Future<Output = io::Result<Option<Buffer>>> + Send {
        R::receive(self)
    }
}

impl<F: Family> SendVectored for Stream<F> {
    fn send_vectored(
        &mut self,
        buffers: Vec<Buffer>,
    ) -> impl Future<Output = io::Result<()>> + Send {
        Stream::send_vectored(self, buffers)
    }
}

impl<F: Family> SendVectored for WriteHalf<F> {
    fn send_vectored(
        &mut self,
        buffers: Vec<Buffer>,
    ) -> impl Future<Output = io::Result<()>> + Send {
        WriteHalf::send_vectored(self, buffers)
    }
}

impl<W: SendVectored> SendVectored for &mut W {
    fn send_vectored(
        &mut self,
        buffers: Vec<Buffer>,
    ) -> impl Future<Output = io::Result<()>> + Send {
        W::send_vectored(self, buffers)
    }
}
