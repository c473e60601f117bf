//! What has been answered.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::http::Status;

/// Answers by the first digit of their status.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; 5]);

impl Counts {
    /// One more.
    pub fn add(&self, status: Status) {
        let class = usize::from(status.code / 100).saturating_sub(1);
        if let Some(count) = self.0.get(class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many there were whose status begins with this digit.
    pub fn of_class(&self, digit: usize) -> u64 {
        let count = self.0.get(digit.wrapping_sub(1));
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// How many there were.
    pub fn total(&self) -> u64 {
        (1..=self.0.len()).map(|digit| self.of_class(digit)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_their_class() {
        let counts = Counts::default();
        for status in [Status::OK, Status::PARTIAL_CONTENT, Status::NOT_FOUND] {
            counts.add(status);
        }
        let classes = [1, 2, 3, 4, 5].map(|digit| counts.of_class(digit));
        assert_eq!((classes, counts.total()), ([0, 2, 0, 1, 0], 3));
    }
}
