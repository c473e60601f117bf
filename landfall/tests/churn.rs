//! Whatever comes and goes, nothing stays: places in the rings' tables, buffers, sockets,
//! descriptors, memory and tasks.
#![cfg(target_os = "linux")]

mod runtime_support;
mod server_process;

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use landfall::buffer::Buffer;
use landfall::port::{BufferPolicy, CompletionPort};
use landfall::runtime::Runtime;
use landfall::server::Connection;
use runtime_support::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use server_process::{ServerProcess, scale};

const WORKERS: usize = 4;
/// Places in each ring's table, as many as descriptors are allowed: few, so that each is used
/// again and again.
const PLACES: usize = 512;
/// More places than are taken by the listener and the accepts that are posted.
const OWN_PLACES: usize = 48;
/// Buffers of each ring.
const BUFFERS: usize = 64;

/// Client threads.
const AT_A_TIME: usize = 32;

/// What a client sends and gets back as a whole. Larger than a buffer of the pool.
const MESSAGE: usize = 5_000;

/// A message that starts with this is kept, and answered with what its first buffer was.
const KEEP: u8 = b'k';
const POOLED: u8 = b'p';

/// What a process may have grown by, however many connections there were: its heap is the larger
/// for holes. `allocations.rs` counts what is not freed to the byte.
const GROWTH: u64 = 4 << 20;

#[test]
#[ignore = "the server's process; other tests start it"]
fn server_process() {
    serve_with_lanes(2);
}

#[test]
#[ignore = "the server's process; other tests start it"]
fn one_lane_process() {
    serve_with_lanes(1);
}

fn serve_with_lanes(lanes: usize) {
    let port = CompletionPort::builder()
        .lanes(lanes)
        .buffers(BufferPolicy {
            size: 4096,
            count: BUFFERS,
        });
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(PLACES as u64),
            ..limit
        },
    )
    .expect("a lower limit");
    server_process::serve(
        Runtime::builder().port(port).workers(WORKERS),
        echo_messages,
    );
}

/// Answers whole messages, so that it holds a part of one when a client is cut off.
async fn echo_messages(mut connection: Connection) -> io::Result<()> {
    let mut message = Vec::with_capacity(MESSAGE);
    while let Some(data) = connection.receive().await? {
        if message.is_empty() && data.first() == Some(&KEEP) {
            let kind = if matches!(data, Buffer::Pooled(_)) {
                POOLED
            } else {
                b'o'
            };
            connection.send(vec![kind]).await?;
            connection.receive().await?;
            continue;
        }
        message.extend_from_slice(&data);
        drop(data);
        if message.len() >= MESSAGE {
            connection.send(std::mem::take(&mut message)).await?;
        }
    }
    Ok(())
}

/// Connects as often as need be: the server's backlog and this machine's ports are limited.
fn connect(server: SocketAddr) -> TcpStream {
    let start = Instant::now();
    loop {
        match TcpStream::connect(server) {
            Ok(client) => {
                client.set_read_timeout(Some(LONG)).expect("a socket");
                client.set_write_timeout(Some(LONG)).expect("a socket");
                return client;
            }
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable && start.elapsed() < LONG => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("connect: {error}"),
        }
    }
}

/// Runs clients in parallel, and leaves when all have ended.
fn in_parallel(numbers: Range<usize>, client: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for part in 0..AT_A_TIME {
            let (numbers, client) = (numbers.clone().skip(part).step_by(AT_A_TIME), &client);
            scope.spawn(move || numbers.for_each(client));
        }
    });
}

/// Clients that leave in order: some say nothing, some half-close first.
fn come_and_go(server: SocketAddr, numbers: Range<usize>) {
    in_parallel(numbers, |number| {
        let mut client = connect(server);
        match number % 8 {
            0 => {}
            1 => {
                client.write_all(&pattern(MESSAGE)).expect("write");
                client
                    .shutdown(std::net::Shutdown::Write)
                    .expect("a half-close");
                assert!(
                    read_to_end(&mut client).expect("the echo, then the end") == pattern(MESSAGE)
                );
            }
            _ => echo_once(&mut client, &pattern(MESSAGE)).expect("an echo"),
        }
    });
}

/// Clients that reset their connection in the middle of a message, theirs or the server's.
fn are_cut(server: SocketAddr, numbers: Range<usize>) {
    in_parallel(numbers, |number| {
        let mut client = connect(server);
        match number % 4 {
            // Perhaps before it is accepted.
            0 => client.write_all(b"part").expect("write"),
            1 => {
                echo_once(&mut client, &pattern(MESSAGE)).expect("an echo");
                client.write_all(&pattern(MESSAGE / 2)).expect("write");
            }
            2 => {
                client.write_all(&pattern(MESSAGE)).expect("write");
                client
                    .read_exact(&mut [0; 100])
                    .expect("the start of the echo");
            }
            // Until the server's sends find no room.
            _ => write_until_full(&mut client),
        }
        reset(client);
    });
}

