//! Landfall and its peers side by side: the same echo server under each stack, one neutral client.
//! See `README.md` for what is measured and how.

#![deny(unsafe_code, clippy::undocumented_unsafe_blocks)]

#[allow(
    unsafe_code,
    reason = "it is written on a ring by hand, to cost little"
)]
mod client;
#[allow(unsafe_code, reason = "no safe call sets a scheduling class")]
mod priority;
mod protocol;
mod runs;
mod server;
mod stacks;
mod statistics;
mod stops;
mod summary;
mod table;

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::client::LARGEST_MESSAGE;
use crate::priority::Priority;
use crate::runs::sharing::{Neighbour, Sharing};
use crate::runs::{accept, echo, memory, sharing};
use crate::server::Pinning;
use crate::stacks::{Expected, Role, Stack};
use crate::statistics::Comparison;

/// Runs the same echo server under Landfall and its peers, and compares what each costs
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// What to measure [default: all]
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand, Clone)]
enum Command {
    /// All of the following
    All,
    /// Processor time of the server per echoed message
    Echo,
    /// Processor time of the server per accepted connection
    Accept,
    /// User memory of the server per idle connection
    Memory,
    /// Latency of connections whose neighbour computes, or blocks its thread
    Sharing,
    /// One of the servers under test, until it is ended
    Serve(Serve),
}

#[derive(Args)]
struct Options {
    /// Rounds; each takes one sample of each stack
    #[arg(long, global = true, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Slices of a round, some tens of milliseconds each (echo)
    #[arg(long, global = true, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    slices: u16,
    /// A smoke run: fewer and shorter rounds
    #[arg(long, global = true)]
    quick: bool,
    /// Only these stacks
    #[arg(long, global = true, value_delimiter = ',', value_enum, default_values_t = Stack::value_variants())]
    stacks: Vec<Stack>,
    /// Worker threads of the servers (echo and accept)
    #[arg(long, global = true, value_delimiter = ',', default_values_t = [1, 2], value_parser = workers)]
    workers: Vec<usize>,
    /// Connections (echo)
    #[arg(long, global = true, value_delimiter = ',', default_values_t = [50, 1000], value_parser = connections)]
    connections: Vec<usize>,
    /// Message sizes in bytes (echo)
    #[arg(long, global = true, value_delimiter = ',', default_values_t = [64, LARGEST_MESSAGE], value_parser = size)]
    sizes: Vec<usize>,
    /// What disturbs the other connections (sharing)
    #[arg(long, global = true, value_delimiter = ',', value_enum, default_values_t = Neighbour::value_variants())]
    neighbours: Vec<Neighbour>,
    /// Writes all samples to this file
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Of `sharing`, whose runs take seconds each, at most.
const SHARING_ROUNDS: usize = 15;

#[derive(Args, Clone)]
struct Serve {
    #[arg(long, value_enum)]
    stack: Stack,
    #[arg(long, default_value_t = 1, value_parser = workers)]
    workers: usize,
    /// How many connections to choose sizes for
    #[arg(long, default_value_t = 1000, value_parser = connections)]
    connections: usize,
    /// 0 for any free port; the address is printed
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Processors to run on [default: any]
    #[arg(long, value_delimiter = ',')]
    processors: Vec<usize>,
    /// End when the process that started this one does
    #[arg(long)]
    with_parent: bool,
}

#[derive(Serialize)]
struct Report {
    machine: Machine,
    comparisons: Vec<Comparison>,
    sharing: Vec<Sharing>,
}

#[derive(Serialize)]
struct Machine {
    kernel: String,
    processors: usize,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Serve(serve)) => run_server(&serve).map(|()| ExitCode::SUCCESS),
        command => measure(&command.unwrap_or(Command::All), &cli.options),
    }
}

fn run_server(serve: &Serve) -> Result<()> {
    if serve.with_parent {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    }
    if !serve.processors.is_empty() {
        server::pin(&serve.processors)?;
    }
    server::raise_descriptor_limit()?;
    let expected = Expected {
        workers: serve.workers,
        connections: serve.connections,
    };
    serve
        .stack
        .serve(expected, serve.port, |address| println!("{address}"))
        .with_context(|| format!("the {} server ended", serve.stack.name()))
}

