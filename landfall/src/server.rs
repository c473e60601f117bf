//! A TCP server: an accept loop with limits, and an orderly end.
//!
//! ```
//! use landfall::Server;
//!
//! let server = Server::bind("127.0.0.1:0")?;
//! let handle = server.handle();
//! # let client = std::thread::spawn({ let handle = handle.clone(); move || -> std::io::Result<()> {
//! #     use std::io::{Read, Write};
//! #     let mut client = std::net::TcpStream::connect(handle.local_addr())?;
//! #     client.write_all(b"ping")?;
//! #     client.read_exact(&mut [0; 4])?;
//! #     handle.drain(); // from a signal handler's thread, for one
//! #     Ok(())
//! # }});
//! let report = server.serve(|mut connection| async move {
//!     while let Some(data) = connection.receive().await? {
//!         connection.send(data).await?;
//!     }
//!     Ok(())
//! })?;
//! assert_eq!(report.stats.received_bytes, report.stats.sent_bytes);
//! # client.join().unwrap()?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! What it listens on may change while it serves, and a connection tells by which listener it came.
//! This one leaves its connections alone when it drains, and gives them a minute:
//!
//! ```
//! use std::time::Duration;
//! use landfall::net::TcpStream;
//! use landfall::runtime::{self, Runtime};
//! use landfall::Server;
//!
//! # fn main() -> std::io::Result<()> {
//! Runtime::new()?.block_on(async {
//!     let server = Server::new()
//!         .drain_ends_receives(false)
//!         .drain_timeout(Duration::from_secs(60));
//!     let handle = server.handle();
//!     let serving = runtime::spawn(server.run(|mut connection| async move {
//!         let text = format!("welcome at {}", connection.listener());
//!         connection.send(text).await
//!     }));
//!     let address = handle.bind("127.0.0.1:0")?;
//!     let mut client = TcpStream::connect(address).await?;
//!     let welcome = client.receive().await?.expect("some text");
//!     assert_eq!(welcome[..], *format!("welcome at {address}").as_bytes());
//!     handle.remove(address);
//!     handle.drain();
//!     assert_eq!(serving.await??.stats.accepted, 1);
//!     Ok(())
//! })
//! # }
//! ```

mod accept;
mod control;
mod counter;
mod handler;
mod listeners;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use crate::net::{ListenOptions, TcpListener, TcpStream};
use crate::port::DriverChoice;
use crate::runtime::{self, Runtime};
use control::{Control, Phase};
use handler::Counted;
use listeners::ListeningSocket;

/// How long a drain may take, unless told otherwise.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Accepts connections and runs a handler for each.
///
/// One that is dropped has ended, be it before it served: it listens on nothing any more, whatever
/// [handles](Self::handle) there are.
///
/// A handler that fails or panics ends its own connection and nothing else. Errors are counted in
/// the [`Stats`] and not logged, since peers that reset connections are nothing rare: a handler that
/// wants to be heard of says so itself.
///
/// A handler may block its thread. When more of them block at a time than there are workers and
/// [spares](runtime::Builder::max_spares), connections wait until one of them returns.
///
/// What a handler [spawns](runtime::spawn) is the program's: a stream, or half of one, that it has
/// handed to a task of its own ends with that task or with the runtime, and is not cut with the
/// handlers. One that receives sees the end of the stream when the server drains or is stopped (unless a
/// drain is to [leave connections alone](Self::drain_ends_receives)). What is to be waited for and cut like
/// a handler is spawned by a [handle](ServerHandle::spawn).
pub struct Server {
    runtime: runtime::Builder,
    limits: Limits,
    tell: Option<Tell>,
    control: Arc<Control>,
    end: End,
}

/// When it is dropped, nobody drives the server any more.
struct End(Arc<Control>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Whom to tell of accepts that fail, and at which address.
type Tell = Arc<dyn Fn(SocketAddr, &io::Error) + Send + Sync>;

#[derive(Clone, Copy, Debug)]
struct Limits {
    idle: Option<Duration>,
    drain: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Server::new()
    }
}

impl Server {
    /// A server that does not listen on anything yet: see [`and_bind`](Self::and_bind) and
    /// [`ServerHandle::bind`].
    pub fn new() -> Self {
        let control = Arc::<Control>::default();
        control.set_limit(u64::MAX);
        Server {
            runtime: Runtime::builder(),
            limits: Limits {
                idle: None,
                drain: DRAIN_TIMEOUT,
            },
            tell: None,
            end: End(control.clone()),
            control,
        }
    }

