//! A peer that stops reading, or sends faster than its handler takes, is slowed down: memory of its
//! connection stays bounded and others do not notice.
#![cfg(target_os = "linux")]

mod runtime_support;
mod server_process;

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use landfall::port::{Association, CompletionPort, Operation};
use landfall::runtime::{Runtime, time::sleep};
use runtime_support::*;
use server_process::ServerProcess;
use socket2::SockRef;

/// Connections that stall the server at a time.
const STALLED: usize = 64;

/// Memory of the server for each of them: what waits to be received and what waits to be sent, in
/// pooled buffers of 16 KiB.
const EACH: u64 = 256 << 10;

/// Written to a connection at most, before it is stalled.
const HELD_BACK: usize = 1 << 20;

/// Send and receive buffers of the system for sockets that are to be stalled: fixed, as it would
/// let them grow to many MiB.
const SYSTEM_BUFFER: usize = 64 * 1024;

/// One test at a time: they measure time and memory.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
#[ignore = "the server's process; other tests start it"]
fn echo_process() {
    server_process::serve_from(listener(), Runtime::builder(), server_process::echo);
}

/// Echoes messages that begin with `e` at once; takes its time over others, and is fed up then.
#[test]
#[ignore = "the server's process; other tests start it"]
fn slow_process() {
    server_process::serve_from(
        listener(),
        Runtime::builder(),
        |mut connection| async move {
            while let Some(data) = connection.receive().await? {
                match data.first() {
                    Some(b'e') => connection.send(data).await?,
                    _ => {
                        sleep(Duration::from_secs(5)).await;
                        break;
                    }
                }
            }
            Ok(())
        },
    );
}

/// What it accepts inherits its buffers.
fn listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    limit_buffers(SockRef::from(&listener));
    listener
}

fn limit_buffers(socket: SockRef<'_>) {
    socket
        .set_send_buffer_size(SYSTEM_BUFFER)
        .expect("a socket");
    socket
        .set_recv_buffer_size(SYSTEM_BUFFER)
        .expect("a socket");
}

fn connect(server: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(server).expect("connect");
    client.set_read_timeout(Some(LONG)).expect("a socket");
    limit_buffers(SockRef::from(&client));
    client
}

/// Writes on all connections until none has taken anything for a while; returns the bytes of each.
fn flood(clients: &[TcpStream]) -> Vec<usize> {
    let chunk = vec![b'x'; 64 * 1024];
    let mut written = vec![0; clients.len()];
    let mut idle_since = Instant::now();
    while idle_since.elapsed() < Duration::from_millis(300) {
        for (mut client, written) in clients.iter().zip(&mut written) {
            client.set_nonblocking(true).expect("a socket");
            match client.write(&chunk) {
                Ok(count) => {
                    *written += count;
                    idle_since = Instant::now();
                    assert!(*written < 2 * HELD_BACK, "nothing slows the sender down");
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("write: {error}"),
            }
        }
        thread::sleep(Duration::from_micros(100));
    }
    written
}

/// The slowest of many echoes.
fn slowest_echo(client: &mut TcpStream) -> Duration {
    let echo = |_| {
        let start = Instant::now();
        echo_once(client, b"everything as before").expect("an echo");
        start.elapsed()
    };
    (0..500).map(echo).max().expect("some")
}

fn stalled_connections_are_bounded(test: &str) {
    let _alone = ALONE.lock();
    let mut server = ServerProcess::start(test);
    let mut bystander = connect(server.address);
    let alone = slowest_echo(&mut bystander);
    let clients: Vec<_> = (0..STALLED).map(|_| connect(server.address)).collect();
    wait_until("all are served", || {
        server.counts().get("active") == STALLED as u64 + 1
    });
    let before = server.memory();
    let written = flood(&clients);
    let each = server.memory().saturating_sub(before) / STALLED as u64;
    let beside_them = slowest_echo(&mut bystander);

    let most = written.iter().max().expect("some");
    println!(
        "{test}: {} KiB of memory a connection, at most {} KiB written",
        each >> 10,
        most >> 10
    );
    println!("slowest echo of a bystander {alone:?} alone, {beside_them:?} beside them");
    assert!(
        *most <= HELD_BACK,
        "{most} bytes written to one that is stalled"
    );
    assert!(
        each <= EACH,
        "{each} bytes of memory for each connection that is stalled"
    );
    assert!(
        beside_them < Duration::from_secs(1),
        "others wait: {beside_them:?}"
    );

    drop(clients);
    wait_until("the stalled ones have ended", || {
        server.counts().get("active") == 1
    });
    echo_once(&mut bystander, b"everything as ever").expect("an echo");
}

#[test]
fn a_reader_that_stops_is_bounded_and_alone() {
    stalled_connections_are_bounded("echo_process");
}

#[test]
fn a_sender_faster_than_its_handler_is_bounded_and_alone() {
    stalled_connections_are_bounded("slow_process");
}

/// At the port, a stream of a serial handle is held back while a completion is being handled.
#[test]
fn a_slow_handler_of_a_serial_handle_slows_its_peer_down() {
    let _alone = ALONE.lock();
    let port = CompletionPort::new(1).expect("a port");
    let listener = listener();
    let peer = connect(listener.local_addr().expect("an address"));
    let (stream, _) = listener.accept().expect("accept");
    let handle = port
        .associate_with(stream, Association::new(0).serial(true))
        .expect("associate");
    handle.submit(Operation::ReceiveStream, 0).expect("submit");
    (&peer).write_all(b"first").expect("write");
    let first = port.get(Some(LONG)).expect("a completion");
    assert_eq!(first.bytes(), 5);

    // A neighbour's completions go on coming.
    let taker = thread::spawn({
        let port = port.clone();
        move || {
            port.get(Some(Duration::from_secs(2)))
                .map(|completion| completion.token())
        }
    });
    let written = flood(std::slice::from_ref(&peer))[0];
    println!(
        "{} KiB written while a completion was handled",
        written >> 10
    );
    assert!(written <= HELD_BACK, "{written} bytes");
    assert!(
        taker.join().expect("no panic").is_err(),
        "no two completions of a serial handle at a time"
    );

    drop(first);
    peer.shutdown(std::net::Shutdown::Write)
        .expect("a half-close");
    let mut received = 0;
    loop {
        let completion = port.get(Some(LONG)).expect("a completion");
        received += completion.result().expect("no error");
        if completion.is_final() {
            break;
        }
    }
    assert_eq!(received, written, "all of it, then the end");
}
