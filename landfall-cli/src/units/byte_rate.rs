//! Bytes in a time: `10Mi/s`, `500k/s`.

use std::fmt;
use std::time::Duration;

use super::{parse_size, show_bytes};

/// How many bytes may go in a second; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRate(u64);

impl ByteRate {
    /// The time that so many bytes take; 584 years when it is even longer.
    pub fn time_of(self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many bytes that is in a time; at least one.
    pub fn bytes_in(self, time: Duration) -> u64 {
        let bytes = u128::from(self.0) * time.as_nanos() / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX).max(1)
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", show_bytes(self.0))
    }
}

/// Reads a rate in bytes. A bare size is refused, since it does not say what it is per.
pub fn parse_byte_rate(text: &str) -> Result<ByteRate, String> {
    let Some((size, "s")) = text.trim().rsplit_once('/') else {
        return Err(format!(
            "`{text}` does not say what it is per: write bytes in a second, as in 10Mi/s"
        ));
    };
    match parse_size(size)? {
        0 => Err(String::from(
            "0/s lets nothing through: it must be at least 1/s",
        )),
        rate => Ok(ByteRate(rate)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_gives_the_time_of_bytes_and_the_bytes_of_a_time() {
        let rate = parse_byte_rate("10Mi/s").unwrap();
        assert_eq!(rate.time_of(5 << 20), Duration::from_millis(500));
        assert_eq!(rate.bytes_in(Duration::from_millis(500)), 5 << 20);
        assert_eq!(
            parse_byte_rate("500k/s")
                .unwrap()
                .bytes_in(Duration::from_secs(1)),
            500_000
        );
        assert_eq!(rate.bytes_in(Duration::ZERO), 1);
        assert_eq!(rate.time_of(u64::MAX), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for wrong in ["10Mi", "0/s", "10Mi/min", "/s", "fast/s", ""] {
            assert!(parse_byte_rate(wrong).is_err(), "{wrong}");
        }
    }
}
