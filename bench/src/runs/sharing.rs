//! What connections suffer from a neighbour whose handler computes, or blocks.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

use crate::client::{self, Client, OpenLoop, OpenLoopReport};
use crate::protocol::{COMPUTATION, NAP};
use crate::server::Server;
use crate::stacks::{Expected, Stack};
use crate::statistics::{Series, Summary, interleave};

/// Each sends once a second, no more often than a handler that sleeps lets its neighbours come round:
/// they are delayed, but no backlog grows.
const CONNECTIONS: usize = 2000;
const RATE: u32 = 2000;
const COMPUTE_EVERY: usize = 100;
const MESSAGE_SIZE: usize = 64;
const WORKERS: usize = 2;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Neighbour {
    None,
    Computes,
    Sleeps,
}

/// Latencies of the others in one run, in milliseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    /// p99.9 of how late the client itself was: no stack can be better than this machine.
    pub late: f64,
}

#[derive(Debug, Serialize)]
pub struct Sharing {
    pub title: String,
    pub rows: Vec<Series<Latency>>,
}

#[derive(Clone, Copy)]
pub struct Load {
    pub neighbour: Neighbour,
    pub duration: Duration,
    /// The client waits for no processor; see [`client::set_real_time`].
    pub real_time: bool,
}

pub fn run(stacks: &[Stack], rounds: usize, load: Load) -> Sharing {
    let rows = interleave(stacks, rounds, |stack| sample(stack, load));
    Sharing {
        title: title(load.neighbour),
        rows,
    }
}

fn title(neighbour: Neighbour) -> String {
    let neighbour = match neighbour {
        Neighbour::None => "no disturbance".to_owned(),
        Neighbour::Computes => format!(
            "one connection in {COMPUTE_EVERY} computes {} ms per message ({:.1} processor in all)",
            COMPUTATION.as_millis(),
            f64::from(RATE) / COMPUTE_EVERY as f64 * COMPUTATION.as_secs_f64()
        ),
        Neighbour::Sleeps => {
            format!(
                "one more connection keeps its handler asleep, {} s at a time",
                NAP.as_secs()
            )
        }
    };
    format!("{neighbour}; {CONNECTIONS} connections, {RATE} messages/s, {WORKERS} workers")
}

fn sample(stack: Stack, load: Load) -> Result<Latency> {
    let sleeper = matches!(load.neighbour, Neighbour::Sleeps);
    let server = Server::start(
        stack,
        Expected {
            workers: WORKERS,
            connections: CONNECTIONS,
        },
    )?;
    let mut client = Client::new(server.address, MESSAGE_SIZE)?;
    client.connect(CONNECTIONS + usize::from(sleeper))?;
    client.closed_loop(0, 2 * CONNECTIONS)?;
    let open_loop = OpenLoop {
        rate: RATE,
        duration: load.duration,
        compute_every: match load.neighbour {
            Neighbour::Computes => COMPUTE_EVERY,
            Neighbour::None | Neighbour::Sleeps => 0,
        },
        sleeper,
    };
    client::set_real_time(load.real_time)?;
    let report = client.open_loop(&open_loop);
    client::set_real_time(false)?;
    let OpenLoopReport { latency, lateness } = report?;
    let milliseconds = |microseconds: u64| microseconds as f64 / 1e3;
    Ok(Latency {
        p50: milliseconds(latency.value_at_quantile(0.5)),
        p99: milliseconds(latency.value_at_quantile(0.99)),
        p999: milliseconds(latency.value_at_quantile(0.999)),
        max: milliseconds(latency.max()),
        late: milliseconds(lateness.value_at_quantile(0.999)),
    })
}

impl Latency {
    /// The median over the rounds of one of its figures.
    pub fn summary(samples: &[Latency], figure: fn(&Latency) -> f64) -> Option<Summary> {
        Summary::of(samples.iter().map(figure))
    }
}
