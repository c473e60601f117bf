//! Lines.

use std::io;
use std::mem;

use super::codec::{Decode, Encode, complete, ended_within, keep};
use crate::buffer::Buffer;

/// Lines of bytes, which end in a line feed (LF). Whether they are text is left to the program.
///
/// A carriage return before the line feed (CRLF) belongs to the end of the line. Any other is a byte
/// like all others.
///
/// ```
/// use landfall::buffer::Buffer;
/// use landfall::frame::{Decode, Lines};
///
/// let mut lines = Lines::new().max_line(80).decoder();
/// let mut received = Buffer::from("HELO example.org\r\nQUIT\n");
/// assert_eq!(&lines.decode(&mut received)?.expect("a line")[..], b"HELO example.org");
/// assert_eq!(&lines.decode(&mut received)?.expect("a line")[..], b"QUIT");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "it cuts nothing by itself: give it to a reader or a writer"]
pub struct Lines {
    max_line: usize,
    end: &'static str,
}

impl Lines {
    /// Lines of 8 KiB at most, which are sent with a line feed.
    pub const fn new() -> Self {
        Lines {
            max_line: 8 * 1024,
            end: "\n",
        }
    }

    /// The longest line that is received or sent, in bytes without its end.
    pub const fn max_line(self, bytes: usize) -> Self {
        Lines {
            max_line: bytes,
            ..self
        }
    }

    /// Sends CRLF behind a line, as most protocols of the Internet want it. Both are received.
    pub const fn crlf(self) -> Self {
        Lines {
            end: "\r\n",
            ..self
        }
    }

    /// Takes such lines from bytes that arrive.
    pub fn decoder(self) -> LineDecoder {
        LineDecoder {
            max_line: self.max_line,
            partial: Vec::new(),
            is_skipping: false,
        }
    }
}

impl Default for Lines {
    fn default() -> Self {
        Lines::new()
    }
}

impl Encode for Lines {
    /// Refuses what would be received as another line: one with a line feed in it, or a carriage
    /// return at its end.
    fn encode(&self, line: Buffer, parts: &mut Vec<Buffer>) -> io::Result<()> {
        let refused = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        let (length, most) = (line.len(), self.max_line);
        if length > most {
            let text = format!("a line of {length} bytes is to be sent, of {most} bytes at most");
            return refused(text);
        }
        if let Some(place) = memchr::memchr(b'\n', &line) {
            return refused(format!("a line is to be sent with a line feed at {place}"));
        }
        if line.ends_with(b"\r") {
            return refused("a line is to be sent that ends in a carriage return".into());
        }
        if length > 0 {
            parts.push(line);
        }
        parts.push(self.end.into());
        Ok(())
    }
}

/// Takes [lines](Lines) from bytes that arrive, without their ends.
///
/// A line that is too long is an error, once, as soon as that is clear. What else comes of it is thrown
/// away, and the next call goes on with the line after it; nothing of it is kept meanwhile.
///
/// A stream whose last line has no end has been cut, for all that the receiver can know: that is
/// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof), and what came of the line is still to be had with
/// [`take_partial`](Decode::take_partial).
#[derive(Debug)]
pub struct LineDecoder {
    max_line: usize,
    /// What has come of a line that has no end yet.
    partial: Vec<u8>,
    /// In a line that was too long.
    is_skipping: bool,
}

impl LineDecoder {
    /// Throws the rest of a line away that was too long. Whether it has ended.
    fn skip(&mut self, input: &mut Buffer) -> bool {
        let end = find_line_feed(input);
        self.is_skipping = end.is_none();
        drop(input.split_to(end.map_or(input.len(), |end| end + 1)));
        !self.is_skipping
    }

    /// The last byte so far, when the first `count` of `input` are added.
    fn last(&self, input: &[u8], count: usize) -> Option<u8> {
        input[..count].last().or(self.partial.last()).copied()
    }
}

impl Decode for LineDecoder {
    type Frame = Buffer;

    fn decode(&mut self, input: &mut Buffer) -> io::Result<Option<Buffer>> {
        if self.is_skipping && !self.skip(input) {
            return Ok(None);
        }
        let found = find_line_feed(input);
        let count = found.unwrap_or(input.len());
        // A carriage return may be half of the line's end, even if the other half is to come.
        let ends_in_cr = self.last(input, count) == Some(b'\r');
        let length = self.partial.len() + count - usize::from(ends_in_cr);
        if length > self.max_line {
            self.partial = Vec::new();
            self.skip(input);
            let text = format!("a line of more than {} bytes", self.max_line);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if found.is_none() {
            keep(&mut self.partial, input);
            return Ok(None);
        }
        let mut line = complete(&mut self.partial, input, count);
        line.truncate(length);
        input.advance(1);
        Ok(Some(line))
    }

    fn end(&mut self) -> io::Result<()> {
        match self.partial.len() {
            0 => Ok(()),
            bytes => Err(ended_within("a line", bytes)),
        }
    }

    fn take_partial(&mut self) -> Vec<u8> {
        mem::take(&mut self.partial)
    }
}

/// Only ever asked for bytes that have just come.
fn find_line_feed(bytes: &[u8]) -> Option<usize> {
    #[cfg(test)]
    tests::SEARCHED.with(|searched| searched.set(searched.get() + bytes.len()));
    memchr::memchr(b'\n', bytes)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Bytes that were looked at for a line feed.
        pub(super) static SEARCHED: Cell<usize> = const { Cell::new(0) };
    }

    #[test]
    fn every_byte_is_looked_at_once_however_small_the_pieces() {
        const LENGTH: usize = 100_000;
        let mut lines = Lines::new().max_line(LENGTH).decoder();
        let mut moves = 0;
        let mut capacity = 0;
        SEARCHED.set(0);
        for _ in 0..LENGTH {
            assert!(lines.decode(&mut "x".into()).expect("fits").is_none());
            moves += usize::from(lines.partial.capacity() != capacity);
            capacity = lines.partial.capacity();
        }
        let line = lines.decode(&mut "\n".into()).expect("fits");
        assert_eq!(line.expect("whole").len(), LENGTH);
        assert_eq!(SEARCHED.get(), LENGTH + 1);
        assert!(moves <= 17, "the line was moved {moves} times");
    }
}
