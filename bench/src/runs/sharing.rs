//! What connections suffer from a neighbour whose handler computes, or blocks.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::client::{Client, OpenLoop};
use crate::protocol::{COMPUTATION, NAP};
use crate::server::Server;
use crate::stacks::Stack;
use crate::statistics::{Series, Summary, interleave};

const CONNECTIONS: usize = 200;
const RATE: u32 = 2000;
const COMPUTE_EVERY: usize = 100;
const MESSAGE_SIZE: usize = 64;
const WORKERS: usize = 2;

#[derive(Clone, Copy, Debug)]
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
}

#[derive(Debug, Serialize)]
pub struct Sharing {
    pub title: String,
    pub rows: Vec<Series<Latency>>,
}

pub fn run(stacks: &[Stack], rounds: usize, duration: Duration, neighbour: Neighbour) -> Sharing {
    let rows = interleave(stacks, rounds, |stack| sample(stack, duration, neighbour));
    Sharing { title: title(neighbour), rows }
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
            format!("one more connection keeps its handler asleep, {} s at a time", NAP.as_secs())
        }
    };
    format!("{neighbour}; {CONNECTIONS} connections, {RATE} messages/s, {WORKERS} workers")
}

fn sample(stack: Stack, duration: Duration, neighbour: Neighbour) -> Result<Latency> {
    let sleeper = matches!(neighbour, Neighbour::Sleeps);
    let server = Server::start(stack, WORKERS)?;
    let mut client = Client::new(server.address, MESSAGE_SIZE)?;
    client.connect(CONNECTIONS + usize::from(sleeper))?;
    client.closed_loop(0, 10 * CONNECTIONS)?;
    let latency = client.open_loop(&OpenLoop {
        rate: RATE,
        duration,
        compute_every: match neighbour {
            Neighbour::Computes => COMPUTE_EVERY,
            Neighbour::None | Neighbour::Sleeps => 0,
        },
        sleeper,
    })?;
    let quantile = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Latency {
        p50: quantile(0.5),
        p99: quantile(0.99),
        p999: quantile(0.999),
        max: latency.max() as f64 / 1e3,
    })
}

impl Latency {
    /// The median over the rounds of one of its figures.
    pub fn summary(samples: &[Latency], figure: fn(&Latency) -> f64) -> Option<Summary> {
        Summary::of(samples.iter().map(figure))
    }
}
