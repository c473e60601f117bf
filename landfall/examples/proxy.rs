//! Forwards one port to another, both ways at the same time, half-closes and errors included.
//!
//! ```text
//! cargo run --release -p landfall --example proxy -- 127.0.0.1:8000 127.0.0.1:7000
//! ```

mod common;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use landfall::Server;
use landfall::net::{ConnectOptions, ReadHalf, WriteHalf};
use landfall::runtime;
use landfall::server::Connection;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    let target = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    common::report(&format!("cannot serve {listen}"), serve(&listen, target))
}

fn serve(listen: &str, target: String) -> landfall::Result<()> {
    let server = Server::bind(listen)?;
    println!("forwarding {} to {target}", server.local_addr());
    server.serve(move |client| forward(client, target.clone()))?;
    Ok(())
}

async fn forward(client: Connection, target: String) -> landfall::Result<()> {
    let options = ConnectOptions::new().nodelay(true).timeout(CONNECT_TIMEOUT);
    let server = options.connect(target.as_str()).await.map_err(|error| {
        eprintln!("cannot connect to {target}: {error}");
        error
    })?;
    let (client_reader, client_writer) = client.into_stream().split();
    let (server_reader, server_writer) = server.split();
    let mut requests = runtime::spawn(copy(client_reader, server_writer));
    let answers = copy(server_reader, client_writer).await;
    if answers.is_err() {
        requests.abort();
    }
    requests.await??;
    answers
}

/// Passes buffers on as they come; no byte is copied here. At the end of the stream the writer is
/// dropped, which ends it for the other side too.
async fn copy(mut from: ReadHalf, mut to: WriteHalf) -> io::Result<()> {
    while let Some(data) = from.receive().await? {
        to.send(data).await?;
    }
    Ok(())
}
