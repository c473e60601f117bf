//! What only TCP has.

use std::io;
use std::net::{self, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::connect::ConnectOptions;
use super::family::{Family, sealed};
use super::listener::Listener;
use super::os;
use super::stream::Stream;
use crate::driver::os::unacknowledged;
use crate::port::{Handle, SocketOption};
use crate::runtime;

/// What the system keeps for a listener that is slow, unless told otherwise: Linux cuts it down to
/// `net.core.somaxconn`, which is 4096 too. A client that finds the backlog full tries again after
/// a second, so a burst of clients needs a long one.
const BACKLOG: u32 = 4096;

/// TCP, among the kinds of stream sockets.
#[derive(Debug)]
pub enum Tcp {}

impl sealed::Sealed for Tcp {
    const STREAM: &str = "TcpStream";
    const LISTENER: &str = "TcpListener";
}

impl Family for Tcp {
    type Address = SocketAddr;
    type StdStream = net::TcpStream;
    type StdListener = net::TcpListener;

    fn local_addr(handle: &Handle) -> io::Result<SocketAddr> {
        handle.local_addr()
    }

    fn peer_addr(handle: &Handle) -> io::Result<SocketAddr> {
        handle.peer_addr()
    }
}

/// A TCP connection. Most of what it does is described at [`Stream`].
pub type TcpStream = Stream<Tcp>;

/// Listens for TCP connections, which [`accept`](Listener::accept) brings.
pub type TcpListener = Listener<Tcp>;

impl TcpStream {
    /// Connects to an address, trying each that it resolves to.
    ///
    /// A future that is dropped closes the socket. Resolving a name blocks the worker, which is
    /// covered by another one.
    ///
    /// # Errors
    ///
    /// The last address's; [`ConnectOptions`] has a timeout.
    pub async fn connect(address: impl ToSocketAddrs) -> io::Result<Self> {
        ConnectOptions::new().connect(address).await
    }

    /// Sends small segments at once instead of waiting to fill them (`TCP_NODELAY`).
    ///
    /// # Errors
    ///
    /// What the system answers.
    pub async fn set_nodelay(&mut self, on: bool) -> io::Result<()> {
        self.socket.set_option(SocketOption::NoDelay(on)).await
    }

    /// Probes a peer that has been silent for so long, and cuts the connection if it does not
    /// answer; `None` turns probing off.
    ///
    /// # Errors
    ///
    /// What the system answers.
    pub async fn set_keepalive(&mut self, idle: Option<Duration>) -> io::Result<()> {
        self.socket.set_option(SocketOption::KeepAlive(idle)).await
    }

    /// How long the system may take to deliver what it has taken once the stream is closed; zero
    /// resets the connection at close, `None` leaves it to the system. On Windows so does any other
    /// time.
    ///
    /// # Errors
    ///
    /// What the system answers.
    pub async fn set_linger(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.socket.set_option(SocketOption::Linger(time)).await
    }

    /// How many of the bytes that the system has taken to send the peer's system has not
    /// acknowledged: 0 once all have arrived there. A connection that is closed while its peer sends is
    /// reset, which may cost the peer what had not (RFC 9112, 9.6).
    ///
    /// The end of the stream counts as a byte, after [`shutdown`](Self::shutdown). Once the peer has reset
    /// the connection the number stays what it was: only a receive or a send tells of that.
    ///
    /// Asking costs a few system calls. A socket in a table of the port's own
    /// ([`Facilities::direct_descriptors`](crate::port::Facilities::direct_descriptors)) is given a
    /// descriptor for it, for which the caller waits.
    ///
    /// # Errors
    ///
    /// - [`Unsupported`](io::ErrorKind::Unsupported) on systems other than Linux.
    /// - What the system answers: no descriptor is left, or it cannot give one to a socket in such a table
    ///   (before Linux 6.8).
    pub fn unacknowledged_bytes(&self) -> io::Result<u64> {
        let handle = &self.socket.handle;
        unacknowledged(handle.driver(), handle.socket())
    }
}

impl TcpListener {
    /// Listens on an address, or the first that can be bound of those it resolves to. Port 0 lets
    /// the system choose.
    ///
    /// # Errors
    ///
    /// Outside of a runtime, or what the system answers for the last address.
    pub fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        Self::bind_with(address, ListenOptions::new())
    }

    /// Listens with other options than the default.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn bind_with(address: impl ToSocketAddrs, options: ListenOptions) -> io::Result<Self> {
        let shared = runtime::current_or_error()?;
        Self::associate(shared, options.bind(address)?).map(Self::own)
    }
}

/// How to listen.
///
/// ```
/// # use landfall::net::{ListenOptions, TcpListener};
/// # landfall::runtime::Runtime::new()?.block_on(async {
/// let options = ListenOptions::new().backlog(128).nodelay(true);
/// let listener = TcpListener::bind_with("127.0.0.1:0", options)?;
/// # Ok::<(), std::io::Error>(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing listens before `TcpListener::bind_with`"]
pub struct ListenOptions {
    backlog: u32,
    nodelay: bool,
    dual_stack: bool,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions {
            backlog: BACKLOG,
            nodelay: false,
            dual_stack: false,
        }
    }
}

impl ListenOptions {
    /// The default options.
    pub fn new() -> Self {
        ListenOptions::default()
    }

    /// How many connections the system keeps that have not been accepted; 4096 by default, cut
    /// down by the system to its own limit.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// Whether accepted connections send small segments at once (`TCP_NODELAY`); no by default.
    pub fn nodelay(mut self, on: bool) -> Self {
        self.nodelay = on;
        self
    }

    /// Whether a listener on `[::]` takes clients of IPv4 as well, whose addresses then look like
    /// `::ffff:192.0.2.1`. No by default, on every system (they differ): `0.0.0.0` and `[::]` are two
    /// listeners, which can have the same port.
    pub fn dual_stack(mut self, on: bool) -> Self {
        self.dual_stack = on;
        self
    }

    /// A listening socket at the first address that can be bound.
    pub(crate) fn bind(&self, address: impl ToSocketAddrs) -> io::Result<Socket> {
        let mut failure = None;
        for address in address.to_socket_addrs()? {
            match self.bind_to(address) {
                Ok(socket) => return Ok(socket),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(no_address))
    }

    fn bind_to(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        os::allow_rebinding(&socket)?;
        if address.is_ipv6() {
            socket.set_only_v6(!self.dual_stack)?;
        }
        // Connections inherit it.
        socket.set_tcp_nodelay(self.nodelay)?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(self.backlog).unwrap_or(i32::MAX))?;
        Ok(socket)
    }
}

pub(super) fn no_address() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "the name resolved to no address",
    )
}
