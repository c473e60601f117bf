//! The flags of `landfall map`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use landfall::net::relay::ZeroCopy;
use serde::Deserialize;

use super::access::parse_network;
use super::balance::Balance;
use crate::metrics::MetricsArgs;
use crate::options::RuntimeOptions;
use crate::output::OutputArgs;
use crate::units::{Limit, parse_count, parse_time};

/// Map ports: pass TCP connections and UDP datagrams on to other addresses.
///
/// A rule is LISTEN=TARGET[,TARGET...], each of them HOST:PORT or HOST:FIRST-LAST; a target's weight
/// follows it, as in HOST:PORT*3. Prints the addresses it listens on to standard output as soon as
/// clients can come, one line for each connection to standard error when it has ended, and what it
/// has done when it ends itself: after SIGINT or SIGTERM, when the connections have closed or
/// --drain-timeout is over.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  landfall map 127.0.0.1:9000=127.0.0.1:7000
  landfall map 0.0.0.0:80=10.0.0.1:8080*3,10.0.0.2:8080 --check
  landfall map 127.0.0.1:9000-9009=example.net:7000-7009 [::1]:53=[::1]:5353
  landfall map --udp 127.0.0.1:53=127.0.0.1:5353
  landfall map --config map.toml          SIGHUP reads it again

Exit codes: 0 done, 1 failed, 2 usage or configuration, 4 a limit of this
machine, 130 or 143 stopped by a second signal.")]
pub struct MapArgs {
    /// A rule: LISTEN=TARGET[,TARGET...]
    #[arg(value_name = "RULE", env = "LANDFALL_MAP", value_delimiter = ' ')]
    pub rules: Vec<String>,

    /// Read rules from a TOML file as well; what it says wins over flags
    #[arg(
        long, value_name = "FILE", default_value = "none", value_parser = Limit::parser(parse_path),
        env = "LANDFALL_CONFIG"
    )]
    pub config: Limit<PathBuf>,

    /// Say whether the rules are right, and end
    #[arg(long, env = "LANDFALL_CHECK_CONFIG")]
    pub check_config: bool,

    /// What rules are like that do not say otherwise.
    #[command(flatten)]
    pub settings: Settings,

    /// Connections of all rules together at any one time; more wait until one ends
    #[arg(
        long, value_name = "COUNT", default_value = "none",
        value_parser = Limit::parser(parse_count), env = "LANDFALL_MAX_CONNS"
    )]
    pub max_conns: Limit<u32>,

    /// How long to let connections finish after SIGINT or SIGTERM; a second signal stops at once
    #[arg(
        long, value_name = "TIME", default_value = "30s", value_parser = parse_time,
        env = "LANDFALL_DRAIN_TIMEOUT"
    )]
    pub drain_timeout: Duration,

    /// Write the lines for connections to FILE, opened anew at SIGHUP; `-` is standard error
    #[arg(long, value_name = "FILE", default_value = "-", env = "LANDFALL_LOG")]
    pub log: PathBuf,

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

