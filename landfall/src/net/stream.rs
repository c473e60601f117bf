//! Connections.

use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;

use super::calls::Call;
use super::family::Family;
use super::halves::{self, ReadHalf, WriteHalf};
use super::send_file::SendFile;
use super::socket::{Owned, Socket};
use crate::buffer::Buffer;
use crate::port::{Operation, Source};
use crate::runtime::{self, Shared};

/// A connection: a [`TcpStream`](super::TcpStream) or, not on Windows, a `UnixStream`.
///
/// Its methods take it mutably, as bytes have an order. To receive and send at the same time,
/// [split](Self::split) it.
///
/// Dropped, it is closed once the system has taken what had been given to [`send`](Self::send),
/// or reset if that takes longer than the runtime's
/// [close deadline](crate::runtime::Builder::close_deadline).
pub struct Stream<F> {
    pub(super) socket: Owned,
    family: PhantomData<fn() -> F>,
}

impl<F: Family> Stream<F> {
    /// Takes a connection of the standard library over.
    ///
    /// # Errors
    ///
    /// Outside of a runtime, or when the port refuses the socket.
    pub fn from_std(stream: F::StdStream) -> io::Result<Self> {
        Self::associate(runtime::current_or_error()?, stream)
    }

    pub(super) fn associate(shared: Arc<Shared>, source: impl Into<Source>) -> io::Result<Self> {
        Ok(Self::new(Socket::associate(shared, source, None, None)?))
    }

    pub(super) fn new(socket: Socket) -> Self {
        Self::from_owned(Owned::new(socket))
    }

    /// Waits for the connection that a new socket was made for.
    pub(super) async fn connected(&self, connect: Operation) -> io::Result<()> {
        self.socket.call(connect).await.result
    }

    pub(super) fn from_owned(socket: Owned) -> Self {
        Stream {
            socket,
            family: PhantomData,
        }
    }

    pub(super) fn into_owned(self) -> Owned {
        self.socket
    }

