//! Descriptors that a relay takes and gives back: in a process of its own, where nobody else takes any.
#![cfg(target_os = "linux")]

mod runtime_support;

use std::io::Write;
use std::net::{Shutdown, TcpStream as StdStream};
use std::thread;

use landfall::net::TcpStream;
use landfall::net::relay::{PipePool, Relay, RelayEnd, Start};
use landfall::runtime::Runtime;
use runtime_support::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const BYTES: usize = 2_000_000;

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux").count()
}

type Connection = (TcpStream, StdStream);

/// The client's and the server's.
fn connections(runtime: &Runtime) -> (Connection, Connection) {
    runtime.block_on(async { (pair().await, pair().await) })
}

fn relay_bulk(runtime: &Runtime, pipes: &PipePool) -> u64 {
    relay_bulk_of(runtime, pipes, connections(runtime))
}

/// Has the client send bulk and the server answer, and returns how many bytes were not copied.
fn relay_bulk_of(
    runtime: &Runtime,
    pipes: &PipePool,
    ((to_client, mut client), (to_server, mut server)): (Connection, Connection),
) -> u64 {
    let relay = Relay::new().pipes(pipes);
    let start = Start::default();
    let counters = start.counters.clone();
    let relaying = runtime.spawn(async move { relay.run_from(start, to_client, to_server).await });
    let sending = thread::spawn(move || {
        client.write_all(&pattern(BYTES)).expect("send");
        client.shutdown(Shutdown::Write).expect("shutdown");
        read_to_end(&mut client).expect("receive")
    });
    let received = read_to_end(&mut server).expect("receive");
    assert!(received == pattern(BYTES), "other bytes than were sent");
    server.write_all(b"all of it").expect("send");
    drop(server);
    assert_eq!(sending.join().expect("no panic"), b"all of it");
    let relayed = run_on(runtime, relaying).expect("no panic");
    assert!(matches!(relayed.end, RelayEnd::Finished), "{relayed:?}");
    counters.spliced()
}

#[test]
fn descriptors_come_back_and_without_any_left_bulk_is_copied() {
    let runtime = Runtime::new().expect("a runtime");
    let pipes = PipePool::default();
    // The pool keeps a pipe, the runtime what it makes at first.
    relay_bulk(&runtime, &pipes);
    let before = open_descriptors();
    for _ in 0..20 {
        assert!(relay_bulk(&runtime, &pipes) > 0);
        wait_until("all are closed", || open_descriptors() <= before);
    }
    assert_eq!((pipes.refusals(), pipes.in_use()), (0, 0));

    // A fresh pool has no pipe to begin with.
    let empty = PipePool::default();
    let connections = connections(&runtime);
    let limit = getrlimit(Resource::Nofile);
    set_limit(&limit, 3);
    let spliced = relay_bulk_of(&runtime, &empty, connections);
    setrlimit(Resource::Nofile, limit).expect("as it was");
    assert_eq!(spliced, 0);
    assert!(empty.refusals() > 0);
}

fn set_limit(limit: &Rlimit, current: u64) {
    let lowered = Rlimit {
        current: Some(current),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, lowered).expect("within the hard limit");
}
