//! The date of answers, which is written once a second.

use std::io::Write;
use std::time::SystemTime;

use httpdate::HttpDate;
use parking_lot::Mutex;

use super::conditional::{seconds, within_dates};

/// As RFC 9110 has it: `Sun, 06 Nov 1994 08:49:37 GMT`.
const LENGTH: usize = 29;

/// The text of the second that was asked for last.
#[derive(Debug)]
pub struct DateText(Mutex<(u64, [u8; LENGTH])>);

impl DateText {
    /// Nothing was asked for.
    pub fn new() -> Self {
        DateText(Mutex::new((u64::MAX, [0; LENGTH])))
    }

    /// Writes the date.
    pub fn write(&self, now: SystemTime, out: &mut Vec<u8>) {
        let second = seconds(now);
        let mut last = self.0.lock();
        if last.0 != second {
            let mut text = Vec::with_capacity(LENGTH);
            write_date(now, &mut text);
            last.1.copy_from_slice(&text);
            last.0 = second;
        }
        out.extend_from_slice(&last.1);
    }
}

/// Writes a date, moved to what dates can name.
pub fn write_date(time: SystemTime, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = write!(out, "{}", HttpDate::from(within_dates(time)));
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_date_follows_the_second() {
        let date = DateText::new();
        let at = |millis| {
            let mut out = Vec::new();
            date.write(UNIX_EPOCH + Duration::from_millis(millis), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(at(784_111_777_000), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(784_111_777_999), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(784_111_778_000), "Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(at(784_111_777_000), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
