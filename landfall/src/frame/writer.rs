//! Frames onto a stream.

use std::future::Future;
use std::io;

use super::codec::Encode;
use super::stream::SendVectored;
use crate::buffer::Buffer;

/// Sends frames on a stream: a [`TcpStream`](crate::net::TcpStream), a
/// [`WriteHalf`](crate::net::WriteHalf), one that is borrowed, or whatever else is [`SendVectored`].
#[derive(Debug)]
pub struct FrameWriter<W, E> {
    stream: W,
    encoder: E,
}

impl<W: SendVectored, E: Encode> FrameWriter<W, E> {
    /// Sends frames on a stream.
    pub fn new(stream: W, encoder: E) -> Self {
        FrameWriter { stream, encoder }
    }

    /// Sends a frame and what goes around it in one operation, without copying it.
    ///
    /// Nothing happens before the future is polled. Once it has been, the whole frame is sent even if
    /// the future is dropped.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) when the bytes are no such frame, and nothing is
    /// sent; those of the stream.
    pub fn send(
        &mut self,
        frame: impl Into<Buffer>,
    ) -> impl Future<Output = io::Result<()>> + Send + '_ {
        let mut parts = Vec::with_capacity(2);
        let encoded = self.encoder.encode(frame.into(), &mut parts);
        let stream = &mut self.stream;
        async move {
            encoded?;
            stream.send_vectored(parts).await
        }
    }

    /// The stream, to end it or to send something else between two frames.
    pub fn stream_mut(&mut self) -> &mut W {
        &mut self.stream
    }

    /// Gives the stream back.
    pub fn into_inner(self) -> W {
        self.stream
    }
}
