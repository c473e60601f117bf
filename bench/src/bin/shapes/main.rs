//! Three shapes of a completion port that is shared by threads and built on rings, as bare prototypes, side by side.
//! `shapes closed free|pinned`, `shapes open open|compute|sleep` and `shapes questions` print the tables of
//! `docs/decisions/0001-shape-of-the-port.md`. Every run is a process of its own, its client another.

mod accept;
mod client;
mod handler;
mod io_thread;
mod leader;
mod ring;
mod stealing;
mod unshared;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use accept::{Acceptor, How};
use ring::{BufferPlan, Port, TaskRun};
use stealing::{Policy, Steal, Ticks};
use unshared::Flush;

/// Bytes of a message.
pub const MESSAGE: usize = 64;
const ROUNDS: usize = 7;
const BUFFERS: BufferPlan = BufferPlan {
    count: 1024,
    size: 4096,
};

#[derive(Clone, Copy, PartialEq)]
pub enum Load {
    /// Every connection sends again when it has its echo.
    Closed,
    /// 2,000 messages a second, due at fixed times.
    Open,
    /// As `Open`; the handlers of two connections compute for 5 ms a message.
    Compute,
    /// As `Open`; one more connection always has a handler asleep.
    Sleep,
}

/// One run, as a command line: shape, workers, connections, load, milliseconds, buffers, bytes a buffer, placement.
pub struct Run {
    shape: String,
    workers: usize,
    pub connections: usize,
    pub load: Load,
    pub time: Duration,
    buffers: BufferPlan,
    /// The server and the client have a processor each.
    pinned: bool,
}

impl Run {
    fn parse(words: &[String]) -> Self {
        let number = |index: usize| words[index].parse::<u64>().expect("a number");
        Run {
            shape: words[0].clone(),
            workers: number(1) as usize,
            connections: number(2) as usize,
            load: match words[3].as_str() {
                "closed" => Load::Closed,
                "open" => Load::Open,
                "compute" => Load::Compute,
                "sleep" => Load::Sleep,
                other => panic!("no load is called {other}"),
            },
            time: Duration::from_millis(number(4)),
            buffers: BufferPlan {
                count: number(5) as u16,
                size: number(6) as u32,
            },
            pinned: words.get(7).is_some_and(|placement| placement == "pinned"),
        }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some("closed") => closed(&words[1]),
        Some("open") => open(&words[1]),
        Some("questions") => questions(),
        Some("run") => serve(&words[1..]),
        Some("client") => drive(&Run::parse(&words[2..]), words[1].parse().expect("a port")),
        Some("accept") => accept_burst(&words[1], words[2] == "backlog"),
        Some("connect") => connect_burst(words[1].parse().expect("a port")),
        Some("enter") => time_enter(),
        _ => {
            eprintln!("usage: shapes closed (free|pinned) | open (open|compute|sleep) | questions")
        }
    }
}

/// `placement`: `free`, or `pinned` with the server on one processor and the client on the other.
fn closed(placement: &str) {
    for (workers, connections) in [(2, 50), (2, 1000), (1, 50)] {
        let shapes = ["A", "B", "C", "C-late", "limit-coop", "limit-defer"];
        let cases = shapes.map(|shape| {
            let (name, mut words) = run_case(shape, workers, connections, "closed", 300, BUFFERS);
            words.extend([placement.to_string()]);
            (name, words)
        });
        let title =
            format!("closed loop, {workers} workers, {connections} connections, {placement}");
        compare(&title, &["us/message", "messages/s"], &cases);
    }
}

fn open(load: &str) {
    let shapes = ["A", "B", "C", "C-1ms", "C-kick", "C-blind", "limit-coop"];
    let cases = shapes.map(|shape| run_case(shape, 2, 200, load, 1000, BUFFERS));
    compare(
        &format!("open loop, {load}"),
        &["us/message", "messages/s", "p50 us", "p99 us", "p99.9 us"],
        &cases,
    );
}

fn questions() {
    let pinned = |(name, mut words): Case| {
        words.extend(["pinned".to_string()]);
        (name, words)
    };
    let echo = |shape| pinned(run_case(shape, 1, 50, "closed", 400, BUFFERS));
    let flushes = [
        "limit-coop",
        "limit-coop-split",
        "limit-coop-each",
        "limit-coop-past",
    ]
    .map(echo);
    compare(
        "flush, 1 worker, 50 connections, pinned",
        &["us/message", "messages/s"],
        &flushes,
    );
    let calls = [
        "empty call, ns",
        "8 no-ops in one call",
        "8 flushed, then waited for",
        "8 flushed one by one",
    ];
    compare(
        "one thread, no-ops",
        &calls,
        &[("io_uring_enter".into(), vec!["enter".into()])],
    );
    for arrival in ["live", "backlog"] {
        let bursts = ["slots", "register", "register-batch", "automatic", "plain"];
        let bursts = bursts.map(|how| {
            (
                how.to_string(),
                ["accept", how, arrival].map(String::from).to_vec(),
            )
        });
        compare(
            &format!("burst of 4,000 connects, {arrival}"),
            &["us/accept", "accepts/s"],
            &bursts,
        );
    }
    for connections in [50, 1000] {
        let plans = [(64, 16384), (512, 16384), (1024, 4096), (256, 2048)];
        let cases = plans.map(|(count, size)| {
            let buffers = BufferPlan { count, size };
            let (_, words) = pinned(run_case(
                "limit-coop",
                1,
                connections,
                "closed",
                400,
                buffers,
            ));
            (format!("{count} x {size}"), words)
        });
        compare(
            &format!("buffers, 1 worker, {connections} connections, pinned"),
            &["us/message", "messages/s"],
            &cases,
        );
    }
}

