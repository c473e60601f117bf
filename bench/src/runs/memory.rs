//! User memory of the server per idle connection.

use anyhow::Result;

use crate::client::Client;
use crate::server::Server;
use crate::stacks::{Expected, Stack};
use crate::statistics::{Comparison, interleave};

/// From here on what every server allocates once no longer shows.
const FEW: usize = 2_000;
pub const MANY: usize = 18_000;
/// A thread takes about four memory mappings, of which Linux allows a process 65,530.
const MANY_THREADS: usize = 8_000;
/// Connections with a message in flight at once. Divides the numbers above.
const ACTIVE: usize = 100;
const MESSAGE_SIZE: usize = 64;

pub fn run(stacks: &[Stack], rounds: usize) -> Comparison {
    let title = format!(
        "idle connections, from {FEW} to {MANY} ({MANY_THREADS} threads), each echoed once, 1 worker"
    );
    let all = interleave(stacks, rounds, sample);
    Comparison::new(title, "KiB of user memory (PSS) per connection", all)
}

fn sample(stack: Stack) -> Result<f64> {
    let server = Server::start(
        stack,
        Expected {
            workers: 1,
            connections: ACTIVE,
        },
    )?;
    let mut client = Client::new(server.address, MESSAGE_SIZE)?;
    client.connect(FEW)?;
    echo_once(&mut client, 0)?;
    let few = memory_at_rest(&server)?;
    let more = if stack == Stack::Threads {
        MANY_THREADS
    } else {
        MANY
    } - FEW;
    client.connect(more)?;
    echo_once(&mut client, FEW)?;
    let many = memory_at_rest(&server)?;
    Ok((many as f64 - few as f64) / more as f64)
}

/// Echoes a message on each connection from `first` on, a few at a time: the connections are idle
/// ones, and a pool of receive buffers that grows for a burst is not what is asked for here.
fn echo_once(client: &mut Client, first: usize) -> Result<()> {
    (first..client.connections())
        .step_by(ACTIVE)
        .try_for_each(|first| client.closed_loop(first, ACTIVE))
}

fn memory_at_rest(server: &Server) -> Result<u64> {
    server.processor_time()?;
    server.memory()
}
