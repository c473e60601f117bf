//! A process of this program's own making, which is always ended.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(unix)]
use rustix::process::{Pid, Signal, kill_process};

use crate::exit::{Exit, Failure};
use crate::options::DRIVER_VARIABLE;
use crate::system::systemd;

/// How often a process that is to end is looked at.
const POLL_PERIOD: Duration = Duration::from_millis(10);

/// A running subcommand of this program. Dropping it ends the process.
#[derive(Debug)]
pub struct Subcommand {
    name: &'static str,
    child: Child,
    lines: Receiver<String>,
}

impl Subcommand {
    /// Starts `landfall NAME ARGS…`. Its messages go where ours go; the lines of its standard
    /// output are kept.
    pub fn start(
        name: &'static str,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Self, Failure> {
        let cannot = |error: io::Error| {
            Failure::of_system(&format!("cannot start `landfall {name}`"), &error)
        };
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command.arg(name).args(args).arg("--end-with-parent");
        // On Windows the end of its input asks the child to come to an end.
        let input = if cfg!(windows) {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        command.stdin(input).stdout(Stdio::piped());
        // Settings meant for this process would otherwise be taken by the child as its own, which
        // that for the driver is meant to be.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("LANDFALL_") && variable != DRIVER_VARIABLE {
                command.env_remove(variable);
            }
        }
        for variable in systemd::VARIABLES {
            command.env_remove(variable);
        }
        separate_from_terminal(&mut command);
        let mut child = command.spawn().map_err(cannot)?;
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            let forward = move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            };
            thread::Builder::new()
                .name(format!("{name} output"))
                .spawn(forward)
                .map_err(cannot)?;
        }
        Ok(Self { name, child, lines })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its standard output.
    pub fn line(&mut self, timeout: Duration) -> Result<String, Failure> {
        match self.lines.recv_timeout(timeout) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => Err(Failure::failed(format!(
                "`landfall {}` said nothing for {} seconds",
                self.name,
                timeout.as_secs()
            ))),
            // Its standard output has ended, and so it has, or will at once.
            Err(RecvTimeoutError::Disconnected) => Err(self.ended_without_result()),
        }
    }

    fn ended_without_result(&mut self) -> Failure {
        match self.wait(Duration::from_secs(1)) {
            Ok(Some(status)) => self.ended_early(status, "without a result"),
            _ => Failure::failed(format!(
                "`landfall {}` closed its standard output",
                self.name
            )),
        }
    }

    /// What its end means that was not to come yet.
    pub fn ended_early(&self, status: ExitStatus, when: &str) -> Failure {
        // One that failed in an orderly way has said why on standard error.
        match status.code() {
            Some(1) => Failure::told(Exit::Failed),
            Some(2) => Failure::told(Exit::Usage),
            Some(4) => Failure::told(Exit::LocalLimit),
            _ => Failure::failed(format!("`landfall {}` ended {when} ({status})", self.name)),
        }
    }

    /// How it ended, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end; `None` if that does not come in time.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(POLL_PERIOD);
        }
    }

    /// Asks it to come to an end.
    #[cfg(windows)]
    pub fn terminate(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Asks it to come to an end.
    #[cfg(unix)]
    pub fn terminate(&mut self) {
        // The process has not been waited for, or this does nothing to a process that is gone; so
        // the id is its own.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for Subcommand {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps Ctrl-C at the terminal from reaching the child directly: its parent decides what happens
/// then.
#[cfg(windows)]
fn separate_from_terminal(command: &mut Command) {
    use std::os::windows::process::CommandExt;
    const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;
    command.creation_flags(CREATE_NEW_PROCESS_GROUP);
}

/// Keeps Ctrl-C at the terminal from reaching the child directly: its parent decides what happens
/// then.
#[cfg(unix)]
fn separate_from_terminal(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}
