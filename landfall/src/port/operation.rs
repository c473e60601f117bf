//! What can be asked of a handle.

use std::fs::File;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::Buffer;

/// Names one accepted operation until its final completion.
///
/// An identifier is never reused while its operation is pending; a stale one names nothing and
/// cancelling it returns `false`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OperationId(pub(crate) u64);

/// An operation and the buffer that goes with it.
///
/// Handed to [`Handle::submit`](crate::port::Handle::submit). The buffer belongs to the operation
/// until its completion, which gives it back.
#[derive(Debug)]
#[non_exhaustive]
#[must_use = "it does nothing before it is submitted"]
pub enum Operation {
    /// Accept connections on a listener; see [`Accept`].
    Accept(Accept),
    /// Connect the socket to an address. Completes with 0 bytes once connected.
    ///
    /// For internet sockets. One of Unix is connected before it is associated: connect(2), on a
    /// socket that does not block, succeeds or fails there and then. While the listener's backlog
    /// is full it fails, and readiness does not tell when there is room again: there would be nothing
    /// to wait for here. The runtime's `net::UnixStream` tries again from time to time.
    Connect(SocketAddr),
    /// One receive into the spare capacity of a vector, after its length. The vector comes back
    /// with its length grown by the bytes received; 0 bytes mean that the peer closed its side.
    ///
    /// A vector without spare capacity is refused at submission.
    Receive(Vec<u8>),
    /// As [`Operation::Receive`], on a datagram socket, and tells who has sent the datagram
    /// ([`Completion::peer`](crate::port::Completion::peer)).
    ///
    /// A vector without spare capacity is refused at submission, and so is a stream socket.
    ///
    /// ```
    /// use std::net::UdpSocket;
    ///
    /// use landfall::port::{CompletionPort, Operation};
    ///
    /// let port = CompletionPort::new(0)?;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// let client = UdpSocket::bind("127.0.0.1:0")?;
    /// client.send_to(b"hello", socket.local_addr()?)?;
    /// let socket = port.associate(socket, 1)?;
    /// socket.submit(Operation::ReceiveFrom(Vec::with_capacity(65_535)), 1)?;
    /// let mut received = port.get(None)?;
    /// let address = received.peer().expect("an internet address");
    /// let buffer = received.take_buffer().expect("the vector");
    /// socket.submit(Operation::SendTo { address, buffer }, 2)?;
    /// # assert_eq!(client.local_addr()?, address);
    /// # assert_eq!(port.get(None)?.result()?, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ReceiveFrom(Vec<u8>),
    /// Receives until the end of the stream, an error or a cancel, one completion each, in order,
    /// into buffers of the port's pool. While nothing arrives no buffer is held.
    ///
    /// The final completion carries 0 bytes (the peer closed its side) or an error.
    ReceiveStream,
    /// One receive into a buffer of the port's pool, taken only when data is there.
    ReceiveOnce,
    /// Completes when the socket has data or is at its end; consumes nothing.
    WaitReadable,
    /// Completes, as a send of 0 bytes, when the socket has room for bytes to send, or when a send would
    /// fail at once. It takes its turn among the sends, so that those submitted before it have ended.
    ///
    /// For what sends past the port: splice(2), for one. Windows has no such wait; there it is refused
    /// ([`Unsupported`](std::io::ErrorKind::Unsupported)).
    WaitWritable,
    /// Sends all of a buffer. Completes when the system has taken every byte, or with an error
    /// and the number of bytes that went. Partial sends are finished by the port.
    ///
    /// On a stream nothing follows a gap. When a send fails, those queued behind it and all later
    /// ones of the socket end with the same error; when one is cancelled of which a part has gone,
    /// those queued behind it are aborted as well.
    Send(Buffer),
    /// Sends several buffers as if they were one; see [`Operation::Send`].
    SendVectored(Vec<Buffer>),
    /// Sends without copying where the system can; the completion, and with it the buffer, comes
    /// only when the network is done with the memory. Falls back to an ordinary send.
    ///
    /// Loopback always copies, so this gains nothing between programs of one machine.
    SendZeroCopy(Buffer),
    /// Sends a datagram to an address; see [`Operation::Send`]. It goes whole or not at all.
    ///
    /// A stream socket is refused at submission. Of one that is connected to another address, macOS
    /// and the BSDs refuse it (`EISCONN`).
    SendTo {
        /// Of the same family as the socket.
        address: SocketAddr,
        /// The datagram.
        buffer: Buffer,
    },
    /// Sends a range of a file on a stream socket, in its turn among the sends, without the program
    /// seeing the bytes: `length` of them from `offset` on, fewer if the file ends before
    /// (`u64::MAX`: to its end). Completes as a send, with the number of bytes that went: one
    /// smaller than `length` means that the file ended, and the peer got no more than that.
    ///
    /// It moves on when some thread takes from the port. A failure has the consequences of a failed
    /// [`Send`](Operation::Send), also if it was the file that could not be read. What the file holds while
    /// it is sent is what arrives: whoever writes to it meanwhile changes that.
    ///
    /// The file need not be associated with the port, and any number of sends may share it. If the last of
    /// them is its last owner, it is closed soon after.
    SendFile {
        /// Opened for reading.
        file: Arc<File>,
        /// In bytes from the beginning of the file; at most 2^63 - 1.
        offset: u64,
        /// In bytes. More than a completion can count (4 GiB on 32-bit systems) is not sent.
        length: u64,
    },
    /// Reads from a file, at an offset, into the spare capacity of a vector, after its length. The
    /// vector comes back with its length grown by the bytes read: at least one, and nearly always as
    /// many as fit or the file has; 0 bytes mean that the file ends at or before `offset`.
    ///
    /// A vector without spare capacity is refused at submission, and so is a range that ends past
    /// 2^63 - 1.
    ///
    /// ```
    /// use landfall::port::{CompletionPort, Operation};
    ///
    /// let port = CompletionPort::new(0)?;
    /// let file = landfall::fs::options().read(true).open("Cargo.toml")?;
    /// let file = port.associate(file, 1)?;
    /// let buffer = Vec::with_capacity(9);
    /// file.submit(Operation::ReadAt { offset: 0, buffer }, 7)?;
    /// let mut read = port.get(None)?;
    /// assert_eq!((read.key(), read.token(), read.result()?), (1, 7, 9));
    /// assert_eq!(&read.take_buffer().expect("the vector")[..], b"[package]");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ReadAt {
        /// In bytes from the beginning of the file.
        offset: u64,
        /// Where to.
        buffer: Vec<u8>,
    },
    /// Writes all of a buffer to a file, at an offset; the file grows as needed. Completes when the
    /// system has taken every byte, or with an error and the number of bytes that it took before.
    ///
    /// A range that ends past 2^63 - 1 is refused at submission. On Linux, bytes written to a file
    /// that was opened for appending go to its end, whatever the offset.
    WriteAt {
        /// In bytes from the beginning of the file.
        offset: u64,
        /// The bytes.
        buffer: Buffer,
    },
    /// Has the system store what has been written to a file, and all of its metadata, so that it
    /// outlasts a loss of power. Covers writes that have completed, not those under way.
    SyncAll,
    /// As [`SyncAll`](Operation::SyncAll), without the metadata that is not needed to read the data
    /// (times of access, for one).
    SyncData,
    /// Shuts one or both directions down, after the sends submitted before it.
    Shutdown(Shutdown),
    /// Sets an option of the socket.
    SetOption(SocketOption),
}

