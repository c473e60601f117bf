//! Messages on a stream: what arrives is cut where the sender had cut it.
//!
//! A stream of bytes keeps no borders. Several sends arrive as one receive, and one send as several
//! ("sticky packets"). So the sender has to mark where a message ends, with its length in front
//! ([`LengthPrefix`]) or with a line feed behind it ([`Lines`]), and the receiver has to collect
//! bytes until a message is whole.
//!
//! ```
//! use landfall::frame::{FrameReader, FrameWriter, LengthPrefix};
//! use landfall::net::{TcpListener, TcpStream};
//! use landfall::runtime::{self, Runtime};
//!
//! const PREFIX: LengthPrefix = LengthPrefix::big_endian(4).max_frame(64 * 1024);
//!
//! let runtime = Runtime::new()?;
//! runtime.block_on(async {
//!     let listener = TcpListener::bind("127.0.0.1:0")?;
//!     let address = listener.local_addr()?;
//!     let echo = runtime::spawn(async move {
//!         let (receiving, sending) = listener.accept().await?.split();
//!         let mut frames = FrameReader::new(receiving, PREFIX.decoder());
//!         let mut answers = FrameWriter::new(sending, PREFIX);
//!         while let Some(frame) = frames.next().await? {
//!             answers.send(frame).await?; // moved, not copied
//!         }
//!         Ok::<(), std::io::Error>(())
//!     });
//!     let mut stream = TcpStream::connect(address).await?;
//!     let mut sender = FrameWriter::new(&mut stream, PREFIX);
//!     sender.send("over").await?;
//!     sender.send("out").await?;
//!     let mut answers = FrameReader::new(stream, PREFIX.decoder());
//!     assert_eq!(&answers.next().await?.expect("a frame")[..], b"over");
//!     assert_eq!(&answers.next().await?.expect("a frame")[..], b"out");
//!     drop(answers);
//!     echo.await?
//! })?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Without a stream
//!
//! A codec knows bytes only: a [`Decode`] is given buffers as they come and gives frames back, and an
//! [`Encode`] makes the buffers that are to be sent. So they serve a program on the bare port as well:
//!
//! ```
//! use landfall::buffer::Buffer;
//! use landfall::frame::{Decode, Lines};
//!
//! let mut lines = Lines::new().decoder();
//! let mut received = Buffer::from("one\r\ntwo\nthr"); // as a completion has brought it
//! assert_eq!(&lines.decode(&mut received)?.expect("a line")[..], b"one");
//! assert_eq!(&lines.decode(&mut received)?.expect("a line")[..], b"two");
//! assert!(lines.decode(&mut received)?.is_none(), "more has to come");
//! let mut received = Buffer::from("ee\n");
//! assert_eq!(&lines.decode(&mut received)?.expect("a line")[..], b"three");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # What it costs
//!
//! A frame that arrives alone is the received buffer itself. Of a buffer with several frames in it one
//! copy is made, which they share; a frame that arrives in pieces is collected in memory of its own,
//! which grows with what has come and not with what was announced. Between frames nothing is held.

mod codec;
mod length;
mod lines;
mod reader;
mod stream;
mod writer;

pub(crate) use codec::ended_within;
pub use codec::{Decode, Encode};
pub use length::{LengthDecoder, LengthPrefix};
pub use lines::{LineDecoder, Lines};
pub use reader::FrameReader;
pub use stream::{Receive, SendVectored};
pub use writer::FrameWriter;
