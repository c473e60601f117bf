//! How fast a connection is sent to.

use std::time::{Duration, Instant};

use landfall::runtime::time::sleep_until;

use crate::units::ByteRate;

/// Bytes go in pieces of so much time: small enough that no client sees them come in bursts, large
/// enough to cost little.
const PIECE: Duration = Duration::from_millis(25);
/// The bounds of a piece, in bytes.
const LEAST: u64 = 512;
const MOST: u64 = 8 * 1024 * 1024;

/// Keeps a connection to its rate. Every byte has a moment, counted from when the connection last
/// had nothing to send, and no byte goes before its own.
#[derive(Debug)]
pub struct Pace {
    rate: ByteRate,
    /// When the bytes are due that went last.
    due: Option<Instant>,
}

impl Pace {
    /// Nothing has gone.
    pub fn new(rate: ByteRate) -> Self {
        Self { rate, due: None }
    }

    /// How many of so many bytes may go next.
    pub fn piece(&self, left: u64) -> u64 {
        self.rate.bytes_in(PIECE).clamp(LEAST, MOST).min(left)
    }

    /// Waits until so many more bytes may have gone.
    pub async fn wait(&mut self, bytes: u64) {
        sleep_until(self.next(bytes, Instant::now())).await;
    }

    /// When so many more bytes are due. A connection that was silent, or a client that takes less
    /// than it may, has nothing to catch up on.
    fn next(&mut self, bytes: u64, now: Instant) -> Instant {
        let start = self.due.map_or(now, |due| due.max(now));
        let time = self.rate.time_of(bytes);
        // Past what the clock can count, nobody waits for it.
        let due = start
            .checked_add(time)
            .unwrap_or(start + Duration::from_secs(1 << 31));
        self.due = Some(due);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::parse_byte_rate;

    #[test]
    fn bytes_are_due_at_their_rate_and_nothing_is_caught_up_on() {
        let mut pace = Pace::new(parse_byte_rate("1000/s").unwrap());
        let start = Instant::now();
        let ms = Duration::from_millis;
        assert_eq!(pace.next(500, start), start + ms(500));
        // The timer was late by 3 ms: that adds up to nothing.
        assert_eq!(pace.next(500, start + ms(400)), start + ms(1000));
        assert_eq!(pace.next(100, start + ms(5000)), start + ms(5100));
    }

    #[test]
    fn pieces_are_of_a_bounded_size() {
        let piece = |rate, left| Pace::new(parse_byte_rate(rate).unwrap()).piece(left);
        assert_eq!(piece("10M/s", u64::MAX), 250_000);
        assert_eq!(piece("10M/s", 7), 7);
        assert_eq!(piece("1/s", u64::MAX), LEAST);
        assert_eq!(piece("100G/s", u64::MAX), MOST);
    }
}
