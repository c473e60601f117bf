//! A server under test: this program again, as a process of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::ClockId;
use nix::unistd::Pid;

use crate::stacks::{Expected, Stack};

/// Which processors the server and the client may use.
#[derive(Clone, Copy)]
pub struct Pinning {
    pub server: &'static [usize],
    pub client: &'static [usize],
}

impl Pinning {
    /// One worker has a processor to itself; two share both with the client.
    pub fn of(workers: usize) -> Self {
        match workers {
            1 => Self {
                server: &[0],
                client: &[1],
            },
            _ => Self {
                server: &[0, 1],
                client: &[0, 1],
            },
        }
    }

    /// Whether the client runs where the server may.
    pub fn is_shared(&self) -> bool {
        self.client.iter().any(|one| self.server.contains(one))
    }
}

/// Ended when dropped, by its own id; if this process dies, it ends too.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    /// Starts a server and pins this process, which is its client, to its own processors.
    pub fn start(stack: Stack, expected: Expected) -> Result<Self> {
        let Expected {
            workers,
            connections,
        } = expected;
        let pinning = Pinning::of(workers);
        pin(pinning.client)?;
        let processors: Vec<_> = pinning.server.iter().map(usize::to_string).collect();
        let child = Command::new(std::env::current_exe()?)
            .args([
                "serve",
                "--stack",
                stack.name(),
                "--workers",
                &workers.to_string(),
            ])
            .args(["--connections", &connections.to_string()])
            .args(["--processors", &processors.join(","), "--with-parent"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a server process")?;
        // From here on an error ends the process, because `server` is dropped.
        let mut server = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let output = server
            .child
            .stdout
            .take()
            .context("the server has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        server.address = line
            .trim()
            .parse()
            .context("the server ended before it listened")?;
        Ok(server)
    }

    /// The processor time of all its threads so far, those that have ended included.
    ///
    /// The kernel brings the clock of a *running* thread up to date at its ticks only, milliseconds
    /// apart, but that of a blocked one is exact to the nanosecond: so this waits until the server
    /// has nothing more to do.
    pub fn processor_time(&self) -> Result<Duration> {
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(self.child.id().cast_signed()))?;
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut last = clock.now()?;
        loop {
            // Longer than a tick of the slowest usual rate, 100 Hz.
            thread::sleep(Duration::from_millis(11));
            let now = clock.now()?;
            if now == last {
                return Ok(now.into());
            }
            ensure!(
                Instant::now() < deadline,
                "the server does not come to rest within 10 s"
            );
            last = now;
        }
    }

    /// Its share of physical memory, in KiB. Kernel memory (sockets, ring slots) is not in it.
    pub fn memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let rollup = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        rollup
            .lines()
            .find_map(|line| {
                line.strip_prefix("Pss:")?
                    .trim()
                    .strip_suffix(" kB")?
                    .parse()
                    .ok()
            })
            .with_context(|| format!("no Pss in {path}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if the process has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Confines the calling process, and what it starts from here on, to these processors.
pub fn pin(processors: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &processor in processors {
        set.set(processor)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)
        .with_context(|| format!("cannot run on processors {processors:?}; two are needed"))
}

/// Raises the soft limit of open descriptors to the hard one, and returns that.
pub fn raise_descriptor_limit() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the descriptor limit")?;
    Ok(hard)
}