/// How connections are accepted.
///
/// ```
/// use std::net::{TcpListener, TcpStream};
///
/// use landfall::port::{Accept, CompletionPort, Operation};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let address = listener.local_addr()?;
/// let port = CompletionPort::new(0)?;
/// let listener = port.associate(listener, 1)?;
/// listener.submit(Operation::Accept(Accept::stream()), 0)?;
///
/// let client = TcpStream::connect(address)?;
/// let mut completion = port.get(None)?;
/// let accepted = completion.take_accepted().expect("a connection");
/// assert_eq!(accepted.peer_addr()?, client.local_addr()?);
/// let connection = port.associate(accepted, 2)?;
/// connection.submit(Operation::ReceiveStream, 0)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it does nothing before it is submitted"]
pub struct Accept {
    pub(crate) once: bool,
    pub(crate) first_data: Option<Duration>,
}

impl Accept {
    /// Connections one after another, a completion each, until cancelled or closed.
    ///
    /// Several accepts are kept posted, so that a burst of clients meets a ready one. The stream
    /// ends with a final completion when it is cancelled, the listener is closed, or the system
    /// has no descriptor or memory left for a connection; submit it again to go on.
    pub fn stream() -> Self {
        Accept {
            once: false,
            first_data: None,
        }
    }

    /// One connection.
    pub fn once() -> Self {
        Accept {
            once: true,
            first_data: None,
        }
    }

    /// Completes only when the client's first bytes are there, which come with the completion
    /// ([`Accepted::first_data`](crate::port::Accepted::first_data)).
    ///
    /// A client that stays silent past `deadline` is closed and never seen: without a deadline it
    /// would hold its place for ever, as `AcceptEx` with a receive length does.
    pub fn first_data(mut self, deadline: Duration) -> Self {
        self.first_data = Some(deadline);
        self
    }
}

/// An option of a socket, set by [`Operation::SetOption`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SocketOption {
    /// Send small segments at once (`TCP_NODELAY`).
    NoDelay(bool),
    /// Probe a silent peer after this time without traffic, rounded up to seconds; `None` turns
    /// probing off (`SO_KEEPALIVE`, `TCP_KEEPIDLE`).
    KeepAlive(Option<Duration>),
    /// How long a close may take to deliver what is queued, rounded up to seconds; zero resets
    /// the connection at close (`SO_LINGER`). Windows knows only zero: a longer time would have a
    /// close wait, and is left to the system there.
    Linger(Option<Duration>),
    /// Size of the kernel's receive buffer in bytes (`SO_RCVBUF`).
    ReceiveBuffer(u32),
    /// Size of the kernel's send buffer in bytes (`SO_SNDBUF`).
    SendBuffer(u32),
}
