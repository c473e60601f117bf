//! Connecting.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Type};

use super::family::Family;
use super::socket::Socket;
use super::stream::Stream;
use super::tcp::{TcpStream, no_address};
use crate::port::{Operation, Source};
use crate::runtime::time::timeout;
use crate::runtime::{self, Shared};

/// How to connect.
///
/// ```no_run
/// # use std::time::Duration;
/// # use landfall::net::ConnectOptions;
/// # async fn example() -> std::io::Result<()> {
/// let stream = ConnectOptions::new()
///     .nodelay(true)
///     .timeout(Duration::from_secs(5))
///     .connect("example.org:7")
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "nothing connects before `connect`"]
pub struct ConnectOptions {
    source: Option<SocketAddr>,
    nodelay: bool,
    timeout: Option<Duration>,
}

impl ConnectOptions {
    /// No source address, no timeout but the system's own, small segments held back.
    pub fn new() -> Self {
        ConnectOptions::default()
    }

    /// The address to connect from; port 0 lets the system choose one. Addresses of the other
    /// family are then not tried.
    pub fn source(mut self, address: SocketAddr) -> Self {
        self.source = Some(address);
        self
    }

    /// Whether to send small segments at once (`TCP_NODELAY`).
    pub fn nodelay(mut self, on: bool) -> Self {
        self.nodelay = on;
        self
    }

    /// How long connecting may take, all addresses together.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = Some(time);
        self
    }

    /// Connects to an address, trying each that it resolves to. A future that is dropped closes
    /// the socket.
    ///
    /// # Errors
    ///
    /// Outside of a runtime; what the system answered for the last address;
    /// [`TimedOut`](io::ErrorKind::TimedOut).
    pub async fn connect(&self, address: impl ToSocketAddrs) -> io::Result<TcpStream> {
        self.connect_to_any(address, None).await
    }

    /// As [`connect`](Self::connect), for a connection that works together with another one of the
    /// same runtime, as in a proxy: one worker waits for both (see
    /// [`Association::beside`](crate::port::Association::beside)).
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect); [`InvalidInput`](io::ErrorKind::InvalidInput) when the other
    /// one is of another runtime.
    pub async fn connect_beside<F: Family>(
        &self,
        other: &Stream<F>,
        address: impl ToSocketAddrs,
    ) -> io::Result<TcpStream> {
        self.connect_to_any(address, Some(&other.socket)).await
    }

    async fn connect_to_any(
        &self,
        address: impl ToSocketAddrs,
        beside: Option<&Socket>,
    ) -> io::Result<TcpStream> {
        let shared = runtime::current_or_error()?;
        let addresses: Vec<_> = address.to_socket_addrs()?.collect();
        let connecting = self.connect_to_first(&shared, &addresses, beside);
        let Some(time) = self.timeout else {
            return connecting.await;
        };
        match timeout(time, connecting).await {
            Ok(connected) => connected,
            Err(_) => {
                let text = format!("no connection to {addresses:?} within {time:?}");
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }

    async fn connect_to_first(
        &self,
        shared: &Arc<Shared>,
        addresses: &[SocketAddr],
        beside: Option<&Socket>,
    ) -> io::Result<TcpStream> {
        let mut failure = None;
        let fits = |address: &&SocketAddr| {
            self.source
                .is_none_or(|source| source.is_ipv4() == address.is_ipv4())
        };
        for address in addresses.iter().filter(fits) {
            match self.connect_to(shared, *address, beside).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(no_address))
    }

    async fn connect_to(
        &self,
        shared: &Arc<Shared>,
        address: SocketAddr,
        beside: Option<&Socket>,
    ) -> io::Result<TcpStream> {
        let socket = socket2::Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        if self.nodelay {
            socket.set_tcp_nodelay(true)?;
        }
        if let Some(source) = self.source {
            if source.port() == 0 {
                super::os::choose_port_late(&socket)?;
            }
            socket.bind(&source.into())?;
        }
        // Dropped while it connects, the stream has nothing to send and closes at once.
        let stream = TcpStream::new(Socket::associate(
            shared.clone(),
            Source::new_tcp(socket),
            None,
            beside,
        )?);
        stream.connected(Operation::Connect(address)).await?;
        Ok(stream)
    }
}

#[cfg(all(test, unix, not(loom)))]
mod tests {
    use super::*;
    use crate::net::TcpListener;
    use crate::port::{CompletionPort, DriverChoice};
    use crate::runtime::Runtime;

    #[test]
    fn a_connection_beside_another_is_in_its_lane() {
        for driver in [DriverChoice::Auto, DriverChoice::Poll] {
            let port = CompletionPort::builder().lanes(4).driver(driver);
            let runtime = Runtime::builder().port(port).build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
                let address = listener.local_addr().expect("an address");
                let options = ConnectOptions::new().timeout(Duration::from_secs(40));
                let lane = |stream: &TcpStream| stream.socket.handle.socket().lane;
                let mut streams = Vec::new();
                for _ in 0..4 {
                    streams.push(options.connect(address).await.expect("connects"));
                }
                // The emptiest lane is taken without it: these four are in four.
                for stream in &streams {
                    let beside = options.connect_beside(stream, address).await;
                    assert_eq!(lane(&beside.expect("connects")), lane(stream));
                }
            });
        }
    }
}
