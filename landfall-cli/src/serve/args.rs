//! The flags of `landfall serve`.

use std::time::Duration;

use clap::Args;

use crate::metrics::MetricsArgs;
use crate::options::RuntimeOptions;
use crate::output::OutputArgs;
use crate::units::{Limit, Share, parse_count, parse_share, parse_time};

/// Serve echo (RFC 862) or discard (RFC 863).
///
/// Prints the addresses it listens on to standard output as soon as clients can come, and what it
/// has served when it ends: after SIGINT or SIGTERM, when the connections have closed or
/// --drain-timeout is over.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  landfall serve 127.0.0.1:7000
  landfall serve 0.0.0.0:7000 127.0.0.1:7001 --max-conns 50k --idle-timeout 1m
  landfall serve 127.0.0.1:7000 --sleep 1s --slow 1%
                          one connection in a hundred has a handler that blocks

Exit codes: 0 done, 1 failed, 2 usage, 4 a limit of this machine, 130 or 143
stopped by a second signal.")]
pub struct ServeArgs {
    /// Where to listen, as HOST:PORT; port 0 lets the system choose
    #[arg(
        value_name = "ADDR",
        required = true,
        env = "LANDFALL_LISTEN",
        value_delimiter = ','
    )]
    pub addresses: Vec<String>,

    /// Send everything back; this is the default
    #[arg(long, env = "LANDFALL_ECHO", conflicts_with = "discard")]
    pub echo: bool,

    /// Receive only
    #[arg(long, env = "LANDFALL_DISCARD")]
    pub discard: bool,

    /// Connections served at any one time; more wait until one ends
    #[arg(
        long, value_name = "COUNT", default_value = "none",
        value_parser = Limit::parser(parse_count), env = "LANDFALL_MAX_CONNS"
    )]
    pub max_conns: Limit<u32>,

    /// Close a connection without traffic for this long
    #[arg(
        long, value_name = "TIME", default_value = "none", value_parser = Limit::parser(parse_time),
        env = "LANDFALL_IDLE_TIMEOUT"
    )]
    pub idle_timeout: Limit<Duration>,

    /// Compute for this long on every message of the slow connections
    #[arg(
        long, value_name = "TIME", default_value = "none", value_parser = Limit::parser(parse_time),
        env = "LANDFALL_BUSY", conflicts_with = "sleep", group = "delay"
    )]
    pub busy: Limit<Duration>,

    /// Block the thread for this long on every message of the slow connections
    #[arg(
        long, value_name = "TIME", default_value = "none", value_parser = Limit::parser(parse_time),
        env = "LANDFALL_SLEEP", group = "delay"
    )]
    pub sleep: Limit<Duration>,

    /// The share of connections that are slow, with --busy or --sleep
    #[arg(
        long, value_name = "SHARE%", default_value = "1%", value_parser = parse_share,
        env = "LANDFALL_SLOW", requires = "delay"
    )]
    pub slow: Share,

    /// How long to let connections finish after SIGINT or SIGTERM; a second signal stops at once
    #[arg(
        long, value_name = "TIME", default_value = "30s", value_parser = parse_time,
        env = "LANDFALL_DRAIN_TIMEOUT"
    )]
    pub drain_timeout: Duration,

    /// Where metrics are to be had.
    #[command(flatten)]
    pub metrics: MetricsArgs,

    /// The flags all subcommands share.
    #[command(flatten)]
    pub runtime: RuntimeOptions,

    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,
}
