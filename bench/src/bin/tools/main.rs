//! The tool's relay, scanner and file server beside programs of their kind, which are Debian's packages
//! (`rustscan` is the Rust registry's). See `README.md`.
//!
//! ```text
//! cargo build --release -p landfall-cli -p landfall-bench
//! target/release/tools map
//! ```

#![deny(unsafe_code, clippy::undocumented_unsafe_blocks)]

mod bulk;
#[allow(
    unsafe_code,
    reason = "it is written on a ring by hand, to cost little"
)]
#[allow(dead_code, reason = "the echo benchmark uses all of it")]
#[path = "../../client.rs"]
mod client;
mod files;
mod map;
mod process;
#[allow(dead_code, reason = "the echo benchmark uses all of it")]
#[path = "../../protocol.rs"]
mod protocol;
mod rounds;
mod scan;
#[path = "../../summary.rs"]
mod summary;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Compares `landfall map`, `scan` and `files` with programs of their kind
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Rounds; each takes one sample of each program, in an order that reverses (A B B A)
    #[arg(long, global = true, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

#[derive(Subcommand, Clone, Copy)]
enum Command {
    /// Processor time per relayed GB and per relayed message, beside HAProxy and nginx
    Map,
    /// Time to scan all ports of a loopback address, beside nmap and RustScan
    Scan,
    /// Processor time per request and per GB, beside nginx
    Files,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let rounds = usize::from(cli.rounds);
    let holds = match cli.command {
        Command::Map => map::run(rounds)?,
        Command::Scan => scan::run(rounds)?,
        Command::Files => files::run(rounds)?,
    };
    Ok(match holds {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
