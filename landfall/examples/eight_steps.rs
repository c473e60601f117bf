//! The eight steps of the classic completion port tutorial, on the raw port. As there, the server
//! receives and shows what its clients say; as here it has to end by itself, it is its own client.
//!
//! ```text
//! cargo run --release -p landfall --example eight_steps
//! ```
//!
//! | | on Windows | here |
//! |-|-|-|
//! | 1 | `CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 0)` | `CompletionPort::new(0)` |
//! | 2 | two `_WorkerThread`s for each processor | `thread::spawn`, as often |
//! | 3 | `bind`, `listen`, `CreateIoCompletionPort(socket, port, key, 0)` | `TcpListener::bind`, `port.associate` |
//! | 4 | `AcceptEx`, posted ten times | one stream of accepts, which keeps several posted |
//! | 5 | `GetQueuedCompletionStatus` | `port.get` |
//! | 6 | `GetAcceptExSockaddrs`, associate, first `WSARecv`, next `AcceptEx` | `take_accepted`, associate, first receive |
//! | 7 | use the data, next `WSARecv` | `take_buffer`, next receive |
//! | 8 | `PostQueuedCompletionStatus`, once for each worker; close | `port.post`, once for each worker; drop |

mod common;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use landfall::port::{
    Accept, Association, Completion, CompletionKind, CompletionPort, Handle, Operation, Packet,
};

/// Keys tell completions apart: the posted packet that ends a worker, the listener, a client.
const EXIT: usize = 0;
const LISTENER: usize = 1;
const CLIENT: usize = 2;

/// What the program keeps of one client, the tutorial's `PER_SOCKET_CONTEXT`. There is no
/// `PER_IO_CONTEXT`: the buffer comes with the completion.
struct Client {
    address: SocketAddr,
}

fn main() -> ExitCode {
    common::report("error", run())
}

fn run() -> io::Result<()> {
    // Step 1. Create the port. At most as many threads run at a time as there are processors.
    let port = CompletionPort::new(0)?;

    // Step 2. Start twice as many workers, so that one that sleeps or waits is covered by another.
    let workers: Vec<_> = (0..2 * port.concurrency())
        .map(|_| {
            let port = port.clone();
            thread::spawn(move || work(&port))
        })
        .collect();

    // Step 3. Listen, and associate the listening socket with the port.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let listener = port.associate(listener, LISTENER)?;
    println!("listening on {address} with {} workers", workers.len());

    // Step 4. Post the accepts: the port keeps several of them ready for clients to come.
    listener.submit(Operation::Accept(Accept::stream()), 0)?;

    // The main thread has nothing left to do. Here it plays the clients.
    run_clients(address)?;

    // Step 8. Post one packet for each worker: who takes one ends, so nobody takes two. Dropping
    // the listener and the port then closes both.
    for _ in &workers {
        port.post(Packet {
            key: EXIT,
            ..Packet::default()
        })?;
    }
    for worker in workers {
        let handled = worker
            .join()
            .map_err(|_| io::Error::other("a worker panicked"))??;
        println!("a worker ends; it handled {handled} completions");
    }
    Ok(())
}

/// One worker. Returns how many completions it handled.
fn work(port: &CompletionPort) -> io::Result<usize> {
    let mut handled = 0;
    loop {
        // Step 5. Sleep until something has completed. Any worker takes any completion; the one
        // that went to sleep last is woken first.
        let completion = port.get(None)?;
        match completion.kind() {
            CompletionKind::Packet if completion.key() == EXIT => return Ok(handled),
            CompletionKind::Accept => on_accept(port, completion)?,
            CompletionKind::Receive => on_receive(completion)?,
            other => println!("nobody asked for a completion of kind {other:?}"),
        }
        handled += 1;
    }
}

/// Step 6. A client has come: associate its socket and submit the first receive. The stream of
/// accepts goes on by itself.
fn on_accept(port: &CompletionPort, mut completion: Completion) -> io::Result<()> {
    completion.result()?;
    let Some(accepted) = completion.take_accepted() else {
        return Ok(());
    };
    let client = Client {
        address: accepted.peer_addr()?,
    };
    println!("{} has come", client.address);
    let association = Association::new(CLIENT).context(Arc::new(client));
    let connection = port.associate_with(accepted, association)?;
    receive(&connection)
}

/// Step 7. Data has come: use it and submit the next receive. Or the client has gone: with no
/// operation pending, nobody holds the connection any more, and it is closed.
fn on_receive(mut completion: Completion) -> io::Result<()> {
    let Some(connection) = completion.handle().cloned() else {
        return Ok(());
    };
    let Some(client) = context(&connection) else {
        return Ok(());
    };
    match completion.result() {
        Ok(0) => println!("{} has gone", client.address),
        Err(error) => println!("{} was lost: {error}", client.address),
        Ok(_) => {
            let data = completion.take_buffer().unwrap_or_default();
            println!("{} says: {}", client.address, data.escape_ascii());
            receive(&connection)?;
        }
    }
    Ok(())
}

/// While the client is silent its receive holds no buffer. One receive is pending at a time, so
/// one client's data is handled in order, whichever worker takes it.
fn receive(connection: &Handle) -> io::Result<()> {
    connection.submit(Operation::ReceiveOnce, 0)?;
    Ok(())
}

fn context(connection: &Handle) -> Option<&Client> {
    connection.context()?.downcast_ref()
}

/// Four clients that speak twice and wait until the server has closed its end.
fn run_clients(server: SocketAddr) -> io::Result<()> {
    let clients: Vec<_> = (1..=4)
        .map(|number| thread::spawn(move || run_client(server, number)))
        .collect();
    for client in clients {
        client
            .join()
            .map_err(|_| io::Error::other("a client panicked"))??;
    }
    Ok(())
}

fn run_client(server: SocketAddr, number: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(format!("hello, I am client {number}\n").as_bytes())?;
    stream.write_all(b"and this is all that I have to say\n")?;
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(())
}
