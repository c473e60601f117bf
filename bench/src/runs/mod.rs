//! The four measurements.

pub mod accept;
pub mod echo;
pub mod memory;
pub mod sharing;
