//! The results as tables for people, in Markdown, so that they can be kept.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use crate::runs::sharing::{Latency, Sharing};
use crate::stacks::Role;
use crate::statistics::{Comparison, Row, Summary};

/// One line a stack: its cost, and how it stands to the best peer and to the limit.
pub fn comparison(comparison: &Comparison) -> String {
    let name = |role| comparison.best(role).map_or("-", |row| row.series.stack.name());
    let mut table = new_table(vec![
        "stack".to_owned(),
        "median".to_owned(),
        "range".to_owned(),
        format!("/ best peer ({})", name(Role::Peer)),
        format!("/ limit ({})", name(Role::Limit)),
        "rounds".to_owned(),
    ]);
    for row in &comparison.rows {
        table.add_row(cells(row));
    }
    format!("{}\n{}\n{table}", comparison.title, comparison.unit)
}

fn cells(row: &Row) -> Vec<String> {
    let stack = row.series.stack.name().to_owned();
    let Some(cost) = row.cost else {
        return vec![stack, failed(&row.series.failure)];
    };
    vec![
        stack,
        format!("{:.2}", cost.median),
        format!("{:.2} - {:.2}", cost.low, cost.high),
        row.to_peer.map_or("-".to_owned(), ratio),
        row.to_limit.map_or("-".to_owned(), ratio),
        match &row.series.failure {
            None => row.series.samples.len().to_string(),
            failure => failed(failure),
        },
    ]
}

fn ratio(ratio: Summary) -> String {
    format!("{:.2}  ({:.2} - {:.2})", ratio.median, ratio.low, ratio.high)
}

/// One line a stack: latency of the undisturbing connections, medians over the rounds.
pub fn sharing(sharing: &Sharing) -> String {
    let mut table =
        new_table(["stack", "p50", "p99", "p99.9", "p99.9 range", "max", "rounds"].map(str::to_owned));
    for row in &sharing.rows {
        let median = |figure| Latency::summary(&row.samples, figure).map(|summary| summary.median);
        let figure = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        let range = Latency::summary(&row.samples, |latency| latency.p999)
            .map_or("-".to_owned(), |range| format!("{:.2} - {:.2}", range.low, range.high));
        table.add_row(vec![
            row.stack.name().to_owned(),
            figure(median(|latency| latency.p50)),
            figure(median(|latency| latency.p99)),
            figure(median(|latency| latency.p999)),
            range,
            figure(median(|latency| latency.max)),
            match &row.failure {
                None => row.samples.len().to_string(),
                failure => failed(failure),
            },
        ]);
    }
    format!("{}\nms from the planned send time to the reply, the others only\n{table}", sharing.title)
}

fn failed(failure: &Option<String>) -> String {
    format!("failed: {}", failure.as_deref().unwrap_or("no sample"))
}

fn new_table(header: impl IntoIterator<Item = String>) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header.into_iter().collect::<Vec<_>>());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