    /// Gives the connection back as one of the standard library, in blocking mode, and with it
    /// what had arrived already, in order. Waits until what is queued has been sent. A future that is
    /// dropped before drops the connection.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    pub async fn into_std(self) -> io::Result<(F::StdStream, Vec<Buffer>)> {
        let received = std::future::poll_fn(|cx| self.socket.poll_detach(cx)).await;
        std::future::poll_fn(|cx| self.socket.poll_flushed(cx)).await;
        let descriptor = self.socket.handle.descriptor()?;
        SockRef::from(&descriptor).set_nonblocking(false)?;
        Ok((descriptor.into(), received))
    }

    /// Receives what comes next, in a buffer of the port's pool; `None` when the peer has closed
    /// its side. Nothing is held while it waits.
    ///
    /// Bytes that arrive while nobody waits are kept for the next receive, up to a bound; then the
    /// peer is slowed down. So dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`ConnectionReset`](io::ErrorKind::ConnectionReset) when the connection was cut, whether
    /// before or after the call; [`TimedOut`](io::ErrorKind::TimedOut) after the
    /// [idle timeout](Self::set_idle_timeout).
    pub fn receive(&mut self) -> impl Future<Output = io::Result<Option<Buffer>>> + Send + '_ {
        self.socket.receive()
    }

    /// Receives into a vector of the program's own, after its length, and gives it back with its
    /// length grown. 0 bytes: the peer has closed its side.
    ///
    /// A stream that is read from in this way only is read from without a copy. After the first
    /// [`receive`](Self::receive), whose stream fills buffers of the pool from then on, bytes are
    /// copied. A future that is dropped loses the vector, but not what comes in it: the next
    /// receive has that.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive); [`InvalidInput`](io::ErrorKind::InvalidInput) when the vector
    /// has no spare capacity.
    pub fn read(
        &mut self,
        vec: Vec<u8>,
    ) -> impl Future<Output = (io::Result<usize>, Vec<u8>)> + Send + '_ {
        self.socket.read(vec)
    }

    /// Sends all of a buffer; ready when the system has taken every byte.
    ///
    /// Nothing happens before the future is polled. Once it has been, the buffer is sent even if
    /// the future is dropped, before everything sent later. A few such sends are kept, of 64 KiB
    /// together at most; then the next one waits.
    ///
    /// # Errors
    ///
    /// [`ConnectionReset`](io::ErrorKind::ConnectionReset) when the connection was cut. After an
    /// error every later send fails as well.
    pub fn send(
        &mut self,
        buffer: impl Into<Buffer>,
    ) -> impl Future<Output = io::Result<()>> + Send + '_ {
        SendAll(self.socket.call(Operation::Send(buffer.into())))
    }

    /// As [`send`](Self::send), and gives the buffer back. It comes back empty when the idle
    /// timeout has run out while the system was at it.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn send_owned(
        &mut self,
        buffer: impl Into<Buffer>,
    ) -> impl Future<Output = (io::Result<()>, Buffer)> + Send + '_ {
        SendOwned(self.socket.call(Operation::Send(buffer.into())))
    }

    /// Sends several buffers as if they were one; all of them, as [`send`](Self::send) does, even if the
    /// future is dropped.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn send_vectored(
        &mut self,
        buffers: Vec<Buffer>,
    ) -> impl Future<Output = io::Result<()>> + Send + '_ {
        SendAll(self.socket.call(Operation::SendVectored(buffers)))
    }

    /// Sends without copying where the system can, and is ready when the network has no need of
    /// the buffer any more, which takes a round trip. Worth it for large buffers to other machines. A
    /// future that is dropped leaves the buffer to the send, as with [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn send_zero_copy(
        &mut self,
        buffer: impl Into<Buffer>,
    ) -> impl Future<Output = (io::Result<()>, Buffer)> + Send + '_ {
        SendOwned(self.socket.call(Operation::SendZeroCopy(buffer.into())))
    }

    /// Sends a range of a file: `length` bytes from `offset` on, `u64::MAX` for all that there are.
    /// Returns how many went, which is fewer where the file ends before. The program does not see
    /// the bytes. [`fs::File`](crate::fs::File) is taken by reference, one of the standard library as
    /// it is or in an [`Arc`].
    ///
    /// As with [`send`](Self::send), a file that has begun to go is sent even if the future is
    /// dropped. For the [idle timeout](Self::set_idle_timeout) every mebibyte of it is traffic, up to
    /// eight for a peer that was fast so far: one that takes less within that time is idle.
    ///
    /// ```no_run
    /// # async fn answer(mut stream: landfall::net::TcpStream) -> std::io::Result<()> {
    /// let file = landfall::fs::File::open("index.html").await?;
    /// let length = file.metadata()?.len();
    /// stream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).await?;
    /// let sent = stream.send_file(&file, 0, length).await?;
    /// assert_eq!(sent, length, "somebody has cut the file short");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and what the system says of the file; every later send fails with
    /// it, as the peer would take what follows for the rest of the file.
    pub fn send_file(
        &mut self,
        file: impl Into<Arc<std::fs::File>>,
        offset: u64,
        length: u64,
    ) -> impl Future<Output = io::Result<u64>> + Send + '_ {
        SendFile::new(&self.socket, file.into(), offset, length)
    }

    /// Sends what the system takes at once of a head, which may be empty, and of a range of a file behind
    /// it, and returns how many bytes of both that was: 0 without a head where the file ends at or before
    /// `offset`. The file's bytes stay in the kernel and are not copied, which takes about half the
    /// processor time of [`send_file`](Self::send_file) on Linux, and the head shares a segment with the
    /// first of them. It never waits for the peer, takes 2 MiB of the file at most, so that other tasks
    /// get their turn between two calls, and may wait for the disk. For the
    /// [idle timeout](Self::set_idle_timeout) what goes is traffic.
    ///
    /// ```no_run
    /// # use std::{fs::File, io};
    /// # async fn send(stream: &mut landfall::net::TcpStream, file: &File, length: u64) -> io::Result<()> {
    /// let mut head = &b"this is the file:"[..];
    /// let mut offset = 0;
    /// while !head.is_empty() || offset < length {
    ///     match stream.try_send_file(head, file, offset, length - offset) {
    ///         Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
    ///         Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
    ///         sent => {
    ///             let sent = sent?;
    ///             let of_head = sent.min(head.len() as u64);
    ///             head = &head[of_head as usize..];
    ///             offset += sent - of_head;
    ///         }
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// From the first call on the stream has a second descriptor, and the socket's own mode is
    /// `O_NONBLOCK`, which other descriptors of it show. In a program that does not ignore `SIGPIPE`, as
    /// Rust's do, a peer that is gone raises it.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when nothing goes now, or something given to send
    /// before has not gone; [`Unsupported`](io::ErrorKind::Unsupported) on systems other than Linux;
    /// otherwise as [`send_file`](Self::send_file), but what is sent later does not fail for it.
    pub fn try_send_file(
        &mut self,
        head: &[u8],
        file: &std::fs::File,
        offset: u64,
        length: u64,
    ) -> io::Result<u64> {
        self.socket.try_send_file(head, file, offset, length)
    }

    /// Waits until the system takes more to send, after all that has been given to send. For what goes
    /// [past the port](Self::try_send_file); `send` waits by itself. The future may be
    /// dropped at any time.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send); [`Unsupported`](io::ErrorKind::Unsupported) on Windows.
    pub fn writable(&mut self) -> impl Future<Output = io::Result<()>> + Send + '_ {
        SendAll(self.socket.call(Operation::WaitWritable))
    }

    /// Shuts one or both directions down, after what has been given to send. The peer then
    /// receives the end of the stream. As with [`send`](Self::send), it comes to
    /// that even if the future is dropped.
    ///
    /// # Errors
    ///
    /// The connection is gone already.
    pub fn shutdown(&mut self, how: Shutdown) -> impl Future<Output = io::Result<()>> + Send + '_ {
        SendAll(self.socket.call(Operation::Shutdown(how)))
    }

    /// Has receives end where the peer ends, also when the server that accepted the connection
    /// [drains](crate::server::ServerHandle::drain). For a handler that is about to end and reads what
    /// the peer still sends, as closing before that resets the connection: it bounds the time itself.
    pub fn outlast_drain(&mut self) {
        self.socket.state.inbox.lock().outlast_drain();
    }

    /// Makes receives and sends that wait fail with [`TimedOut`](io::ErrorKind::TimedOut) after
    /// this long without traffic in either direction. `None`, as at first: wait for ever.
    ///
    /// Traffic is bytes: those that arrive, those that are given to a send, and those of a send that
    /// the system has taken all of; of a file, every few mebibytes that it has taken. Beginning to wait, or
    /// doing so again and again, is none.
    ///
    /// Costs one timer a connection, and nothing but reading the clock a message. A send that has
    /// timed out is still sent when the peer takes it.
    pub fn set_idle_timeout(&mut self, time: Option<Duration>) {
        self.socket.state.set_idle_timeout(time);
    }

    /// The address of this side.
    ///
    /// # Errors
    ///
    /// What the system answers.
    pub fn local_addr(&self) -> io::Result<F::Address> {
        F::local_addr(&self.socket.handle)
    }

    /// The address of the other side. Known without asking for a TCP connection that was accepted.
    ///
    /// # Errors
    ///
    /// What the system answers.
    pub fn peer_addr(&self) -> io::Result<F::Address> {
        F::peer_addr(&self.socket.handle)
    }

    /// Splits the connection in a half that receives and one that sends, for two tasks.
    pub fn split(self) -> (ReadHalf<F>, WriteHalf<F>) {
        halves::split(self.socket)
    }
}

impl<F: Family> fmt::Debug for Stream<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(F::STREAM)
            .field("handle", &self.socket.handle)
            .finish_non_exhaustive()
    }
}

/// A call of which only the success matters.
pub(super) struct SendAll<'a>(pub(super) Call<'a>);

impl Future for SendAll<'_> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let done = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(done.result)
    }
}

/// A call that gives its buffer back.
pub(super) struct SendOwned<'a>(pub(super) Call<'a>);

impl Future for SendOwned<'_> {
    type Output = (io::Result<()>, Buffer);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let done = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready((done.result, done.buffer.unwrap_or_default()))
    }
}
