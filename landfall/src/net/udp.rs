//! UDP.

mod line;
mod receives;
mod sends;
mod sessions;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};

use super::os::MESSAGE_TOO_LONG;
use super::tcp::no_address;
use crate::buffer::Buffer;
use crate::port::{CompletionKind, Handle, Operation, SocketOption, Source};
use crate::runtime::{self, Event, Respond, Shared};
use receives::{Receive, Receives};
use sends::{Call, Sends};
pub use sessions::{FromPeer, UdpSession, UdpSessions};

/// A UDP socket.
///
/// Its methods take it by reference, so that any number of tasks can receive and send at the same time
/// (in an [`Arc`]). Datagrams are received into vectors of the program's, which come back with them:
/// used again, they cost no allocation.
///
/// Dropping it leaves what has been given to send to the system, and closes it.
///
/// ```
/// use landfall::net::UdpSocket;
/// use landfall::runtime::{self, Runtime};
///
/// let runtime = Runtime::new()?;
/// runtime.block_on(async {
///     let socket = UdpSocket::bind("127.0.0.1:0")?;
///     let address = socket.local_addr()?;
///     let server = runtime::spawn(async move {
///         let (result, data) = socket.receive_from(Vec::with_capacity(2048)).await;
///         let (_, peer) = result?;
///         socket.send_to(data, peer).await
///     });
///     let client = UdpSocket::bind("127.0.0.1:0")?;
///     client.connect(address).await?;
///     client.send("over and out").await?;
///     let (result, echo) = client.receive(Vec::with_capacity(2048)).await;
///     assert_eq!(result?, 12);
///     assert_eq!(echo, b"over and out");
///     server.await?
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct UdpSocket {
    shared: Arc<Shared>,
    handle: Handle,
    state: Arc<UdpState>,
    /// Its state's number among the runtime's responders.
    number: usize,
}

/// The two directions of a socket, each behind its own lock.
#[derive(Default)]
struct UdpState {
    receives: Mutex<Receives>,
    sends: Mutex<Sends>,
}

impl UdpSocket {
    /// A socket at an address, or the first that can be bound of those it resolves to. Port 0 lets the
    /// system choose.
    ///
    /// # Errors
    ///
    /// Outside of a runtime, or what the system answers for the last address.
    pub fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        let shared = runtime::current_or_error()?;
        let mut failure = None;
        for address in address.to_socket_addrs()? {
            match bind_to(address) {
                Ok(socket) => return Self::associate(shared, socket),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(no_address))
    }

    /// Takes a socket of the standard library over, with the options that have been set on it.
    ///
    /// # Errors
    ///
    /// Outside of a runtime, or when the port refuses the socket.
    pub fn from_std(socket: std::net::UdpSocket) -> io::Result<Self> {
        Self::associate(runtime::current_or_error()?, socket)
    }

    fn associate(shared: Arc<Shared>, source: impl Into<Source>) -> io::Result<Self> {
        let state = Arc::new(UdpState::default());
        let (handle, number) = shared.associate(source, state.clone(), None)?;
        Ok(UdpSocket {
            shared,
            handle,
            state,
            number,
        })
    }