    /// Listens on an address; port 0 lets the system choose. Clients can connect from now on, and
    /// are served when [`serve`](Self::serve) is called.
    ///
    /// The port is made by [`serve`](Self::serve), since its settings follow: only then is a driver
    /// refused, be it by the system or because `LANDFALL_DRIVER` names none. To know before clients
    /// come, build a [`Runtime`] first and serve on that ([`serve_on`](Self::serve_on)).
    ///
    /// # Errors
    ///
    /// What the system answers for the last address that the name resolved to.
    pub fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        Self::bind_with(address, ListenOptions::new())
    }

    /// Listens with other options than the default.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn bind_with(address: impl ToSocketAddrs, options: ListenOptions) -> io::Result<Self> {
        Server::new().listen_options(options).and_bind(address)
    }

    /// Serves a listener of the standard library.
    ///
    /// # Errors
    ///
    /// It has no internet address.
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
        Server::new().and_std(listener)
    }

    /// How to listen from now on.
    pub fn listen_options(self, options: ListenOptions) -> Self {
        self.control.set_options(options);
        self
    }

    /// Listens on one more address.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn and_bind(self, address: impl ToSocketAddrs) -> io::Result<Self> {
        self.control.bind(address)?;
        Ok(self)
    }

    /// Serves one more listener of the standard library: one that a service manager has handed over, say.
    ///
    /// # Errors
    ///
    /// As [`from_std`](Self::from_std).
    pub fn and_std(self, listener: std::net::TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let socket = ListeningSocket::Given(listener);
        self.control.add(address, socket)?;
        Ok(self)
    }

    /// How many threads take completions; 0, as at first, means twice the
    /// [concurrency](Self::concurrency) value. See [`runtime::Builder::workers`].
    pub fn workers(mut self, workers: usize) -> Self {
        self.runtime = self.runtime.workers(workers);
        self
    }

    /// How many workers run at a time; 0, as at first, means one per processor. See
    /// [`runtime::Builder::concurrency`].
    pub fn concurrency(mut self, threads: usize) -> Self {
        self.runtime = self.runtime.concurrency(threads);
        self
    }

    /// Which driver the port uses. [`DriverChoice::Auto`], as at first, asks `LANDFALL_DRIVER`.
    pub fn driver(mut self, driver: DriverChoice) -> Self {
        self.runtime = self.runtime.driver(driver);
        self
    }

    /// All settings of the runtime that [`serve`](Self::serve) makes. Replaces what
    /// [`workers`](Self::workers), [`concurrency`](Self::concurrency) and [`driver`](Self::driver)
    /// have set.
    pub fn runtime(mut self, runtime: runtime::Builder) -> Self {
        self.runtime = runtime;
        self
    }

    /// How many connections are served at a time. More wait until one of them has closed, nearly
    /// all in the system's backlog, where clients see them as connected. Those that meet an accept
    /// that had been posted already, some dozens for each lane of the port, wait in the server: they
    /// take a socket each, and no handler.
    pub fn max_connections(self, connections: usize) -> Self {
        self.control.set_limit(connections as u64);
        self
    }

    /// Calls a function when an accept fails, for want of descriptors or memory as a rule, with the
    /// address listened on: the first time, and again only when one has succeeded since. Clients wait
    /// meanwhile; each failure is [counted](Stats::accept_errors). A panic of the function ends nothing.
    pub fn on_accept_error(
        mut self,
        tell: impl Fn(SocketAddr, &io::Error) + Send + Sync + 'static,
    ) -> Self {
        self.tell = Some(Arc::new(tell));
        self
    }

    /// Ends waits for a connection without traffic, after this time; see
    /// [`TcpStream::set_idle_timeout`]. The handler gets the error, which
    /// [`is_idle_timeout`](crate::net::is_idle_timeout) tells from others.
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        self.limits.idle = Some(time);
        self
    }

    /// How long connections may take to end once the server drains; 30 s by default. Then they are
    /// cut.
    pub fn drain_timeout(mut self, time: Duration) -> Self {
        self.limits.drain = time;
        self
    }

    /// Whether a drain ends receives that find nothing, as if the client had closed; yes by default.
    /// Otherwise it leaves connections alone until they end by themselves, as those of a program that
    /// would pass such an end on: a client that has not come to its end is not to be taken for one
    /// that has.
    pub fn drain_ends_receives(self, on: bool) -> Self {
        self.control.leave_receives(!on);
        self
    }

    /// The first address that was listened on.
    ///
    /// # Panics
    ///
    /// There has been none yet; see [`new`](Self::new).
    pub fn local_addr(&self) -> SocketAddr {
        self.handle().local_addr()
    }

    /// Every address that is listened on.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.control.addresses()
    }

    /// A handle to look at the server and to end it, for other threads and for handlers.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle(self.control.clone())
    }

    /// Serves on a runtime of its own, until [drained](ServerHandle::drain) or
    /// [stopped](ServerHandle::stop). Without a [handle](Self::handle) taken before, nothing does
    /// either, and this returns only with an error.
    ///
    /// # Errors
    ///
    /// The system refuses the port's set-up or a thread, or the port a listener; `LANDFALL_DRIVER`
    /// names no driver ([`InvalidInput`](io::ErrorKind::InvalidInput)) and
    /// [`driver`](Self::driver) none either.
    pub fn serve<H, F>(self, handler: H) -> io::Result<Report>
    where
        H: Fn(Connection) -> F + Send + Sync + 'static,
        F: Future<Output = crate::Result<()>> + Send + 'static,
    {
        let runtime = self.runtime.clone().build()?;
        self.serve_on(&runtime, handler)
    }

    /// Serves on a runtime that is there already, until [drained](ServerHandle::drain) or
    /// [stopped](ServerHandle::stop).
    ///
    /// # Errors
    ///
    /// The port refuses a listener.
    pub fn serve_on<H, F>(self, runtime: &Runtime, handler: H) -> io::Result<Report>
    where
        H: Fn(Connection) -> F + Send + Sync + 'static,
        F: Future<Output = crate::Result<()>> + Send + 'static,
    {
        runtime.block_on(runtime.spawn(self.run(handler)))?
    }

    /// Serves on the runtime that the future is awaited in. To drop the future is to
    /// [stop](ServerHandle::stop) the server: nobody could end later what it has.
    ///
    /// # Errors
    ///
    /// Outside of a runtime, or when the port refuses a listener.
    pub async fn run<H, F>(self, handler: H) -> io::Result<Report>
    where
        H: Fn(Connection) -> F + Send + Sync + 'static,
        F: Future<Output = crate::Result<()>> + Send + 'static,
    {
        accept::run(self, handler).await
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("listeners", &self.local_addrs())
            .field("limits", &self.limits)
            .field("stats", &self.control.stats())
            .finish_non_exhaustive()
    }
}

