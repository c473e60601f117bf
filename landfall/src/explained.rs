//! Errors of the system with what to do about them.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;

/// An error that gives advice. The system's own, with its code, is its source.
pub(crate) fn explained(advice: impl Into<Cow<'static, str>>, system: io::Error) -> io::Error {
    let advice = advice.into();
    io::Error::new(system.kind(), Explained { advice, system })
}

/// What to say when the system refuses a thread.
pub(crate) fn no_thread(what: &str, system: io::Error) -> io::Error {
    let advice = format!(
        "cannot start a thread, {what}; allow this process more threads (ulimit -u) or memory, or \
         ask for fewer workers"
    );
    explained(advice, system)
}

#[derive(Debug)]
struct Explained {
    advice: Cow<'static, str>,
    system: io::Error,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.advice, self.system)
    }
}

impl Error for Explained {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.system)
    }
}
