//! Processor time of the server per echoed message.

use std::time::Duration;

use anyhow::Result;

use crate::client::Client;
use crate::server::Server;
use crate::stacks::{Expected, Stack};
use crate::statistics::{Comparison, interleave_slices};

#[derive(Clone, Copy)]
pub struct Load {
    pub expected: Expected,
    pub message_size: usize,
    /// Messages in a slice; one more slice goes before the measured ones.
    pub messages: usize,
    pub slices: usize,
}

struct Session {
    client: Client,
    server: Server,
    /// The server's processor time at the end of the last slice; at rest it uses none.
    spent: Duration,
}

pub fn run(stacks: &[Stack], rounds: usize, load: Load) -> Comparison {
    let Expected {
        workers,
        connections,
    } = load.expected;
    let title = format!(
        "echo, {workers} worker(s), {connections} connections, {} bytes",
        load.message_size
    );
    let all = interleave_slices(
        stacks,
        rounds,
        load.slices,
        |stack| set_up(stack, load),
        |session| slice(session, load.messages),
    );
    Comparison::new(title, "us of processor time per message", all)
}

fn set_up(stack: Stack, load: Load) -> Result<Session> {
    let server = Server::start(stack, load.expected)?;
    let mut client = Client::new(server.address, load.message_size)?;
    client.connect(load.expected.connections)?;
    client.closed_loop(0, load.messages)?;
    let spent = server.processor_time()?;
    Ok(Session {
        client,
        server,
        spent,
    })
}

fn slice(session: &mut Session, messages: usize) -> Result<f64> {
    session.client.closed_loop(0, messages)?;
    let spent = session.server.processor_time()?;
    let slice = spent - session.spent;
    session.spent = spent;
    Ok(slice.as_secs_f64() * 1e6 / messages as f64)
}
