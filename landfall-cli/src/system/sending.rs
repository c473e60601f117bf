//! How a file gets onto a connection.

/// What the library does, and what can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "every system has one of them")]
pub enum Sending {
    /// `send_file` copies, and `try_send_file` does not.
    Either,
    /// `send_file` copies, and there is nothing else.
    Copies,
    /// `send_file` does not copy.
    Kernel,
}

/// That of this system.
#[cfg(target_os = "linux")]
pub const SENDING: Sending = Sending::Either;
#[cfg(all(unix, not(target_os = "linux")))]
pub const SENDING: Sending = Sending::Copies;
#[cfg(windows)]
pub const SENDING: Sending = Sending::Kernel;
