//! Samples taken in rounds, and their comparison by ratios within each round.
//!
//! The speed of a machine drifts over minutes by more than the stacks differ. Within a round it
//! hardly does, so stacks are compared round by round, and of those ratios the median counts.

use anyhow::Result;
use serde::Serialize;

use crate::stacks::{Role, Stack};
pub use crate::summary::Summary;

/// The smallest value that at least this part of the values does not exceed. `None` without values.
pub fn percentile<T: Copy>(sorted: &[T], part: f64) -> Option<T> {
    // Without the rounding error of 0.999 * 1000, which lies above 999 otherwise.
    let rank = (part * sorted.len() as f64 - 1e-9).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// What one stack gave in each round.
#[derive(Debug, Serialize)]
pub struct Series<T> {
    pub stack: Stack,
    pub samples: Vec<T>,
    /// Why it stopped giving any.
    pub failure: Option<String>,
}

impl<T> Series<T> {
    fn new(stack: Stack) -> Self {
        Self {
            stack,
            samples: Vec::new(),
            failure: None,
        }
    }

    fn fail(&mut self, error: &anyhow::Error) {
        self.failure = Some(format!("{error:#}"));
    }
}

/// Takes a sample of each stack in each round, in an order that reverses from round to round
/// (A B B A), so that a drift of the machine meets all alike. A stack that fails is out.
pub fn interleave<T>(
    stacks: &[Stack],
    rounds: usize,
    mut sample: impl FnMut(Stack) -> Result<T>,
) -> Vec<Series<T>> {
    let mut all: Vec<_> = stacks.iter().map(|&stack| Series::new(stack)).collect();
    for round in 0..rounds {
        in_turn(&mut all, round, |series| {
            if series.failure.is_none() {
                match sample(series.stack) {
                    Ok(value) => series.samples.push(value),
                    Err(error) => series.fail(&error),
                }
            }
        });
    }
    all
}

/// The same in slices, for what takes milliseconds: in each round all stacks are set up, then take
/// turns slice by slice, and a sample is the mean of a stack's slices. Interference by whatever else
/// the machine does lasts longer than a slice, so it meets all stacks of the round.
pub fn interleave_slices<Session>(
    stacks: &[Stack],
    rounds: usize,
    slices: usize,
    mut set_up: impl FnMut(Stack) -> Result<Session>,
    mut slice: impl FnMut(&mut Session) -> Result<f64>,
) -> Vec<Series<f64>> {
    struct Turn<Session> {
        session: Result<Session>,
        sum: f64,
    }
    let mut all: Vec<_> = stacks.iter().map(|&stack| Series::new(stack)).collect();
    for _ in 0..rounds {
        let running = all.iter_mut().filter(|series| series.failure.is_none());
        let mut turns: Vec<_> = running
            .map(|series| {
                (
                    Turn {
                        session: set_up(series.stack),
                        sum: 0.0,
                    },
                    series,
                )
            })
            .collect();
        for number in 0..slices {
            in_turn(&mut turns, number, |(turn, _)| {
                if let Ok(session) = &mut turn.session {
                    match slice(session) {
                        Ok(value) => turn.sum += value,
                        Err(error) => turn.session = Err(error),
                    }
                }
            });
        }
        for (turn, series) in turns {
            match turn.session {
                Ok(_) => series.samples.push(turn.sum / slices as f64),
                Err(error) => series.fail(&error),
            }
        }
    }
    all
}

/// Forwards in even rounds, backwards in odd ones.
fn in_turn<T>(all: &mut [T], round: usize, visit: impl FnMut(&mut T)) {
    match round % 2 {
        0 => all.iter_mut().for_each(visit),
        _ => all.iter_mut().rev().for_each(visit),
    }
}

/// A cost (less is better) of each stack under one load.
#[derive(Debug, Serialize)]
pub struct Comparison {
    pub title: String,
    pub unit: &'static str,
    pub rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
pub struct Row {
    #[serde(flatten)]
    pub series: Series<f64>,
    pub cost: Option<Summary>,
    /// Paired ratio to the best of the peers.
    pub to_peer: Option<Summary>,
    /// Paired ratio to the better of the two hand-written rings.
    pub to_limit: Option<Summary>,
    /// Paired ratio to Landfall's port.
    pub to_port: Option<Summary>,
}

impl Comparison {
    pub fn new(title: String, unit: &'static str, all: Vec<Series<f64>>) -> Self {
        let peer = best(&all, Role::Peer).map(|series| series.samples.clone());
        let limit = best(&all, Role::Limit).map(|series| series.samples.clone());
        let port = all
            .iter()
            .find(|series| series.stack == Stack::LandfallPort);
        let port = port.map(|series| series.samples.clone());
        let rows = all
            .into_iter()
            .map(|series| Row {
                cost: Summary::of(series.samples.iter().copied()),
                to_peer: peer.as_ref().and_then(|peer| ratio(&series.samples, peer)),
                to_limit: limit
                    .as_ref()
                    .and_then(|limit| ratio(&series.samples, limit)),
                to_port: port.as_ref().and_then(|port| ratio(&series.samples, port)),
                series,
            })
            .collect();
        Self { title, unit, rows }
    }

    pub fn best(&self, role: Role) -> Option<&Row> {
        self.rows
            .iter()
            .filter(|row| row.series.stack.role() == role && row.series.failure.is_none())
            .min_by(|a, b| median(&a.series).total_cmp(&median(&b.series)))
    }

    /// The ratios of a stack to the best peer, round by round; none without both.
    fn ratios_to_peer(&self, stack: Stack) -> impl Iterator<Item = f64> {
        let row = self.rows.iter().find(|row| row.series.stack == stack);
        row.zip(self.best(Role::Peer))
            .into_iter()
            .flat_map(|(row, peer)| paired(&row.series.samples, &peer.series.samples))
    }
}

/// The ratios of a stack to the best peer of each load, over all rounds of all loads.
pub fn over_all_loads(loads: &[Comparison], stack: Stack) -> Option<Summary> {
    Summary::of(loads.iter().flat_map(|load| load.ratios_to_peer(stack)))
}

/// The complete series of this role with the lowest median.
fn best(all: &[Series<f64>], role: Role) -> Option<&Series<f64>> {
    all.iter()
        .filter(|series| series.stack.role() == role && series.failure.is_none())
        .min_by(|a, b| median(a).total_cmp(&median(b)))
}

fn median(series: &Series<f64>) -> f64 {
    Summary::of(series.samples.iter().copied()).map_or(f64::INFINITY, |summary| summary.median)
}

/// `None` where the reference costs next to nothing, as a ring's user memory does.
fn ratio(samples: &[f64], reference: &[f64]) -> Option<Summary> {
    if reference.iter().any(|&cost| cost < 0.01) {
        return None;
    }
    Summary::of(paired(samples, reference))
}

fn paired(samples: &[f64], reference: &[f64]) -> impl Iterator<Item = f64> {
    samples
        .iter()
        .zip(reference)
        .map(|(sample, reference)| sample / reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_smallest_value_that_covers_its_part() {
        let thousand: Vec<u32> = (1..=1000).collect();
        assert_eq!(percentile(&thousand, 0.5), Some(500));
        assert_eq!(percentile(&thousand, 0.99), Some(990));
        assert_eq!(percentile(&thousand, 0.999), Some(999));
        assert_eq!(percentile(&thousand, 1.0), Some(1000));
        assert_eq!(percentile(&thousand[..999], 0.999), Some(999));
        assert_eq!(percentile(&[7], 0.999), Some(7));
        assert_eq!(percentile(&[7, 9], 0.0), Some(7));
        assert_eq!(percentile::<u32>(&[], 0.5), None);
    }

    #[test]
    fn ratios_are_paired_within_a_round() {
        // Both slow down alike in the second round; the ratio does not notice.
        let summary = ratio(&[2.0, 20.0], &[1.0, 10.0]).unwrap();
        assert_eq!((summary.low, summary.high), (2.0, 2.0));
    }

    #[test]
    fn the_order_reverses_from_round_to_round_and_failures_drop_out() {
        let mut seen = Vec::new();
        let stacks = [Stack::Tokio, Stack::Compio, Stack::Ring];
        let all = interleave(&stacks, 3, |stack| {
            seen.push(stack);
            anyhow::ensure!(stack != Stack::Compio, "no");
            Ok(1.0)
        });
        let (tokio, ring) = (Stack::Tokio, Stack::Ring);
        assert_eq!(seen, [tokio, Stack::Compio, ring, ring, tokio, tokio, ring]);
        assert_eq!(all[0].samples.len(), 3);
        assert_eq!(all[1].failure.as_deref(), Some("no"));
    }

    #[test]
    fn a_failed_peer_is_not_the_reference() {
        let series = |stack, samples: &[f64], failure: Option<&str>| Series {
            stack,
            samples: samples.to_vec(),
            failure: failure.map(str::to_owned),
        };
        let comparison = Comparison::new(
            String::new(),
            "us",
            vec![
                series(Stack::Tokio, &[4.0, 4.0], None),
                series(Stack::Compio, &[1.0], Some("cut")),
                series(Stack::Ring, &[2.0, 2.0], None),
            ],
        );
        assert_eq!(
            comparison.best(Role::Peer).unwrap().series.stack,
            Stack::Tokio
        );
        assert_eq!(comparison.rows[2].to_peer.unwrap().median, 0.5);
        assert_eq!(comparison.rows[0].to_limit.unwrap().median, 2.0);
    }

    #[test]
    fn over_all_loads_every_round_of_every_load_counts_once() {
        let load = |poll: &[f64], tokio: &[f64]| {
            let series = |stack, samples: &[f64]| Series {
                stack,
                samples: samples.to_vec(),
                failure: None,
            };
            let all = vec![
                series(Stack::LandfallPoll, poll),
                series(Stack::Tokio, tokio),
            ];
            Comparison::new(String::new(), "us", all)
        };
        let loads = [load(&[9.0, 11.0], &[10.0, 10.0]), load(&[30.0], &[20.0])];
        let all = over_all_loads(&loads, Stack::LandfallPoll).unwrap();
        assert_eq!((all.low, all.median, all.high), (0.9, 1.1, 1.5));
        assert!(over_all_loads(&loads, Stack::LandfallPort).is_none());
    }
}
