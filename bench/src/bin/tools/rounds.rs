//! Samples taken in rounds, and what is said of them.

use anyhow::{Context, Result};
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use crate::summary::Summary;

/// What one program gave in each round.
pub struct Series {
    pub name: &'static str,
    samples: Vec<f64>,
}

/// Takes a sample of each program in each round, in an order that reverses from round to round, so that
/// a drift of the machine meets all alike.
pub fn interleave<T>(
    programs: &mut [(&'static str, T)],
    rounds: usize,
    mut sample: impl FnMut(&mut T) -> Result<f64>,
) -> Result<Vec<Series>> {
    let mut all: Vec<_> = programs
        .iter()
        .map(|&(name, _)| Series {
            name,
            samples: Vec::new(),
        })
        .collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..programs.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let (name, program) = &mut programs[index];
            let value = sample(program).with_context(|| name.to_owned())?;
            all[index].samples.push(value);
        }
    }
    Ok(all)
}

/// Prints a table of costs (less is better), each beside those of the first program, which is to cost no
/// more than any of `peers`. Returns whether that holds.
pub fn show(title: &str, unit: &str, all: &[Series], peers: &[&str]) -> bool {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["program", "median", "range", "ours / this", "rounds"]);
    let Some(ours) = all.first() else {
        return true;
    };
    let mut holds = true;
    let mut lost = String::new();
    for series in all {
        let Some(cost) = Summary::of(series.samples.iter().copied()) else {
            continue;
        };
        let pairs = ours.samples.iter().zip(&series.samples);
        let Some(ratio) = Summary::of(pairs.map(|(ours, theirs)| ours / theirs)) else {
            continue;
        };
        if peers.contains(&series.name) && ratio.median > 1.0 {
            holds = false;
            lost += &format!("LOSES against {}: {:.2}\n", series.name, ratio.median);
        }
        table.add_row([
            series.name.to_owned(),
            format!("{:.3}", cost.median),
            format!("{:.3} - {:.3}", cost.low, cost.high),
            format!(
                "{:.2}  ({:.2} - {:.2})",
                ratio.median, ratio.low, ratio.high
            ),
            series.samples.len().to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{title}\n{unit}\n{table}\n{lost}");
    holds
}
