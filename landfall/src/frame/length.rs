//! Frames with their length in front.

use std::io;
use std::mem;

use super::codec::{Decode, Encode, complete, ended_within, keep};
use crate::buffer::Buffer;

/// Frames that have their length in front of them, as a number of 1 to 8 bytes. It counts the bytes
/// that follow, without its own.
///
/// ```
/// use landfall::buffer::Buffer;
/// use landfall::frame::{Decode, Encode, LengthPrefix};
///
/// let prefix = LengthPrefix::big_endian(2).max_frame(1024);
/// let mut parts = Vec::new();
/// prefix.encode("hello".into(), &mut parts)?;
/// assert_eq!((&parts[0][..], &parts[1][..]), (&[0, 5][..], &b"hello"[..]));
///
/// let mut decoder = prefix.decoder();
/// let mut received = Buffer::from(b"\x00\x05hello\x00\x05wor");
/// assert_eq!(&decoder.decode(&mut received)?.expect("a frame")[..], b"hello");
/// assert!(decoder.decode(&mut received)?.is_none(), "more has to come");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "it cuts nothing by itself: give it to a reader or a writer"]
pub struct LengthPrefix {
    /// In bytes.
    width: usize,
    order: Order,
    max_frame: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Big,
    Little,
}

impl LengthPrefix {
    /// A length of so many bytes, the most significant one first, as is usual on networks. Frames may
    /// have a mebibyte.
    ///
    /// # Panics
    ///
    /// When there are not 1 to 8 bytes.
    pub const fn big_endian(bytes: usize) -> Self {
        Self::new(bytes, Order::Big)
    }

    /// A length of so many bytes, the least significant one first. Frames may have a mebibyte.
    ///
    /// # Panics
    ///
    /// When there are not 1 to 8 bytes.
    pub const fn little_endian(bytes: usize) -> Self {
        Self::new(bytes, Order::Little)
    }

    const fn new(width: usize, order: Order) -> Self {
        assert!(
            1 <= width && width <= 8,
            "a length in front of a frame has 1 to 8 bytes"
        );
        LengthPrefix {
            width,
            order,
            max_frame: 1024 * 1024,
        }
    }

    /// The longest frame that is received or sent, in bytes without the prefix. What the peer
    /// announces is compared with it before memory is taken.
    pub const fn max_frame(self, bytes: usize) -> Self {
        LengthPrefix {
            max_frame: bytes,
            ..self
        }
    }

    /// Takes such frames from bytes that arrive.
    pub fn decoder(self) -> LengthDecoder {
        LengthDecoder {
            prefix: self,
            partial: Vec::new(),
        }
    }

    fn read(self, prefix: &[u8]) -> u64 {
        let mut bytes = [0; 8];
        match self.order {
            Order::Big => {
                bytes[8 - self.width..].copy_from_slice(prefix);
                u64::from_be_bytes(bytes)
            }
            Order::Little => {
                bytes[..self.width].copy_from_slice(prefix);
                u64::from_le_bytes(bytes)
            }
        }
    }

    fn write(self, length: u64) -> Vec<u8> {
        match self.order {
            Order::Big => length.to_be_bytes()[8 - self.width..].to_vec(),
            Order::Little => length.to_le_bytes()[..self.width].to_vec(),
        }
    }

    /// The largest number that fits.
    fn largest(self) -> u64 {
        u64::MAX >> (64 - 8 * self.width)
    }
}

impl Encode for LengthPrefix {
    fn encode(&self, frame: Buffer, parts: &mut Vec<Buffer>) -> io::Result<()> {
        let length = frame.len() as u64;
        let most = self.largest().min(self.max_frame as u64);
        if length > most {
            let text = format!("a frame of {length} bytes is to be sent, of {most} bytes at most");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        parts.push(self.write(length).into());
        if length > 0 {
            parts.push(frame);
        }
        Ok(())
    }
}

/// Takes frames with their [length in front](LengthPrefix) from bytes that arrive.
///
/// After a frame that is too long every call fails in the same way and takes nothing: where the next
/// one begins is not worth waiting for.
#[derive(Debug)]
pub struct LengthDecoder {
    prefix: LengthPrefix,
    /// What has come of a frame that is not whole, its prefix first.
    partial: Vec<u8>,
}

impl LengthDecoder {
    /// The length of the next frame, once its prefix is there.
    fn announced(&self, input: &[u8]) -> Option<u64> {
        let width = self.prefix.width;
        let mut bytes = [0; 8];
        let mut known = 0;
        for &byte in self.partial.iter().chain(input).take(width) {
            bytes[known] = byte;
            known += 1;
        }
        (known == width).then(|| self.prefix.read(&bytes[..width]))
    }

    /// Refuses a frame, and all that follow.
    fn refuse(&mut self, length: u64, input: &mut Buffer) -> io::Error {
        // Kept, so that the next call finds it again, whatever becomes of `input`.
        let missing = self.prefix.width.saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&input[..missing]);
        input.advance(missing);
        let most = self.prefix.max_frame;
        let text = format!("a frame of {length} bytes is announced, of {most} bytes at most");
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}

impl Decode for LengthDecoder {
    type Frame = Buffer;

    fn decode(&mut self, input: &mut Buffer) -> io::Result<Option<Buffer>> {
        let Some(length) = self.announced(input) else {
            keep(&mut self.partial, input);
            return Ok(None);
        };
        if length > self.prefix.max_frame as u64 {
            return Err(self.refuse(length, input));
        }
        let width = self.prefix.width;
        let missing = width.saturating_add(length as usize) - self.partial.len();
        if input.len() < missing {
            keep(&mut self.partial, input);
            return Ok(None);
        }
        let mut frame = complete(&mut self.partial, input, missing);
        frame.advance(width);
        Ok(Some(frame))
    }

    fn end(&mut self) -> io::Result<()> {
        match self.partial.len() {
            0 => Ok(()),
            bytes => Err(ended_within("a frame and its length", bytes)),
        }
    }

    fn take_partial(&mut self) -> Vec<u8> {
        mem::take(&mut self.partial)
    }
}
