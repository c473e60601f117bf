//! Programs under test.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;

/// What is measured runs here, and everything else on the other one.
pub const MEASURED: usize = 0;
pub const OTHERS: usize = 1;

const PATIENCE: Duration = Duration::from_secs(10);

/// A server under test; ended when dropped, by its own id.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    _files: Scratch,
}

impl Server {
    /// Starts a program on the processor of what is measured, and waits until it takes connections.
    pub fn start(
        program: &Path,
        arguments: &[&OsStr],
        address: SocketAddr,
        files: Scratch,
    ) -> Result<Self> {
        let child = on(MEASURED, program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(files.create("stderr")?)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut server = Server {
            child,
            address,
            _files: files,
        };
        server.await_listener(program)?;
        Ok(server)
    }

    fn await_listener(&mut self, program: &Path) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                let said = self._files.read("stderr");
                bail!("{} ended ({status}): {said}", program.display());
            }
            ensure!(
                Instant::now() < deadline,
                "{} does not listen",
                program.display()
            );
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The processor time so far of the process and those that it has started, once they are at rest: the
    /// clock of a running thread is some milliseconds old.
    pub fn processor_time(&self) -> Result<Duration> {
        let family = family(self.child.id())?;
        let deadline = Instant::now() + PATIENCE;
        let mut last = time_of(&family)?;
        loop {
            thread::sleep(Duration::from_millis(25));
            let now = time_of(&family)?;
            if now == last {
                return Ok(now);
            }
            ensure!(
                Instant::now() < deadline,
                "a server does not come to rest within {PATIENCE:?}"
            );
            last = now;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A master process passes this on to its workers. It fails only if the process has ended.
        let _ = kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGTERM,
        );
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process and its children.
fn family(parent: u32) -> Result<Vec<u32>> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let children = children.split_whitespace().map(str::parse);
    std::iter::once(Ok(parent))
        .chain(children)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{path} lists no processes"))
}

fn time_of(family: &[u32]) -> Result<Duration> {
    family.iter().try_fold(Duration::ZERO, |sum, &process| {
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(process.cast_signed()))?;
        Ok(sum + Duration::from(clock.now()?))
    })
}

/// The echo server behind the relays: one of the benchmark's own, whose program is beside this one.
pub struct Echo {
    child: Child,
    pub address: SocketAddr,
}

impl Echo {
    pub fn start(connections: usize) -> Result<Self> {
        let mut child = on(OTHERS, &sibling("landfall-bench")?)
            .args(["serve", "--stack", "ring", "--with-parent"])
            .args(["--connections", &connections.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the echo server")?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut echo = Echo { child, address };
        echo.address = line
            .trim()
            .parse()
            .context("the echo server ended before it listened")?;
        Ok(echo)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Both fail only if the process has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Confines this process, and what it starts without saying where, to one processor.
pub fn pin(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .with_context(|| format!("cannot run on processor {processor}; two are needed"))
}

/// A command that runs on one processor.
pub fn on(processor: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command
        .args(["--cpu-list", &processor.to_string()])
        .arg(program);
    command
}

/// A program of this workspace, built like this one.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(
        path.exists(),
        "{} is missing: cargo build --release -p landfall-cli -p landfall-bench",
        path.display()
    );
    Ok(path)
}

/// A program of the system's, if it is installed.
pub fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let administrators = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin"));
    std::env::split_paths(&path)
        .chain(administrators)
        .chain(home)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// A loopback address whose port nobody uses at the moment.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A folder of its own, gone when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("landfall-{name}-{}", std::process::id()));
        // Left by a process of that number that was killed.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Scratch(folder))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    fn create(&self, name: &str) -> Result<fs::File> {
        let path = self.path(name);
        fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
