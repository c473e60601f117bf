//! Another reader of PROXY protocol headers, to compare with. Used by a fuzzer as well.

use std::net::SocketAddr;

use landfall::proxy_protocol::{Header, ParseError, Parsed};
use ppp::{v1, v2};

/// What a reader says of bytes: where from, where to, and how long; `None` when they do not begin with a
/// whole header.
pub type Said = Option<(Option<(SocketAddr, SocketAddr)>, usize)>;

pub fn ours(bytes: &[u8]) -> Said {
    match Header::parse(bytes) {
        Ok(Parsed::Whole { header, length }) => {
            let endpoints = header.endpoints;
            Some((endpoints.source().zip(endpoints.destination()), length))
        }
        _ => None,
    }
}

/// What ppp 2.3 says.
pub fn theirs(bytes: &[u8]) -> Said {
    match v1::Header::try_from(bytes) {
        Ok(header) => {
            let ends = match header.addresses {
                v1::Addresses::Unknown => None,
                v1::Addresses::Tcp4(ip) => Some((
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                )),
                v1::Addresses::Tcp6(ip) => Some((
                    (ip.source_address, ip.source_port).into(),
                    (ip.destination_address, ip.destination_port).into(),
                )),
            };
            Some((ends, header.header.len()))
        }
        Err(_) => theirs_of_version_2(bytes),
    }
}

fn theirs_of_version_2(bytes: &[u8]) -> Said {
    let header = v2::Header::try_from(bytes).ok()?;
    // It reads TLVs only when they are asked for.
    let is_told =
        header.command == v2::Command::Proxy && header.addresses != v2::Addresses::Unspecified;
    if is_told && header.tlvs().any(|tlv| tlv.is_err()) {
        return None;
    }
    let ends = match header.addresses {
        v2::Addresses::IPv4(ip) => Some((
            (ip.source_address, ip.source_port).into(),
            (ip.destination_address, ip.destination_port).into(),
        )),
        v2::Addresses::IPv6(ip) => Some((
            (ip.source_address, ip.source_port).into(),
            (ip.destination_address, ip.destination_port).into(),
        )),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    };
    Some((ends, header.len()))
}

/// Where ppp 2.3 takes another way than the specification, or than this reader where that leaves a choice.
pub fn is_known_difference(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\r').next();
    let line = line.unwrap_or_default();
    if let Some(rest) = line.strip_prefix(b"PROXY UNKNOWN") {
        // Whatever is there is to be ignored. It wants UTF-8 and four words at most, and takes a line
        // feed alone.
        return std::str::from_utf8(rest).is_err()
            || rest.iter().filter(|&&byte| byte == b' ').count() > 4
            || rest.contains(&b'\n');
    }
    if line.starts_with(b"PROXY ") {
        // It takes ports with a sign, and a space and a line feed for the end of the line.
        return line.contains(&b'+') || line.contains(&b'\n');
    }
    // It looks at the family of a local connection, and tells the addresses that are to be thrown away.
    let is_local = bytes.get(12).is_some_and(|command| command & 15 == 0);
    // It wants addresses where the transport is left open.
    let is_left_open = bytes.get(13).is_some_and(|family| family & 15 == 0);
    // It leaves checksums to the program.
    let parsed = Header::parse(bytes);
    let is_checksum = matches!(
        parsed,
        Err(ParseError::Checksum { .. } | ParseError::ChecksumForm)
    );
    is_local || is_left_open || is_checksum
}
