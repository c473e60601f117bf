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
//! What a completion port promises is written down as numbered statements in
//! `docs/contract.md`; `tests/contract/` checks them.

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
pub mod fs;
#[cfg(all(test, unix, not(loom)))]
mod fuzz;
pub mod net;
pub mod port;
mod rare_queue;
pub mod runtime;
pub mod server;
mod sync;

pub use runtime::Runtime;
pub use server::Server;

/// The result of most functions here.
pub type Result<T> = std::io::Result<T>;
