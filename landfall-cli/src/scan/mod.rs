//! `landfall scan`: which TCP ports are open, found out by connecting.

mod args;
mod course;
mod hosts;
mod order;
mod ports;
mod probe;
#[cfg(test)]
mod properties;
mod report;
mod round;
mod targets;
mod top;
mod verdict;
mod window;

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::SystemTime;

use futures_lite::future::block_on;

pub use args::{ScanArgs, spell_out};

use course::{Outcome, Scan};
use hosts::Hosts;
use ports::PortSet;
use probe::Prober;
use report::{Outputs, Setting};
use verdict::Cause;
use window::Window;

use crate::exit::{Exit, Failure};
use crate::output::{Messages, Progress};
use crate::system::ports::LocalPorts;
use crate::system::services::Services;
use crate::system::signals::StopRequest;
use crate::system::{limits, process};
use crate::units::counted;

/// Descriptors left for files, and for sockets that the system is still closing.
const RESERVE: u64 = 8;

/// Runs the subcommand.
pub fn run(args: &ScanArgs) -> Result<Exit, Failure> {
    let messages = args.output.messages();
    check(args)?;
    // Without the list ports have no names, and those asked for by name are not found.
    let services = Services::read().unwrap_or_default();
    let ports = ports_of(args, &services)?;
    let mut outputs = Outputs::open(args)?;
    let hosts = Hosts::find(args, messages)?;
    // Until now there was nothing to be kept, and the system ends the process at once.
    let stop = StopRequest::listen()?;
    end_at_second_signal(stop.clone())?;
    let descriptor_limit = limits::raise_descriptor_limit();
    let runtime = args.runtime().build()?;
    let concurrency = concurrency_of(args, runtime.port().socket_capacity(), descriptor_limit)?;
    let started = SystemTime::now();
    let setting = Setting {
        command: "scan",
        version: env!("CARGO_PKG_VERSION"),
        command_line: command_line(),
        started,
        started_unix_seconds: started
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64(),
        ports: ports.show(),
        ports_per_host: ports.len(),
        seed: args.seed.0.unwrap_or_else(any_seed),
        timeout_seconds: args.timeout.as_secs_f64(),
        retries: args.retries,
        concurrency,
        driver: runtime.port().driver().to_owned(),
        driver_reason: runtime.port().driver_reason().to_owned(),
        workers: args.workers,
        descriptor_limit,
        all_states: args.all_states,
        shows_reasons: args.reason,
        has_banners: args.banner,
    };
    messages.note(format_args!(
        "{} of {}, seed {}; up to {} at once",
        counted(ports.len().into(), "port"),
        counted(hosts.most(), "host"),
        setting.seed,
        counted(concurrency.into(), "connect"),
    ));
    outputs.begin(&setting)?;
    let prober = Prober::new(Window::new(concurrency), args.timeout, args.retries)
        .rate(args.rate.0)
        .banner_time(args.banner.then_some(args.banner_time));
    let scan = Scan::new(prober, ports.iter().collect(), hosts.most());
    let progress = Progress::start(messages, scan.watch());
    let outcome = runtime.block_on(scan.run(&hosts, &setting, &services, &mut outputs, &stop));
    drop(progress);
    let outcome = outcome?;
    let exit = exit_of(&outcome, &hosts);
    let complaints = complaints(&outcome, concurrency, descriptor_limit);
    outputs.end(&setting, &scan.summary(&outcome, &hosts, exit, &complaints))?;
    for complaint in complaints {
        Messages::error(complaint);
    }
    Ok(exit)
}

/// The first signal ends the scan, and what is known is written. Whoever does not take it, as a pipe that is
/// full, is not waited for when a second one comes.
fn end_at_second_signal(stop: StopRequest) -> Result<(), Failure> {
    let end = move || {
        let signal = block_on(stop.wait_for_now());
        std::process::exit(Exit::Stopped(signal).code().into());
    };
    thread::Builder::new()
        .name(String::from("stop"))
        .spawn(end)
        .map(drop)
        .map_err(|error| Failure::of_system("cannot start a thread", &error))
}

/// Refuses what makes no sense.
fn check(args: &ScanArgs) -> Result<(), Failure> {
    let zero = [
        ("--timeout", args.timeout),
        ("--banner-time", args.banner_time),
    ]
    .into_iter()
    .find(|(_, time)| time.is_zero());
    match zero {
        Some((flag, _)) => Err(Failure::usage(format!(
            "{flag} 0s leaves the target no time at all: give it some, as in 1s"
        ))),
        None => Ok(()),
    }
}

