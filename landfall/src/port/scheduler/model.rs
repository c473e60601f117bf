//! The scheduler under a model checker, which tries the orders in which threads may meet: nobody
//! sleeps while there is something for it, and nothing is handed out twice.
//!
//! What is checked is the scheduler itself, and the ring driver's account of wakes. Only the kernel's
//! part is played: a queue of completions that a thread can sleep on.
//!
//! Run by `RUSTFLAGS="--cfg loom" cargo test -p landfall --lib --release loom_`.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use loom::sync::Condvar;
use socket2::Socket;

use super::super::queue::Queue;
use super::*;
use crate::driver::uring::waiters::Waiters;
use crate::driver::{Origin, SocketRef, Submitted};
use crate::port::{Handle, Operation, SubmitError};

/// What a ring holds.
#[derive(Clone, Copy)]
enum Entry {
    /// An operation of this token has completed.
    Completion(usize),
    Wake,
}

struct Ring {
    queue: Mutex<VecDeque<Entry>>,
    arrived: Condvar,
    waiters: Waiters,
}

impl Ring {
    fn push(&self, entry: Entry) {
        self.queue.lock().push_back(entry);
        self.arrived.notify_all();
    }
}

/// Rings, as the ring driver uses them.
#[derive(Clone)]
struct Rings(Arc<Vec<Ring>>);

impl Rings {
    fn new(lanes: usize) -> Self {
        let ring = |_| Ring {
            queue: Mutex::new(VecDeque::new()),
            arrived: Condvar::new(),
            waiters: Waiters::default(),
        };
        Rings(Arc::new((0..lanes).map(ring).collect()))
    }

    /// The kernel completes an operation.
    fn complete(&self, lane: usize, token: usize) {
        self.0[lane].push(Entry::Completion(token));
    }
}

impl fmt::Debug for Rings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rings")
    }
}

const NO_SOCKETS: &str = "the model has no sockets";

impl Driver for Rings {
    fn name(&self) -> &'static str {
        "model"
    }

    fn lanes(&self) -> usize {
        self.0.len()
    }

    fn attach(
        &self,
        _: Socket,
        _: Origin,
        _: Option<SocketRef>,
    ) -> Result<SocketRef, (io::Error, Socket)> {
        unreachable!("{NO_SOCKETS}")
    }

    fn attach_file(&self, _: Arc<File>) -> io::Result<SocketRef> {
        unreachable!("{NO_SOCKETS}")
    }

    fn submit(
        &self,
        _: &Handle,
        _: Operation,
        _: usize,
        _: bool,
    ) -> Result<Submitted, SubmitError> {
        unreachable!("{NO_SOCKETS}")
    }

    fn cancel(&self, _: SocketRef, _: OperationId, _: bool) -> Option<u64> {
        unreachable!("{NO_SOCKETS}")
    }

    fn cancel_all(&self, _: SocketRef, _: bool) -> (usize, u64) {
        unreachable!("{NO_SOCKETS}")
    }

    fn close(&self, _: SocketRef, _: bool) -> u64 {
        unreachable!("{NO_SOCKETS}")
    }

    fn release(&self, _: SocketRef, _: bool) -> u64 {
        unreachable!("{NO_SOCKETS}")
    }

    fn next_turn(&self, _: SocketRef) {
        unreachable!("{NO_SOCKETS}")
    }

    fn descriptor(&self, _: SocketRef) -> io::Result<OwnedFd> {
        unreachable!("{NO_SOCKETS}")
    }

    fn reap(&self, lane: usize, max: usize, sink: &mut Sink<'_>) -> usize {
        let ring = &self.0[lane];
        let mut taken = 0;
        let mut was_wake = false;
        while taken < max {
            let Some(entry) = ring.queue.lock().pop_front() else {
                break;
            };
            match entry {
                Entry::Wake => was_wake = true,
                Entry::Completion(token) => {
                    let packet = Packet {
                        token,
                        ..Packet::default()
                    };
                    let kind = CompletionKind::Receive;
                    sink.push(Completion::unbound(kind, OperationId(0), packet));
                    taken += 1;
                }
            }
        }
        ring.waiters
            .taken(false, was_wake, || ring.push(Entry::Wake));
        taken
    }

    fn pending(&self, lane: usize) -> bool {
        let queue = self.0[lane].queue.lock();
        queue
            .iter()
            .any(|entry| matches!(entry, Entry::Completion(_)))
    }

    fn flush(&self, _lane: usize) -> bool {
        false
    }

    fn wait(&self, lanes: u64, _timeout: Option<Duration>, released: &AtomicBool) {
        assert!(lanes.is_power_of_two(), "the models wait in one lane");
        let ring = &self.0[lanes.trailing_zeros() as usize];
        ring.waiters.begin();
        if !released.load(Ordering::SeqCst) {
            let mut queue = ring.queue.lock();
            while queue.is_empty() {
                queue = ring.arrived.wait(queue).expect("a panic ends the model");
            }
        }
        ring.waiters.end();
    }

    fn wake(&self, lane: usize) {
        let ring = &self.0[lane];
        ring.waiters.wake(|| ring.push(Entry::Wake));
    }

    fn woken(&self, lane: usize) {
        self.0[lane].waiters.woken();
    }

    fn nudge(&self, lane: usize) {
        let ring = &self.0[lane];
        ring.waiters.rouse(|| ring.push(Entry::Wake));
    }

    fn poke(&self) {}

    fn shutdown(&self) {}
}

