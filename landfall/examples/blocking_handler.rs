//! Handlers that block, without being told to anybody: eight clients, one running thread, and each
//! handler sleeps for 100 ms in the middle of its work. Elsewhere this would take 800 ms.
//!
//! ```text
//! cargo run --release -p landfall --example blocking_handler
//! ```

mod common;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use landfall::Server;

const CLIENTS: usize = 8;

fn main() -> ExitCode {
    common::report("error", run())
}

fn run() -> landfall::Result<()> {
    let server = Server::bind("127.0.0.1:0")?.concurrency(1).workers(2);
    let handle = server.handle();
    let address = server.local_addr();
    let clients = thread::spawn(move || {
        let start = Instant::now();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| thread::spawn(move || ask(address)))
            .collect();
        for client in clients {
            match client.join() {
                Ok(Ok(answer)) => println!("after {:>6.1?}: {answer}", start.elapsed()),
                Ok(Err(error)) => eprintln!("a client failed: {error}"),
                Err(_) => eprintln!("a client panicked"),
            }
        }
        handle.drain();
    });
    server.serve(|mut connection| async move {
        while let Some(question) = connection.receive().await? {
            // Any call that blocks: a database client, a file, a lock. The port notices that this
            // thread sleeps, and lets another one go on.
            thread::sleep(Duration::from_millis(100));
            connection.send(question).await?;
        }
        Ok(())
    })?;
    clients
        .join()
        .map_err(|_| io::Error::other("the clients' thread panicked"))
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"answered")?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
