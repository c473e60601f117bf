//! A header, whatever its version.

use super::endpoints::Endpoints;
use super::error::{EncodeError, ParseError};
use super::tlv::Tlvs;
use super::{v1, v2};

/// A version of the PROXY protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Version {
    /// A line of text.
    One,
    /// Binary.
    Two,
}

/// What a proxy says in front of a connection that it passes on.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Header {
    /// The version it came in, or is to be sent in.
    pub version: Version,
    /// Whose connection it is.
    pub endpoints: Endpoints,
    /// What else there is to say. Version 2 only, and only where [`Endpoints`] are neither local nor
    /// unknown: such a header says nothing that is to be looked at.
    pub tlvs: Tlvs,
}

/// What [`Header::parse`] has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// A header begins, and is not whole.
    Incomplete {
        /// The header has so many bytes or more. Version 2 tells how many in its first 16 bytes, 65551
        /// at most; from then on this is exact. Version 1 has 107 at most.
        at_least: usize,
    },
    /// A header.
    Whole {
        /// The header.
        header: Header,
        /// Bytes that it takes. What follows belongs to the connection.
        length: usize,
    },
}

impl Header {
    /// A header of version 1.
    pub fn v1(endpoints: Endpoints) -> Self {
        Header {
            version: Version::One,
            endpoints,
            tlvs: Tlvs::default(),
        }
    }

    /// A header of version 2.
    pub fn v2(endpoints: Endpoints) -> Self {
        Header {
            version: Version::Two,
            endpoints,
            tlvs: Tlvs::default(),
        }
    }

    /// Reads the header, of either version, that bytes begin with.
    ///
    /// For a datagram, which comes whole, an incomplete one is an error.
    ///
    /// Lengths in the header are checked, and so is its checksum if it has one. The ports of a version 1
    /// header are in the form that the specification wants; IPv6 addresses may end in the dotted
    /// form of IPv4, as others write and read it.
    ///
    /// # Errors
    ///
    /// The bytes are no header, and will be none whatever follows.
    pub fn parse(bytes: &[u8]) -> Result<Parsed, ParseError> {
        if begins(bytes, v1::PREFIX) {
            v1::parse(bytes)
        } else if begins(bytes, v2::SIGNATURE) {
            v2::parse(bytes)
        } else {
            Err(ParseError::NotProxy)
        }
    }

    /// The header's bytes, to be sent in front of all else.
    ///
    /// A [checksum](Tlvs::push_checksum) is that of the bytes, whatever it was before.
    ///
    /// # Errors
    ///
    /// The version has no words for it, or it is too long.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        match self.version {
            Version::One if !self.tlvs.is_empty() => Err(EncodeError::NotInVersion1("TLVs")),
            Version::One => v1::encode(&self.endpoints),
            Version::Two => v2::encode(&self.endpoints, &self.tlvs),
        }
    }
}

/// Whether bytes begin with others, as far as there are any.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    let count = bytes.len().min(with.len());
    bytes[..count] == with[..count]
}
