//! The results as tables for people, in Markdown, so that they can be kept.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use crate::runs::sharing::{Latency, Neighbour, Sharing};
use crate::stacks::{Role, Stack};
use crate::statistics::{self, Comparison, Series, Summary};

/// What Landfall has set itself: its cost against that of the best peer, against the limit, and that
/// of its runtime against its port.
const PEER_BOUND: f64 = 1.03;
/// Of the driver for readiness, to the best peer.
const POLL_BOUND: f64 = 1.05;
const LIMIT_BOUND: f64 = 1.10;
const PORT_BOUND: f64 = 1.10;
/// Of p99.9 beside a neighbour that computes or sleeps: ten times better than the best thread-per-core
/// peer, and not worse than tokio.
const CORE_BOUND: f64 = 0.10;
const TOKIO_BOUND: f64 = 1.00;

/// One line a stack: its cost, and how it stands to the best peer and to the limit. Below, where
/// Landfall holds its bounds and where it loses.
pub fn comparison(comparison: &Comparison) -> String {
    let name = |role| {
        comparison
            .best(role)
            .map_or("-", |row| row.series.stack.name())
    };
    let mut table = new_table(vec![
        "stack".to_owned(),
        "median".to_owned(),
        "range".to_owned(),
        format!("/ best peer ({})", name(Role::Peer)),
        format!("/ limit ({})", name(Role::Limit)),
        "rounds".to_owned(),
    ]);
    for row in &comparison.rows {
        let rounds = row.series.samples.len();
        table.add_row(vec![
            row.series.stack.name().to_owned(),
            row.cost
                .map_or("-".to_owned(), |cost| format!("{:.2}", cost.median)),
            row.cost.map_or("-".to_owned(), range),
            row.to_peer.map_or("-".to_owned(), ratio),
            row.to_limit.map_or("-".to_owned(), ratio),
            rounds.to_string(),
        ]);
    }
    let mut text = format!("{}\n{}\n{table}", comparison.title, comparison.unit);
    for row in &comparison.rows {
        let peer = judge(row.to_peer, PEER_BOUND, name(Role::Peer));
        let limit = judge(row.to_limit, LIMIT_BOUND, name(Role::Limit));
        let port = judge(row.to_port, PORT_BOUND, Stack::LandfallPort.name());
        let verdicts: Vec<_> = match row.series.stack {
            Stack::LandfallPort => [peer, limit].into_iter().flatten().collect(),
            // The ring's limit is not one of readiness.
            Stack::LandfallPoll => judge(row.to_peer, POLL_BOUND, name(Role::Peer))
                .into_iter()
                .collect(),
            Stack::LandfallRuntime => [peer, port].into_iter().flatten().collect(),
            _ => continue,
        };
        text += &format!("\n{}: {}", row.series.stack.name(), verdicts.join("; "));
    }
    text + &failures(comparison.rows.iter().map(|row| &row.series))
}

/// What holds of the whole echo benchmark, where each load above has its own line.
pub fn over_all_loads(loads: &[Comparison]) -> Option<String> {
    let bounds = [
        (Stack::LandfallPort, PEER_BOUND),
        (Stack::LandfallRuntime, PEER_BOUND),
        (Stack::LandfallPoll, POLL_BOUND),
    ];
    let verdicts: Vec<_> = bounds
        .into_iter()
        .filter_map(|(stack, bound)| {
            let ratio = statistics::over_all_loads(loads, stack)?;
            let verdict = judge(Some(ratio), bound, "the best peer of each load")?;
            Some(format!("{}: {verdict}", stack.name()))
        })
        .collect();
    (loads.len() > 1 && !verdicts.is_empty()).then(|| {
        format!(
            "echo, over all {} loads\n{}",
            loads.len(),
            verdicts.join("\n")
        )
    })
}

fn judge(ratio: Option<Summary>, bound: f64, other: &str) -> Option<String> {
    let ratio = ratio?.median;
    let verdict = if ratio <= bound { "holds" } else { "LOSES" };
    let digits = if ratio < 0.1 { 4 } else { 2 };
    Some(format!(
        "{verdict} against {other}, {ratio:.digits$} (bound {bound:.2})"
    ))
}

fn failures<'a, T: 'a>(all: impl Iterator<Item = &'a Series<T>>) -> String {
    all.filter_map(|series| {
        let failure = series.failure.as_ref()?;
        Some(format!("\n{}: FAILED: {failure}", series.stack.name()))
    })
    .collect()
}

