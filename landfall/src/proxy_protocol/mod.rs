//! The PROXY protocol: whom a proxy speaks for.
//!
//! A proxy that passes a connection on hides where it came from. So it says that first, in one header in
//! front of everything else: a line of text (version 1) or a few bytes (version 2). Both are read and
//! written here, by [the protocol's specification][spec].
//!
//! Anyone can send such a header. It is to be believed from known proxies only, and a connection to a
//! port that expects one begins with one: reading it "if it is there" lets everybody else choose their
//! address.
//!
//! ```
//! use landfall::proxy_protocol::{Endpoints, Header, Parsed, Transport};
//!
//! let client = "192.0.2.1:56324".parse()?;
//! let server = "192.0.2.9:443".parse()?;
//! let header = Header::v1(Endpoints::new(Transport::Stream, client, server));
//! let bytes = header.encode()?;
//! assert_eq!(bytes, b"PROXY TCP4 192.0.2.1 192.0.2.9 56324 443\r\n");
//!
//! let Parsed::Whole { header, length } = Header::parse(&bytes)? else {
//!     panic!("all of it is there");
//! };
//! assert_eq!(header.endpoints.source(), Some(client));
//! assert_eq!(length, bytes.len(), "what follows is the client's");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! On a stream, the header is a [frame](crate::frame), and what follows it is left:
//!
//! ```no_run
//! # use landfall::net::TcpStream;
//! # async fn example(stream: TcpStream) -> std::io::Result<()> {
//! use landfall::frame::FrameReader;
//! use landfall::proxy_protocol::HeaderDecoder;
//!
//! let mut reader = FrameReader::new(stream, HeaderDecoder::new());
//! let Some(header) = reader.next().await? else {
//!     return Ok(()); // closed without a byte
//! };
//! println!("a connection of {:?}", header.endpoints.source());
//! let (stream, first_bytes) = reader.into_parts();
//! # Ok(())
//! # }
//! ```
//!
//! [spec]: https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt

mod decoder;
mod endpoints;
mod error;
mod header;
mod tlv;
mod v1;
mod v2;

pub use decoder::HeaderDecoder;
pub use endpoints::{Endpoints, Transport};
pub use error::{EncodeError, ParseError};
pub use header::{Header, Parsed, Version};
pub use tlv::{Tlv, TlvIter, Tlvs};