    /// Names the peer that [`send`](Self::send) sends to, and the only one whose datagrams are received
    /// from then on, trying each address that it resolves to. Nothing is sent.
    ///
    /// Resolving a name blocks the worker, which is covered by another one.
    ///
    /// # Errors
    ///
    /// What the system answers for the last address.
    pub async fn connect(&self, address: impl ToSocketAddrs) -> io::Result<()> {
        let addresses: Vec<_> = address.to_socket_addrs()?.collect();
        let mut failure = None;
        for address in addresses {
            match Call::new(self, Operation::Connect(address)).await.result {
                Ok(()) => return Ok(()),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(no_address))
    }

    /// Receives a datagram into a vector, after its length, and gives the vector back with its length
    /// grown by that of the datagram, which may be 0. Tells who has sent it.
    ///
    /// Of several tasks that receive, one has a receive with the system, and the others wait for theirs.
    /// A future that is dropped loses the vector. A datagram that has come in it is kept for the next
    /// receive, which gets a copy.
    ///
    /// # Errors
    ///
    /// - The datagram was longer than the room in the vector, which holds what fits; the rest is lost
    ///   ([`is_too_long`]).
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput): the vector has no spare capacity.
    /// - [`ConnectionRefused`](io::ErrorKind::ConnectionRefused), where the system tells of it (Unix): a
    ///   datagram sent before has found nobody at the address that the socket is connected to.
    ///
    /// The socket stays usable after any of them.
    pub fn receive_from(
        &self,
        vec: Vec<u8>,
    ) -> impl Future<Output = (io::Result<(usize, SocketAddr)>, Vec<u8>)> + Send + '_ {
        let receive = Receive::new(self, Some(vec));
        async move {
            let received = receive.await;
            let result = received.result.and_then(|bytes| match received.peer {
                Some(peer) => Ok((bytes, peer)),
                None => Err(io::Error::other("the system did not tell the sender")),
            });
            (result, received.vec.unwrap_or_default())
        }
    }

    /// As [`receive_from`](Self::receive_from), without telling who sent it: on a socket that is
    /// [connected](Self::connect), its peer.
    ///
    /// # Errors
    ///
    /// As [`receive_from`](Self::receive_from).
    pub fn receive(
        &self,
        vec: Vec<u8>,
    ) -> impl Future<Output = (io::Result<usize>, Vec<u8>)> + Send + '_ {
        let receive = Receive::new(self, Some(vec));
        async move {
            let received = receive.await;
            (received.result, received.vec.unwrap_or_default())
        }
    }

    /// Waits until there is a datagram, or an error, to be received, and takes nothing. A program with
    /// many sockets that are mostly idle waits so, without a vector for each, and receives then. Another
    /// task's receive may have been faster.
    ///
    /// # Errors
    ///
    /// What the system answers.
    pub fn readable(&self) -> impl Future<Output = io::Result<()>> + Send + '_ {
        let wait = Receive::new(self, None);
        async move { wait.await.result.map(drop) }
    }

    /// Sends a datagram to the peer that the socket is [connected](Self::connect) to.
    ///
    /// Nothing happens before the future is polled. Once it has been, the datagram is sent even if the
    /// future is dropped. 64 of them, of 256 KiB together, are kept at most; then the next one waits.
    ///
    /// # Errors
    ///
    /// - The datagram is longer than the network takes ([`is_too_long`]).
    /// - [`ConnectionRefused`](io::ErrorKind::ConnectionRefused), where the system tells of it (Unix): one
    ///   sent before has found nobody there. This one was not sent.
    /// - Others of the system's, for one if the socket is not connected.
    ///
    /// The socket stays usable after any of them.
    pub fn send(
        &self,
        buffer: impl Into<Buffer>,
    ) -> impl Future<Output = io::Result<()>> + Send + '_ {
        let send = self.send_owned(buffer);
        async move { send.await.0 }
    }

    /// As [`send`](Self::send), and gives the buffer back.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn send_owned(
        &self,
        buffer: impl Into<Buffer>,
    ) -> impl Future<Output = (io::Result<()>, Buffer)> + Send + '_ {
        self.send_by(Operation::Send(buffer.into()))
    }

    /// Sends a datagram to an address; see [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send). macOS and the BSDs refuse an address to a socket that is connected.
    pub fn send_to(
        &self,
        buffer: impl Into<Buffer>,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<()>> + Send + '_ {
        let send = self.send_to_owned(buffer, address);
        async move { send.await.0 }
    }

    /// As [`send_to`](Self::send_to), and gives the buffer back.
    ///
    /// # Errors
    ///
    /// As [`send_to`](Self::send_to).
    pub fn send_to_owned(
        &self,
        buffer: impl Into<Buffer>,
        address: SocketAddr,
    ) -> impl Future<Output = (io::Result<()>, Buffer)> + Send + '_ {
        let buffer = buffer.into();
        self.send_by(Operation::SendTo { address, buffer })
    }

    fn send_by(
        &self,
        operation: Operation,
    ) -> impl Future<Output = (io::Result<()>, Buffer)> + Send + '_ {
        let call = Call::new(self, operation);
        async move {
            let sent = call.await;
            (sent.result, sent.buffer.unwrap_or_default())
        }
    }

    /// Asks for room for so many bytes of datagrams that nobody has received yet (`SO_RCVBUF`). Those
    /// that find none are lost.
    ///
    /// # Errors
    ///
    /// What the system answers. Linux cuts the size down to its own limit (`net.core.rmem_max`).
    pub async fn set_receive_buffer(&self, bytes: u32) -> io::Result<()> {
        self.set_option(SocketOption::ReceiveBuffer(bytes)).await
    }

    /// Asks for room for so many bytes that the network has not taken yet (`SO_SNDBUF`).
    ///
    /// # Errors
    ///
    /// As [`set_receive_buffer`](Self::set_receive_buffer) (`net.core.wmem_max`).
    pub async fn set_send_buffer(&self, bytes: u32) -> io::Result<()> {
        self.set_option(SocketOption::SendBuffer(bytes)).await
    }

    async fn set_option(&self, option: SocketOption) -> io::Result<()> {
        Call::new(self, Operation::SetOption(option)).await.result
    }

    /// The address of this side.
    ///
    /// # Errors
    ///
    /// What the system answers; asking costs a few system calls.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.handle.local_addr()
    }

    /// The address that the socket is [connected](Self::connect) to.
    ///
    /// # Errors
    ///
    /// What the system answers, [`NotConnected`](io::ErrorKind::NotConnected) for one; asking costs a few
    /// system calls.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        // Unlike that of a connection, it may change, so nobody keeps it.
        let peer = Socket::from(self.handle.descriptor()?).peer_addr()?;
        peer.as_socket()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

fn bind_to(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Whether a datagram was longer than the vector that it was to be received into, or than the network
/// takes.
///
/// ```
/// # use landfall::net::is_too_long;
/// assert!(!is_too_long(&std::io::Error::from(std::io::ErrorKind::ConnectionRefused)));
/// ```
pub fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(MESSAGE_TOO_LONG)
}

fn too_long() -> io::Error {
    io::Error::from_raw_os_error(MESSAGE_TOO_LONG)
}

impl Respond for UdpState {
    fn respond(&self, _handle: &Handle, mut event: Event<'_>) {
        let wakers = match event.completion.kind() {
            CompletionKind::Receive => [self.receives.lock().arrive(&mut event), None],
            _ => self.sends.lock().finish(&mut event),
        };
        for waker in wakers.into_iter().flatten() {
            waker.wake();
        }
    }

    fn abandon(&self) {
        let receivers = self.receives.lock().abandon();
        let senders = self.sends.lock().abandon();
        for waker in receivers.into_iter().chain(senders) {
            waker.wake();
        }
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.shared.forget(self.number);
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}
