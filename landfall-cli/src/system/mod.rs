//! What the tool asks of the system it runs on: its limits, what processes use, and its signals.

/// Whether bytes can go from one socket to another inside the kernel (splice(2)).
pub const HAS_ZERO_COPY: bool = cfg!(target_os = "linux");

pub mod errno;
pub mod limits;
pub mod paths;
pub mod ports;
#[cfg_attr(windows, path = "process_windows.rs")]
pub mod process;
pub mod sending;
pub mod services;
pub mod signals;
#[cfg_attr(windows, path = "systemd_windows.rs")]
pub mod systemd;
