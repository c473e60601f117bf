//! Joining two connections, so that each side gets what the other one sends.
//!
//! ```
//! use std::io;
//! use std::net::Shutdown;
//! use landfall::net::relay::{Relay, RelayEnd, Side};
//! use landfall::net::{ConnectOptions, TcpListener, TcpStream};
//! use landfall::runtime::{self, Runtime};
//!
//! let runtime = Runtime::new()?;
//! runtime.block_on(async {
//!     let server = TcpListener::bind("127.0.0.1:0")?;
//!     let target = server.local_addr()?;
//!     let front = TcpListener::bind("127.0.0.1:0")?;
//!     let address = front.local_addr()?;
//!
//!     let relaying = runtime::spawn(async move {
//!         let client = front.accept().await?;
//!         let server = ConnectOptions::new().connect_beside(&client, target).await?;
//!         Ok::<_, io::Error>(Relay::new().run(client, server).await)
//!     });
//!     // The client ends its side, and waits for an answer nonetheless.
//!     let mut client = TcpStream::connect(address).await?;
//!     client.send("how many bytes?").await?;
//!     client.shutdown(Shutdown::Write).await?;
//!
//!     let mut served = server.accept().await?;
//!     let mut bytes = 0;
//!     while let Some(data) = served.receive().await? {
//!         bytes += data.len();
//!     }
//!     served.send(bytes.to_string()).await?;
//!     drop(served);
//!
//!     let answer = client.receive().await?.expect("an answer");
//!     assert_eq!(&answer[..], b"15");
//!     let relayed = relaying.await.expect("no panic")?;
//!     assert!(matches!(relayed.end, RelayEnd::Finished));
//!     assert_eq!(relayed.first_end, Some(Side::Client));
//!     assert_eq!((relayed.to_server, relayed.to_client), (15, 2));
//!     Ok::<_, io::Error>(())
//! })?;
//! # Ok::<(), io::Error>(())
//! ```

mod bulk;
mod counters;
mod direction;
mod os;
mod pair;
mod pipes;
mod quiet;
mod splice;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::family::Family;
use super::stream::Stream;
use crate::buffer::Buffer;
use bulk::LargeBuffers;
use pair::Pair;

pub use counters::RelayCounters;
pub use pipes::PipePool;

/// How to join two connections.
///
/// What one side sends goes to the other in order and whole, in both directions at once; a side that
/// takes little slows the one that sends it down. When a side ends its sending, that is passed on
/// after its last byte, and the other direction stays open until its own end.
///
/// Small pieces go at once (`TCP_NODELAY`), as their sender has decided already when to send them.
///
/// Anything but such an end is passed on as a reset, so that the other side does not take what it
/// got for all there was. Unix sockets have no reset to send: there it may look like an end.
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is relayed before `run`"]
pub struct Relay {
    idle_timeout: Option<Duration>,
    half_close_timeout: Option<Duration>,
    zero_copy: ZeroCopy,
    pipes: PipePool,
    large: LargeBuffers,
}

/// Whether bytes go from one socket to the other inside the kernel (splice(2), Linux only).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ZeroCopy {
    /// Where there is much to move, as long as there is, if a pipe and descriptors are to be had.
    /// Otherwise bytes are copied.
    #[default]
    Auto,
    /// From the first byte that the relay receives, however few. Where that cannot be, the relay
    /// [ends](RelayEnd::NoZeroCopy).
    On,
    /// Never.
    Off,
}

impl Relay {
    /// No timeouts, zero copy where it pays, and a pool of pipes of its own.
    pub fn new() -> Self {
        Relay::default()
    }

    /// Ends a relay in which no byte has moved for so long. `None`, as at first: never.
    ///
    /// Bytes have moved when they have been given to the other connection to send.
    pub fn idle_timeout(mut self, time: Option<Duration>) -> Self {
        self.idle_timeout = time;
        self
    }

    /// The timeout once a side has ended its sending: no byte of the other one's for so long ends
    /// the relay. `None`, as at first: that of [`idle_timeout`](Self::idle_timeout) stays.
    pub fn half_close_timeout(mut self, time: Option<Duration>) -> Self {
        self.half_close_timeout = time;
        self
    }

    /// Whether bytes are copied.
    pub fn zero_copy(mut self, zero_copy: ZeroCopy) -> Self {
        self.zero_copy = zero_copy;
        self
    }

    /// Takes the pipes that zero copy needs from this pool, which others may use too.
    pub fn pipes(mut self, pipes: &PipePool) -> Self {
        self.pipes = pipes.clone();
        self
    }

    /// Passes on what each side sends until both have ended, and closes both connections.
    ///
    /// What has arrived on a stream before is passed on first. Dropped before it is ready, the
    /// future resets both connections.
    ///
    /// # Panics
    ///
    /// Polled outside of a runtime, if there is a timeout.
    pub async fn run<C: Family, S: Family>(&self, client: Stream<C>, server: Stream<S>) -> Relayed {
        self.run_from(Start::default(), client, server).await
    }

    /// As [`run`](Self::run), with bytes that go before all others, and counters to look at
    /// meanwhile.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub async fn run_from<C: Family, S: Family>(
        &self,
        start: Start,
        client: Stream<C>,
        server: Stream<S>,
    ) -> Relayed {
        let counters = start.counters.clone();
        let pair = Pair::new(client.into_owned(), server.into_owned());
        let (end, first_end) = pair.relay(self, start).await;
        Relayed {
            to_server: counters.to_server(),
            to_client: counters.to_client(),
            end,
            first_end,
        }
    }
}

/// What a relay begins with.
#[derive(Debug, Default)]
pub struct Start {
    /// Bytes that the server gets first: of the client's, received by the program already, or the
    /// program's own.
    pub to_server: Buffer,
    /// Bytes that the client gets first.
    pub to_client: Buffer,
    /// To look at while it runs.
    pub counters: Arc<RelayCounters>,
}

/// One of the two that a relay joins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The one given first.
    Client,
    /// The other.
    Server,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Client => "client",
            Side::Server => "server",
        })
    }
}

/// What a relay has done.
#[derive(Debug)]
#[non_exhaustive]
pub struct Relayed {
    /// Bytes that came for the server and were given to its connection to send. Unless the relay has
    /// [finished](RelayEnd::Finished), the last of them may not have arrived.
    pub to_server: u64,
    /// Bytes that came for the client, as above.
    pub to_client: u64,
    /// Why it is over.
    pub end: RelayEnd,
    /// The side that ended its sending first, in good order.
    pub first_end: Option<Side>,
}

/// Why a relay is over.
#[derive(Debug)]
#[non_exhaustive]
pub enum RelayEnd {
    /// Both sides have ended their sending, and the system has taken every byte.
    Finished,
    /// A connection has failed. What had been received from that side is passed on to the other
    /// as far as it takes it, which is then reset.
    Failed {
        /// Whose connection.
        side: Side,
        /// In receiving from it, or in sending to it.
        receiving: bool,
        /// As the system gave it.
        error: io::Error,
    },
    /// [Zero copy](ZeroCopy::On) was asked for and cannot be had. Both sides are reset.
    NoZeroCopy {
        /// What is missing.
        error: io::Error,
    },
    /// No byte has moved within the [idle timeout](Relay::idle_timeout). Both sides are reset.
    Idle,
    /// One side had ended its sending, and no byte has moved within the
    /// [timeout for that](Relay::half_close_timeout). Both sides are reset.
    HalfCloseTimeout {
        /// The side that had not.
        open: Side,
    },
}
