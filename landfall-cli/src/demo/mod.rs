//! `landfall demo`: the headline run. Server and client as two processes, one table.

mod args;
mod child;
mod report;
mod samples;

use std::io;
use std::thread;
use std::time::Duration;

use serde::de::DeserializeOwned;

pub use args::DemoArgs;

use child::Subcommand;
use report::{Announcement, DemoReport, LoadResult, ServeResult};
use samples::Samples;

use crate::exit::{Exit, Failure};
use crate::output::{Messages, Sink};
use crate::system::signals::StopRequest;
use crate::units::show_time;

/// How often the two processes are looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// How long the server may take to listen, and to end.
const SERVER_PATIENCE: Duration = Duration::from_secs(10);

/// Runs the subcommand.
pub fn run(args: &DemoArgs) -> Result<Exit, Failure> {
    let messages = args.output.messages();
    let mut sink = Sink::open(&args.output)?;
    let stop = StopRequest::listen()?;
    let mut server = Subcommand::start("serve", serve_args(args))?;
    let announcement: Announcement = parse("serve", &server.line(SERVER_PATIENCE)?)?;
    if cfg!(debug_assertions) {
        messages.note("a debug build: for figures that mean something, use `cargo run --release`");
    }
    let mut samples = Samples::begin(server.id()).map_err(cannot_sample)?;
    let mut client = Subcommand::start("load", load_args(args, &announcement.address()?))?;
    attend(&mut server, &mut client, &mut samples, &stop)?;
    let load = client
        .line(SERVER_PATIENCE)
        .map_err(|failure| match stop.drain() {
            // Asked to drain before it could listen to that.
            Some(signal) if !failure.is_told() => {
                Failure::new(Exit::Stopped(signal), "stopped before the run had begun")
            }
            _ => failure,
        })?;
    let load: LoadResult = parse("load", &load)?;
    server.terminate();
    let serve: ServeResult = parse("serve", &server.line(SERVER_PATIENCE)?)?;
    server
        .wait(SERVER_PATIENCE)
        .map_err(|error| Failure::of_system("cannot wait for the server", &error))?;

    let report = DemoReport::new(args, load, serve, &samples);
    sink.write(&report)?;
    for complaint in report.complaints() {
        Messages::error(complaint);
    }
    Ok(report.exit())
}

/// Looks after both processes until the client ends. A first signal goes on to the client, which
/// then drains; a second ends everything at once.
fn attend(
    server: &mut Subcommand,
    client: &mut Subcommand,
    samples: &mut Samples,
    stop: &StopRequest,
) -> Result<(), Failure> {
    let mut is_draining = false;
    loop {
        if let Some(status) = server.has_ended() {
            return Err(server.ended_early(status, "in the middle of the run"));
        }
        if client.has_ended().is_some() {
            // A last look, for the time up to now.
            return samples.take().map_err(cannot_sample);
        }
        if let Some(signal) = stop.now() {
            return Err(Failure::stopped(signal));
        }
        if stop.drain().is_some() && !is_draining {
            is_draining = true;
            client.terminate();
        }
        samples.take().map_err(cannot_sample)?;
        thread::sleep(LOOK_PERIOD);
    }
}

fn cannot_sample(error: io::Error) -> Failure {
    Failure::of_system("cannot see what the server uses", &error)
}

fn parse<T: DeserializeOwned>(name: &str, line: &str) -> Result<T, Failure> {
    serde_json::from_str(line).map_err(|error| {
        Failure::failed(format!(
            "`landfall {name}` answered with {line:?}, not its result: {error}"
        ))
    })
}

/// The flags both processes are given.
fn common_args(args: &DemoArgs) -> Vec<String> {
    let runtime = &args.runtime;
    vec![
        String::from("--json"),
        format!("--driver={}", runtime.driver.name()),
        format!("--workers={}", runtime.workers),
        format!("--concurrency={}", runtime.concurrency),
    ]
}

fn serve_args(args: &DemoArgs) -> Vec<String> {
    let mode = if args.discard { "--discard" } else { "--echo" };
    let mut flags = common_args(args);
    flags.extend(["--quiet", "--drain-timeout=5s", mode, "127.0.0.1:0"].map(String::from));
    flags
}

fn load_args(args: &DemoArgs, target: &str) -> Vec<String> {
    let mut flags = common_args(args);
    flags.extend([
        format!("--connections={}", args.connections),
        format!("--messages={}", args.messages),
        format!("--interval={}", show_time(args.interval)),
        format!("--size={}", args.size),
        format!("--timeout={}", show_time(args.timeout)),
    ]);
    if args.discard {
        flags.push(String::from("--discard"));
    }
    if args.output.quiet {
        flags.push(String::from("--quiet"));
    }
    flags.push(target.to_owned());
    flags
}