/// A client's connection: a [`TcpStream`] that the server counts.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Shared by all of a listener's: an idle connection is to take little memory.
    listener: Arc<SocketAddr>,
}

impl Connection {
    /// The address of the listener that it came by, as that is bound: for one of several addresses,
    /// `0.0.0.0` for one, [`local_addr`](TcpStream::local_addr) tells which.
    pub fn listener(&self) -> SocketAddr {
        *self.listener
    }

    /// The stream itself, to split it for one. It is still counted while it is open.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

impl Deref for Connection {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

/// Looks at a [`Server`], changes what it listens on, and ends it. Clones are the same.
#[derive(Clone)]
pub struct ServerHandle(Arc<Control>);

impl ServerHandle {
    /// Listens on one more address, before the server serves or while it does. Port 0 lets the system
    /// choose; returns the address that became of it.
    ///
    /// # Errors
    ///
    /// - What the system answers for the last address that the name resolved to: it is in use, for one.
    /// - The port refuses the listener. Before the server serves that is not known; then serving fails.
    /// - [`NotConnected`](io::ErrorKind::NotConnected): the server drains or has ended.
    pub fn bind(&self, address: impl ToSocketAddrs) -> io::Result<SocketAddr> {
        self.0.bind(address)
    }

    /// As [`bind`](Self::bind), with a listener that the program has made: so that it can give up what
    /// it was about to do, should another one fail, before anybody is let in.
    ///
    /// # Errors
    ///
    /// - The listener has no address, or as [`bind`](Self::bind).
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput): it belongs to another runtime than the one that
    ///   the server serves on. Before the server serves that is not known; then serving fails.
    pub fn add(&self, listener: TcpListener) -> io::Result<SocketAddr> {
        let address = listener.local_addr()?;
        self.0
            .add(address, ListeningSocket::Associated(listener))
            .map(|()| address)
    }

