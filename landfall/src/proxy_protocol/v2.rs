//! Version 2: binary.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use crc::{CRC_32_ISCSI, Crc};

use super::endpoints::{Endpoints, Transport};
use super::error::{EncodeError, ParseError};
use super::header::{Header, Parsed};
use super::tlv::Tlvs;

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What comes before the addresses: the signature, version and command, family and transport, and the
/// length of the rest.
const FIXED: usize = SIGNATURE.len() + 4;

/// Bytes that a Unix socket's path has in a header.
const PATH: usize = 108;

/// Also called CRC-32C.
static CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Address families, by their numbers.
const UNSPECIFIED: u8 = 0;
const INET: u8 = 1;
const INET6: u8 = 2;
const UNIX: u8 = 3;

/// Reads the header that bytes begin with, which begin with its signature as far as there are any.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let kind = match bytes.get(SIGNATURE.len()..) {
        Some([command, rest @ ..]) => Kind::parse(*command, rest.first().copied())?,
        _ => None,
    };
    let (Some(kind), Some(&[high, low])) = (kind, bytes.get(FIXED - 2..FIXED)) else {
        return Ok(Parsed::Incomplete { at_least: FIXED });
    };
    let block = usize::from(u16::from_be_bytes([high, low]));
    let (length, needed) = (FIXED + block, kind.length());
    if block < needed {
        return Err(ParseError::AddressesCut {
            length: block,
            needed,
        });
    }
    let Some(bytes) = bytes.get(..length) else {
        return Ok(Parsed::Incomplete { at_least: length });
    };
    let (addresses, tlvs) = bytes[FIXED..].split_at(needed);
    let mut header = Header::v2(kind.endpoints(addresses));
    if matches!(kind, Kind::Told { .. }) {
        header.tlvs = Tlvs::new(tlvs.to_vec())?;
        verify(bytes, header.tlvs.checksum_place()?, length - tlvs.len())?;
    }
    Ok(Parsed::Whole { header, length })
}

/// What the bytes after the signature say.
#[derive(Clone, Copy)]
enum Kind {
    Local,
    /// Family or transport are left open, so there is no telling what follows.
    Unspecified,
    Told {
        family: u8,
        transport: Transport,
    },
}

impl Kind {
    /// From the byte with version and command, and that with family and transport, which may not have
    /// come yet.
    fn parse(command: u8, family: Option<u8>) -> Result<Option<Kind>, ParseError> {
        match (command >> 4, command & 15) {
            // Whatever its family.
            (2, 0) => return Ok(family.map(|_| Kind::Local)),
            (2, 1) => {}
            (2, command) => return Err(ParseError::Command(command)),
            (version, _) => return Err(ParseError::Version(version)),
        }
        let Some(family) = family else {
            return Ok(None);
        };
        let transport = match family & 15 {
            0 => None,
            1 => Some(Transport::Stream),
            2 => Some(Transport::Datagram),
            unknown => return Err(ParseError::Transport(unknown)),
        };
        Ok(Some(match (family >> 4, transport) {
            (unknown, _) if unknown > UNIX => return Err(ParseError::Family(unknown)),
            (UNSPECIFIED, _) | (_, None) => Kind::Unspecified,
            (family, Some(transport)) => Kind::Told { family, transport },
        }))
    }

    /// Bytes of the addresses.
    fn length(self) -> usize {
        match self {
            Kind::Told { family: INET, .. } => 2 * (4 + 2),
            Kind::Told { family: INET6, .. } => 2 * (16 + 2),
            Kind::Told { .. } => 2 * PATH,
            Kind::Local | Kind::Unspecified => 0,
        }
    }

    /// Reads the addresses, of which all bytes are there.
    fn endpoints(self, addresses: &[u8]) -> Endpoints {
        let (family, transport) = match self {
            Kind::Local => return Endpoints::Local,
            Kind::Unspecified => return Endpoints::Unknown,
            Kind::Told { family, transport } => (family, transport),
        };
        let mut rest = addresses;
        match family {
            INET => {
                let (source, destination) = (Ipv4Addr::from(take(&mut rest)), take(&mut rest));
                Endpoints::V4 {
                    transport,
                    source: SocketAddrV4::new(source, port(&mut rest)),
                    destination: SocketAddrV4::new(destination.into(), port(&mut rest)),
                }
            }
            INET6 => {
                let (source, destination) = (Ipv6Addr::from(take(&mut rest)), take(&mut rest));
                Endpoints::V6 {
                    transport,
                    source: SocketAddrV6::new(source, port(&mut rest), 0, 0),
                    destination: SocketAddrV6::new(destination.into(), port(&mut rest), 0, 0),
                }
            }
            _ => Endpoints::Unix {
                transport,
                source: path(&take::<PATH>(&mut rest)).to_vec(),
                destination: path(&take::<PATH>(&mut rest)).to_vec(),
            },
        }
    }
}

