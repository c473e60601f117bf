//! The line that a connection leaves in the log, in the form that HAProxy has for TCP
//! (configuration manual, 8.2.2), with its two letters for how it ended (8.5).

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use landfall::net::relay::{RelayEnd, Side};

/// How a connection ended: the first letter says who ended it, the second what it was doing.
pub mod state {
    /// Both sides have ended their sending.
    pub const DONE: &str = "--";
    /// The client was refused: by its address, for too many connections, or for its PROXY header.
    pub const REFUSED: &str = "PR";
    /// The PROXY header did not come in time, or the client left before.
    pub const HEADER_TIMEOUT: &str = "cR";
    pub const CLIENT_LEFT_BEFORE_HEADER: &str = "CR";
    /// No target let itself be connected to; in time.
    pub const NO_TARGET: &str = "SC";
    pub const CONNECT_TIMEOUT: &str = "sC";
    /// This machine had no descriptor, port or memory left for the connection to a target, or no
    /// zero copy where that was asked for.
    pub const NO_RESOURCE: &str = "RC";
    /// The mapper ended before the connection did, at once or at the end of `--drain-timeout`.
    pub const KILLED_CONNECTING: &str = "KC";
    pub const KILLED: &str = "KD";
    /// The connection to the client, or the target, was cut.
    pub const CLIENT_CUT: &str = "CD";
    pub const CLIENT_CUT_AT_THE_END: &str = "CL";
    pub const SERVER_CUT: &str = "SD";
    /// No byte moved for too long: of a client, or of a target when the client has ended.
    pub const CLIENT_SILENT: &str = "cD";
    pub const SERVER_SILENT: &str = "sD";
}

/// The letters for the end of a relay, and for the side that has ended its sending first.
pub fn state_of(end: &RelayEnd, first_end: Option<Side>) -> &'static str {
    match (end, first_end) {
        (RelayEnd::Finished, _) => state::DONE,
        (RelayEnd::Failed { side, .. }, first) => match (side, first) {
            (Side::Client, Some(Side::Server)) => state::CLIENT_CUT_AT_THE_END,
            (Side::Client, _) => state::CLIENT_CUT,
            (Side::Server, _) => state::SERVER_CUT,
        },
        (RelayEnd::HalfCloseTimeout { open: Side::Server }, _) => state::SERVER_SILENT,
        (RelayEnd::HalfCloseTimeout { open: Side::Client } | RelayEnd::Idle, _) => {
            state::CLIENT_SILENT
        }
        (RelayEnd::NoZeroCopy { .. }, _) => state::NO_RESOURCE,
        // The library may come to know more ends.
        (_, _) => state::KILLED,
    }
}

/// What the line says.
#[derive(Debug)]
pub struct Line<'a> {
    /// The client, as announced by a proxy if it was.
    pub client: SocketAddr,
    /// When it came.
    pub came: SystemTime,
    /// The rule.
    pub rule: &'a str,
    /// The target that was tried last.
    pub target: Option<&'a str>,
    /// The time that connecting took, if it succeeded.
    pub connecting: Option<Duration>,
    /// The time from its coming to its end.
    pub total: Duration,
    /// Bytes from the target to the client.
    pub bytes: u64,
    /// How it ended.
    pub state: &'static str,
    /// Connections open: in the process and of the rule, this one counted, and of its targets and
    /// its own target without it.
    pub open: [u64; 4],
    /// Targets tried in vain.
    pub retries: usize,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, rule, .. } = self;
        let (ip, port) = (client.ip().to_canonical(), client.port());
        write!(f, "{ip}:{port} [{}] {rule} ", Stamp(self.came))?;
        write!(f, "{rule}/{} ", self.target.unwrap_or("<NOSRV>"))?;
        // Nobody queues here: whoever finds no room waits before it has come.
        let queued = if self.target.is_some() { 0 } else { -1 };
        write!(f, "{queued}/")?;
        match self.connecting {
            Some(time) => write!(f, "{}", time.as_millis())?,
            None => f.write_str("-1")?,
        }
        write!(
            f,
            "/{} {} {} ",
            self.total.as_millis(),
            self.bytes,
            self.state
        )?;
        for open in self.open {
            write!(f, "{open}/")?;
        }
        // The plus: it was another target each time.
        let redispatched = if self.retries > 0 { "+" } else { "" };
        write!(f, "{redispatched}{} 0/0", self.retries)
    }
}

/// A time as HAProxy writes it, in UTC: `06/Feb/2009:12:12:51.443`.
struct Stamp(SystemTime);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        // 2009-02-06T12:12:51.443Z
        let text = humantime::format_rfc3339_millis(self.0).to_string();
        let month = text[5..7].parse().unwrap_or(1usize);
        let name = MONTHS[month.clamp(1, 12) - 1];
        write!(
            f,
            "{}/{name}/{}:{}",
            &text[8..10],
            &text[..4],
            &text[11..23]
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(side: Side) -> RelayEnd {
        RelayEnd::Failed {
            side,
            receiving: true,
            error: std::io::ErrorKind::ConnectionReset.into(),
        }
    }

    #[test]
    fn every_end_has_its_letters() {
        let (client, server) = (Side::Client, Side::Server);
        let ends = [
            (RelayEnd::Finished, Some(client), "--"),
            (failed(client), None, "CD"),
            (failed(client), Some(client), "CD"),
            (failed(client), Some(server), "CL"),
            (failed(server), None, "SD"),
            (failed(server), Some(client), "SD"),
            (RelayEnd::Idle, None, "cD"),
            (
                RelayEnd::HalfCloseTimeout { open: server },
                Some(client),
                "sD",
            ),
            (
                RelayEnd::HalfCloseTimeout { open: client },
                Some(server),
                "cD",
            ),
        ];
        for (end, first, letters) in ends {
            assert_eq!(state_of(&end, first), letters, "{end:?}, {first:?}");
        }
    }

    fn line() -> Line<'static> {
        Line {
            client: "127.0.0.1:33313".parse().unwrap(),
            // 2009-02-06 12:12:51.443 UTC.
            came: SystemTime::UNIX_EPOCH + Duration::from_millis(1_233_922_371_443),
            rule: "web",
            target: Some("10.0.0.1:80"),
            connecting: Some(Duration::from_millis(3)),
            total: Duration::from_millis(5_007),
            bytes: 212,
            state: state::DONE,
            open: [4, 3, 2, 1],
            retries: 0,
        }
    }

    #[test]
    fn a_line_has_the_form_that_tools_know() {
        assert_eq!(
            line().to_string(),
            "127.0.0.1:33313 [06/Feb/2009:12:12:51.443] web web/10.0.0.1:80 0/3/5007 212 -- \
             4/3/2/1/0 0/0"
        );
    }

    #[test]
    fn what_did_not_come_to_be_is_minus_one() {
        let refused = Line {
            client: "[::ffff:10.0.0.9]:1".parse().unwrap(),
            target: None,
            connecting: None,
            state: state::REFUSED,
            ..line()
        };
        assert_eq!(
            refused.to_string(),
            "10.0.0.9:1 [06/Feb/2009:12:12:51.443] web web/<NOSRV> -1/-1/5007 212 PR 4/3/2/1/0 0/0"
        );
        let retried = Line {
            retries: 2,
            connecting: None,
            state: state::NO_TARGET,
            ..line()
        };
        assert!(
            retried
                .to_string()
                .ends_with(" 0/-1/5007 212 SC 4/3/2/1/+2 0/0")
        );
    }
}
