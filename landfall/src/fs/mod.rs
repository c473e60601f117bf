//! Files on the runtime: reads and writes at an offset, any number of them at a time.
//!
//! Whole buffers are handed over, in and out. Where the system carries a file's operations out by
//! itself (io_uring, Windows), no worker waits for the disk. On readiness, which no system has for
//! files, the worker that asks does the work and blocks as in any call on a file; the port covers it
//! with another one.
//!
//! ```
//! use landfall::fs::File;
//! use landfall::runtime::Runtime;
//!
//! let path = std::env::temp_dir().join(format!("landfall-example-{}", std::process::id()));
//! let runtime = Runtime::new()?;
//! runtime.block_on(async {
//!     let file = File::create(&path).await?;
//!     let (written, _buffer) = file.write_at("over and out", 0).await;
//!     written?;
//!     file.sync_all().await?;
//!     let (read, text) = file.read_at(Vec::with_capacity(8), 5).await;
//!     assert_eq!((read?, &text[..]), (7, &b"and out"[..]));
//!     Ok::<(), std::io::Error>(())
//! })?;
//! std::fs::remove_file(path)?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! To send a file on a connection, see [`TcpStream::send_file`](crate::net::TcpStream::send_file).

mod calls;
mod directory;
mod file;
mod os;

use std::fs::OpenOptions;

pub use directory::{Directory, Entry, SymbolicLinks};
pub use file::File;

/// Options of the standard library for a file that is to be associated with a port: on Windows with
/// `FILE_FLAG_OVERLAPPED` set, which no port does without; elsewhere nothing is special.
///
/// `custom_flags` of `OpenOptionsExt` replaces that flag on Windows; it must be among those given.
#[must_use]
pub fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    os::prepare(&mut options);
    options
}
