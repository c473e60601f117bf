//! A header from bytes that arrive.

use std::io;
use std::mem;

use super::error::ParseError;
use super::header::{Header, Parsed};
use super::v1;
use crate::buffer::Buffer;
use crate::frame::{Decode, ended_within};

/// Takes a PROXY protocol header from the bytes that a connection begins with, for a
/// [`FrameReader`](crate::frame::FrameReader) or by itself. Asked again, it expects another one.
///
/// Bytes that are no header are refused as soon as that is clear, and every later call fails in the same
/// way. How long a silent client may take is left to the program, which has
/// [`timeout`](crate::runtime::time::timeout).
#[derive(Debug)]
#[must_use = "it decodes nothing by itself: give it to a reader"]
pub struct HeaderDecoder {
    max_header: usize,
    partial: Vec<u8>,
    /// The header has so many bytes or more.
    at_least: usize,
}

impl HeaderDecoder {
    /// Takes headers of 4 KiB at most.
    pub fn new() -> Self {
        HeaderDecoder {
            max_header: 4096,
            partial: Vec::new(),
            at_least: 0,
        }
    }

    /// The longest header of version 2 that is taken, in bytes, all told. Its length is compared with
    /// this before memory is taken. One of version 1 has 107 at most.
    pub fn max_header(self, bytes: usize) -> Self {
        HeaderDecoder {
            max_header: bytes.max(v1::LONGEST),
            ..self
        }
    }
}

impl Default for HeaderDecoder {
    fn default() -> Self {
        HeaderDecoder::new()
    }
}

impl Decode for HeaderDecoder {
    type Frame = Header;

    fn decode(&mut self, input: &mut Buffer) -> io::Result<Option<Header>> {
        loop {
            // Never more than the header has: what follows stays where it is.
            let missing = self.at_least.saturating_sub(self.partial.len());
            let count = missing.min(input.len());
            self.partial.extend_from_slice(&input[..count]);
            input.advance(count);
            match Header::parse(&self.partial)? {
                Parsed::Whole { header, .. } => {
                    self.take_partial();
                    return Ok(Some(header));
                }
                Parsed::Incomplete { at_least } if at_least > self.max_header => {
                    let (length, max) = (at_least, self.max_header);
                    return Err(ParseError::TooLong { length, max }.into());
                }
                Parsed::Incomplete { at_least } => self.at_least = at_least,
            }
            if input.is_empty() {
                return Ok(None);
            }
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match self.partial.len() {
            0 => Ok(()),
            bytes => Err(ended_within("a PROXY protocol header", bytes)),
        }
    }

    fn take_partial(&mut self) -> Vec<u8> {
        self.at_least = 0;
        mem::take(&mut self.partial)
    }
}
