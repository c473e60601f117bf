//! Quantities as they are written on the command line, and as they are shown.
//!
//! A time needs its unit, a rate says what it is per, a share is in per cent; `k M G` count in
//! thousands and `Ki Mi Gi` in 1024s. A number that could be read in two ways is refused, with both
//! readings named.

mod address;
mod byte_rate;
mod count;
mod limit;
#[cfg(test)]
mod properties;
mod rate;
mod share;
mod size;
mod time;

pub use address::{advice_for_port, port_of};
pub use byte_rate::{ByteRate, parse_byte_rate};
pub use count::{counted, grouped, parse_count};
pub use limit::Limit;
pub use rate::{Rate, parse_rate};
pub use share::{Share, parse_share, percent};
pub use size::{parse_size, show_bytes};
pub use time::{parse_time, show_micros, show_time};
