//! The flags of `landfall load`.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;

use super::fail_if::Condition;
use crate::options::RuntimeOptions;
use crate::output::OutputArgs;
use crate::units::{Limit, Rate, parse_count, parse_rate, parse_size, parse_time};

/// Open many connections, send messages on a schedule, and check every byte of the echo.
///
/// All connections are opened first; then each sends its messages, one every interval, the
/// connections spread evenly over it. Latency counts from the moment a message was planned to be
/// sent, so a stall of the target is not hidden by messages that waited for it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  landfall load 127.0.0.1:7000 -c 30k --messages 3 --interval 3s
  landfall load example.net:7 -c 100 --duration 1m --rate 500/s
                --fail-if 'p99>50ms'
  landfall load 127.0.0.1:7 -c 50 --interval 0s --duration 10s
                              each message as soon as the last is answered

Exit codes: 0 done, 1 failed, 2 usage, 3 a message was lost, changed or not
sent, or a --fail-if came true, 4 a limit of this machine, 130 or 143 stopped
before the run had begun, by a second signal, or when --drain-timeout was over.")]
pub struct LoadArgs {
    /// Where to connect, as HOST:PORT
    #[arg(value_name = "TARGET", env = "LANDFALL_TARGET")]
    pub target: String,

    /// How many connections to open
    #[arg(
        short, long, value_name = "COUNT", default_value = "100", value_parser = parse_count,
        env = "LANDFALL_CONNECTIONS"
    )]
    pub connections: u32,

    /// How many messages each connection sends
    #[arg(
        long, value_name = "COUNT", default_value = "3", value_parser = parse_count,
        env = "LANDFALL_MESSAGES"
    )]
    pub messages: u32,

    /// Send for this long instead of a number of messages
    #[arg(
        short, long, value_name = "TIME", default_value = "none",
        value_parser = Limit::parser(parse_time), env = "LANDFALL_DURATION",
        conflicts_with = "messages"
    )]
    pub duration: Limit<Duration>,

    /// Time between two messages of one connection; 0s: each as soon as the last is answered
    #[arg(
        long, value_name = "TIME", default_value = "3s", value_parser = parse_time,
        env = "LANDFALL_INTERVAL"
    )]
    pub interval: Duration,

    /// Messages over all connections together, instead of an interval
    #[arg(
        long, value_name = "COUNT/s", default_value = "none",
        value_parser = Limit::parser(parse_rate), env = "LANDFALL_LOAD_RATE",
        conflicts_with = "interval"
    )]
    pub rate: Limit<Rate>,

    /// Size of a message; its bytes differ for every connection and message
    #[arg(
        long, value_name = "SIZE", default_value = "64", value_parser = parse_size,
        env = "LANDFALL_SIZE"
    )]
    pub size: u64,

    /// Send this text, or the contents of @FILE, instead of bytes of our own
    #[arg(
        long,
        value_name = "TEXT|@FILE",
        env = "LANDFALL_MESSAGE",
        conflicts_with = "size"
    )]
    pub message: Option<String>,

    /// The target never answers (RFC 863): send only
    #[arg(long, env = "LANDFALL_DISCARD")]
    pub discard: bool,

    /// Count the echoed bytes, but do not compare them
    #[arg(long, env = "LANDFALL_NO_VERIFY", conflicts_with = "discard")]
    pub no_verify: bool,

    /// Longest wait for a connect, for a message to be answered, and for the target to close
    #[arg(
        long, value_name = "TIME", default_value = "10s", value_parser = parse_time,
        env = "LANDFALL_LOAD_TIMEOUT"
    )]
    pub timeout: Duration,

    /// Connects begun at most at this rate
    #[arg(
        long, value_name = "COUNT/s", default_value = "none",
        value_parser = Limit::parser(parse_rate), env = "LANDFALL_CONNECT_RATE"
    )]
    pub connect_rate: Limit<Rate>,

    /// Connects under way at any one time; more than the target's accept queue costs a second each
    #[arg(
        long, value_name = "COUNT", default_value = "128", value_parser = parse_count,
        env = "LANDFALL_MAX_CONNECTING"
    )]
    pub max_connecting: u32,

    /// Addresses of this machine to connect from, in turn [default: the system's choice; more of
    /// 127.0.0.0/8 when the target is there and ports run short]
    #[arg(
        long,
        value_name = "IP",
        value_delimiter = ',',
        env = "LANDFALL_SOURCE_IP"
    )]
    pub source_ip: Vec<IpAddr>,

    /// Exit with code 3 if this comes true, as in 'p99>50ms' or 'lost>0'; may be given several
    /// times
    ///
    /// Latencies: p50, p99, p99.9 and so on, max, mean; the same after connect_ and send_delay_.
    /// Counts: connected, refused, connect_failed, connects_over_1s, sent, answered, verified,
    /// mismatched, lost, unsent, extra_bytes, unclosed, errors.
    #[arg(
        long,
        value_name = "CONDITION",
        value_delimiter = ',',
        env = "LANDFALL_FAIL_IF"
    )]
    pub fail_if: Vec<Condition>,

    /// How long to wait for answers under way after SIGINT or SIGTERM; a second signal stops at
    /// once
    #[arg(
        long, value_name = "TIME", default_value = "30s", value_parser = parse_time,
        env = "LANDFALL_DRAIN_TIMEOUT"
    )]
    pub drain_timeout: Duration,

    /// The flags all subcommands share.
    #[command(flatten)]
    pub runtime: RuntimeOptions,

    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,
}
