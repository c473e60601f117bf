//! Runs the tool, and programs we did not write, in bounded time, and ends what was started.

// Each test file uses its own part of this.
#![allow(
    dead_code,
    reason = "every test file is a crate of its own and includes all of this"
)]

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

/// Nothing in these tests takes longer, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// What a run of the tool came to.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub time: Duration,
}

impl Outcome {
    /// Asserts the exit code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Asserts that standard error holds all of these.
    #[track_caller]
    pub fn expect_message(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in {self:#?}");
        }
        self
    }

    /// The last line of standard output, as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let line = self
            .stdout
            .lines()
            .last()
            .unwrap_or_else(|| panic!("no output in {self:#?}"));
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {self:#?}"))
    }
}

/// The tool with these arguments, and nothing from the environment.
pub fn landfall(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_landfall"));
    command.args(args);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("LANDFALL_") {
            command.env_remove(variable);
        }
    }
    command
}

/// The tool under a shell that first does something, such as lowering a limit.
pub fn landfall_after(shell_command: &str, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            &format!("{shell_command} && exec \"$0\" \"$@\""),
            env!("CARGO_BIN_EXE_landfall"),
        ])
        .args(args);
    command
}

/// Runs the tool to its end.
pub fn run(args: &[&str]) -> Outcome {
    Running::start(landfall(args)).finish()
}

/// A process that is ended, with all it started, when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Output,
    stderr: Output,
    began: Instant,
    stopped: Cell<Option<Instant>>,
}

impl Running {
    /// Starts a program, which must be installed.
    #[track_caller]
    pub fn start(command: Command) -> Self {
        Self::start_with_input(command, Stdio::piped())
    }

    /// The same with another standard input than a pipe.
    #[track_caller]
    pub fn start_with_input(mut command: Command, input: impl Into<Stdio>) -> Self {
        let program = command.get_program().to_string_lossy().into_owned();
        command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "{program} is needed for this test ({error}): on Debian, apt-get install {}",
                package_of(&program)
            )
        });
        let stdout = Output::collect(child.stdout.take().expect("piped"));
        let stderr = Output::collect(child.stderr.take().expect("piped"));
        Self {
            child,
            stdout,
            stderr,
            began: Instant::now(),
            stopped: Cell::default(),
        }
    }

    /// Waits for a line of standard output with this in it, and returns what follows it in the
    /// line.
    #[track_caller]
    pub fn stdout_after(&mut self, marker: &str) -> String {
        self.stdout.wait_for(marker)
    }

    /// The same for standard error.
    #[track_caller]
    pub fn stderr_after(&mut self, marker: &str) -> String {
        self.stderr.wait_for(marker)
    }

    /// Sends it a signal; one to stop some time after the last one, as the tool takes two at once for
    /// one wish.
    pub fn signal(&self, signal: Signal) {
        const APART: Duration = Duration::from_millis(150);
        if matches!(signal, Signal::INT | Signal::TERM)
            && let Some(last) = self.stopped.replace(Some(Instant::now()))
        {
            thread::sleep(APART.saturating_sub(last.elapsed()));
        }
        kill_process(self.pid(), signal).expect("the process has not been waited for");
    }

    /// Writes to its standard input.
    pub fn write(&mut self, text: &[u8]) {
        use std::io::Write;
        self.child
            .stdin
            .as_mut()
            .expect("open")
            .write_all(text)
            .expect("the process reads");
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        self.close_stdin();
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "still running after {PATIENCE:?}: {self:#?}"
            );
            thread::sleep(Duration::from_millis(5));
        };
        let time = self.began.elapsed();
        let (stdout, stderr) = (self.stdout.rest(), self.stderr.rest());
        Outcome {
            code: status.code(),
            stdout,
            stderr,
            time,
        }
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id")).expect("not 0")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The group is led by the child, so it is what the child started and nothing else.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The lines a process writes, collected as they come.
#[derive(Debug)]
struct Output {
    lines: Receiver<String>,
    seen: String,
}

impl Output {
    fn collect(pipe: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|count| count > 0)
            {
                if sender
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    return;
                }
                line.clear();
            }
        });
        Self {
            lines,
            seen: String::new(),
        }
    }

    #[track_caller]
    fn wait_for(&mut self, marker: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no {marker:?} came, but {:?}", self.seen);
            };
            self.seen.push_str(&line);
            if let Some((_, after)) = line.split_once(marker) {
                return after.trim_end().to_owned();
            }
        }
    }

    /// Everything, now that the process has ended. Something it started may still hold the pipe
    /// open, so this does not wait for its end for long.
    fn rest(&mut self) -> String {
        while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(200)) {
            self.seen.push_str(&line);
        }
        std::mem::take(&mut self.seen)
    }
}

fn package_of(program: &str) -> &str {
    match program {
        "unshare" | "prlimit" => "util-linux",
        "ip" | "ss" => "iproute2",
        "aria2c" => "aria2",
        "mkfifo" => "coreutils",
        "systemd-socket-activate" => "systemd",
        other => other,
    }
}

/// `landfall serve` on a port of the system's choice, and its address.
#[track_caller]
pub fn serve(args: &[&str]) -> (Running, String) {
    let mut server = Running::start(landfall(&[&["serve", "127.0.0.1:0"], args].concat()));
    let address = server.stdout_after("listening on ");
    (server, address)
}

/// socat on a port of the system's choice, doing something with every connection, and its address.
#[track_caller]
pub fn socat(listen_options: &str, action: &str) -> (Running, String) {
    // After the client's half-close, up to 5 s are left for the rest of the answer.
    socat_with(&["-t", "5"], listen_options, action)
}

/// socat as a target that takes everything and never answers.
#[track_caller]
pub fn silent_socat() -> (Running, String) {
    socat_with(&["-u"], "", "OPEN:/dev/null")
}

#[track_caller]
fn socat_with(flags: &[&str], listen_options: &str, action: &str) -> (Running, String) {
    let listen = format!("TCP-LISTEN:0,bind=127.0.0.1,fork,backlog=4096{listen_options}");
    let mut command = Command::new("socat");
    command
        .args(["-d", "-d"])
        .args(flags)
        .args([&listen, action]);
    let mut socat = Running::start(command);
    let address = socat.stderr_after("listening on AF=2 ");
    (socat, address)
}
