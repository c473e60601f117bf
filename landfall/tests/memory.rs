//! An idle connection costs next to no memory of the program, and holds no buffer.
#![cfg(target_os = "linux")]

mod runtime_support;
mod server_process;

use std::io::Write;
use std::time::Duration;

use landfall::buffer::Buffer;
use landfall::net::TcpListener;
use landfall::port::{BufferPolicy, CompletionPort};
use landfall::runtime::{self, Runtime};
use runtime_support::*;
use server_process::{Clients, ServerProcess, raise_descriptor_limit, scale};

/// From here on what a server allocates once no longer shows.
const FEW: usize = 2_000;

/// User memory of an idle connection, in bytes.
const BOUND: u64 = 1024;

#[test]
#[ignore = "the server's process; other tests start it"]
fn server_process() {
    server_process::serve(Runtime::builder(), server_process::echo);
}

#[test]
fn an_idle_connection_takes_less_than_1_kib() {
    let many = (9_000 * scale()).min(30_000);
    let places = raise_descriptor_limit()
        .saturating_mul(std::thread::available_parallelism().map_or(1, usize::from));
    assert!(
        places > many,
        "{many} connections need {many} places in the rings' tables, there are {places}; raise `ulimit -Hn`"
    );
    let server = ServerProcess::start("server_process");
    let mut clients = Clients::new();
    clients.connect_up_to(FEW, server.address);
    let with_few = server.memory();
    clients.connect_up_to(many, server.address);
    let with_many = server.memory();
    let each = with_many.saturating_sub(with_few) / (many - FEW) as u64;
    let (few_mib, many_mib) = (with_few >> 20, with_many >> 20);
    println!("{FEW} connections: {few_mib} MiB, {many}: {many_mib} MiB, each: {each} bytes");
    assert!(each <= BOUND, "{each} bytes a connection");
}

/// Far fewer buffers than connections: were one held by an idle connection, or not given back,
/// later ones would receive into memory that is no buffer of the pool.
#[test]
fn an_idle_connection_holds_no_buffer() {
    const CONNECTIONS: usize = 300;
    let port = CompletionPort::builder().lanes(1).buffers(BufferPolicy {
        size: 4096,
        count: 4,
    });
    let runtime = Runtime::builder().port(port).build().expect("a runtime");
    run_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        let mut peers: Vec<_> = Vec::new();
        let (sender, receiver) = std::sync::mpsc::channel();
        for _ in 0..CONNECTIONS {
            peers.push(std::net::TcpStream::connect(address).expect("connect"));
            let mut stream = listener.accept().await.expect("accept");
            let sender = sender.clone();
            drop(runtime::spawn(async move {
                while let Ok(Some(data)) = stream.receive().await {
                    let is_pooled = matches!(data, Buffer::Pooled(_));
                    drop(data);
                    sender.send(is_pooled).expect("the test waits");
                }
            }));
        }
        for round in 0..3 {
            for (number, peer) in peers.iter_mut().enumerate() {
                peer.write_all(b"a message").expect("write");
                let is_pooled = receiver
                    .recv_timeout(Duration::from_secs(10))
                    .expect("received");
                assert!(
                    is_pooled,
                    "round {round}, connection {number}: no buffer was left in the pool"
                );
            }
        }
    });
}