/// The first bytes, or zeros if there are not as many.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let Some((first, others)) = rest.split_first_chunk() else {
        return [0; N];
    };
    *rest = others;
    *first
}

fn port(rest: &mut &[u8]) -> u16 {
    u16::from_be_bytes(take(rest))
}

/// A path up to its first zero; an abstract name, which begins with one, up to the zeros at its end.
fn path(field: &[u8; PATH]) -> &[u8] {
    let end = match field[0] {
        0 => field
            .iter()
            .rposition(|&byte| byte != 0)
            .map(|last| last + 1),
        _ => field.iter().position(|&byte| byte == 0).or(Some(PATH)),
    };
    &field[..end.unwrap_or(0)]
}

/// Checks the checksum of a header, if it has one: its place among the TLVs, which begin at `tlvs`.
fn verify(header: &[u8], place: Option<usize>, tlvs: usize) -> Result<(), ParseError> {
    let Some(place) = place else {
        return Ok(());
    };
    let announced = u32::from_be_bytes(take(&mut &header[tlvs + place..]));
    let computed = checksum(header, tlvs + place);
    match announced == computed {
        true => Ok(()),
        false => Err(ParseError::Checksum {
            announced,
            computed,
        }),
    }
}

/// That of a header, as if its own place were zero.
fn checksum(header: &[u8], place: usize) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(&header[..place]);
    digest.update(&[0; 4]);
    digest.update(&header[place + 4..]);
    digest.finalize()
}

pub(super) fn encode(endpoints: &Endpoints, tlvs: &Tlvs) -> Result<Vec<u8>, EncodeError> {
    let is_told = !matches!(endpoints, Endpoints::Local | Endpoints::Unknown);
    if !is_told && !tlvs.is_empty() {
        return Err(EncodeError::TlvsAlone);
    }
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([command(endpoints), family(endpoints), 0, 0]);
    push_addresses(&mut bytes, endpoints)?;
    let tlvs_begin = bytes.len();
    bytes.extend_from_slice(tlvs.as_bytes());
    let block = bytes.len() - FIXED;
    let length = u16::try_from(block).map_err(|_| EncodeError::TooLong(block))?;
    bytes[FIXED - 2..FIXED].copy_from_slice(&length.to_be_bytes());
    let place = tlvs.checksum_place();
    if let Some(place) = place.map_err(|_| EncodeError::ChecksumForm)? {
        let place = tlvs_begin + place;
        let sum = checksum(&bytes, place);
        bytes[place..place + 4].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(bytes)
}

fn command(endpoints: &Endpoints) -> u8 {
    match endpoints {
        Endpoints::Local => 0x20,
        _ => 0x21,
    }
}

fn family(endpoints: &Endpoints) -> u8 {
    let (family, transport) = match endpoints {
        Endpoints::Local | Endpoints::Unknown => return UNSPECIFIED,
        Endpoints::V4 { transport, .. } => (INET, transport),
        Endpoints::V6 { transport, .. } => (INET6, transport),
        Endpoints::Unix { transport, .. } => (UNIX, transport),
    };
    let transport = match transport {
        Transport::Stream => 1,
        Transport::Datagram => 2,
    };
    family << 4 | transport
}

fn push_addresses(bytes: &mut Vec<u8>, endpoints: &Endpoints) -> Result<(), EncodeError> {
    match endpoints {
        Endpoints::Local | Endpoints::Unknown => {}
        Endpoints::V4 {
            source,
            destination,
            ..
        } => {
            bytes.extend(source.ip().octets());
            bytes.extend(destination.ip().octets());
            bytes.extend(source.port().to_be_bytes());
            bytes.extend(destination.port().to_be_bytes());
        }
        Endpoints::V6 {
            source,
            destination,
            ..
        } => {
            bytes.extend(source.ip().octets());
            bytes.extend(destination.ip().octets());
            bytes.extend(source.port().to_be_bytes());
            bytes.extend(destination.port().to_be_bytes());
        }
        Endpoints::Unix {
            source,
            destination,
            ..
        } => {
            for path in [source, destination] {
                let fill = PATH.checked_sub(path.len());
                let fill = fill.ok_or(EncodeError::PathTooLong(path.len()))?;
                bytes.extend_from_slice(path);
                bytes.extend(std::iter::repeat_n(0, fill));
            }
        }
    }
    Ok(())
}
