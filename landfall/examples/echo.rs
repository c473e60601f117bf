//! The smallest server: sends everything back.
//!
//! ```text
//! cargo run --release -p landfall --example echo -- 127.0.0.1:7000
//! nc 127.0.0.1 7000
//! ```

mod common;

use std::process::ExitCode;

use landfall::Server;

fn main() -> ExitCode {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    common::report(&format!("cannot serve {address}"), serve(&address))
}

fn serve(address: &str) -> landfall::Result<()> {
    let server = Server::bind(address)?;
    println!("listening on {}", server.local_addr());
    server.serve(|mut connection| async move {
        // A pooled buffer: nothing is held while the client is silent.
        while let Some(data) = connection.receive().await? {
            // Moved in, and returned to its pool when it has been sent.
            connection.send(data).await?;
        }
        Ok(())
    })?;
    Ok(())
}