/// The ports to be scanned.
fn ports_of(args: &ScanArgs, services: &Services) -> Result<PortSet, Failure> {
    let mut ports = match args.top.0 {
        Some(count) if count > top::MOST => {
            return Err(Failure::usage(format!(
                "--top {count} is more than our list of common services has, which is {}; \
                 `-p 1-{count}` takes the lowest",
                top::MOST
            )));
        }
        Some(count) => top::ports(count).collect(),
        None => PortSet::parse(&args.ports, services)
            .map_err(|problem| Failure::usage(format!("-p: {problem}")))?,
    };
    if !args.exclude_ports.is_empty() {
        let excluded = PortSet::parse(&args.exclude_ports.join(","), services)
            .map_err(|problem| Failure::usage(format!("--exclude-ports: {problem}")))?;
        ports.remove(&excluded);
    }
    match ports.len() {
        0 => Err(Failure::usage(
            "no port is left to scan: --exclude-ports has all of them",
        )),
        _ => Ok(ports),
    }
}

/// How many connects this process can have under way, if that is not more than asked for.
fn concurrency_of(args: &ScanArgs, sockets: usize, descriptor_limit: u64) -> Result<u32, Failure> {
    let others = process::own_descriptors().unwrap_or_default() + RESERVE;
    let most = descriptor_limit
        .saturating_sub(others)
        .min((sockets as u64).max(descriptor_limit / 4))
        .min(u64::from(LocalPorts::read()?.per_source()))
        .max(1);
    let most = u32::try_from(most).unwrap_or(u32::MAX);
    Ok(args.concurrency.0.map_or(most, |asked| asked.min(most)))
}

fn any_seed() -> u64 {
    // Short enough to be typed again.
    RandomState::new().hash_one(std::process::id()) >> 32
}

/// The words of the command line, as they were given.
fn command_line() -> String {
    let words: Vec<_> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    words.join(" ")
}

fn exit_of(outcome: &Outcome, hosts: &Hosts) -> Exit {
    if let Some(signal) = outcome.stopped {
        return Exit::Stopped(signal);
    }
    match (outcome.failures.as_slice(), hosts.unknown_names) {
        ([], 0) => Exit::Done,
        ([], _) => Exit::Failed,
        _ => Exit::LocalLimit,
    }
}

/// Says what the result lacks: why ports are unresolved, and what to do about it, and what was left.
fn complaints(outcome: &Outcome, concurrency: u32, descriptor_limit: u64) -> Vec<String> {
    let ran_out = format!(
        "this machine ran out of something, however few connects were under way: {concurrency} at most \
         with the descriptor limit of {descriptor_limit}; see `ulimit -n`, other programs' sockets and \
         memory, and scan again, slower with --concurrency or --rate"
    );
    let causes = [
        (Cause::Limit, ran_out.as_str()),
        (
            Cause::NoSource,
            "this machine has no address that it could connect from, as where IPv6 is off; \
             `ip address` shows those it has",
        ),
        (
            Cause::Late,
            "this process got too little processor time to see in time whether they answered; scan \
             again when the machine has less to do, or with a longer --timeout",
        ),
        (
            Cause::Other,
            "this machine refused to connect; see its routes and its packet filter, as with \
             `ip route get ADDRESS`",
        ),
    ];
    let complain = |(cause, explanation): (Cause, &str)| {
        let failures = || {
            let all = outcome.failures.iter();
            all.filter(move |(verdict, _)| verdict.cause() == Some(cause))
        };
        let ports = counted(failures().map(|(_, count)| count).sum(), "port");
        let reasons: Vec<_> = failures().map(|(verdict, _)| verdict.reason()).collect();
        (!reasons.is_empty()).then(|| {
            let reasons = reasons.join(", ");
            format!("{ports} unresolved ({reasons}): {explanation}")
        })
    };
    let stopped = outcome.stopped.map(|_| {
        let left = counted(outcome.counts.not_scanned, "port");
        let unreached = match outcome.hosts.not_scanned {
            0 => String::new(),
            hosts => format!(", {} not reached", counted(hosts, "host")),
        };
        format!("stopped by a signal: {left} not scanned{unreached}")
    });
    causes
        .into_iter()
        .filter_map(complain)
        .chain(stopped)
        .collect()
}
