//! Forwards one port to another, both ways at the same time, half-closes and errors included.
//!
//! ```text
//! cargo run --release -p landfall --example proxy -- 127.0.0.1:8000 127.0.0.1:7000
//! ```

mod common;

use std::process::ExitCode;
use std::time::Duration;

use landfall::Server;
use landfall::net::ConnectOptions;
use landfall::net::relay::{Relay, RelayEnd};
use landfall::server::Connection;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the rest may take once one side has ended.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(60);

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
    let relay = Relay::new().half_close_timeout(Some(HALF_CLOSE_TIMEOUT));
    server.serve(move |client| forward(relay.clone(), client, target.clone()))?;
    Ok(())
}

async fn forward(relay: Relay, client: Connection, target: String) -> landfall::Result<()> {
    let options = ConnectOptions::new().nodelay(true).timeout(CONNECT_TIMEOUT);
    let connected = options.connect_beside(&client, target.as_str()).await;
    let server = connected.map_err(|error| {
        eprintln!("cannot connect to {target}: {error}");
        error
    })?;
    let relayed = relay.run(client.into_stream(), server).await;
    if let RelayEnd::Failed { side, error, .. } = relayed.end {
        eprintln!("the {side}'s connection failed: {error}");
    }
    Ok(())
}