fn range(summary: Summary) -> String {
    format!("{:.2} - {:.2}", summary.low, summary.high)
}

fn ratio(ratio: Summary) -> String {
    format!(
        "{:.2}  ({:.2} - {:.2})",
        ratio.median, ratio.low, ratio.high
    )
}

/// A figure of one run of `sharing`.
type Figure = fn(&Latency) -> Option<f64>;

const P999: Figure = |latency| Some(latency.p999);
const P999_WITHOUT_STOPS: Figure = |latency| Some(latency.without_stops.as_ref()?.p999);

/// One line a stack: latency of the undisturbing connections, medians over the rounds. Below, where
/// Landfall holds its bounds and where it loses.
pub fn sharing(sharing: &Sharing) -> String {
    let mut samples = sharing.rows.iter().flat_map(|row| &row.samples);
    let watched = samples.any(|sample| sample.without_stops.is_some());
    let mut header = vec!["stack", "p50", "p99", "p99.9", "p99.9 range", "max"];
    if watched {
        header.extend([
            "p99 without stops",
            "p99.9 without stops",
            "range",
            "left out",
        ]);
    }
    header.extend(["client late", "rounds"]);
    let mut table = new_table(header.into_iter().map(str::to_owned));
    for row in &sharing.rows {
        let summary = |figure: Figure| Latency::summary(&row.samples, figure);
        let median = |figure| number(summary(figure), |summary| format!("{:.2}", summary.median));
        let mut cells = vec![
            row.stack.name().to_owned(),
            median(|latency| Some(latency.p50)),
            median(|latency| Some(latency.p99)),
            median(P999),
            number(summary(P999), range),
            median(|latency| Some(latency.max)),
        ];
        if watched {
            let left_out = summary(|latency| Some(latency.without_stops.as_ref()?.left_out));
            cells.extend([
                median(|latency| Some(latency.without_stops.as_ref()?.p99)),
                median(P999_WITHOUT_STOPS),
                number(summary(P999_WITHOUT_STOPS), range),
                number(left_out, |part| format!("{:.1} %", part.median * 100.0)),
            ]);
        }
        cells.extend([
            median(|latency| Some(latency.late)),
            row.samples.len().to_string(),
        ]);
        table.add_row(cells);
    }
    let title = &sharing.title;
    let mut text =
        format!("{title}\nms from the planned send time to the reply, the others only\n{table}");
    text += &monitored(sharing);
    if sharing.neighbour != Neighbour::None {
        for row in &sharing.rows {
            text += &sharing_verdicts(row, &sharing.rows);
        }
    }
    text + &failures(sharing.rows.iter())
}

/// What the monitors saw and took, or nothing without them.
fn monitored(sharing: &Sharing) -> String {
    let samples = sharing.rows.iter().flat_map(|row| &row.samples);
    let watched = || {
        samples
            .clone()
            .filter_map(|sample| sample.without_stops.as_ref())
    };
    let stops = Summary::of(watched().map(|without| without.stops_per_second));
    let share = Summary::of(watched().map(|without| without.monitor));
    let (Some(stops), Some(share)) = (stops, share) else {
        return String::new();
    };
    let halts = match watched().any(|without| without.halts) {
        true => {
            "; idle processors halted (/dev/cpu_dma_latency is missing), which looks like stops"
        }
        false => "",
    };
    format!(
        "\nstops seen: {:.0} a second and processor ({:.0} - {:.0}); each monitor took {:.1} % of its processor{halts}",
        stops.median,
        stops.low,
        stops.high,
        share.median * 100.0
    )
}

/// How the port or the runtime stands to the best thread-per-core peer and to tokio, over all messages
/// and over those that no stop met.
fn sharing_verdicts(row: &Series<Latency>, all: &[Series<Latency>]) -> String {
    if !matches!(row.stack, Stack::LandfallPort | Stack::LandfallRuntime) {
        return String::new();
    }
    let figures = [("p99.9", P999), ("p99.9 without stops", P999_WITHOUT_STOPS)];
    let lines = figures.map(|(name, figure)| {
        let core = best_of(all, figure, Stack::is_thread_per_core);
        let tokio = best_of(all, figure, |stack| stack == Stack::Tokio);
        let judge = |other: Option<&Series<Latency>>, bound| {
            let other = other?;
            judge(paired(row, other, figure), bound, other.stack.name())
        };
        let verdicts = [judge(core, CORE_BOUND), judge(tokio, TOKIO_BOUND)];
        let verdicts: Vec<_> = verdicts.into_iter().flatten().collect();
        match verdicts.is_empty() {
            true => String::new(),
            false => format!("\n{}: {name} {}", row.stack.name(), verdicts.join("; ")),
        }
    });
    lines.concat()
}

