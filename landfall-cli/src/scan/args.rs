//! The flags of `landfall scan`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::exit::Failure;
use crate::options::{Driver, RuntimeOptions, default_workers, processors};
use crate::output::OutputArgs;
use crate::units::{Limit, Rate, parse_count, parse_rate, parse_time};

/// How long a connect may take. Windows asks a refusing host twice more, half a second apart,
/// before it believes it (`TcpMaxConnectRetransmissions`), so a closed port takes two seconds there.
const DEFAULT_TIMEOUT: &str = if cfg!(windows) { "3s" } else { "1s" };

/// Find out which TCP ports are open, by connecting to them.
///
/// Targets and ports are written as for nmap. The order follows from a seed; how many connects are
/// under way at once is found by trying, within the limits of this process. Where this machine
/// itself fails (no descriptor, no local port, no memory) a port is never called closed: it is tried
/// again, and called unresolved if that does not help.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  landfall scan localhost -p -                 all ports of this machine
  landfall scan 10.0.0.0/24 10.0.1-3.1,5 -p 22,80,8000-8100,http* --reason
  landfall scan -iL hosts.txt --exclude 10.0.0.1 -oX scan.xml -oG scan.gnmap

nmap's -iL, -oX, -oG, -oN, -oA, -F, --top-ports and --max-retries are taken; its
-sT, -Pn, -n and --open ask for what is done anyway. -oJ and -oC are ours, and
the table of -oN is Landfall's own. A file named `-` is standard output. A host
is not asked whether it is up before its ports are tried.

States: open (syn-ack), closed (conn-refused), filtered (no-response,
host-unreach, net-unreach, admin-prohibited), unresolved (this machine failed:
no-source-address, noticed-late, or its error).

Exit codes: 0 done, also with nothing open, 1 failed, 2 usage, 4 this machine
failed and left ports unresolved, 130 or 143 stopped by a signal, ports left.")]
pub struct ScanArgs {
    /// Names, addresses, 10.0.0.0/24, 10.0.0-3.1,5, ::1, 2001:db8::/120
    #[arg(value_name = "TARGET", env = "LANDFALL_TARGETS", value_delimiter = ' ')]
    pub targets: Vec<String>,

    /// Targets from a file, `-` for standard input (-iL FILE); # begins a comment
    #[arg(long, value_name = "FILE", env = "LANDFALL_INPUT")]
    pub input: Vec<PathBuf>,

    /// Targets to leave out
    #[arg(
        long,
        value_name = "TARGET",
        value_delimiter = ',',
        env = "LANDFALL_EXCLUDE"
    )]
    pub exclude: Vec<String>,

    /// Targets to leave out, from a file
    #[arg(long, value_name = "FILE", env = "LANDFALL_EXCLUDE_FILE")]
    pub exclude_file: Vec<PathBuf>,

    /// Scan IPv4 addresses only
    #[arg(short = '4', long, env = "LANDFALL_IPV4", conflicts_with = "ipv6")]
    pub ipv4: bool,

    /// Scan IPv6 addresses only
    #[arg(short = '6', long, env = "LANDFALL_IPV6")]
    pub ipv6: bool,

    /// Ports: 22,80,8000-8100, `-` for all, names and patterns (http*) of the system's list, and
    /// `top` for the list of --top
    #[arg(
        short,
        long,
        value_name = "PORTS",
        default_value = "1-1024,top",
        env = "LANDFALL_PORTS",
        allow_hyphen_values = true
    )]
    pub ports: String,

    /// Only the first N ports of our list of common services, in place of -p
    #[arg(
        long, alias = "top-ports", value_name = "N", default_value = "none", value_parser = Limit::parser(parse_count),
        env = "LANDFALL_TOP", conflicts_with = "ports"
    )]
    pub top: Limit<u32>,

    /// Ports to leave out
    #[arg(
        long,
        value_name = "PORTS",
        value_delimiter = ',',
        env = "LANDFALL_EXCLUDE_PORTS",
        allow_hyphen_values = true
    )]
    pub exclude_ports: Vec<String>,

    /// Connects under way at once, at most; none: as many as the limits of this process allow
    #[arg(
        long, value_name = "COUNT", default_value = "none",
        value_parser = Limit::parser(parse_count), env = "LANDFALL_SCAN_CONCURRENCY"
    )]
    pub concurrency: Limit<u32>,

    /// Connects begun at most at this rate
    #[arg(
        long, value_name = "COUNT/s", default_value = "none",
        value_parser = Limit::parser(parse_rate), env = "LANDFALL_SCAN_RATE"
    )]
    pub rate: Limit<Rate>,

    /// Longest wait for one connect
    #[arg(
        long, value_name = "TIME", default_value = DEFAULT_TIMEOUT, value_parser = parse_time,
        env = "LANDFALL_SCAN_TIMEOUT"
    )]
    pub timeout: Duration,

    /// How often to try again where nothing answers
    #[arg(
        long, alias = "max-retries", value_name = "COUNT", default_value = "1",
        value_parser = clap::value_parser!(u32).range(0..=100), env = "LANDFALL_RETRIES"
    )]
    pub retries: u32,

    /// The number that the order of the probes follows from; none: another one every time
    #[arg(
        long, value_name = "NUMBER", default_value = "none",
        value_parser = Limit::parser(parse_seed), env = "LANDFALL_SEED"
    )]
    pub seed: Limit<u64>,

    /// List every port, not only those that are open or unresolved
    #[arg(long, env = "LANDFALL_ALL_STATES")]
    pub all_states: bool,

    /// Show why each listed port is said to be in its state
    #[arg(long, env = "LANDFALL_REASON")]
    pub reason: bool,

    /// Receive the first bytes that an open port sends unasked: 256 at most, for --banner-time
    #[arg(long, env = "LANDFALL_BANNER")]
    pub banner: bool,

    /// Longest wait for a banner
    #[arg(
        long, value_name = "TIME", default_value = "2s", value_parser = parse_time,
        env = "LANDFALL_BANNER_TIME"
    )]
    pub banner_time: Duration,

    /// Also write the XML of nmap to FILE (-oX FILE)
    #[arg(
        long,
        value_name = "FILE",
        env = "LANDFALL_XML",
        help_heading = "Output"
    )]
    pub xml: Vec<PathBuf>,

    /// Also write the greppable form of nmap to FILE (-oG FILE)
    #[arg(
        long,
        value_name = "FILE",
        env = "LANDFALL_GREPPABLE",
        help_heading = "Output"
    )]
    pub greppable: Vec<PathBuf>,

    /// Also write the JSON object of --json to FILE (-oJ FILE)
    #[arg(
        long,
        value_name = "FILE",
        env = "LANDFALL_JSON_FILE",
        help_heading = "Output"
    )]
    pub json_file: Vec<PathBuf>,

    /// Also write the table to BASE.nmap, the XML to BASE.xml and the greppable form to BASE.gnmap
    /// (-oA BASE)
    #[arg(
        long,
        value_name = "BASE",
        env = "LANDFALL_ALL_FORMS",
        help_heading = "Output"
    )]
    pub all_forms: Vec<PathBuf>,

    /// Also write a line of CSV for each listed port to FILE (-oC FILE)
    #[arg(
        long,
        value_name = "FILE",
        env = "LANDFALL_CSV",
        help_heading = "Output"
    )]
    pub csv: Vec<PathBuf>,

    /// What drives the port
    #[arg(
        long, value_enum, default_value_t = Driver::Auto, env = crate::options::DRIVER_VARIABLE,
        help_heading = "Port"
    )]
    pub driver: Driver,

    /// Threads that take completions; the default is two per processor
    #[arg(
        long, value_name = "N", default_value_t = default_workers(), value_parser = parse_count,
        env = "LANDFALL_WORKERS", help_heading = "Port"
    )]
    pub workers: u32,

    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl ScanArgs {
    /// How the port is set up. `--concurrency` counts connects here, so one worker per processor
    /// runs at a time.
    pub fn runtime(&self) -> RuntimeOptions {
        RuntimeOptions {
            driver: self.driver,
            workers: self.workers,
            concurrency: processors(),
            end_with_parent: false,
        }
    }
}

