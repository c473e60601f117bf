//! Timeouts: of one operation, of a connection without traffic, and of connecting.
//!
//! ```text
//! cargo run --release -p landfall --example timeout
//! ```

mod common;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use landfall::Runtime;
use landfall::net::{ConnectOptions, TcpListener};
use landfall::runtime;
use landfall::runtime::time::timeout;

fn main() -> ExitCode {
    common::report("error", run())
}

fn run() -> landfall::Result<()> {
    Runtime::new()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let answering = runtime::spawn(async move {
            let mut stream = listener.accept().await?;
            // Too late for the first receive of the other side, in time for the second.
            runtime::time::sleep(Duration::from_millis(150)).await;
            stream.send("at last").await?;
            // And silent from now on, until the other side closes.
            stream.receive().await.map(drop)
        });
        let mut stream = ConnectOptions::new()
            .timeout(Duration::from_secs(5))
            .connect(address)
            .await?;

        // Of one operation: the future is dropped, and loses nothing.
        let start = Instant::now();
        let data = timeout(Duration::from_millis(100), stream.receive()).await;
        println!(
            "after {:?}: {}",
            start.elapsed(),
            data.expect_err("nothing yet")
        );
        let data = stream.receive().await?.expect("an answer");
        println!(
            "after {:?}: {}",
            start.elapsed(),
            String::from_utf8_lossy(&data)
        );

        // Of the connection: no timer is set and taken back for each message.
        stream.set_idle_timeout(Some(Duration::from_millis(100)));
        let error = stream.receive().await.expect_err("silence");
        println!("after {:?}: {error}", start.elapsed());
        drop(stream);
        answering.await?
    })
}
