//! Unix sockets: connections between programs of one machine, named by paths. Not on Windows.

use std::io;
use std::os::unix::net::{self, SocketAddr};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Type};

use super::family::{Family, sealed};
use super::listener::Listener;
use super::os;
use super::stream::Stream;
use crate::port::Handle;
use crate::runtime;
use crate::runtime::time::sleep;

/// Pauses between attempts to connect while the listener's backlog is full: twice as long each
/// time, from the shortest to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// Unix sockets, among the kinds of stream sockets.
#[derive(Debug)]
pub enum Unix {}

impl sealed::Sealed for Unix {
    const STREAM: &str = "UnixStream";
    const LISTENER: &str = "UnixListener";
}

impl Family for Unix {
    type Address = SocketAddr;
    type StdStream = net::UnixStream;
    type StdListener = net::UnixListener;

    fn local_addr(handle: &Handle) -> io::Result<SocketAddr> {
        handle.unix_local_addr()
    }

    fn peer_addr(handle: &Handle) -> io::Result<SocketAddr> {
        handle.unix_peer_addr()
    }
}

/// A connection over a Unix socket. Not on Windows.
///
/// Most of what it does is described at [`Stream`], as for a [`TcpStream`](super::TcpStream). These
/// differ:
///
/// - There is no reset, so one that is dropped and has not sent everything within the
///   [close deadline](crate::runtime::Builder::close_deadline) is closed, and the peer takes what
///   has come for all. A message that says how long it is shows that.
/// - [`ConnectionReset`](io::ErrorKind::ConnectionReset) is what a send fails with once the peer has
///   closed, and on Linux a receive too, if the peer had not read everything.
/// - [`send_zero_copy`](Stream::send_zero_copy) copies.
///
/// ```
/// use landfall::net::{UnixListener, UnixStream};
/// use landfall::runtime::{self, Runtime};
///
/// # let path = std::env::temp_dir().join(format!("landfall-example-{}", std::process::id()));
/// # let removed = path.clone();
/// Runtime::new()?.block_on(async {
///     let listener = UnixListener::bind(&path)?;
///     let server = runtime::spawn(async move {
///         let mut stream = listener.accept().await?;
///         while let Some(data) = stream.receive().await? {
///             stream.send(data).await?;
///         }
///         Ok::<(), std::io::Error>(())
///     });
///     let mut stream = UnixStream::connect(&path).await?;
///     stream.send("over and out").await?;
///     let echo = stream.receive().await?.expect("an answer");
///     assert_eq!(&echo[..], b"over and out");
///     drop(stream);
///     std::fs::remove_file(&path)?;
///     server.await?
/// })?;
/// # assert!(!removed.exists());
/// # Ok::<(), std::io::Error>(())
/// ```
pub type UnixStream = Stream<Unix>;

/// Listens on a Unix socket for connections, which [`accept`](Listener::accept) brings. Not on
/// Windows.
///
/// The file of its path stays when it is dropped, as with the standard library: remove it.
pub type UnixListener = Listener<Unix>;

impl UnixStream {
    /// Connects to a path. See [`connect_addr`](Self::connect_addr).
    ///
    /// # Errors
    ///
    /// As [`connect_addr`](Self::connect_addr); [`InvalidInput`](io::ErrorKind::InvalidInput) for a
    /// path too long for an address: past 107 bytes on Linux, 103 elsewhere.
    pub async fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::connect_addr(&SocketAddr::from_pathname(path)?).await
    }

    /// Connects to an address: a path, or on Linux an abstract name
    /// (`std::os::linux::net::SocketAddrExt`).
    ///
    /// The system connects at once, or not at all. On Linux, a listener whose backlog is full is
    /// tried again, with pauses of up to 64 ms, for as long as the future is polled: bound that
    /// with a [`timeout`](crate::runtime::time::timeout). Elsewhere the system refuses.
    ///
    /// # Errors
    ///
    /// Outside of a runtime; [`NotFound`](io::ErrorKind::NotFound) without such a file, or
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) when nobody listens on it; what else
    /// the system answers; [`InvalidInput`](io::ErrorKind::InvalidInput) for an address without a
    /// name.
    pub async fn connect_addr(address: &SocketAddr) -> io::Result<Self> {
        let shared = runtime::current_or_error()?;
        let address = os::unix_address(address)?;
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        let mut pause = SHORTEST_PAUSE;
        // The port has nothing to wait for here: see `Operation::Connect`.
        while let Err(error) = socket.connect(&address) {
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(error);
            }
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
        Self::associate(shared, socket)
    }

    /// Two ends of a connection that has no name.
    ///
    /// # Errors
    ///
    /// Outside of a runtime, or when the process has no descriptors left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = net::UnixStream::pair()?;
        Ok((Self::from_std(one)?, Self::from_std(other)?))
    }
}

impl UnixListener {
    /// Listens on a path, where the system makes a file. As many connections wait to be accepted as
    /// the system permits; for fewer, make a listener with `socket2` and take it over
    /// [from the standard library](Self::from_std).
    ///
    /// # Errors
    ///
    /// Outside of a runtime; [`AddrInUse`](io::ErrorKind::AddrInUse) when the path exists, be it the
    /// socket of a listener that is gone (only the program can know whether it may remove that file:
    /// another one may be listening on it); [`InvalidInput`](io::ErrorKind::InvalidInput) for a path
    /// too long for an address; what else the system answers.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::bind_addr(&SocketAddr::from_pathname(path)?)
    }

    /// Listens on an address: a path, or on Linux an abstract name
    /// (`std::os::linux::net::SocketAddrExt`), which is free again once the listener
    /// is closed.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn bind_addr(address: &SocketAddr) -> io::Result<Self> {
        // Nothing is bound for nobody.
        let shared = runtime::current_or_error()?;
        Self::associate(shared, net::UnixListener::bind_addr(address)?)
    }
}
