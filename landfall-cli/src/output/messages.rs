//! Messages to the person at the terminal, on standard error.

use std::fmt::Display;
use std::io::Write;

/// How much is said beside the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only (`-q`).
    Quiet,
    /// What is going on.
    Normal,
    /// Every connection (`-v`).
    Verbose,
}

/// Writes messages to standard error, as far as the verbosity allows.
#[derive(Clone, Copy, Debug)]
pub struct Messages {
    verbosity: Verbosity,
}

impl Messages {
    /// Messages of this verbosity.
    pub fn new(verbosity: Verbosity) -> Self {
        Self { verbosity }
    }

    /// How much is said.
    pub fn verbosity(self) -> Verbosity {
        self.verbosity
    }

    /// Says what is going on, unless asked to be quiet.
    pub fn note(self, message: impl Display) {
        if self.verbosity >= Verbosity::Normal {
            Self::line(&message);
        }
    }

    /// Says what went wrong, always.
    pub fn error(message: impl Display) {
        Self::line(&format_args!("error: {message}"));
    }

    /// One message, written whole so that lines of several threads do not mix. Nobody can be told
    /// that standard error cannot be written to, so that is not an error.
    pub(super) fn line(message: &dyn Display) {
        let text = format!("{message}\n");
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}
