//! Progress while a run lasts: a bar on a terminal, a plain line now and then elsewhere.

use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::messages::{Messages, Verbosity};

/// How often a bar is redrawn: often enough to look alive.
const BAR_PERIOD: Duration = Duration::from_millis(100);

/// How often a plain line is written: seldom enough for the log of a long run.
const LINE_PERIOD: Duration = Duration::from_secs(2);

/// How far a run has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What is being done: `connecting`.
    pub name: &'static str,
    /// How much of it is done.
    pub done: u64,
    /// How much there is to do.
    pub total: u64,
    /// Other figures worth watching.
    pub detail: String,
}

/// Shows progress on a thread of its own until dropped.
#[derive(Debug)]
pub struct Progress {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts to show what `sample` reports, unless messages are to be quiet.
    pub fn start(messages: Messages, sample: impl FnMut() -> Stage + Send + 'static) -> Self {
        if messages.verbosity() == Verbosity::Quiet {
            return Self {
                stop: None,
                thread: None,
            };
        }
        let (stop, stopped) = mpsc::channel();
        let show = move || {
            if has_cursor() {
                show_bar(&stopped, sample);
            } else {
                show_lines(&stopped, messages, sample);
            }
        };
        // A run without its progress shown is better than no run.
        let thread = thread::Builder::new()
            .name(String::from("progress"))
            .spawn(show)
            .ok();
        Self {
            stop: Some(stop),
            thread,
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whether standard error is a terminal on which a line can be drawn over.
fn has_cursor() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Waits for a period; `false` when it is time to stop.
fn next(stopped: &mpsc::Receiver<()>, period: Duration) -> bool {
    stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout)
}

fn show_bar(stopped: &mpsc::Receiver<()>, mut sample: impl FnMut() -> Stage) {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    // No colours: the bar tells nothing by them. The message is cut where the line ends.
    let template = "{prefix:>10} [{bar:25}] {human_pos}/{human_len}  {wide_msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    loop {
        let stage = sample();
        bar.set_length(stage.total);
        bar.set_position(stage.done);
        bar.set_prefix(stage.name);
        bar.set_message(stage.detail);
        if !next(stopped, BAR_PERIOD) {
            bar.finish_and_clear();
            return;
        }
    }
}

fn show_lines(stopped: &mpsc::Receiver<()>, messages: Messages, mut sample: impl FnMut() -> Stage) {
    while next(stopped, LINE_PERIOD) {
        messages.note(sample().line());
    }
}

impl Stage {
    fn line(&self) -> String {
        let Self {
            name,
            done,
            total,
            detail,
        } = self;
        let (done, total) = (crate::units::grouped(*done), crate::units::grouped(*total));
        format!(
            "{name}: {done} of {total}{}{detail}",
            if detail.is_empty() { "" } else { ", " }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_done_of_how_much() {
        let stage = Stage {
            name: "sending",
            done: 41_200,
            total: 90_000,
            detail: String::from("0 errors"),
        };
        assert_eq!(stage.line(), "sending: 41,200 of 90,000, 0 errors");
    }

    #[test]
    fn progress_ends_when_dropped() {
        let (sampled, samples) = mpsc::channel();
        let progress = Progress::start(Messages::new(Verbosity::Normal), move || {
            let _ = sampled.send(());
            Stage {
                name: "testing",
                done: 0,
                total: 1,
                detail: String::new(),
            }
        });
        drop(progress);
        // The thread is gone, and the sender with it.
        assert!(samples.into_iter().count() <= 1);
    }
}
