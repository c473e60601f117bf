//! Messages of many threads at once, which wait for no reader.

use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::messages::{Messages, Verbosity};
use crate::exit::{Exit, Failure};
use crate::units::counted;

/// Lines kept for a reader that is slow; some hundreds of kilobytes.
const MOST_LINES: usize = 4096;

/// How long the end of the program waits for a reader to take what is left.
const PATIENCE: Duration = Duration::from_secs(1);

/// Messages that a thread of its own writes. Standard error may be a pipe that is full, and who
/// serves clients must not wait for whoever reads there: lines that find no room are counted.
#[derive(Clone)]
pub struct Log {
    messages: Messages,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<String>,
    left_out: u64,
    /// Written to from now on, in place of what was before.
    file: Option<File>,
    /// The thread is writing what it took.
    writing: bool,
}

impl Log {
    /// Starts the thread.
    pub fn start(messages: Messages) -> Result<Self, Failure> {
        let log = Log {
            messages,
            shared: Arc::default(),
        };
        let shared = Arc::clone(&log.shared);
        thread::Builder::new()
            .name(String::from("log"))
            .spawn(move || shared.write())
            .map_err(|error| Failure::of_system("cannot start a thread", &error))?;
        Ok(log)
    }

    /// Starts one that is written to a file, after what is there already.
    pub fn to_file(path: &Path) -> Result<Self, Failure> {
        let log = Self::start(Messages::new(Verbosity::Normal))?;
        log.reopen(path)
            .map_err(|error| cannot_write(path, &error))?;
        Ok(log)
    }

    /// Goes on in a file, which may be another one of the same name.
    pub fn reopen(&self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        self.shared.lock().file = Some(file);
        Ok(())
    }

    /// Says why the program ends. There is always room for that.
    pub fn error(&self, message: impl Display) {
        let line = format!("error: {message}");
        self.shared.lock().lines.push_back(line);
        self.shared.changed.notify_all();
    }

    /// Says what is going on, unless asked to be quiet.
    pub fn note(&self, message: impl Display) {
        self.say(Verbosity::Normal, &message);
    }

    /// Says a detail, if asked to be verbose.
    pub fn detail(&self, message: impl Display) {
        self.say(Verbosity::Verbose, &message);
    }

    fn say(&self, least: Verbosity, message: &dyn Display) {
        if self.messages.verbosity() < least {
            return;
        }
        let line = message.to_string();
        let mut queue = self.shared.lock();
        if queue.lines.len() >= MOST_LINES {
            queue.left_out += 1;
            return;
        }
        queue.lines.push_back(line);
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Waits until everything has been written, but not for a reader that takes nothing.
    pub fn finish(&self) {
        let queue = self.shared.lock();
        let _ = self
            .shared
            .changed
            .wait_timeout_while(queue, PATIENCE, |queue| !queue.is_written());
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

impl Queue {
    fn is_written(&self) -> bool {
        self.lines.is_empty() && self.left_out == 0 && !self.writing
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes as long as the program runs.
    fn write(&self) {
        let mut place = Place::StandardError;
        loop {
            let mut queue = self.lock();
            queue.writing = false;
            self.changed.notify_all();
            while queue.lines.is_empty() && queue.left_out == 0 {
                queue = self
                    .changed
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            queue.writing = true;
            let lines = mem::take(&mut queue.lines);
            let left_out = mem::take(&mut queue.left_out);
            if let Some(file) = queue.file.take() {
                place = Place::File(file);
            }
            drop(queue);
            place.write(lines);
            if left_out > 0 {
                place.write(VecDeque::from([missed(left_out)]));
            }
        }
    }
}

/// Where lines go.
enum Place {
    StandardError,
    File(File),
}

impl Place {
    fn write(&mut self, mut lines: VecDeque<String>) {
        match self {
            Self::StandardError => lines.iter().for_each(|line| Messages::line(line)),
            Self::File(file) => {
                // The last one ends in a newline as well.
                lines.push_back(String::new());
                let text = Vec::from(lines).join("\n");
                if let Err(error) = file.write_all(text.as_bytes()) {
                    Messages::error(format_args!("cannot write to the log: {error}"));
                }
            }
        }
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let exit = match Exit::of_system(error) {
        Exit::Failed => Exit::Usage,
        exit => exit,
    };
    let path = path.display();
    Failure::new(exit, format!("cannot write to --log {path}: {error}"))
}

fn missed(left_out: u64) -> String {
    let were = if left_out == 1 { "was" } else { "were" };
    format!(
        "{} {were} left out: whoever reads this is too slow",
        counted(left_out, "message")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_room_where_messages_have_none() {
        // Without its thread it is a log that a reader takes nothing of.
        let log = Log {
            messages: Messages::new(Verbosity::Verbose),
            shared: Arc::default(),
        };
        (0..=MOST_LINES).for_each(|number| log.detail(number));
        log.error("the disk is full");
        let queue = log.shared.lock();
        assert_eq!((queue.lines.len(), queue.left_out), (MOST_LINES + 1, 1));
        assert_eq!(queue.lines.back().unwrap(), "error: the disk is full");
    }
}
