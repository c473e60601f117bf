//! The PROXY protocol, from proxies before the mapper and to targets behind it.

use std::io;
use std::net::SocketAddr;

use landfall::buffer::Buffer;
use landfall::frame::FrameReader;
use landfall::net::TcpStream;
use landfall::proxy_protocol::{Endpoints, Header, HeaderDecoder, Transport};
use landfall::runtime::time::timeout;

use super::access::Refusal;
use super::args::{SendProxy, Settings};

/// Whose connection it is.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Who has made it.
    pub client: SocketAddr,
    /// Where to, if that was said.
    pub destination: Option<SocketAddr>,
}

/// A connection whose header has been read.
#[derive(Debug)]
pub struct Announced {
    /// The connection.
    pub stream: TcpStream,
    /// What came after the header.
    pub first: Buffer,
    /// What the header says, or what the connection is where it says nothing.
    pub ends: Ends,
}

/// Reads the header that a proxy sends first.
pub async fn read_header(
    stream: TcpStream,
    peer: SocketAddr,
    settings: &Settings,
) -> Result<Announced, Refusal> {
    let mut reader = FrameReader::new(stream, HeaderDecoder::new());
    let header = match timeout(settings.proxy_timeout, reader.next()).await {
        Ok(Ok(Some(header))) => header,
        Ok(Ok(None)) => return Err(Refusal::LeftBeforeHeader),
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(Refusal::WrongHeader(error));
        }
        Ok(Err(_)) => return Err(Refusal::LeftBeforeHeader),
        Err(_) => return Err(Refusal::NoHeaderInTime),
    };
    let (stream, first) = reader.into_parts();
    // A proxy that checks whether this is alive speaks for itself.
    let ends = Ends {
        client: header.endpoints.source().unwrap_or(peer),
        destination: header.endpoints.destination(),
    };
    Ok(Announced {
        stream,
        first,
        ends,
    })
}

/// Puts the header that a target gets before what the client has sent already.
pub fn with_header(
    version: SendProxy,
    ends: Ends,
    client: &TcpStream,
    first: Buffer,
) -> io::Result<Buffer> {
    let header = match version {
        SendProxy::None => return Ok(first),
        SendProxy::One => Header::v1,
        SendProxy::Two => Header::v2,
    };
    let destination = match ends.destination {
        Some(destination) => destination,
        None => client.local_addr()?,
    };
    let endpoints = Endpoints::new(Transport::Stream, ends.client, destination);
    let mut bytes = header(endpoints).encode().map_err(io::Error::other)?;
    bytes.extend_from_slice(&first);
    Ok(bytes.into())
}