/// Ends with 1 if a stack failed anywhere.
fn measure(command: &Command, options: &Options) -> Result<ExitCode> {
    let chosen = |this: &Command| {
        let same = std::mem::discriminant(command) == std::mem::discriminant(this);
        same || matches!(command, Command::All)
    };
    let machine = machine()?;
    check_descriptors(chosen(&Command::Memory), options)?;
    let json = options.json.as_ref().map(create).transpose()?;
    println!(
        "Linux {}, {} processors\n",
        machine.kernel, machine.processors
    );
    let mut report = Report {
        machine,
        comparisons: Vec::new(),
        sharing: Vec::new(),
    };
    if chosen(&Command::Echo) {
        measure_echo(options, &mut report)?;
    }
    if chosen(&Command::Accept) {
        for &workers in &options.workers {
            let shared = Pinning::of(workers).is_shared();
            report.add(priority::charged_rightly(shared, || {
                accept::run(&options.stacks, options.rounds(), workers)
            })?);
        }
    }
    if chosen(&Command::Memory) {
        // It hardly varies.
        let rounds = if options.quick {
            1
        } else {
            options.rounds().min(3)
        };
        report.add(memory::run(&options.stacks, rounds));
    }
    if chosen(&Command::Sharing) {
        measure_sharing(options, &mut report);
    }
    if let Some(file) = json {
        serde_json::to_writer_pretty(file, &report)?;
    }
    Ok(if report.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// What runs for half an hour must not end at a limit that was there before.
fn check_descriptors(memory: bool, options: &Options) -> Result<()> {
    // Beside the connections, which are open to all servers at once.
    const RESERVE: usize = 200;
    let echo = options.connections.iter().max().unwrap_or(&0) * options.stacks.len();
    let needed = RESERVE + if memory { memory::MANY.max(echo) } else { echo };
    let limit = server::raise_descriptor_limit()?;
    ensure!(
        limit >= needed as u64,
        "{needed} open descriptors are needed, but the hard limit (`ulimit -Hn`) is {limit}"
    );
    Ok(())
}

fn create(path: &PathBuf) -> Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

fn measure_echo(options: &Options, report: &mut Report) -> Result<()> {
    for &workers in &options.workers {
        let shared = Pinning::of(workers).is_shared();
        for &connections in &options.connections {
            for &message_size in &options.sizes {
                let load = echo::Load {
                    expected: Expected {
                        workers,
                        connections,
                    },
                    message_size,
                    messages: if message_size <= 1024 { 6000 } else { 4000 },
                    slices: options.slices(),
                };
                report.add(priority::charged_rightly(shared, || {
                    echo::run(&options.stacks, options.rounds(), load)
                })?);
            }
        }
    }
    if let Some(verdicts) = table::over_all_loads(&report.comparisons) {
        println!("{verdicts}\n");
    }
    Ok(())
}

fn measure_sharing(options: &Options, report: &mut Report) {
    let allowed = priority::set(Priority::Monitor).and_then(|()| priority::set(Priority::Ordinary));
    let real_time = allowed.is_ok();
    if let Err(error) = allowed {
        println!(
            "No real-time priority ({error}): the client's own waiting shows, and nothing watches for stops of the\n\
             machine, so there are no figures without them. Run as root.\n"
        );
    }
    let duration = Duration::from_secs(if options.quick { 2 } else { 5 });
    // The ring is a limit of cost; in sharing it is one more thread-per-core server.
    let mut stacks = options.stacks.clone();
    stacks.retain(|stack| stack.role() != Role::Limit);
    let rounds = options.rounds().min(SHARING_ROUNDS);
    let time = sharing::time(&stacks, rounds, duration) * options.neighbours.len() as u32;
    println!(
        "Sharing: {} stacks, {} disturbances, {rounds} rounds of {} s, about {:.0} minutes\n",
        stacks.len(),
        options.neighbours.len(),
        duration.as_secs(),
        (time.as_secs_f64() / 60.0).ceil()
    );
    for &neighbour in &options.neighbours {
        let load = sharing::Load {
            neighbour,
            duration,
            real_time,
        };
        let sharing = sharing::run(&stacks, rounds, load);
        println!("{}\n", table::sharing(&sharing));
        report.sharing.push(sharing);
    }
}

impl Options {
    fn rounds(&self) -> usize {
        if self.quick {
            3
        } else {
            usize::from(self.rounds)
        }
    }

    fn slices(&self) -> usize {
        if self.quick {
            2
        } else {
            usize::from(self.slices)
        }
    }
}

impl Report {
    fn add(&mut self, comparison: Comparison) {
        println!("{}\n", table::comparison(&comparison));
        self.comparisons.push(comparison);
    }

    fn failed(&self) -> bool {
        let compared = self
            .comparisons
            .iter()
            .flat_map(|comparison| &comparison.rows);
        let shared = self.sharing.iter().flat_map(|sharing| &sharing.rows);
        compared
            .map(|row| &row.series.failure)
            .chain(shared.map(|row| &row.failure))
            .any(Option::is_some)
    }
}

fn machine() -> Result<Machine> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?
        .trim()
        .to_owned();
    let processors = std::thread::available_parallelism()?.get();
    ensure!(
        processors >= 2,
        "server and client need a processor each; there is only one"
    );
    Ok(Machine { kernel, processors })
}

fn workers(text: &str) -> Result<usize, String> {
    within(text, 1, 2)
}

fn connections(text: &str) -> Result<usize, String> {
    within(text, 1, 10_000)
}

fn size(text: &str) -> Result<usize, String> {
    within(text, 1, LARGEST_MESSAGE)
}

fn within(text: &str, low: usize, high: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (low..=high).contains(&number) => Ok(number),
        _ => Err(format!("a number from {low} to {high} is needed")),
    }
}
