//! User memory of the server per idle connection.

use anyhow::{Result, ensure};

use crate::client::Client;
use crate::server::{Server, raise_descriptor_limit};
use crate::stacks::Stack;
use crate::statistics::{Comparison, interleave};

/// From here on what every server allocates once no longer shows.
const FEW: usize = 2_000;
const MANY: usize = 18_000;
/// Descriptors a process needs beside its connections.
const RESERVE: u64 = 200;
const MESSAGE_SIZE: usize = 64;

pub fn run(stacks: &[Stack], rounds: usize) -> Result<Comparison> {
    let limit = raise_descriptor_limit()?;
    let needed = MANY as u64 + RESERVE;
    ensure!(limit >= needed, "memory needs {needed} descriptors, `ulimit -Hn` allows {limit}");
    let title = format!("idle connections, from {FEW} to {MANY}, each echoed once, 1 worker");
    let all = interleave(stacks, rounds, sample);
    Ok(Comparison::new(title, "KiB of user memory (PSS) per connection", all))
}

fn sample(stack: Stack) -> Result<f64> {
    let server = Server::start(stack, 1)?;
    let mut client = Client::new(server.address, MESSAGE_SIZE)?;
    client.connect(FEW)?;
    client.closed_loop(0, FEW)?;
    server.processor_time()?; // It is at rest.
    let few = server.memory()?;
    client.connect(MANY - FEW)?;
    client.closed_loop(FEW, MANY - FEW)?;
    server.processor_time()?;
    let many = server.memory()?;
    Ok((many as f64 - few as f64) / (MANY - FEW) as f64)
}
