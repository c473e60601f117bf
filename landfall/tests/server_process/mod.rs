//! A server in a process of its own, so that what is measured is the server's alone, and many
//! clients for it.
//!
//! A test program starts itself again, with the name of an ignored test that calls [`serve`].
#![allow(dead_code, reason = "each test program uses some of it")]

use std::collections::HashMap;
use std::env;
use std::fs;
use std::future::Future;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use landfall::net::{ConnectOptions, TcpStream};
use landfall::runtime::{self, Runtime};
use landfall::server::{Connection, Server};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::runtime_support::{receive_exactly, wait_until};

/// Set in a process that is to serve.
const ASKED: &str = "LANDFALL_TEST_SERVES";

/// Starts a line of the server's, among those of the test harness.
const PREFIX: &str = "server: ";

/// Multiplies the size of the tests that can be larger than is good for every run: 10 runs what
/// the project promises.
pub fn scale() -> usize {
    match env::var("LANDFALL_TEST_SCALE") {
        Ok(scale) => scale.parse().expect("LANDFALL_TEST_SCALE is a number"),
        Err(_) => 1,
    }
}

/// What a server says about itself.
#[derive(Debug)]
pub struct Counts(HashMap<String, u64>);

impl Counts {
    pub fn get(&self, name: &str) -> u64 {
        self.0[name]
    }
}

/// A running server; it ends with this value.
pub struct ServerProcess {
    child: Child,
    /// `None` once it has been told to end.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    pub address: SocketAddr,
}

impl ServerProcess {
    /// Runs the ignored test of that name, which calls [`serve`].
    pub fn start(test: &str) -> Self {
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "--nocapture", test])
            .env(ASKED, "yes")
            // One heap of the C library's, instead of some for every thread with holes in each.
            .env("MALLOC_ARENA_MAX", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let commands = child.stdin.take();
        let mut answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let address = next_line(&mut answers).parse().expect("an address");
        ServerProcess {
            child,
            commands,
            answers,
            address,
        }
    }

    pub fn counts(&mut self) -> Counts {
        writeln!(self.commands.as_ref().expect("runs"), "counts").expect("the server runs");
        let line = next_line(&mut self.answers);
        let pairs = line
            .split(' ')
            .map(|pair| pair.split_once('=').expect("name=number"));
        Counts(
            pairs
                .map(|(name, number)| (name.to_owned(), number.parse().expect("a number")))
                .collect(),
        )
    }

    /// Waits until the server has no connection and no task but its own and its listener's.
    pub fn wait_until_unused(&mut self) {
        wait_until("every task of the server has ended", || {
            let counts = self.counts();
            counts.get("active") == 0 && counts.get("tasks") == 2
        });
    }

    /// Processor time used so far, in clock ticks: user's and system's.
    pub fn clock_ticks(&self) -> u64 {
        let stat = self.proc_file("stat");
        // Fields are counted from after the name, which may contain anything.
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let tick = |field: usize| {
            fields
                .split_whitespace()
                .nth(field - 3)
                .and_then(|n| n.parse::<u64>().ok())
        };
        tick(14).expect("utime") + tick(15).expect("stime")
    }

    /// Waits until a tenth of a second goes by without a clock tick.
    pub fn wait_until_at_rest(&self) {
        let mut last = self.clock_ticks();
        wait_until("the server is at rest", || {
            thread::sleep(Duration::from_millis(100));
            let now = self.clock_ticks();
            std::mem::replace(&mut last, now) == now
        });
    }

    /// Proportional set size in bytes, when it has come to rest.
    pub fn memory(&self) -> u64 {
        let mut last = self.pss();
        loop {
            thread::sleep(Duration::from_millis(100));
            let now = self.pss();
            if now.abs_diff(last) <= 64 * 1024 {
                return now;
            }
            last = now;
        }
    }

    pub fn pss(&self) -> u64 {
        let rollup = self.proc_file("smaps_rollup");
        let line = rollup
            .lines()
            .find(|line| line.starts_with("Pss:"))
            .expect("a sum");
        let kibibytes = line
            .split_whitespace()
            .nth(1)
            .and_then(|n| n.parse::<u64>().ok());
        kibibytes.expect("a number of KiB") * 1024
    }

    /// Open descriptors; sockets in the ring's own table are none.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .expect("the server runs")
            .count()
    }

    fn proc_file(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).expect("the server runs")
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.commands.take());
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !thread::panicking() {
            panic!("the server did not end");
        }
    }
}

