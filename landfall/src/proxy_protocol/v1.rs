//! Version 1: a line of text.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::str::{self, FromStr, Split};

use super::endpoints::{Endpoints, Transport};
use super::error::{EncodeError, ParseError};
use super::header::{Header, Parsed};

pub(super) const PREFIX: &[u8] = b"PROXY ";
const SHORTEST: usize = b"PROXY UNKNOWN\r\n".len();

/// With its CRLF: unknown, and yet two addresses of 39 characters and two ports of five.
pub(super) const LONGEST: usize = 107;

/// Reads the line that bytes begin with, which begin with its prefix as far as there are any.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let Some(end) = line_end(bytes)? else {
        let missing = if bytes.ends_with(b"\r") { 1 } else { 2 };
        return Ok(Parsed::Incomplete {
            at_least: (bytes.len() + missing).clamp(SHORTEST, LONGEST),
        });
    };
    // There is no line end in the prefix, so all of that is there.
    let endpoints = parse_fields(&bytes[PREFIX.len()..end])?;
    Ok(Parsed::Whole {
        header: Header::v1(endpoints),
        length: end + 2,
    })
}

/// Where the line ends, without its CRLF; `None` while that has not come.
fn line_end(bytes: &[u8]) -> Result<Option<usize>, ParseError> {
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    let is_full = bytes.len() == LONGEST;
    let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    match &bytes[end.unwrap_or(bytes.len())..] {
        [b'\r', b'\n', ..] => Ok(end),
        [] | [b'\r'] if is_full => Err(ParseError::LineTooLong),
        [] | [b'\r'] => Ok(None),
        _ => Err(ParseError::LineEnd),
    }
}

fn parse_fields(line: &[u8]) -> Result<Endpoints, ParseError> {
    // Whatever else is in such a line is nobody's business.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(Endpoints::Unknown);
    }
    let line = str::from_utf8(line).map_err(|_| ParseError::Protocol)?;
    let mut fields = line.split(' ');
    let endpoints = match fields.next() {
        Some("TCP4") => {
            let (source, destination) = parse_addresses::<Ipv4Addr>(&mut fields)?;
            Endpoints::V4 {
                transport: Transport::Stream,
                source: SocketAddrV4::new(source.0, source.1),
                destination: SocketAddrV4::new(destination.0, destination.1),
            }
        }
        Some("TCP6") => {
            let (source, destination) = parse_addresses::<Ipv6Addr>(&mut fields)?;
            Endpoints::V6 {
                transport: Transport::Stream,
                source: SocketAddrV6::new(source.0, source.1, 0, 0),
                destination: SocketAddrV6::new(destination.0, destination.1, 0, 0),
            }
        }
        _ => return Err(ParseError::Protocol),
    };
    match fields.next() {
        None => Ok(endpoints),
        Some(_) => Err(ParseError::TooManyFields),
    }
}

type Ends<A> = ((A, u16), (A, u16));

fn parse_addresses<A: FromStr>(fields: &mut Split<'_, char>) -> Result<Ends<A>, ParseError> {
    let mut field = |name| fields.next().ok_or(ParseError::Field(name));
    let source = field("source address")?;
    let destination = field("destination address")?;
    let source_port = field("source port")?;
    let destination_port = field("destination port")?;
    Ok((
        (
            parse_field(source, "source address")?,
            parse_port(source_port, "source port")?,
        ),
        (
            parse_field(destination, "destination address")?,
            parse_port(destination_port, "destination port")?,
        ),
    ))
}

/// A number without a sign or zeros in front.
fn parse_port(text: &str, name: &'static str) -> Result<u16, ParseError> {
    let has_more_in_front = text.len() > 1 && !matches!(text.as_bytes()[0], b'1'..=b'9');
    match has_more_in_front {
        true => Err(ParseError::Field(name)),
        false => parse_field(text, name),
    }
}

fn parse_field<T: FromStr>(text: &str, name: &'static str) -> Result<T, ParseError> {
    text.parse().map_err(|_| ParseError::Field(name))
}

pub(super) fn encode(endpoints: &Endpoints) -> Result<Vec<u8>, EncodeError> {
    let line = match endpoints {
        Endpoints::Local => return Err(EncodeError::NotInVersion1("a local connection")),
        Endpoints::Unix { .. } => return Err(EncodeError::NotInVersion1("Unix sockets")),
        Endpoints::V4 { transport, .. } | Endpoints::V6 { transport, .. }
            if *transport == Transport::Datagram =>
        {
            return Err(EncodeError::NotInVersion1("datagrams"));
        }
        Endpoints::Unknown => "PROXY UNKNOWN\r\n".to_owned(),
        Endpoints::V4 {
            source,
            destination,
            ..
        } => format!(
            "PROXY TCP4 {} {} {} {}\r\n",
            source.ip(),
            destination.ip(),
            source.port(),
            destination.port()
        ),
        Endpoints::V6 {
            source,
            destination,
            ..
        } => format!(
            "PROXY TCP6 {} {} {} {}\r\n",
            in_hexadecimal(source.ip()),
            in_hexadecimal(destination.ip()),
            source.port(),
            destination.port()
        ),
    };
    Ok(line.into_bytes())
}

/// The specification knows no address that ends in the dotted form of IPv4.
fn in_hexadecimal(address: &Ipv6Addr) -> String {
    match address.to_ipv4_mapped() {
        Some(_) => {
            let [.., high, low] = address.segments();
            format!("::ffff:{high:x}:{low:x}")
        }
        None => address.to_string(),
    }
}
