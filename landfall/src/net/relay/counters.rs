//! What a relay has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

/// The bytes that a relay has passed on so far, for anybody to look at.
#[derive(Debug, Default)]
pub struct RelayCounters {
    pub(super) to_server: Passed,
    pub(super) to_client: Passed,
}

impl RelayCounters {
    /// Bytes that came for the server and were given to its connection to send.
    pub fn to_server(&self) -> u64 {
        self.to_server.bytes()
    }

    /// Bytes that came for the client and were given to its connection to send.
    pub fn to_client(&self) -> u64 {
        self.to_client.bytes()
    }

    /// How many of both went by [zero copy](super::ZeroCopy).
    pub fn spliced(&self) -> u64 {
        [&self.to_server, &self.to_client]
            .map(|passed| passed.spliced.load(Ordering::Relaxed))
            .iter()
            .sum()
    }
}

/// Bytes passed on in one direction.
#[derive(Debug, Default)]
pub(super) struct Passed {
    bytes: AtomicU64,
    spliced: AtomicU64,
}

impl Passed {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, bytes: usize, spliced: bool) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if spliced {
            self.spliced.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}