fn parse_seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        format!(
            "`{text}` is not a seed: write a whole number from 0 to {}",
            u64::MAX
        )
    })
}

/// nmap's flags that are ours by another name. Those of two letters a parser of the usual kind would take
/// for one letter and its value.
const SPELT_OUT: [(&str, &str); 9] = [
    ("-iL", "--input"),
    ("-oX", "--xml"),
    ("-oG", "--greppable"),
    ("-oJ", "--json-file"),
    ("-oC", "--csv"),
    ("-oN", "--output"),
    ("-oA", "--all-forms"),
    ("-F", "--top=100"),
    ("-vv", "--verbose"),
];

/// Those that ask for what a scan does in any case: connect, ping nobody, look no address up, list the
/// ports that are open.
const NEEDLESS: [&str; 4] = ["-sT", "-Pn", "-n", "--open"];

/// Those that ask for what it does not do, and why.
const REFUSED: [(&str, &str); 8] = [
    (
        "-sS",
        "ports are scanned by connecting (-sT), which takes no raw sockets and so no privilege",
    ),
    (
        "-sU",
        "UDP is not scanned: a port that is silent there says nothing of itself",
    ),
    (
        "-sV",
        "nothing is sent to an open port to find out its version; --banner shows what it says unasked",
    ),
    ("-sn", "hosts are not pinged: their ports are scanned"),
    (
        "-O",
        "the operating system behind an address is not guessed, as that takes raw sockets",
    ),
    (
        "-A",
        "versions, operating systems, scripts and routes are not looked into; --banner shows what an open \
         port says unasked",
    ),
    ("-oS", "there is no such form of the result"),
    (
        "-T",
        "the speed is found by itself; leave it out (--rate and --concurrency limit it)",
    ),
];

/// Spells nmap's flags out, on the command line of a scan, and leaves out those that change
/// nothing.
pub fn spell_out(words: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    if words.get(1).is_none_or(|word| word != "scan") {
        return Ok(words);
    }
    for word in &words {
        let word = word.to_string_lossy();
        // -T4 is -T with its value.
        let flag = match word.strip_prefix("-T") {
            Some("" | "0" | "1" | "2" | "3" | "4" | "5") => "-T",
            _ => &*word,
        };
        if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| flag == *refused) {
            return Err(Failure::usage(format!("scan takes no {word}: {reason}")));
        }
    }
    let spell = |word: OsString| {
        let known = SPELT_OUT.iter().find(|(short, _)| word == *short);
        known.map_or(word, |(_, long)| OsString::from(long))
    };
    let is_needed = |word: &OsString| !NEEDLESS.iter().any(|flag| word == flag);
    Ok(words.into_iter().filter(is_needed).map(spell).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nmaps_flags_are_spelt_out_for_a_scan_only() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(
            spell_out(words(
                "landfall scan -sT -iL hosts -Pn -oX - -o out -F --open -vv"
            ))
            .unwrap(),
            words("landfall scan --input hosts --xml - -o out --top=100 --verbose")
        );
        assert_eq!(
            spell_out(words("landfall load -oX -n")).unwrap(),
            words("landfall load -oX -n")
        );
    }
}
