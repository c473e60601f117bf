//! Makes `docs/contract-table.md`: statement by driver, what the tests showed.
//!
//! ```text
//! contract-table [--check] <results>
//! ```
//!
//! The verdicts and their sentences are read from `docs/contract.md`, what the tests said from
//! `<results>/<driver>.txt`, which hold the output of `cargo test`, and what Wine cannot show from
//! `.ci/not-under-wine`. It fails, and writes nothing, when they do not fit each other. With `--check`
//! it writes nothing either, and fails when the table is not the one that is there.

mod promises;
mod results;
mod table;
mod unshown;

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use promises::Promises;
use results::Results;
use unshown::Unshown;

/// By their columns in the table.
const DRIVERS: [&str; 3] = ["uring", "poll", "iocp"];
/// The one that has been seen under Wine only.
const UNDER_WINE: &str = "iocp";
/// Statements, from 1 on.
const STATEMENTS: u32 = 65;

const PROMISES: &str = "docs/contract.md";
const NOT_UNDER_WINE: &str = ".ci/not-under-wine";
const TABLE: &str = "docs/contract-table.md";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (check, results) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--check", results] => (true, Path::new(results)),
        [results] if !results.starts_with('-') => (false, Path::new(results)),
        _ => bail!("usage: contract-table [--check] <directory of the results>"),
    };
    let promises = Promises::parse(&read(PROMISES)?);
    let unshown = Unshown::parse(&read(NOT_UNDER_WINE)?);
    let results = DRIVERS
        .iter()
        .map(|driver| read(results.join(format!("{driver}.txt"))).map(|text| Results::parse(&text)))
        .collect::<anyhow::Result<Vec<_>>>()?;

    let table = match table::make(&promises, &unshown, &results) {
        Ok(table) => table,
        Err(faults) => bail!(
            "the contract and its tests do not fit:\n  {}",
            faults.join("\n  ")
        ),
    };
    if !check {
        return fs::write(TABLE, table).with_context(|| format!("cannot write {TABLE}"));
    }
    if read(TABLE)? != table {
        bail!("{TABLE} is not what the tests showed; make it again with `.ci/contract-table`");
    }
    Ok(())
}

fn read(path: impl AsRef<Path>) -> anyhow::Result<String> {
    let path = path.as_ref();
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
