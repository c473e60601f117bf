//! What is wrong with a header.

use std::error::Error;
use std::fmt;
use std::io;

/// Why bytes are no PROXY protocol header. The connection they came on is to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ParseError {
    /// They begin otherwise.
    NotProxy,
    /// Version 1: no CRLF within 107 bytes.
    LineTooLong,
    /// Version 1: a carriage return or a line feed alone.
    LineEnd,
    /// Version 1: neither `TCP4` nor `TCP6` nor `UNKNOWN`.
    Protocol,
    /// Version 1: this part is missing, or is not what it should be.
    Field(&'static str),
    /// Version 1: there is more behind the ports.
    TooManyFields,
    /// The binary signature with another version than 2.
    Version(u8),
    /// Version 2: a command that is not assigned.
    Command(u8),
    /// Version 2: an address family that is not assigned.
    Family(u8),
    /// Version 2: a transport protocol that is not assigned.
    Transport(u8),
    /// Version 2: the header ends within the addresses.
    AddressesCut {
        /// Bytes that the header has for them.
        length: usize,
        /// Bytes that they take.
        needed: usize,
    },
    /// Version 2: the header ends within a TLV.
    TlvCut {
        /// Bytes that the header has for it.
        length: usize,
        /// Bytes that it takes.
        needed: usize,
    },
    /// Version 2: a checksum that is not 4 bytes long, or not the only one.
    ChecksumForm,
    /// Version 2: the checksum is wrong.
    Checksum {
        /// That of the header.
        announced: u32,
        /// That of its bytes.
        computed: u32,
    },
    /// Version 2: longer than the [decoder](super::HeaderDecoder::max_header) takes.
    TooLong {
        /// Bytes of the header.
        length: usize,
        /// Bytes that are allowed.
        max: usize,
    },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PROXY protocol: ")?;
        match self {
            ParseError::NotProxy => f.write_str("the connection does not begin with a header"),
            ParseError::LineTooLong => f.write_str("no CRLF within 107 bytes"),
            ParseError::LineEnd => f.write_str("the line does not end in CRLF"),
            ParseError::Protocol => f.write_str("neither TCP4 nor TCP6 nor UNKNOWN"),
            ParseError::Field(what) => write!(f, "no {what}"),
            ParseError::TooManyFields => f.write_str("more behind the ports"),
            ParseError::Version(version) => write!(f, "version {version} in binary form"),
            ParseError::Command(command) => write!(f, "unknown command {command}"),
            ParseError::Family(family) => write!(f, "unknown address family {family}"),
            ParseError::Transport(transport) => write!(f, "unknown transport {transport}"),
            ParseError::AddressesCut { length, needed } => {
                write!(f, "{length} bytes of addresses that take {needed}")
            }
            ParseError::TlvCut { length, needed } => {
                write!(f, "{length} bytes of a TLV that takes {needed}")
            }
            ParseError::ChecksumForm => f.write_str("not one checksum of 4 bytes"),
            ParseError::Checksum {
                announced,
                computed,
            } => write!(f, "checksum {announced:08x} of bytes with {computed:08x}"),
            ParseError::TooLong { length, max } => {
                write!(f, "a header of {length} bytes, of {max} bytes at most")
            }
        }
    }
}

impl Error for ParseError {}

impl From<ParseError> for io::Error {
    fn from(error: ParseError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// Why a header cannot be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum EncodeError {
    /// Version 1 has no words for this.
    NotInVersion1(&'static str),
    /// TLVs without addresses: a receiver takes no notice of them.
    TlvsAlone,
    /// The path of a Unix socket with more than 108 bytes.
    PathTooLong(usize),
    /// Version 2: so many bytes of addresses and TLVs, or of one TLV, where 65535 can be told.
    TooLong(usize),
    /// A checksum that is not 4 bytes long, or not the only one.
    ChecksumForm,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PROXY protocol: ")?;
        match self {
            EncodeError::NotInVersion1(what) => write!(f, "{what} in version 1; use version 2"),
            EncodeError::TlvsAlone => f.write_str("TLVs without addresses"),
            EncodeError::PathTooLong(length) => {
                write!(f, "a path of {length} bytes, of 108 bytes at most")
            }
            EncodeError::TooLong(length) => {
                write!(
                    f,
                    "{length} bytes of addresses and TLVs, of 65535 bytes at most"
                )
            }
            EncodeError::ChecksumForm => f.write_str("not one checksum of 4 bytes"),
        }
    }
}

impl Error for EncodeError {}

impl From<EncodeError> for io::Error {
    fn from(error: EncodeError) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}
