//! Processor time of the server per accepted connection, in a burst.

use anyhow::Result;

use crate::client::Client;
use crate::server::Server;
use crate::stacks::{Expected, Stack};
use crate::statistics::{Comparison, interleave_slices};

/// Fits into the listener's queue: a server that falls behind must not lose connections.
const BURST: usize = 2000;
/// In a round.
const BURSTS: usize = 2;
const MESSAGE_SIZE: usize = 64;

pub fn run(stacks: &[Stack], rounds: usize, workers: usize) -> Comparison {
    let title = format!("a burst of {BURST} connections, {workers} worker(s)");
    let all = interleave_slices(
        stacks,
        rounds,
        BURSTS,
        |stack| set_up(stack, workers),
        |server| burst(server),
    );
    Comparison::new(title, "us of processor time per accepted connection", all)
}

/// A first burst, so that the measured ones find the allocator and the page tables warm.
fn set_up(stack: Stack, workers: usize) -> Result<Server> {
    let server = Server::start(
        stack,
        Expected {
            workers,
            connections: BURST,
        },
    )?;
    burst(&server)?;
    Ok(server)
}

fn burst(server: &Server) -> Result<f64> {
    let mut client = Client::new(server.address, MESSAGE_SIZE)?;
    let before = server.processor_time()?;
    client.connect(BURST)?;
    let spent = server.processor_time()? - before;
    // It came to rest: show that it had accepted them all.
    client.closed_loop(0, BURST)?;
    Ok(spent.as_secs_f64() * 1e6 / BURST as f64)
}
