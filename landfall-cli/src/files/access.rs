//! One line for each answer, in the common log format with the time taken behind it.

use std::fmt;
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use super::conditional::within_dates;
use crate::http::Status;

/// Bytes of a request's first line that are kept to be shown.
const SHOWN_BYTES: usize = 1024;

/// What is told of an answer.
#[derive(Debug)]
pub struct Access {
    /// Who asked; unknown of a client that has left.
    pub peer: Option<IpAddr>,
    /// When the request had come.
    pub at: SystemTime,
    /// Its first line.
    pub line: Vec<u8>,
    /// What it was answered with.
    pub status: Status,
    /// Of the body, in bytes.
    pub bytes: u64,
    /// When its first byte had come. The time taken is from then until this is told, when the system
    /// has the last byte of the answer.
    pub begun: Option<Instant>,
}

/// The first line of a request, or as much of it as is shown.
pub fn first_line(head: &[u8]) -> Vec<u8> {
    let head = head.trim_ascii_start();
    let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.trim_ascii_end();
    line[..line.len().min(SHOWN_BYTES)].to_vec()
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) => write!(f, "{}", peer.to_canonical())?,
            None => f.write_str("-")?,
        }
        write!(
            f,
            " - - [{}] \"{}\" {} {} {:.3}",
            Moment(self.at),
            self.line.escape_ascii(),
            self.status.code,
            self.bytes,
            self.begun
                .map_or(0.0, |begun| begun.elapsed().as_secs_f64())
        )
    }
}

/// As the format has it, in UTC: `06/Nov/1994:08:49:37 +0000`.
struct Moment(SystemTime);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The same parts in another order: `Sun, 06 Nov 1994 08:49:37 GMT`.
        let date = httpdate::fmt_http_date(within_dates(self.0));
        let mut parts = date.split(' ').skip(1);
        let mut next = || parts.next().unwrap_or_default();
        let (day, month, year, time) = (next(), next(), next(), next());
        write!(f, "{day}/{month}/{year}:{time} +0000")
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_line_is_in_the_common_format_and_safe_to_show() {
        let access = Access {
            peer: Some("::ffff:127.0.0.1".parse().unwrap()),
            at: UNIX_EPOCH + Duration::from_secs(784_111_777),
            line: first_line(b"\r\nGET /\x1b[2J\"a HTTP/1.1\r\nHost: h\r\n"),
            status: Status::NOT_FOUND,
            bytes: 14,
            begun: None,
        };
        assert_eq!(
            access.to_string(),
            "127.0.0.1 - - [06/Nov/1994:08:49:37 +0000] \"GET /\\x1b[2J\\\"a HTTP/1.1\" 404 14 0.000"
        );
        assert_eq!(first_line(&[b'x'; 5000]).len(), SHOWN_BYTES);
        assert_eq!(first_line(b""), b"");
    }
}
