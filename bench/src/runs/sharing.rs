//! What connections suffer from a neighbour whose handler computes, or blocks.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;

use crate::client::{Client, Message, OpenLoop, Request};
use crate::priority::{self, Priority};
use crate::protocol::{COMPUTATION, LONG_COMPUTATION, NAP};
use crate::server::{Pinning, Server};
use crate::stacks::{Expected, Stack};
use crate::statistics::{Series, Summary, interleave, percentile};
use crate::stops::{Monitors, Stops};

/// Each sends once a second, no more often than a handler that sleeps lets its neighbours come round:
/// they are delayed, but no backlog grows.
const CONNECTIONS: usize = 2000;
const RATE: u32 = 2000;
const COMPUTE_EVERY: usize = 100;
const COMPUTE_LONG_EVERY: usize = 1000;
const MESSAGE_SIZE: usize = 64;
const WORKERS: usize = 2;
/// Messages are judged by the stops in so much time from when they were planned, all alike, or those that
/// wait for long would be left out more often. What waits longer than this has another reason, whatever
/// stops then.
const JUDGED: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Neighbour {
    None,
    Computes,
    /// For ten times as long, a tenth as often.
    ComputesLong,
    Sleeps,
}

/// Latencies of the others in one run, in milliseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    #[serde(rename = "p50 ms")]
    pub p50: f64,
    #[serde(rename = "p99 ms")]
    pub p99: f64,
    #[serde(rename = "p99.9 ms")]
    pub p999: f64,
    #[serde(rename = "max ms")]
    pub max: f64,
    /// p99.9 of how late the client itself was: no stack can be better than this machine.
    #[serde(rename = "client's p99.9 of lateness, ms")]
    pub late: f64,
    /// `None` without monitors, or if stops left nothing.
    pub without_stops: Option<WithoutStops>,
}

/// The same over the messages that no stop of the machine met.
#[derive(Debug, Serialize)]
pub struct WithoutStops {
    #[serde(rename = "p99 ms without the machine's stops")]
    pub p99: f64,
    #[serde(rename = "p99.9 ms without the machine's stops")]
    pub p999: f64,
    #[serde(rename = "share of messages left out")]
    pub left_out: f64,
    #[serde(rename = "stops per second and processor")]
    pub stops_per_second: f64,
    #[serde(rename = "share of a processor that its monitor took")]
    pub monitor: f64,
    #[serde(rename = "idle processors halted")]
    pub halts: bool,
}

#[derive(Debug, Serialize)]
pub struct Sharing {
    pub neighbour: Neighbour,
    pub title: String,
    pub rows: Vec<Series<Latency>>,
}

#[derive(Clone, Copy)]
pub struct Load {
    pub neighbour: Neighbour,
    pub duration: Duration,
    /// The client waits for no processor, and monitors see when there was none to wait for.
    pub real_time: bool,
}

/// What setting a server up takes in a run, about.
const SET_UP: Duration = Duration::from_millis(500);

/// How long `run` takes, about.
pub fn time(stacks: &[Stack], rounds: usize, duration: Duration) -> Duration {
    (duration + SET_UP) * (stacks.len() * rounds) as u32
}

pub fn run(stacks: &[Stack], rounds: usize, load: Load) -> Sharing {
    let rows = interleave(stacks, rounds, |stack| sample(stack, load));
    Sharing {
        neighbour: load.neighbour,
        title: title(load.neighbour),
        rows,
    }
}

fn title(neighbour: Neighbour) -> String {
    let neighbour = match neighbour {
        Neighbour::None => "no disturbance".to_owned(),
        Neighbour::Computes => computing(COMPUTE_EVERY, COMPUTATION),
        Neighbour::ComputesLong => computing(COMPUTE_LONG_EVERY, LONG_COMPUTATION),
        Neighbour::Sleeps => {
            format!(
                "one more connection keeps its handler asleep, {} s at a time",
                NAP.as_secs()
            )
        }
    };
    format!("{neighbour}; {CONNECTIONS} connections, {RATE} messages/s, {WORKERS} workers")
}

fn computing(every: usize, time: Duration) -> String {
    format!(
        "one connection in {every} computes {} ms per message ({:.1} processor in all)",
        time.as_millis(),
        f64::from(RATE) / every as f64 * time.as_secs_f64()
    )
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
    client.shuffle();
    client.closed_loop(0, 2 * CONNECTIONS)?;
    let open_loop = OpenLoop {
        rate: RATE,
        duration: load.duration,
        computing: match load.neighbour {
            Neighbour::Computes => Some((COMPUTE_EVERY, Request::Compute)),
            Neighbour::ComputesLong => Some((COMPUTE_LONG_EVERY, Request::ComputeLong)),
            Neighbour::None | Neighbour::Sleeps => None,
        },
        sleeper,
    };
    let monitors = load
        .real_time
        .then(|| Monitors::start(Pinning::of(WORKERS).client))
        .transpose()?;
    if load.real_time {
        priority::set(Priority::Client)?;
    }
    let messages = client.open_loop(&open_loop);
    priority::set(Priority::Ordinary)?;
    let stops = monitors.map(Monitors::finish).transpose()?;
    Latency::of(&messages?, stops.as_ref()).context("no message came back")
}

