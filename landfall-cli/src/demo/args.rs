//! The flags of `landfall demo`.

use std::time::Duration;

use clap::Args;

use crate::options::RuntimeOptions;
use crate::output::OutputArgs;
use crate::units::{parse_count, parse_size, parse_time};

/// The headline run: 30,000 connections on this machine, server and client as two processes.
///
/// Starts `landfall serve` and `landfall load` on loopback, each a process of its own, and shows
/// what they came to beside the figures of the tutorial that Landfall goes back to.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  landfall demo
  landfall demo -c 1k --messages 10 --interval 1s --json
  landfall demo --discard                the server only receives: like for like

Exit codes: 0 done, 1 failed, 2 usage, 3 a message was lost, changed or not
sent, 4 a limit of this machine, 130 or 143 stopped before the run had begun, or
by a second signal.")]
pub struct DemoArgs {
    /// How many connections to open
    #[arg(
        short, long, value_name = "COUNT", default_value = "30k", value_parser = parse_count,
        env = "LANDFALL_CONNECTIONS"
    )]
    pub connections: u32,

    /// How many messages each connection sends
    #[arg(
        long, value_name = "COUNT", default_value = "3", value_parser = parse_count,
        env = "LANDFALL_MESSAGES"
    )]
    pub messages: u32,

    /// Time between two messages of one connection
    #[arg(
        long, value_name = "TIME", default_value = "3s", value_parser = parse_time,
        env = "LANDFALL_INTERVAL"
    )]
    pub interval: Duration,

    /// Size of a message
    #[arg(
        long, value_name = "SIZE", default_value = "64", value_parser = parse_size,
        env = "LANDFALL_SIZE"
    )]
    pub size: u64,

    /// The server only receives, as the tutorial's does, instead of echoing
    #[arg(long, env = "LANDFALL_DISCARD")]
    pub discard: bool,

    /// Longest wait for a connect, and for a message to be answered
    #[arg(
        long, value_name = "TIME", default_value = "10s", value_parser = parse_time,
        env = "LANDFALL_DEMO_TIMEOUT"
    )]
    pub timeout: Duration,

    /// The flags all subcommands share, here for both processes.
    #[command(flatten)]
    pub runtime: RuntimeOptions,

    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,
}