type Case = (String, Vec<String>);

fn run_case(
    shape: &str,
    workers: usize,
    connections: usize,
    load: &str,
    millis: u64,
    buffers: BufferPlan,
) -> Case {
    let numbers = [workers.to_string(), connections.to_string()];
    let rest = [
        millis.to_string(),
        buffers.count.to_string(),
        buffers.size.to_string(),
    ];
    let words = ["run".to_string(), shape.to_string()]
        .into_iter()
        .chain(numbers)
        .chain([load.to_string()])
        .chain(rest);
    (shape.to_string(), words.collect())
}

/// Runs the cases there and back (A B B A), and prints medians and ranges.
fn compare(title: &str, columns: &[&str], cases: &[Case]) {
    let mut results = vec![Vec::new(); cases.len()];
    for round in 0..ROUNDS {
        let mut order: Vec<_> = (0..cases.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            results[index].push(measure(&cases[index].1));
        }
    }
    println!(
        "\n{title}\n\n| | {} |\n|---|{}",
        columns.join(" | "),
        "---|".repeat(columns.len())
    );
    for ((name, _), rounds) in cases.iter().zip(&results) {
        let cells: Vec<_> = (0..columns.len())
            .map(|column| median_and_range(rounds, column))
            .collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
}

fn measure(words: &[String]) -> Vec<f64> {
    let output = Command::new("timeout")
        .arg("20")
        .arg(this_program())
        .args(words)
        .output()
        .expect("timeout(1)");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{words:?}: {text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    text.split_whitespace()
        .map(|word| word.parse().expect("a number"))
        .collect()
}

fn median_and_range(rounds: &[Vec<f64>], column: usize) -> String {
    let mut values: Vec<f64> = rounds.iter().map(|round| round[column]).collect();
    values.sort_by(f64::total_cmp);
    let show = |value: f64| {
        if value < 100.0 {
            format!("{value:.2}")
        } else {
            format!("{value:.0}")
        }
    };
    format!(
        "{} ({}-{})",
        show(values[values.len() / 2]),
        show(values[0]),
        show(values[values.len() - 1])
    )
}

fn this_program() -> std::path::PathBuf {
    std::env::current_exe().expect("the program's own path")
}

fn start_self(words: &[String]) -> Child {
    Command::new(this_program())
        .args(words)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program itself")
}

/// One run: the server here, the client in a child. Prints what the server's processor time came to.
fn serve(words: &[String]) {
    let run = Run::parse(words);
    let listener = listen();
    let address = listener.local_addr().expect("a bound socket");
    if run.pinned {
        pin(0);
    }
    start(&run, listener);
    let mut client =
        start_self(&[&["client".to_string(), address.port().to_string()], words].concat());
    let mut lines = BufReader::new(client.stdout.take().expect("a pipe"))
        .lines()
        .map_while(Result::ok);
    assert_eq!(lines.next().as_deref(), Some("start"));
    let before = processor_time();
    let stop = lines.next().expect("the client's figures");
    let spent = processor_time() - before;
    client.wait().expect("a child");
    let mut figures = stop
        .split_whitespace()
        .skip(1)
        .map(|word| word.parse::<f64>().expect("a number"));
    let (messages, seconds) = (
        figures.next().expect("messages"),
        figures.next().expect("seconds"),
    );
    print!(
        "{} {}",
        spent.as_secs_f64() * 1e6 / messages,
        messages / seconds
    );
    figures.for_each(|figure| print!(" {figure}"));
    println!();
    std::process::exit(0);
}

fn start(run: &Run, listener: TcpListener) {
    let listener = listener.into_raw_fd();
    let port = |rings, task_run| {
        Arc::new(Port::new(rings, task_run, run.buffers, listener).expect("rings"))
    };
    let steal = |policy| stealing::start(port(run.workers, TaskRun::Cooperative), policy);
    let limit = |task_run, flush| unshared::start(port(run.workers, task_run), task_run, flush);
    let [calm, wary, urgent] = [10_000, 1_000, 200].map(Duration::from_micros);
    let stealing = Policy {
        steal: Steal::Eagerly,
        cover_by_poll: true,
        watcher: Some(Ticks { calm, wary, urgent }),
    };
    match run.shape.as_str() {
        "A" => leader::start(port(1, TaskRun::Cooperative), run.workers),
        "A-irq" => leader::start(port(1, TaskRun::Interrupt), run.workers),
        "B" => io_thread::start(port(1, TaskRun::Deferred), run.workers),
        "C" => steal(stealing),
        "C-kick" => steal(Policy {
            cover_by_poll: false,
            ..stealing
        }),
        "C-late" => steal(Policy {
            steal: Steal::WhenStuck,
            ..stealing
        }),
        "C-1ms" => steal(Policy {
            watcher: Some(Ticks {
                calm: wary,
                wary,
                urgent,
            }),
            ..stealing
        }),
        "C-blind" => steal(Policy {
            watcher: None,
            ..stealing
        }),
        "limit-coop" => limit(TaskRun::Cooperative, Flush::Combined),
        "limit-coop-split" => limit(TaskRun::Cooperative, Flush::Split),
        "limit-coop-each" => limit(TaskRun::Cooperative, Flush::Each),
        "limit-coop-past" => limit(TaskRun::Cooperative, Flush::PastSends),
        "limit-defer" => limit(TaskRun::Deferred, Flush::Combined),
        other => panic!("no shape is called {other}"),
    }
}

fn drive(run: &Run, port: u16) {
    if run.pinned {
        pin(1);
    }
    client::run(run, port);
}

/// This thread, and those it starts, run on that processor only.
fn pin(processor: usize) {
    // SAFETY: all zeroes is the empty set, and the set outlives the call.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        assert_eq!(
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set),
            0
        );
    }
}

