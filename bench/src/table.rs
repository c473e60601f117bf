//! The results as tables for people, in Markdown, so that they can be kept.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use crate::runs::sharing::{Latency, Sharing};
use crate::stacks::{Role, Stack};
use crate::statistics::{Comparison, Series, Summary};

/// What Landfall has set itself: its cost against that of the best peer, against the limit, and that
/// of its runtime against its port.
const PEER_BOUND: f64 = 1.03;
/// Of the driver for readiness, to the best peer.
const POLL_BOUND: f64 = 1.05;
const LIMIT_BOUND: f64 = 1.10;
const PORT_BOUND: f64 = 1.10;

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

fn judge(ratio: Option<Summary>, bound: f64, other: &str) -> Option<String> {
    let ratio = ratio?.median;
    let verdict = if ratio <= bound { "holds" } else { "LOSES" };
    Some(format!(
        "{verdict} against {other}, {ratio:.2} (bound {bound:.2})"
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

/// One line a stack: latency of the undisturbing connections, medians over the rounds. Below, how
/// Landfall stands to the others.
pub fn sharing(sharing: &Sharing) -> String {
    let header = [
        "stack",
        "p50",
        "p99",
        "p99.9",
        "p99.9 range",
        "max",
        "client late",
        "rounds",
    ];
    let mut table = new_table(header.map(str::to_owned));
    for row in &sharing.rows {
        let figure = |figure| {
            Latency::summary(&row.samples, figure)
                .map_or("-".to_owned(), |summary| format!("{:.2}", summary.median))
        };
        table.add_row(vec![
            row.stack.name().to_owned(),
            figure(|latency| latency.p50),
            figure(|latency| latency.p99),
            figure(|latency| latency.p999),
            Latency::summary(&row.samples, |latency| latency.p999).map_or("-".to_owned(), range),
            figure(|latency| latency.max),
            figure(|latency| latency.late),
            row.samples.len().to_string(),
        ]);
    }
    let title = &sharing.title;
    let mut text =
        format!("{title}\nms from the planned send time to the reply, the others only\n{table}");
    for row in sharing
        .rows
        .iter()
        .filter(|row| row.stack.role() == Role::Subject)
    {
        let others = sharing
            .rows
            .iter()
            .filter(|row| row.stack.role() == Role::Peer);
        let verdicts: Vec<_> = others.filter_map(|other| against(row, other)).collect();
        text += &format!("\n{}: p99.9 {}", row.stack.name(), verdicts.join(", "));
    }
    text + &failures(sharing.rows.iter())
}

/// "0.10 of tokio's": below one is better.
fn against(row: &Series<Latency>, other: &Series<Latency>) -> Option<String> {
    let p999 = |latency: &Latency| latency.p999;
    let pairs = row.samples.iter().zip(&other.samples);
    let ratio = Summary::of(pairs.map(|(ours, theirs)| p999(ours) / p999(theirs)))?;
    Some(format!("{:.4} of {}'s", ratio.median, other.stack.name()))
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
