//! What is known of a port: its state, and the reason to say so, in nmap's words where it has one.

use std::borrow::Cow;
use std::io;

use crate::system::errno;

/// The state of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Something listens.
    Open,
    /// Nothing does.
    Closed,
    /// No answer, or somebody on the way said no.
    Filtered,
    /// This machine failed, so nothing is known.
    Unresolved,
}

/// What a probe came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Connected.
    SynAck,
    /// Refused with a reset.
    Refused,
    /// Reset where a refusal is expected.
    Reset,
    /// Every connect was one to itself, which cannot be where something listens.
    SelfConnect,
    /// Nothing came in time, on every try.
    NoResponse,
    /// A router, or this machine, cannot reach the host.
    HostUnreachable,
    /// The same of its network.
    NetUnreachable,
    /// A packet filter said no.
    Prohibited,
    /// This machine has no address to connect from to that host.
    NoSource,
    /// Nothing had come when each timeout was noticed, but that was too late to tell.
    Late,
    /// A connect failed here, with this system error.
    Failed(u16),
}

/// What is in the way where a port is unresolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// This machine ran out of something, of which there may be more the next time.
    Limit,
    /// It has no address to connect from.
    NoSource,
    /// Too little processor time.
    Late,
    /// Anything else that its system says.
    Other,
}

/// The verdicts without an error of their own, by their code.
const PLAIN: [Verdict; 10] = [
    Verdict::SynAck,
    Verdict::Refused,
    Verdict::Reset,
    Verdict::SelfConnect,
    Verdict::NoResponse,
    Verdict::HostUnreachable,
    Verdict::NetUnreachable,
    Verdict::Prohibited,
    Verdict::NoSource,
    Verdict::Late,
];

/// Set in the code of a failure, whose other bits are the system error.
const FAILED: u16 = 1 << 15;

impl State {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Filtered => "filtered",
            Self::Unresolved => "unresolved",
        }
    }

    /// nmap's word for it.
    pub fn nmap_name(self) -> &'static str {
        match self {
            Self::Unresolved => "unknown",
            known => known.name(),
        }
    }
}

impl Verdict {
    /// What a failed connect says of the port.
    pub fn of_error(error: &io::Error) -> Self {
        match errno::code(error) {
            Some(errno::CONNREFUSED) => Self::Refused,
            Some(errno::CONNRESET) => Self::Reset,
            Some(errno::HOSTUNREACH | errno::HOSTDOWN) => Self::HostUnreachable,
            Some(errno::NETUNREACH) => Self::NetUnreachable,
            Some(errno::ACCESS | errno::PERM) => Self::Prohibited,
            _ if error.kind() == io::ErrorKind::TimedOut => Self::NoResponse,
            code => Self::Failed(code.map_or(0, |code| code.unsigned_abs() as u16 & !FAILED)),
        }
    }

    /// The state it means.
    pub fn state(self) -> State {
        match self {
            Self::SynAck => State::Open,
            Self::Refused | Self::Reset | Self::SelfConnect => State::Closed,
            Self::NoResponse | Self::HostUnreachable | Self::NetUnreachable | Self::Prohibited => {
                State::Filtered
            }
            Self::NoSource | Self::Late | Self::Failed(_) => State::Unresolved,
        }
    }

    /// The reason.
    pub fn reason(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::SynAck => "syn-ack",
            Self::Refused => "conn-refused",
            Self::Reset => "reset",
            Self::SelfConnect => "self-connect",
            Self::NoResponse => "no-response",
            Self::HostUnreachable => "host-unreach",
            Self::NetUnreachable => "net-unreach",
            Self::Prohibited => "admin-prohibited",
            Self::NoSource => "no-source-address",
            Self::Late => "noticed-late",
            Self::Failed(0) => "failed",
            Self::Failed(code) => return Cow::Owned(errno::name(code.into())),
        })
    }

    /// What is in the way, if this machine failed.
    pub fn cause(self) -> Option<Cause> {
        match self {
            Self::NoSource => Some(Cause::NoSource),
            Self::Late => Some(Cause::Late),
            Self::Failed(code) if errno::is_local_limit(code.into()) => Some(Cause::Limit),
            Self::Failed(_) => Some(Cause::Other),
            _ => None,
        }
    }

    /// Whether it is worth a line for each port, as it can differ from port to port.
    pub fn is_worth_listing(self) -> bool {
        matches!(self, Self::SynAck | Self::Late | Self::Failed(_))
    }

    /// A number for it, not 0.
    pub fn code(self) -> u16 {
        match self {
            Self::Failed(code) => FAILED | code,
            plain => PLAIN.iter().position(|&one| one == plain).unwrap_or(0) as u16 + 1,
        }
    }

    /// The verdict that a number stands for; 0 stands for none.
    pub fn of_code(code: u16) -> Option<Self> {
        if code & FAILED != 0 {
            return Some(Self::Failed(code & !FAILED));
        }
        PLAIN.get(usize::from(code).checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_stands_for_one_verdict() {
        for verdict in PLAIN
            .into_iter()
            .chain([Verdict::Failed(0), Verdict::Failed(24)])
        {
            assert_ne!(verdict.code(), 0);
            assert_eq!(Verdict::of_code(verdict.code()), Some(verdict));
        }
        assert_eq!(Verdict::of_code(0), None);
    }

    #[test]
    fn a_local_failure_is_neither_closed_nor_filtered() {
        for code in [errno::MFILE, errno::ADDRNOTAVAIL, errno::NOBUFS] {
            let verdict = Verdict::of_error(&io::Error::from_raw_os_error(code));
            assert_eq!(verdict.state(), State::Unresolved);
            assert_eq!(verdict.cause(), Some(Cause::Limit));
            assert_eq!(verdict.reason(), errno::name(code));
        }
        let refused = Verdict::of_error(&io::Error::from_raw_os_error(errno::CONNREFUSED));
        assert_eq!((refused.state(), refused.cause()), (State::Closed, None));
    }
}
