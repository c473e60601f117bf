//! Completion ports for Rust: hand the system an operation and its buffer, let a few workers take
//! finished operations from one shared queue.
//!
//! Two levels, no more:
//!
//! - [`port`]: the [`CompletionPort`](port::CompletionPort) itself, with
//!   [`associate`](port::CompletionPort::associate), [`submit`](port::Handle::submit),
//!   [`post`](port::CompletionPort::post), [`get`](port::CompletionPort::get),
//!   [`get_many`](port::CompletionPort::get_many) and [`close`](port::CompletionPort::close). A
//!   buffer goes in with its operation and comes back with the completion.
//! - [`runtime`], [`net`], [`fs`] and [`server`]: `async` tasks run by the workers of one port. Any worker
//!   takes any ready task, and a handler may block: the port covers it with another worker.
//!
//! ```
//! use landfall::Runtime;
//! use landfall::net::{TcpListener, TcpStream};
//! use landfall::runtime;
//!
//! let runtime = Runtime::new()?;
//! runtime.block_on(async {
//!     let listener = TcpListener::bind("127.0.0.1:0")?;
//!     let mut client = TcpStream::connect(listener.local_addr()?).await?;
//!     let echo = runtime::spawn(async move {
//!         let mut stream = listener.accept().await?;
//!         while let Some(data) = stream.receive().await? {
//!             stream.send(data).await?; // moved in; back in its pool when sent
//!         }
//!         Ok::<(), std::io::Error>(())
//!     });
//!     client.send("hello").await?;
//!     let answer = client.receive().await?.unwrap_or_default();
//!     assert_eq!(&answer[..], b"hello");
//!     drop(client);
//!     echo.await?
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`Server`] is the accept loop, limits and orderly end around such a handler. [`frame`] cuts what
//! arrives into messages, and [`proxy_protocol`] tells whom a proxy speaks for.
//!
//! # Systems
//!
//! | system | driver | |
//! |-|-|-|
//! | Linux 6.1 and later | `uring`: io_uring | chosen by itself where it is permitted |
//! | Linux, macOS, BSD | `poll`: readiness (epoll, kqueue) | chosen where io_uring is missing or forbidden; compiles for macOS and FreeBSD, untested there |
//! | Windows 10 and later | `iocp`: its own completion ports | has run under Wine only |
//!
//! The environment variable `LANDFALL_DRIVER` (`uring`, `poll`, `iocp`, or `auto`) chooses one for
//! every port whose program leaves it [to the library](port::DriverChoice::Auto);
//! [`CompletionPort::driver_reason`](port::CompletionPort::driver_reason) says which it became, and
//! why. The promises are the same on all of them: what a completion port guarantees is written down
//! as numbered statements in `docs/contract.md`, and `tests/contract/` checks them.

#[allow(
    unsafe_code,
    reason = "buffers share memory with the kernel; each block says why it is sound"
)]
pub mod buffer;
mod clock;
#[allow(
    unsafe_code,
    reason = "drivers talk to the system; each block says why it is sound"
)]
mod driver;
mod explained;
pub mod frame;
pub mod fs;
#[cfg(all(test, unix, not(loom)))]
mod fuzz;
pub mod net;
pub mod port;
pub mod proxy_protocol;
mod rare_queue;
pub mod runtime;
pub mod server;
mod sync;
mod waiting;

pub use runtime::Runtime;
pub use server::Server;

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The result of most functions here.
pub type Result<T> = std::io::Result<T>;
