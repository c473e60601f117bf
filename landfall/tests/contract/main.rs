//! The contract of a completion port, one test a statement, run under every driver.
//!
//! `docs/contract.md` lists the statements. A test whose name begins with `c` and a number checks
//! the statement of that number; the others check promises that Landfall adds.
//!
//! Every test runs once for each [`Variant`](support::Variant): a driver, or a driver with one of
//! its facilities switched off. `LANDFALL_CONTRACT_VARIANTS=poll,one-lane` picks some of them, all of a
//! driver by its name.
//! To put another driver under the same tests, add it to the table in `support.rs`.

#[path = "../common/mod.rs"]
mod common;
mod support;
mod threads;

mod accept;
mod buffers;
mod cancel;
mod close;
mod datagram;
mod files;
mod lanes;
mod order;
mod port;
mod post_get;
mod receive;
mod send;
mod send_file;
mod timers;
#[cfg(unix)]
mod torn;
#[cfg(unix)]
mod unix;
mod waiters;
