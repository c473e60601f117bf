//! TCP, UDP, and on Unix its own sockets, on the runtime.
//!
//! Receiving and sending hand whole buffers over, in and out, and a future that is dropped loses
//! nothing: what arrives goes to the next receive, what was being sent is sent, in order, a
//! connection that was being accepted goes to the next accept. A socket that was being connected
//! is closed.
//!
//! ```
//! use landfall::net::{TcpListener, TcpStream};
//! use landfall::runtime::{self, Runtime};
//!
//! let runtime = Runtime::new()?;
//! runtime.block_on(async {
//!     let listener = TcpListener::bind("127.0.0.1:0")?;
//!     let address = listener.local_addr()?;
//!     let server = runtime::spawn(async move {
//!         let mut stream = listener.accept().await?;
//!         while let Some(data) = stream.receive().await? {
//!             stream.send(data).await?;
//!         }
//!         Ok::<(), std::io::Error>(())
//!     });
//!     let mut stream = TcpStream::connect(address).await?;
//!     stream.send("over and out").await?;
//!     let echo = stream.receive().await?.expect("an answer");
//!     assert_eq!(&echo[..], b"over and out");
//!     drop(stream);
//!     server.await?
//! })?;
//! # Ok::<(), std::io::Error>(())
//! ```

mod calls;
mod connect;
mod family;
mod halves;
mod idle;
mod inbox;
mod listener;
mod os;
pub mod relay;
mod send_file;
mod socket;
mod stream;
mod tcp;
mod udp;
#[cfg(unix)]
mod unix;

pub use connect::ConnectOptions;
pub use family::Family;
pub use halves::{ReadHalf, ReuniteError, WriteHalf};
pub use idle::is_idle_timeout;
pub use listener::{Listener, MOST_READY};
pub use stream::Stream;
pub use tcp::{ListenOptions, Tcp, TcpListener, TcpStream};
pub use udp::{FromPeer, UdpSession, UdpSessions, UdpSocket, is_too_long};
#[cfg(unix)]
pub use unix::{Unix, UnixListener, UnixStream};
