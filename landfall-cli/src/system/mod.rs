//! What the tool asks of the system it runs on: its limits, what processes use, and its signals.

pub mod errno;
pub mod limits;
pub mod ports;
pub mod process;
pub mod signals;