fn listen() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    // SAFETY: takes no pointer. std's backlog of 128 is too short for a burst.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 4096) }, 0);
    listener
}

fn processor_time() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the structure is as large as the call expects, and all zeroes is a value of it.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    let span = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    span(usage.ru_utime) + span(usage.ru_stime)
}

/// Connections of a burst; fits the backlog (`net.core.somaxconn`).
const BURST: u32 = 4000;

fn accept_burst(how: &str, backlog: bool) {
    let how = match how {
        "slots" => How::Slots,
        "register" => How::Register,
        "register-batch" => How::RegisterBatch,
        "automatic" => How::Automatic,
        "plain" => How::Plain,
        other => panic!("no way to accept is called {other}"),
    };
    let listener = listen();
    let mut acceptor = Acceptor::new(listener.as_raw_fd());
    if !backlog {
        acceptor.prepare(how);
    }
    let port = listener.local_addr().expect("a bound socket").port();
    let mut client = start_self(&["connect".to_string(), port.to_string()]);
    if backlog {
        // The client has connected to all that the backlog holds: accepts meet a full queue.
        BufReader::new(client.stdout.take().expect("a pipe"))
            .read_line(&mut String::new())
            .expect("a line");
    }
    let (before, start) = (processor_time(), Instant::now());
    if backlog {
        acceptor.prepare(how);
    }
    acceptor.run(how, BURST);
    let (spent, elapsed) = (processor_time() - before, start.elapsed());
    println!(
        "{} {}",
        spent.as_secs_f64() * 1e6 / f64::from(BURST),
        f64::from(BURST) / elapsed.as_secs_f64()
    );
    // The client holds its connections until its input ends.
    client.kill().and_then(|()| client.wait()).expect("a child");
}

fn connect_burst(port: u16) {
    let connect =
        |_| std::net::TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    let _connections: Vec<_> = (0..BURST).map(connect).collect();
    println!("connected");
    std::thread::sleep(Duration::from_secs(5));
}

/// Nanoseconds of: an empty call; eight no-ops submitted and waited for in one call; flushed, then waited for; flushed one by one.
fn time_enter() {
    const TIMES: u32 = 200_000;
    let mut io: io_uring::IoUring = io_uring::IoUring::builder()
        .setup_coop_taskrun()
        .build(64)
        .expect("a ring");
    let mut time = |each: bool, flush: bool, no_ops: usize| {
        let start = Instant::now();
        for _ in 0..TIMES {
            for _ in 0..no_ops {
                // SAFETY: a no-op points to nothing.
                unsafe {
                    io.submission()
                        .push(&io_uring::opcode::Nop::new().build())
                        .expect("room")
                };
                if each {
                    io.submit().expect("submissions");
                }
            }
            if flush {
                io.submit().expect("submissions");
            }
            io.submit_and_wait(no_ops).expect("completions");
            io.completion().for_each(drop);
        }
        start.elapsed().as_nanos() as f64 / f64::from(TIMES)
    };
    println!(
        "{} {} {} {}",
        time(false, false, 0),
        time(false, false, 8),
        time(false, true, 8),
        time(true, false, 8)
    );
}