fn next_line(answers: &mut impl BufRead) -> String {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(
            answers.read_line(&mut line).expect("a pipe") > 0,
            "the server has ended"
        );
        // The harness may have begun the line with the test's name.
        if let Some((_, answer)) = line.split_once(PREFIX) {
            return answer.trim_end().to_owned();
        }
    }
}

/// In a process that [`ServerProcess::start`] started: serves until standard input ends. Does
/// nothing when ignored tests are run by hand.
pub fn serve<F>(settings: runtime::Builder, handler: fn(Connection) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    serve_from(
        TcpListener::bind("127.0.0.1:0").expect("bind"),
        settings,
        handler,
    );
}

/// As [`serve`], from a listener that is set up already.
pub fn serve_from<F>(
    listener: TcpListener,
    settings: runtime::Builder,
    handler: fn(Connection) -> F,
) where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    if env::var_os(ASKED).is_none() {
        return;
    }
    let runtime = settings.build().expect("a runtime");
    let server = Server::from_std(listener).expect("an internet address");
    let handle = server.handle();
    println!("{PREFIX}{}", handle.local_addr());
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in io::stdin().lines() {
                let stats = handle.stats();
                let (tasks, workers) = (tasks(&runtime), runtime.workers());
                println!(
                    "{PREFIX}active={} accepted={} errors={} tasks={tasks} workers={workers}",
                    stats.active, stats.accepted, stats.accept_errors
                );
            }
            handle.stop();
        });
        server.serve_on(&runtime, handler).expect("no error");
    });
}

/// Tasks that have not ended, as the runtime shows them for debugging.
fn tasks(runtime: &Runtime) -> u64 {
    let shown = format!("{runtime:?}");
    let (_, tasks) = shown.rsplit_once("tasks: ").expect("a number of tasks");
    let digits: String = tasks.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

pub async fn echo(mut connection: Connection) -> io::Result<()> {
    while let Some(data) = connection.receive().await? {
        connection.send(data).await?;
    }
    Ok(())
}

/// Allows this process, and those it starts, as many descriptors as it may have, and returns how
/// many. It bounds each ring's table of sockets as well.
pub fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )
    .expect("up to the hard limit");
    limit.maximum.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

/// Connections of this process, on a runtime of its own so that they need no descriptors.
pub struct Clients {
    runtime: Runtime,
    streams: Vec<TcpStream>,
}

/// Connections that are being made at a time.
const AT_A_TIME: usize = 50;

/// Connections from each address of this machine: fewer than it has ports.
const FROM_EACH_ADDRESS: usize = 20_000;

impl Clients {
    pub fn new() -> Self {
        raise_descriptor_limit();
        Clients {
            runtime: Runtime::new().expect("a runtime"),
            streams: Vec::new(),
        }
    }

    /// Connects until there are so many connections, and exchanges one message on each new one.
    pub fn connect_up_to(&mut self, count: usize, server: SocketAddr) {
        let have = self.streams.len();
        let tasks: Vec<_> = (0..AT_A_TIME)
            .map(|part| {
                let numbers = (have..count).skip(part).step_by(AT_A_TIME);
                self.runtime.spawn(async move {
                    let mut streams = Vec::new();
                    for number in numbers {
                        streams.push(connect_and_echo(number, server).await?);
                    }
                    Ok::<_, io::Error>(streams)
                })
            })
            .collect();
        for task in tasks {
            let streams = self
                .runtime
                .block_on(task)
                .expect("no panic")
                .expect("no error");
            self.streams.extend(streams);
        }
        assert_eq!(self.streams.len(), count);
    }
}

async fn connect_and_echo(number: usize, server: SocketAddr) -> io::Result<TcpStream> {
    let last = u8::try_from(1 + number / FROM_EACH_ADDRESS).expect("up to 5 million");
    let source = SocketAddr::from(([127, 0, 0, last], 0));
    let mut stream = ConnectOptions::new().source(source).connect(server).await?;
    let text = number.to_be_bytes();
    stream.send(text.to_vec()).await?;
    assert_eq!(receive_exactly(&mut stream, text.len()).await?, text);
    Ok(stream)
}