impl Latency {
    fn of(messages: &[Message], stops: Option<&Stops>) -> Option<Self> {
        let latencies = sorted(messages.iter().map(latency));
        let lateness = sorted(
            messages
                .iter()
                .map(|message| message.reached - message.planned),
        );
        Some(Self {
            p50: milliseconds(percentile(&latencies, 0.5)?),
            p99: milliseconds(percentile(&latencies, 0.99)?),
            p999: milliseconds(percentile(&latencies, 0.999)?),
            max: milliseconds(percentile(&latencies, 1.0)?),
            late: milliseconds(percentile(&lateness, 0.999)?),
            without_stops: stops.and_then(|stops| WithoutStops::of(messages, stops)),
        })
    }

    /// The median over the rounds of one of its figures.
    pub fn summary(
        samples: &[Latency],
        figure: impl Fn(&Latency) -> Option<f64>,
    ) -> Option<Summary> {
        Summary::of(samples.iter().filter_map(figure))
    }
}

impl WithoutStops {
    fn of(messages: &[Message], stops: &Stops) -> Option<Self> {
        let kept = messages.iter().filter(|message| !is_met(message, stops));
        let latencies = sorted(kept.map(latency));
        Some(Self {
            p99: milliseconds(percentile(&latencies, 0.99)?),
            p999: milliseconds(percentile(&latencies, 0.999)?),
            left_out: 1.0 - latencies.len() as f64 / messages.len() as f64,
            stops_per_second: stops.per_second(),
            monitor: stops.share(),
            halts: stops.halts,
        })
    }
}

fn is_met(message: &Message, stops: &Stops) -> bool {
    stops.meet(message.planned, message.planned + JUDGED)
}

fn latency(message: &Message) -> Duration {
    message.answered - message.planned
}

fn sorted(durations: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut sorted: Vec<_> = durations.collect();
    sorted.sort_unstable();
    sorted
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::stops::tests::stops;

    /// One message every 10 ms, answered after so many milliseconds each.
    fn messages(start: Instant, latencies: &[u64]) -> Vec<Message> {
        let message = |(number, &latency): (usize, &u64)| {
            let planned = start + Duration::from_millis(10 * number as u64);
            Message {
                planned,
                reached: planned + Duration::from_millis(1),
                answered: planned + Duration::from_millis(latency),
            }
        };
        latencies.iter().enumerate().map(message).collect()
    }

    #[test]
    fn messages_that_met_a_stop_count_in_the_raw_figures_only() {
        let start = Instant::now();
        let messages = messages(start, &[2, 2, 9, 3]);
        let latency = Latency::of(&messages, Some(&stops(start, &[&[], &[(20, 22)]]))).unwrap();
        assert_eq!((latency.p50, latency.p999, latency.max), (2.0, 9.0, 9.0));
        assert_eq!(latency.late, 1.0);
        let without = latency.without_stops.unwrap();
        assert_eq!(
            (without.p99, without.p999, without.left_out),
            (3.0, 3.0, 0.25)
        );
    }

    #[test]
    fn a_message_is_judged_by_its_first_millisecond() {
        let start = Instant::now();
        let messages = messages(start, &[1000]);
        let of = |processors| Latency::of(&messages, Some(&stops(start, processors))).unwrap();
        let late_stop = of(&[&[(1, 30), (500, 510)]]);
        assert_eq!(late_stop.without_stops.unwrap().p999, 1000.0);
        let early_stop = of(&[&[(0, 30)]]);
        assert!(early_stop.without_stops.is_none(), "nothing is left");
        assert_eq!(early_stop.p999, 1000.0);
    }

    #[test]
    fn a_message_right_after_a_stop_has_met_it() {
        let start = Instant::now();
        let messages = messages(start, &[1, 1, 1]);
        let stops = stops(start, &[&[(5, 9), (16, 18)]]);
        let met: Vec<_> = messages
            .iter()
            .map(|message| is_met(message, &stops))
            .collect();
        assert_eq!(met, [false, true, false], "1 ms after it, but not 2 ms");
    }

    #[test]
    fn there_are_no_figures_without_stops_where_nobody_watched() {
        let start = Instant::now();
        let latency = Latency::of(&messages(start, &[1]), None).unwrap();
        assert!(latency.without_stops.is_none());
        assert!(Latency::of(&[], None).is_none());
    }
}