/// A port without a watcher, and its rings.
fn port(concurrency: usize, lanes: usize) -> (Arc<Shared>, Rings) {
    let rings = Rings::new(lanes);
    let shared = Shared {
        driver: Box::new(rings.clone()),
        queue: Queue::Lanes(Scheduler::new(concurrency, lanes)),
        closed: false.into(),
        owner: parking_lot::Mutex::new(Weak::new()),
        driver_reason: String::new(),
    };
    (Arc::new(shared), rings)
}

fn get(port: &Arc<Shared>) -> Result<usize, GetError> {
    let mut taken = None;
    port.get(&mut Sink::One(&mut taken), 1, None)?;
    let completion: Completion = taken.expect("get returns with a completion");
    Ok(completion.token())
}

fn post(port: &Shared, token: usize) -> bool {
    let packet = Packet {
        token,
        ..Packet::default()
    };
    port.post(packet, false).is_ok()
}

/// Tries the orders in which threads may meet; with a bound, those with so many switches at most
/// away from a thread that could have gone on.
fn check(switches: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(switches);
    builder.max_branches = 10_000;
    let orders = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = orders.clone();
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("{} orders tried", orders.load(Ordering::Relaxed));
}

#[test]
fn loom_a_posted_packet_reaches_a_worker_however_they_meet() {
    check(None, || {
        let (port, _) = port(1, 1);
        let worker = loom::thread::spawn({
            let port = port.clone();
            move || get(&port)
        });
        assert!(post(&port, 7));
        assert_eq!(worker.join().expect("no panic"), Ok(7));
    });
}

#[test]
fn loom_a_completion_of_the_system_reaches_a_worker_however_they_meet() {
    check(None, || {
        let (port, rings) = port(1, 1);
        let worker = loom::thread::spawn({
            let port = port.clone();
            move || get(&port)
        });
        rings.complete(0, 7);
        assert_eq!(worker.join().expect("no panic"), Ok(7));
    });
}

#[test]
fn loom_two_workers_take_a_packet_and_a_completion() {
    check(Some(3), || {
        let (port, rings) = port(2, 1);
        let worker = |port: &Arc<Shared>| {
            let port = port.clone();
            loom::thread::spawn(move || get(&port))
        };
        let workers = [worker(&port), worker(&port)];
        rings.complete(0, 1);
        assert!(post(&port, 2));
        let mut taken = workers.map(|worker| worker.join().expect("no panic").expect("open"));
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
    });
}

#[test]
fn loom_a_wake_that_another_worker_took_away_is_made_good() {
    check(Some(3), || {
        // The worker that looks through the lanes finds what was meant for the one that sleeps there.
        let (port, _) = port(2, 1);
        let worker = |port: &Arc<Shared>| {
            let port = port.clone();
            loom::thread::spawn(move || get(&port))
        };
        let workers = [worker(&port), worker(&port)];
        assert!(post(&port, 1) && post(&port, 2));
        let mut taken = workers.map(|worker| worker.join().expect("no panic").expect("open"));
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
    });
}

#[test]
fn loom_a_second_worker_takes_over_when_the_first_one_leaves() {
    check(Some(3), || {
        // One permit: the second worker has its turn when the first one ends.
        let (port, rings) = port(1, 1);
        let worker = |port: &Arc<Shared>| {
            let port = port.clone();
            loom::thread::spawn(move || get(&port))
        };
        let workers = [worker(&port), worker(&port)];
        assert!(post(&port, 1));
        rings.complete(0, 2);
        let mut taken = workers.map(|worker| worker.join().expect("no panic").expect("open"));
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
    });
}

#[test]
fn loom_closing_wakes_who_waits_and_refuses_who_comes() {
    check(Some(3), || {
        let (port, _) = port(1, 1);
        let worker = loom::thread::spawn({
            let port = port.clone();
            move || get(&port)
        });
        let posted = loom::thread::spawn({
            let port = port.clone();
            move || post(&port, 7)
        });
        port.close();
        assert!(!post(&port, 8), "the port is closed");
        let posted = posted.join().expect("no panic");
        match worker.join().expect("no panic") {
            Ok(token) => assert!(posted && token == 7),
            Err(error) => assert_ne!(error, GetError::TimedOut),
        }
    });
}