/// The complete series of such a stack with the lowest median.
fn best_of(
    all: &[Series<Latency>],
    figure: Figure,
    such: impl Fn(Stack) -> bool,
) -> Option<&Series<Latency>> {
    let median = |row: &Series<Latency>| {
        Latency::summary(&row.samples, figure).map_or(f64::INFINITY, |summary| summary.median)
    };
    all.iter()
        .filter(|row| such(row.stack) && row.failure.is_none())
        .min_by(|a, b| median(a).total_cmp(&median(b)))
}

/// The ratio within each round that has the figure of both: below one is better.
fn paired(row: &Series<Latency>, other: &Series<Latency>, figure: Figure) -> Option<Summary> {
    let pairs = row.samples.iter().zip(&other.samples);
    Summary::of(pairs.filter_map(|(ours, theirs)| Some(figure(ours)? / figure(theirs)?)))
}

fn number(summary: Option<Summary>, format: impl Fn(Summary) -> String) -> String {
    summary.map_or("-".to_owned(), format)
}

fn new_table(header: impl IntoIterator<Item = String>) -> Table {
    let mut table = Table::new();
    table
        .load_style(ASCII_MARKDOWN)
        .set_header(header.into_iter().collect::<Vec<_>>());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::sharing::WithoutStops;

    /// p99.9 over all messages and without stops, a pair a round.
    fn row(stack: Stack, rounds: &[(f64, Option<f64>)]) -> Series<Latency> {
        let sample = |&(p999, without_stops): &(f64, Option<f64>)| Latency {
            p50: 0.1,
            p99: 0.2,
            p999,
            max: 9.0,
            late: 0.3,
            without_stops: without_stops.map(|p999| WithoutStops {
                p99: 0.2,
                p999,
                left_out: 0.05,
                stops_per_second: 30.0,
                monitor: 0.06,
                halts: false,
            }),
        };
        Series {
            stack,
            samples: rounds.iter().map(sample).collect(),
            failure: None,
        }
    }

    fn shown(neighbour: Neighbour, rows: Vec<Series<Latency>>) -> String {
        sharing(&Sharing {
            neighbour,
            title: String::new(),
            rows,
        })
    }

    #[test]
    fn sharing_is_judged_with_and_without_stops_against_the_better_thread_per_core_peer_and_tokio()
    {
        let rows = || {
            vec![
                row(Stack::LandfallPort, &[(4.0, Some(0.5)), (40.0, Some(0.5))]),
                row(Stack::Tokio, &[(2.0, Some(1.0)), (20.0, Some(1.0))]),
                row(Stack::Compio, &[(9.0, Some(6.0)), (90.0, Some(6.0))]),
                row(Stack::Monoio, &[(8.0, Some(7.0)), (80.0, Some(7.0))]),
            ]
        };
        let text = shown(Neighbour::Computes, rows());
        let raw = "landfall-port: p99.9 LOSES against monoio, 0.50 (bound 0.10); LOSES against tokio, 2.00 (bound 1.00)";
        let without = "landfall-port: p99.9 without stops holds against compio, 0.0833 (bound 0.10); holds against tokio, 0.50 (bound 1.00)";
        assert!(text.contains(raw), "{text}");
        assert!(text.contains(without), "{text}");
        assert!(text.contains("5.0 %"), "{text}");
        assert!(text.contains("took 6.0 % of its processor"), "{text}");
        assert!(!shown(Neighbour::None, rows()).contains("against"));
    }

    #[test]
    fn sharing_shows_no_figures_without_stops_where_nobody_watched() {
        let rows = vec![
            row(Stack::LandfallRuntime, &[(1.0, None)]),
            row(Stack::Tokio, &[(2.0, None)]),
        ];
        let text = shown(Neighbour::Sleeps, rows);
        assert!(
            text.contains("landfall-runtime: p99.9 holds against tokio, 0.50"),
            "{text}"
        );
        assert!(!text.contains("stops"), "{text}");
    }
}
