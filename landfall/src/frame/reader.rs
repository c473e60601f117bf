//! Frames from a stream.

use std::io;

use super::codec::Decode;
use super::stream::Receive;
use crate::buffer::Buffer;

/// Receives frames from a stream: a [`TcpStream`](crate::net::TcpStream), a
/// [`ReadHalf`](crate::net::ReadHalf), one that is borrowed, or whatever else is [`Receive`].
///
/// A frame may share its memory with others that arrived together with it. A program that keeps small
/// frames for long does better to copy them.
#[derive(Debug)]
pub struct FrameReader<R, D> {
    stream: R,
    decoder: D,
    /// What has arrived and was not decoded yet.
    input: Buffer,
}

impl<R: Receive, D: Decode> FrameReader<R, D> {
    /// Reads frames from a stream.
    pub fn new(stream: R, decoder: D) -> Self {
        FrameReader {
            stream,
            decoder,
            input: Buffer::default(),
        }
    }

    /// Receives the next frame; `None` when the stream has ended behind a whole one.
    ///
    /// A future that is dropped loses nothing: the next call goes on where it was.
    ///
    /// # Errors
    ///
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) when the stream ends within a frame; the
    /// decoder's, which says whether there is more to be had after one; those of the stream.
    pub async fn next(&mut self) -> io::Result<Option<D::Frame>> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.input)? {
                return Ok(Some(frame));
            }
            // Whatever waits holds no buffer of the pool.
            self.input = Buffer::default();
            match self.stream.receive().await? {
                Some(received) => self.input = received,
                None => return self.decoder.end().map(|()| None),
            }
        }
    }

    /// The stream. What is received from it directly is missing among the frames.
    pub fn stream_mut(&mut self) -> &mut R {
        &mut self.stream
    }

    /// Gives the stream back, and what has been received from it and is in no frame yet.
    pub fn into_parts(mut self) -> (R, Buffer) {
        let mut rest = self.decoder.take_partial();
        if rest.is_empty() {
            return (self.stream, self.input);
        }
        rest.extend_from_slice(&self.input);
        (self.stream, rest.into())
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::buffer::Pool;
    use crate::proxy_protocol::HeaderDecoder;

    /// Fills the buffers of a pool.
    struct Pieces<'a> {
        pool: Pool,
        pieces: &'a [&'a str],
    }

    impl Receive for Pieces<'_> {
        async fn receive(&mut self) -> io::Result<Option<Buffer>> {
            let Some((piece, others)) = self.pieces.split_first() else {
                return Ok(None);
            };
            self.pieces = others;
            let mut buffer = self.pool.take().expect("nobody holds the only one");
            buffer.truncate(piece.len());
            buffer.copy_from_slice(piece.as_bytes());
            Ok(Some(buffer.into()))
        }
    }

    #[test]
    fn a_reader_that_waits_holds_no_buffer_of_the_pool() {
        let pool = Pool::new(100, 1).expect("memory");
        let pieces = &["PRO", "XY UNK", "NOWN\r", "\n"];
        let mut reader = FrameReader::new(Pieces { pool, pieces }, HeaderDecoder::new());
        let header = pin!(reader.next()).poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(header, Poll::Ready(Ok(Some(_)))), "{header:?}");
    }
}
