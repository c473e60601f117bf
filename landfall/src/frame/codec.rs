//! What a codec has to do.

use std::io;
use std::mem;

use crate::buffer::Buffer;

/// Cuts bytes into frames. The bytes come in pieces of any size, which say nothing about frames.
pub trait Decode {
    /// A whole frame.
    type Frame;

    /// Takes bytes from the front of `input` until a frame is whole, and leaves those behind it.
    ///
    /// `None` when all of `input` has been taken, which is empty then, and no frame is whole.
    ///
    /// # Errors
    ///
    /// [`InvalidData`](io::ErrorKind::InvalidData) when the bytes are no frame, or one that is too
    /// long. Each decoder says what the next call does then.
    fn decode(&mut self, input: &mut Buffer) -> io::Result<Option<Self::Frame>>;

    /// To be asked when nothing more will come.
    ///
    /// # Errors
    ///
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) within a frame.
    fn end(&mut self) -> io::Result<()>;

    /// Gives up what has been taken in of a frame that is not whole, as it came.
    fn take_partial(&mut self) -> Vec<u8>;
}

/// Makes a frame of bytes.
pub trait Encode {
    /// Adds the buffers that are to be sent for a frame to `parts`: that of the frame, moved, and what
    /// goes around it. Several frames may be sent at once.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) when the bytes cannot be such a frame; `parts` is
    /// as it was.
    fn encode(&self, frame: Buffer, parts: &mut Vec<Buffer>) -> io::Result<()>;
}

/// Puts what had come before and the first `count` bytes of `input` together.
pub(super) fn complete(partial: &mut Vec<u8>, input: &mut Buffer, count: usize) -> Buffer {
    if partial.is_empty() {
        return input.split_to(count);
    }
    partial.extend_from_slice(&input[..count]);
    input.advance(count);
    mem::take(partial).into()
}

/// Keeps all of `input` until more comes.
pub(super) fn keep(partial: &mut Vec<u8>, input: &mut Buffer) {
    partial.extend_from_slice(input);
    *input = Buffer::default();
}

/// The stream has ended where it should not.
pub(crate) fn ended_within(what: &str, bytes: usize) -> io::Error {
    let text = format!("the stream ended within {what}, of which {bytes} bytes had come");
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}
