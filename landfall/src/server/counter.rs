//! Counts that many workers add to.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::runtime::worker_index;

/// Parts of a counter; workers beyond share them.
const PARTS: usize = 16;

/// A sum in parts, each in a cache line of its own, so that workers do not wait for each other.
#[derive(Default)]
pub(super) struct Counter([Part; PARTS]);

#[repr(align(64))]
#[derive(Default)]
struct Part(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0[worker_index() % PARTS]
            .0
            .fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn sum(&self) -> u64 {
        self.0
            .iter()
            .map(|part| part.0.load(Ordering::Relaxed))
            .sum()
    }
}
