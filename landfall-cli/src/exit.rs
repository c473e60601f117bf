//! How a run of the tool ends: exit codes, and the sentence that goes with a bad one.

use std::fmt;
use std::io;
use std::process::ExitCode;

use crate::system::errno;

/// The exit codes of the tool, documented in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything asked for was done.
    Done,
    /// It failed.
    Failed,
    /// The command line, or the environment, is wrong.
    Usage,
    /// It ran, but a check failed: a message was lost or came back changed, or a `--fail-if` came
    /// true.
    CheckFailed,
    /// A limit of this machine made the result incomplete, or the run impossible.
    LocalLimit,
    /// Stopped at once by a second signal of this number.
    Stopped(i32),
}

impl Exit {
    /// The number the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::CheckFailed => 3,
            Self::LocalLimit => 4,
            // The shell's convention: 128 and the signal's number (130 for SIGINT, 143 for
            // SIGTERM).
            Self::Stopped(signal) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX)),
        }
    }
}

impl Exit {
    /// How a run ends to which the system refused something.
    pub fn of_system(error: &io::Error) -> Self {
        let is_limit = errno::code(error).is_some_and(errno::is_local_limit);
        if is_limit {
            Self::LocalLimit
        } else {
            Self::Failed
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A run that ended without its result: what happened, to what, and what to do about it.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    message: String,
}

impl Failure {
    /// Something the run needed failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Failed,
            message: message.into(),
        }
    }

    /// A run that ends like this.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// The command line asks for something impossible.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            message: message.into(),
        }
    }

    /// The system refused something the run needed, perhaps for a limit of this machine.
    pub fn of_system(what: &str, error: &io::Error) -> Self {
        Self {
            exit: Exit::of_system(error),
            message: format!("{what}: {error}"),
        }
    }

    /// The system does not let an address be listened on.
    pub fn cannot_listen(address: &str, error: &io::Error, descriptor_limit: u64) -> Self {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "; stop the program that listens there (`ss -lntup` names it), or choose another port"
            }
            io::ErrorKind::AddrNotAvailable => "; it is not an address of this machine",
            io::ErrorKind::PermissionDenied => {
                "; ports below 1024 need a privilege, choose a higher one"
            }
            _ if errno::is_out_of_descriptors(error) => {
                &format!(" (the limit is {descriptor_limit}; raise the hard limit, `ulimit -Hn`)")
            }
            _ => "",
        };
        let message = format!("cannot listen on {address}: {error}{advice}");
        let exit = match error.kind() {
            // Here it is the address that is wrong, and no port that is missing.
            io::ErrorKind::AddrNotAvailable => Exit::Failed,
            _ => Exit::of_system(error),
        };
        Self::new(exit, message)
    }

    /// Something has gone wrong, and the reader has been told: a process of ours has said so on
    /// standard error.
    pub fn told(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// Whether there is anything left to say.
    pub fn is_told(&self) -> bool {
        self.message.is_empty()
    }

    /// A second signal came.
    pub fn stopped(signal: i32) -> Self {
        Self {
            exit: Exit::Stopped(signal),
            message: String::from("stopped at once by a second signal"),
        }
    }

    /// A limit of this machine is in the way.
    pub fn local_limit(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::LocalLimit,
            message: message.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_documented_ones() {
        let codes = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::CheckFailed,
            Exit::LocalLimit,
        ]
        .map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 4]);
        assert_eq!(Exit::Stopped(signal_hook::consts::SIGINT).code(), 130);
        assert_eq!(Exit::Stopped(signal_hook::consts::SIGTERM).code(), 143);
    }
}
