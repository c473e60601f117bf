//! Landfall's completion port itself: twice as many workers as may run at a time, each taking
//! whatever completes next.

use std::net::TcpListener;
use std::thread;

use anyhow::{Context, Result, anyhow};
use landfall::port::{
    Accept, Association, Completion, CompletionKind, CompletionPort, DriverChoice, Operation,
};

use super::Expected;
use crate::protocol::attend;

/// Completions taken at a time. What one worker has taken no other can help with, so few.
const BATCH: usize = 8;
const LISTENER: usize = 0;
const CONNECTION: usize = 1;

pub fn serve(listener: TcpListener, expected: Expected, driver: DriverChoice) -> Result<()> {
    let port = CompletionPort::builder()
        .concurrency(expected.workers)
        .driver(driver)
        .build()?;
    let listener = port.associate(listener, LISTENER)?;
    listener.submit(Operation::Accept(Accept::stream()), 0)?;
    let workers: Vec<_> = (0..2 * port.concurrency())
        .map(|_| {
            let port = port.clone();
            thread::spawn(move || work(&port))
        })
        .collect();
    for worker in workers {
        worker.join().map_err(|_| anyhow!("a worker panicked"))??;
    }
    Ok(())
}

fn work(port: &CompletionPort) -> Result<()> {
    let mut taken = Vec::with_capacity(BATCH);
    loop {
        port.get_many(&mut taken, BATCH, None)?;
        for completion in taken.drain(..) {
            complete(port, completion)?;
        }
    }
}

fn complete(port: &CompletionPort, mut completion: Completion) -> Result<()> {
    match completion.kind() {
        CompletionKind::Accept => {
            completion.result().context("the accepts ended")?;
            if let Some(accepted) = completion.take_accepted() {
                let association = Association::new(CONNECTION).serial(true);
                let connection = port.associate_with(accepted, association)?;
                connection.submit(Operation::ReceiveStream, 0)?;
            }
        }
        CompletionKind::Receive => {
            // At the end of the stream nothing is pending any more, and the connection closes with
            // this completion, which holds its last handle.
            if let (Some(message), Some(connection)) =
                (completion.take_buffer(), completion.handle())
                && !message.is_empty()
            {
                attend(&message);
                // Refused only when the connection is closed.
                let _ = connection.submit(Operation::Send(message), 0);
            }
        }
        _ => {}
    }
    Ok(())
}
