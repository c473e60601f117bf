//! The load: a process of its own, one thread, epoll. It prints `start`, then `stop` with what it saw.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::handler::{COMPUTE, ECHO, SLEEP};
use crate::{Load, MESSAGE, Run};

const WARM_UP: Duration = Duration::from_millis(150);
/// Open loop: 2,000 messages a second.
const INTERVAL: Duration = Duration::from_micros(500);
/// Two of two hundred connections, one on each ring.
const COMPUTING: [usize; 2] = [0, 101];

struct Connection {
    stream: TcpStream,
    what: u8,
    /// Bytes of a message that has arrived in part.
    partial: usize,
    bytes: [u8; MESSAGE],
}

pub fn run(run: &Run, port: u16) {
    let sleepers = usize::from(run.load == Load::Sleep);
    let mut connections: Vec<_> = (0..run.connections + sleepers)
        .map(|index| connect(port, handler_of(run, index)))
        .collect();
    let epoll = Epoll::new();
    for (index, connection) in connections.iter().enumerate() {
        connection.stream.set_nonblocking(true).expect("a socket");
        epoll.watch(connection.stream.as_raw_fd(), index);
    }
    match run.load {
        Load::Closed => closed_loop(&epoll, &mut connections, run.time),
        _ => open_loop(&epoll, &mut connections, run),
    }
}

fn handler_of(run: &Run, index: usize) -> u8 {
    match run.load {
        Load::Compute if COMPUTING.contains(&index) => COMPUTE,
        Load::Sleep if index == run.connections => SLEEP,
        _ => ECHO,
    }
}

/// Connects and waits for one echo, so that the server has armed its receive.
fn connect(port: u16, what: u8) -> Connection {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.set_nodelay(true).expect("a socket");
    let mut bytes = [ECHO; MESSAGE];
    stream.write_all(&bytes).expect("the server reads");
    stream.read_exact(&mut bytes).expect("the server echoes");
    Connection {
        stream,
        what,
        partial: 0,
        bytes,
    }
}

impl Connection {
    /// `due` is when the message ought to leave, so that a late client counts too.
    fn send(&mut self, due: u64) {
        let mut bytes = [self.what; MESSAGE];
        bytes[8..16].copy_from_slice(&due.to_ne_bytes());
        self.stream
            .write_all(&bytes)
            .expect("an echo of 64 bytes does not fill a socket");
    }

    /// Calls `echoed` with each whole message's due time.
    fn receive(&mut self, mut echoed: impl FnMut(u64)) {
        let mut chunk = [0; 64 * MESSAGE];
        let Ok(len) = self.stream.read(&mut chunk) else {
            return;
        };
        assert!(len > 0, "the server closed a connection");
        for &byte in &chunk[..len] {
            self.bytes[self.partial] = byte;
            self.partial += 1;
            if self.partial == MESSAGE {
                self.partial = 0;
                echoed(u64::from_ne_bytes(
                    self.bytes[8..16].try_into().expect("eight bytes"),
                ));
            }
        }
    }
}

fn closed_loop(epoll: &Epoll, connections: &mut [Connection], time: Duration) {
    connections
        .iter_mut()
        .for_each(|connection| connection.send(0));
    let mut pump = |time: Duration| {
        let (start, mut messages) = (Instant::now(), 0u64);
        while start.elapsed() < time {
            for index in epoll.wait() {
                let mut whole = false;
                connections[index].receive(|_| whole = true);
                if whole {
                    messages += 1;
                    connections[index].send(0);
                }
            }
        }
        (messages, start.elapsed())
    };
    pump(WARM_UP);
    println!("start");
    let (messages, elapsed) = pump(time);
    println!("stop {messages} {}", elapsed.as_secs_f64());
}

fn open_loop(epoll: &Epoll, connections: &mut [Connection], run: &Run) {
    if run.load == Load::Sleep {
        connections[run.connections].send(0);
    }
    println!("start");
    let (start, mut sent, mut micros) = (Instant::now(), 0u32, Vec::new());
    let timer = epoll.tick(INTERVAL);
    while start.elapsed() < run.time {
        for index in epoll.wait() {
            if index == TICK {
                for _ in 0..expirations(timer) {
                    let due = INTERVAL * (sent + 1);
                    connections[sent as usize % run.connections].send(due.as_nanos() as u64);
                    sent += 1;
                }
                continue;
            }
            let (now, what, mut whole) = (
                start.elapsed().as_nanos() as u64,
                connections[index].what,
                false,
            );
            connections[index].receive(|due| {
                whole = true;
                // Only plain echoes count; a computing handler's own five milliseconds are its own.
                if what == ECHO {
                    micros.push(now.saturating_sub(due) as f64 / 1e3);
                }
            });
            if what == SLEEP && whole {
                connections[index].send(0);
            }
        }
    }
    micros.sort_by(f64::total_cmp);
    let percentile = |p: f64| micros[((micros.len() - 1) as f64 * p) as usize];
    let (p50, p99, p999) = (percentile(0.5), percentile(0.99), percentile(0.999));
    println!(
        "stop {} {} {p50} {p99} {p999}",
        micros.len(),
        start.elapsed().as_secs_f64()
    );
}

/// How often the timer has expired since the last look.
fn expirations(timer: i32) -> u64 {
    let mut count = [0; 8];
    // SAFETY: reads eight bytes into eight bytes.
    unsafe { libc::read(timer, count.as_mut_ptr().cast(), 8) };
    u64::from_ne_bytes(count)
}

const TICK: usize = usize::MAX;

struct Epoll(i32);

impl Epoll {
    fn new() -> Self {
        // SAFETY: no pointers involved.
        Epoll(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
    }

    fn watch(&self, fd: i32, index: usize) {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: index as u64,
        };
        // SAFETY: the event outlives the call.
        assert_eq!(
            unsafe { libc::epoll_ctl(self.0, libc::EPOLL_CTL_ADD, fd, &mut event) },
            0
        );
    }

    fn tick(&self, every: Duration) -> i32 {
        let period = libc::timespec {
            tv_sec: 0,
            tv_nsec: every.as_nanos() as i64,
        };
        let spec = libc::itimerspec {
            it_interval: period,
            it_value: period,
        };
        // SAFETY: the specification outlives the call.
        let timer = unsafe {
            let timer = libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK);
            libc::timerfd_settime(timer, 0, &spec, std::ptr::null_mut());
            timer
        };
        self.watch(timer, TICK);
        timer
    }

    fn wait(&self) -> Vec<usize> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
        // SAFETY: the array has as many places as the call is told. A timeout bounds a run that got stuck.
        let count = unsafe { libc::epoll_wait(self.0, events.as_mut_ptr(), 256, 3000) };
        events[..count.max(0) as usize]
            .iter()
            .map(|event| event.u64 as usize)
            .collect()
    }
}
