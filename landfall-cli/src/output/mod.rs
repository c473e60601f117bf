//! What the tool says, and where: results on standard output (or in a file), messages on standard
//! error.

mod announcement;
mod log;
mod messages;
mod progress;
mod sink;
mod table;

pub use announcement::{Announcement, announce, announce_drain};
pub use log::Log;
pub use messages::Messages;
#[cfg(test)]
pub use messages::Verbosity;
pub use progress::{Progress, Stage};
pub use sink::{OutputArgs, Report, Sink, cannot_create, write_stdout};
pub use table::{list, render, table_of_figures, table_of_text};