    /// Stops listening on an address. Returns whether it was listened on.
    ///
    /// On Linux the address is free when this returns, elsewhere a moment later, when accepts have ended
    /// that are under way: for whoever binds with `SO_REUSEADDR`, as this library and the standard one do.
    /// Others wait for the last connection that was accepted there. That of a listener of the standard
    /// library ([`Server::from_std`], [`TcpListener::from_std`]) is free a moment later everywhere, unless
    /// others listen by the same socket.
    ///
    /// Connections that have been given to the handler go on. Those that have come and are still in the
    /// system's backlog, or wait for [room](Server::max_connections), are refused.
    pub fn remove(&self, address: SocketAddr) -> bool {
        self.0.remove(address)
    }

    /// Allows another number of [connections](Server::max_connections) from now on. Those that are open
    /// stay.
    pub fn set_max_connections(&self, connections: usize) {
        self.0.set_limit(connections as u64);
    }

    /// Runs a task that is none of a connection's, on the server's runtime. The server's end waits for
    /// it as it does for connections, and cuts it with them; once the server has ended, the task is
    /// dropped at once.
    ///
    /// Before the server serves it has no runtime, and the task runs on the one that the calling code
    /// runs in.
    ///
    /// # Panics
    ///
    /// Outside of a runtime, before the server serves.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = self.0.runtime_for_task();
        if let Some(task) = Counted::new(&self.0, task) {
            let runtime = runtime.unwrap_or_else(|| panic!("{}", runtime::OUTSIDE));
            drop(runtime::spawn_on(&runtime, task));
        }
    }

    /// Stops listening, as [`remove`](Self::remove) does, and lets connections end: a receive that finds
    /// nothing gets `None`, as if the client had closed (unless they are
    /// [left alone](Server::drain_ends_receives)), and what was given to send is sent. Those that have
    /// not ended within the [drain timeout](Server::drain_timeout) are cut.
    pub fn drain(&self) {
        self.0.enter(Phase::Draining);
    }

    /// Stops listening and cuts all connections that handlers have, and tasks.
    pub fn stop(&self) {
        self.0.enter(Phase::Stopped);
    }

    /// Waits until the server has ended, and nothing is left of it: handlers and tasks that were cut
    /// have been dropped as well, and connections are closed, those that handlers gave to tasks of their
    /// own included.
    pub async fn ended(&self) {
        self.0
            .until(|remains| {
                let is_left = remains.left > 0 || remains.accepting > 0;
                (remains.phase == Phase::Over && !is_left).then_some(())
            })
            .await;
    }

    /// Whether it has not been told to end.
    #[cfg(all(test, unix, not(loom)))]
    pub(crate) fn is_serving(&self) -> bool {
        self.0.is_serving()
    }

    /// The counts at this moment.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// The first address that was listened on.
    ///
    /// # Panics
    ///
    /// There has been none yet; see [`Server::new`].
    pub fn local_addr(&self) -> SocketAddr {
        self.0
            .first_address()
            .expect("the server has listened on no address yet")
    }

    /// Every address that is listened on: none once the server is to end.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.0.addresses()
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle")
            .field("listeners", &self.local_addrs())
            .field("stats", &self.stats())
            .finish()
    }
}

/// What a server has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that were given to the handler.
    pub accepted: u64,
    /// Connections that are open. One whose handler has ended is open while it sends what is
    /// queued.
    pub active: u64,
    /// Tasks of [`ServerHandle::spawn`] that run.
    pub tasks: u64,
    /// Connections that had come when their listener was removed or the server ended, and were closed
    /// without being served.
    pub refused: u64,
    /// Handlers that returned an error, but for those of idle connections.
    pub failed: u64,
    /// Handlers that returned the error of the [idle timeout](Server::idle_timeout).
    pub timed_out: u64,
    /// Handlers that panicked.
    pub panicked: u64,
    /// Accepts that failed, for want of descriptors or memory as a rule.
    pub accept_errors: u64,
    /// Bytes received from clients.
    pub received_bytes: u64,
    /// Bytes of clients' data that the system has taken.
    pub sent_bytes: u64,
}

/// How a server ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The counts at the end.
    pub stats: Stats,
    /// Connections, or handlers without one, and tasks that did not end in time and were cut.
    pub cut_off: u64,
}
