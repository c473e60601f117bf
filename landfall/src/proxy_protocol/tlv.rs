//! What a header of version 2 says besides the addresses: types, lengths and values.

use super::error::{EncodeError, ParseError};

/// One thing that a proxy says besides the addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tlv<'a> {
    /// Its type; the constants have those of the specification. Types from 0xE0 to 0xEF are for
    /// applications.
    pub kind: u8,
    /// Its value.
    pub value: &'a [u8],
}

impl Tlv<'_> {
    /// The application's protocol (`h2`, say), as negotiated in TLS.
    pub const ALPN: u8 = 0x01;
    /// The host's name that the client asked for.
    pub const AUTHORITY: u8 = 0x02;
    /// The header's checksum.
    pub const CRC32C: u8 = 0x03;
    /// Nothing, to fill a header up.
    pub const NOOP: u8 = 0x04;
    /// Names the connection, in 128 bytes at most.
    pub const UNIQUE_ID: u8 = 0x05;
    /// How the client used TLS: a byte of flags, four with the result of the check of its
    /// certificate, and [TLVs](Tlvs::new) of their own.
    pub const SSL: u8 = 0x20;
    /// The name of the network's name space.
    pub const NETNS: u8 = 0x30;
}

/// TLVs, in order, kept as the bytes they are. Each has an end.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Tlvs(Vec<u8>);

impl Tlvs {
    /// TLVs from their bytes: those within a [`Tlv::SSL`], say. Those of a header are there already.
    ///
    /// ```
    /// use landfall::proxy_protocol::{Tlv, Tlvs};
    ///
    /// let tlvs = Tlvs::new(b"\x01\x00\x02h2".to_vec())?;
    /// assert_eq!(tlvs.get(Tlv::ALPN), Some(&b"h2"[..]));
    /// # Ok::<(), landfall::proxy_protocol::ParseError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The bytes end within a TLV.
    pub fn new(bytes: Vec<u8>) -> Result<Self, ParseError> {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            split(&mut rest)?;
        }
        Ok(Tlvs(bytes))
    }

    /// Adds one.
    ///
    /// # Errors
    ///
    /// Its value has more than 65535 bytes.
    pub fn push(&mut self, kind: u8, value: &[u8]) -> Result<(), EncodeError> {
        let length = u16::try_from(value.len()).map_err(|_| EncodeError::TooLong(value.len()))?;
        self.0.push(kind);
        self.0.extend(length.to_be_bytes());
        self.0.extend_from_slice(value);
        Ok(())
    }

    /// Adds a checksum, which [`Header::encode`](super::Header::encode) computes.
    pub fn push_checksum(&mut self) {
        self.0.extend([Tlv::CRC32C, 0, 4, 0, 0, 0, 0]);
    }

    /// The value of the first of a type.
    pub fn get(&self, kind: u8) -> Option<&[u8]> {
        let first = self.iter().find(|tlv| tlv.kind == kind);
        first.map(|tlv| tlv.value)
    }

    /// All of them.
    pub fn iter(&self) -> TlvIter<'_> {
        TlvIter { rest: &self.0 }
    }

    /// Their bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where among the bytes a header's checksum is, if there is one.
    pub(super) fn checksum_place(&self) -> Result<Option<usize>, ParseError> {
        let mut all = self.iter();
        let mut place = None;
        while let Some(tlv) = all.next() {
            if tlv.kind != Tlv::CRC32C {
                continue;
            }
            if tlv.value.len() != 4 || place.is_some() {
                return Err(ParseError::ChecksumForm);
            }
            place = Some(self.0.len() - all.rest.len() - 4);
        }
        Ok(place)
    }
}

impl<'a> IntoIterator for &'a Tlvs {
    type Item = Tlv<'a>;
    type IntoIter = TlvIter<'a>;

    fn into_iter(self) -> TlvIter<'a> {
        self.iter()
    }
}

/// The TLVs of [`Tlvs`], in order.
#[derive(Clone, Debug)]
pub struct TlvIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for TlvIter<'a> {
    type Item = Tlv<'a>;

    fn next(&mut self) -> Option<Tlv<'a>> {
        // It was seen that there is nothing but whole ones.
        split(&mut self.rest).ok()
    }
}

/// Takes the first TLV out.
fn split<'a>(rest: &mut &'a [u8]) -> Result<Tlv<'a>, ParseError> {
    let cut = |needed| ParseError::TlvCut {
        length: rest.len(),
        needed,
    };
    let Some((&[kind, high, low], behind)) = rest.split_first_chunk() else {
        return Err(cut(3));
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let Some((value, others)) = behind.split_at_checked(length) else {
        return Err(cut(3 + length));
    };
    *rest = others;
    Ok(Tlv { kind, value })
}