fn write_until_full(client: &mut TcpStream) {
    client.set_nonblocking(true).expect("a socket");
    let chunk = vec![b'x'; 256 * 1024];
    for _ in 0..8 {
        match client.write(&chunk) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("write: {error}"),
        }
    }
}

/// What a server has, and the machine on its behalf.
#[derive(Debug)]
struct Holdings {
    memory: u64,
    descriptors: usize,
    /// Workers started so far because others were blocked; each has a descriptor.
    spares: usize,
    sockets: u64,
}

impl Holdings {
    fn of(server: &mut ServerProcess) -> Self {
        server.wait_until_unused();
        let address = server.address;
        wait_until("the server's sockets are closed", || {
            open_sockets_at(address) == 0
        });
        Holdings {
            memory: server.memory(),
            descriptors: server.descriptors(),
            spares: server.counts().get("workers") as usize - WORKERS,
            sockets: sockets_of_machine(),
        }
    }
}

/// Sockets that the kernel has, also those that no table lists any more. Not those in `TIME_WAIT`.
fn sockets_of_machine() -> u64 {
    let stat = fs::read_to_string("/proc/net/sockstat").expect("Linux");
    let used = stat
        .strip_prefix("sockets: used ")
        .and_then(|rest| rest.lines().next());
    used.and_then(|number| number.parse().ok())
        .expect("a number of sockets")
}

/// One test at a time: they count the machine's sockets, and load it.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn nothing_is_left_of_connections_that_came_and_went() {
    let _alone = ALONE.lock();
    let mut server = ServerProcess::start("server_process");
    let address = server.address;
    come_and_go(address, 0..2_000);
    are_cut(address, 0..500);
    let before = Holdings::of(&mut server);

    let (orderly, cut) = (20_000 * scale(), 1_000 * scale());
    let start = Instant::now();
    come_and_go(address, 0..orderly);
    let orderly_took = start.elapsed();
    are_cut(address, 0..cut);
    let cut_took = start.elapsed() - orderly_took;

    let after = Holdings::of(&mut server);
    println!(
        "{orderly} in {orderly_took:?}, {cut} cut in {cut_took:?}\nbefore {before:?}\nafter  {after:?}"
    );
    assert_eq!(
        server.counts().get("errors"),
        0,
        "an accept failed for want of something"
    );
    assert!(after.memory <= before.memory + GROWTH, "memory grew");
    assert!(
        after.descriptors <= before.descriptors + after.spares,
        "descriptors are left"
    );
    // Other programs have sockets as well, which come and go.
    wait_until("the kernel has about as many sockets as before", || {
        sockets_of_machine() <= before.sockets + (cut / 20) as u64
    });
}

/// With one ring, so that it is known which table and which pool each connection uses.
#[test]
fn every_place_and_every_buffer_can_be_used_again() {
    let _alone = ALONE.lock();
    let mut server = ServerProcess::start("one_lane_process");
    let address = server.address;
    come_and_go(address, 0..4_000 * scale());
    are_cut(address, 0..1_000 * scale());
    server.wait_until_unused();
    every_buffer_is_in_the_pool(address);
    server.wait_until_unused();
    // Only rings have places of their own; elsewhere connections are descriptors.
    if CompletionPort::new(1).expect("a port").driver() == "uring" {
        every_place_is_free(&mut server);
        server.wait_until_unused();
    }
}

/// Has the server keep as many buffers as there are.
fn every_buffer_is_in_the_pool(server: SocketAddr) {
    let mut keepers: Vec<_> = (0..BUFFERS).map(|_| connect(server)).collect();
    for (number, keeper) in keepers.iter_mut().enumerate() {
        keeper.write_all(&[KEEP]).expect("write");
        let mut kind = [0];
        keeper.read_exact(&mut kind).expect("an answer");
        assert_eq!(kind[0], POOLED, "the pool had only {number} buffers left");
    }
}

/// Opens as many connections at once as the table has places. Without a place they would be
/// ordinary descriptors.
fn every_place_is_free(server: &mut ServerProcess) {
    let descriptors = Holdings::of(server).descriptors;
    let mut clients: Vec<_> = (0..PLACES - OWN_PLACES)
        .map(|_| connect(server.address))
        .collect();
    for client in &mut clients {
        echo_once(client, &pattern(MESSAGE)).expect("an echo");
    }
    let spares = server.counts().get("workers") as usize - WORKERS;
    let now = server.descriptors();
    assert!(
        now <= descriptors + spares,
        "{now} descriptors instead of {descriptors}"
    );
}