/// What a rule is like. The same names are in the file of `--config`, for a rule or for all.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The rules are for UDP
    #[arg(long, env = "LANDFALL_UDP")]
    pub udp: bool,

    /// How to share connections out among targets
    #[arg(
        long,
        value_enum,
        value_name = "WAY",
        default_value = "round-robin",
        env = "LANDFALL_BALANCE"
    )]
    pub balance: Balance,

    /// How long a client may wait for a target, all that are tried together
    #[arg(
        long, value_name = "TIME", default_value = "5s", value_parser = parse_time,
        env = "LANDFALL_CONNECT_TIMEOUT"
    )]
    pub connect_timeout: Duration,

    /// End a connection in which no byte has moved for this long
    #[arg(
        long, value_name = "TIME", default_value = "10m", value_parser = Limit::parser(parse_time),
        env = "LANDFALL_IDLE_TIMEOUT"
    )]
    pub idle_timeout: Limit<Duration>,

    /// The same, once one side has ended its sending
    #[arg(
        long, value_name = "TIME", default_value = "30s", value_parser = Limit::parser(parse_time),
        env = "LANDFALL_HALF_CLOSE_TIMEOUT"
    )]
    pub half_close_timeout: Limit<Duration>,

    /// Whether bytes go from one socket to the other inside the kernel (Linux)
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        env = "LANDFALL_MAP_ZERO_COPY"
    )]
    pub zero_copy: Splicing,

    /// End a session of UDP in which no datagram has come or gone for this long
    #[arg(
        long, value_name = "TIME", default_value = "60s", value_parser = parse_time,
        env = "LANDFALL_UDP_TIMEOUT", help_heading = "UDP"
    )]
    pub udp_timeout: Duration,

    /// Sessions of a UDP rule at any one time; further clients are not served
    #[arg(
        long, value_name = "COUNT", default_value = "10k", value_parser = parse_count,
        env = "LANDFALL_UDP_SESSIONS", help_heading = "UDP"
    )]
    pub udp_sessions: u32,

    /// Connections that one source address may have; more are refused
    #[arg(
        long, value_name = "COUNT", default_value = "none",
        value_parser = Limit::parser(parse_count), env = "LANDFALL_MAX_CONNS_PER_SOURCE",
        help_heading = "Access"
    )]
    pub max_conns_per_source: Limit<u32>,

    /// Refuse clients outside of these networks
    #[arg(
        long, value_name = "CIDR", value_parser = parse_network, value_delimiter = ',',
        env = "LANDFALL_ALLOW", help_heading = "Access"
    )]
    pub allow: Vec<IpNet>,

    /// Refuse clients in these networks, even if they are allowed
    #[arg(
        long, value_name = "CIDR", value_parser = parse_network, value_delimiter = ',',
        env = "LANDFALL_DENY", help_heading = "Access"
    )]
    pub deny: Vec<IpNet>,

    /// Tell targets who the client is, by this version of the PROXY protocol
    #[arg(
        long,
        value_enum,
        value_name = "VERSION",
        default_value = "none",
        env = "LANDFALL_SEND_PROXY",
        help_heading = "PROXY protocol"
    )]
    pub send_proxy: SendProxy,

    /// Expect a PROXY protocol header of every connection, and refuse those without
    #[arg(long, env = "LANDFALL_ACCEPT_PROXY", help_heading = "PROXY protocol")]
    pub accept_proxy: bool,

    /// The networks of proxies to be believed; connections of others are refused
    #[arg(
        long, value_name = "CIDR", value_parser = parse_network, value_delimiter = ',',
        env = "LANDFALL_PROXY_FROM", help_heading = "PROXY protocol"
    )]
    pub proxy_from: Vec<IpNet>,

    /// How long a proxy may take to send the header
    #[arg(
        long, value_name = "TIME", default_value = "5s", value_parser = parse_time,
        env = "LANDFALL_PROXY_TIMEOUT", help_heading = "PROXY protocol"
    )]
    pub proxy_timeout: Duration,

    /// Failed connects in a row after which a target is left out for --fail-timeout
    #[arg(
        long, value_name = "COUNT", default_value = "1", value_parser = parse_count,
        env = "LANDFALL_MAX_FAILS", help_heading = "Targets"
    )]
    pub max_fails: u32,

    /// How long a target is left out, unless all others are out as well
    #[arg(
        long, value_name = "TIME", default_value = "10s", value_parser = parse_time,
        env = "LANDFALL_FAIL_TIMEOUT", help_heading = "Targets"
    )]
    pub fail_timeout: Duration,

    /// Connect to targets now and then, and use those only that let themselves be connected to
    #[arg(long, env = "LANDFALL_CHECK", help_heading = "Targets")]
    pub check: bool,

    /// The time between checks of a target, and how long one may take at most
    #[arg(
        long, value_name = "TIME", default_value = "2s", value_parser = parse_time,
        env = "LANDFALL_CHECK_INTERVAL", help_heading = "Targets"
    )]
    pub check_interval: Duration,

    /// Good checks in a row after which a target is up
    #[arg(
        long, value_name = "COUNT", default_value = "2", value_parser = parse_count,
        env = "LANDFALL_CHECK_RISE", help_heading = "Targets"
    )]
    pub check_rise: u32,

    /// Bad checks in a row after which a target is down
    #[arg(
        long, value_name = "COUNT", default_value = "3", value_parser = parse_count,
        env = "LANDFALL_CHECK_FALL", help_heading = "Targets"
    )]
    pub check_fall: u32,

    /// How often the addresses behind names are asked for again
    #[arg(
        long, value_name = "TIME", default_value = "30s", value_parser = Limit::parser(parse_time),
        env = "LANDFALL_RESOLVE_EVERY", help_heading = "Targets"
    )]
    pub resolve_every: Limit<Duration>,

    /// Start although the name of a target has no address yet; it is not used until it has one
    #[arg(long, env = "LANDFALL_RESOLVE_LATER", help_heading = "Targets")]
    pub resolve_later: bool,
}

impl Settings {
    /// What the rule is for.
    pub fn protocol(&self) -> &'static str {
        match self.udp {
            true => "udp",
            false => "tcp",
        }
    }
}

/// Whether bytes go from one socket to the other inside the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Splicing {
    /// Where there is much to move and a pipe to be had
    Auto,
    /// From the first byte; connections for which that cannot be are ended
    On,
    /// Never
    Off,
}

impl Splicing {
    /// The library's word for it.
    pub fn for_relay(self) -> ZeroCopy {
        match self {
            Self::Auto => ZeroCopy::Auto,
            Self::On => ZeroCopy::On,
            Self::Off => ZeroCopy::Off,
        }
    }
}

/// Whether targets are told who the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SendProxy {
    /// They are not
    None,
    /// By a line of text
    #[value(name = "1")]
    One,
    /// In binary
    #[value(name = "2")]
    Two,
}

fn parse_path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}
