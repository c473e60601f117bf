//! Concurrency is real: handlers of connections that sleep do not hold each other up, those that
//! compute do not run more than the concurrency value at once, and idle means idle.
//!
//! The same for plain tasks is in `runtime_tasks.rs`, for sleeping threads at the port in
//! `contract/waiters.rs`.
#![cfg(target_os = "linux")]

mod runtime_support;
mod server_process;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use landfall::port::{CompletionPort, Packet};
use landfall::runtime::Runtime;
use landfall::server::Server;
use runtime_support::*;
use server_process::{Clients, ServerProcess, scale};

const HANDLERS: usize = 16;

/// One test at a time: they measure time.
static ALONE: Mutex<()> = Mutex::new(());

/// How many are at work, and the most that were.
#[derive(Default)]
struct AtWork {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl AtWork {
    fn compute(&self, time: Duration) {
        self.most
            .fetch_max(self.now.fetch_add(1, SeqCst) + 1, SeqCst);
        let start = Instant::now();
        while start.elapsed() < time {
            std::hint::spin_loop();
        }
        self.now.fetch_sub(1, SeqCst);
    }
}

/// Sends every connection a message at once; returns how long it takes until all have answered.
fn all_answer(clients: &mut [TcpStream]) -> Duration {
    let start = Instant::now();
    for client in &mut *clients {
        client.write_all(b"work").expect("write");
    }
    for client in clients {
        client.read_exact(&mut [0; 4]).expect("an answer");
    }
    start.elapsed()
}

/// Runs a server with value 1 whose handlers do that work for each message, and a test with one
/// connection for each of sixteen handlers.
fn with_server(
    work: impl Fn() + Clone + Send + Sync + 'static,
    test: impl FnOnce(&Runtime, &mut [TcpStream]),
) {
    let runtime = Runtime::builder()
        .concurrency(1)
        .build()
        .expect("a runtime");
    let server = Server::bind("127.0.0.1:0").expect("bind");
    let handle = server.handle();
    let mut clients: Vec<_> = (0..HANDLERS)
        .map(|_| {
            let client = TcpStream::connect(handle.local_addr()).expect("connect");
            client.set_read_timeout(Some(LONG)).expect("a socket");
            client
        })
        .collect();
    let handler = move |mut connection: landfall::server::Connection| {
        let work = work.clone();
        async move {
            while let Some(data) = connection.receive().await? {
                work();
                connection.send(data).await?;
            }
            Ok(())
        }
    };
    thread::scope(|scope| {
        let serving = scope.spawn(|| server.serve_on(&runtime, handler));
        wait_until("all are served", || {
            handle.stats().active == HANDLERS as u64
        });
        test(&runtime, &mut clients);
        handle.stop();
        serving.join().expect("no panic").expect("no error");
    });
}

#[test]
fn sixteen_connections_whose_handlers_sleep_are_answered_within_300_ms() {
    let _alone = ALONE.lock();
    with_server(
        || thread::sleep(Duration::from_millis(100)),
        |runtime, clients| {
            let took = all_answer(clients);
            println!("took {took:?} with {} workers", runtime.workers());
            assert!(took < Duration::from_millis(300), "took {took:?}");
            let took = all_answer(clients);
            println!("and {took:?} with {} workers", runtime.workers());
            assert!(
                took < Duration::from_millis(300),
                "took {took:?} when the workers were there"
            );
        },
    );
}

#[test]
fn sixteen_connections_whose_handlers_compute_run_one_at_a_time() {
    let _alone = ALONE.lock();
    static AT_WORK: AtWork = AtWork {
        now: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
    };
    with_server(
        || AT_WORK.compute(Duration::from_millis(20)),
        |_, clients| {
            let took = all_answer(clients);
            assert!(
                took >= Duration::from_millis(20) * HANDLERS as u32,
                "took {took:?}"
            );
        },
    );
    assert_eq!(AT_WORK.most.load(SeqCst), 1, "more than the value at once");
}

#[test]
fn sixteen_threads_of_a_port_that_compute_run_as_many_at_a_time_as_its_value() {
    let _alone = ALONE.lock();
    for value in [1, 2, 4] {
        let port = CompletionPort::new(value).expect("a port");
        let (at_work, left) = (AtWork::default(), AtomicUsize::new(2 * HANDLERS));
        thread::scope(|scope| {
            for _ in 0..HANDLERS {
                scope.spawn(|| {
                    while port.get(None).is_ok() {
                        at_work.compute(Duration::from_millis(20));
                        if left.fetch_sub(1, SeqCst) == 1 {
                            port.close();
                        }
                    }
                });
            }
            for token in 0..2 * HANDLERS {
                port.post(Packet {
                    token,
                    ..Packet::default()
                })
                .expect("open");
            }
        });
        let most = at_work.most.load(SeqCst);
        assert!(most <= value, "{most} at once with value {value}");
        assert_eq!(left.load(SeqCst), 0);
    }
}

#[test]
#[ignore = "the server's process; other tests start it"]
fn server_process() {
    server_process::serve(Runtime::builder(), server_process::echo);
}

#[test]
fn idle_connections_take_no_processor_time() {
    let _alone = ALONE.lock();
    let connections = (5_000 * scale()).min(30_000);
    let watched =
        Duration::from_secs(scale() as u64).clamp(Duration::from_secs(3), Duration::from_secs(10));
    let server = ServerProcess::start("server_process");
    let mut clients = Clients::new();
    clients.connect_up_to(connections, server.address);
    server.wait_until_at_rest();

    let before = server.clock_ticks();
    thread::sleep(watched);
    let used = server.clock_ticks() - before;
    println!("{connections} idle connections used {used} clock ticks in {watched:?}");
    assert!(
        used <= 1,
        "{used} clock ticks for {connections} idle connections in {watched:?}"
    );
}
