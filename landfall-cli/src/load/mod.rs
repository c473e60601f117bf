//! `landfall load`: many connections, messages on a schedule, every echoed byte checked.

mod args;
mod content;
mod control;
mod exchange;
mod fail_if;
mod plan;
#[cfg(test)]
mod properties;
mod report;
mod run;
mod schedule;
mod tally;

use std::sync::Arc;

pub use args::LoadArgs;

use report::{Figures, LoadReport, Mode, Setting};
use run::Run;

use crate::exit::{Exit, Failure};
use crate::output::{Messages, Progress, Sink, Stage};
use crate::system::limits;
use crate::system::ports::{LocalPorts, Sources};
use crate::system::signals::StopRequest;
use crate::units::{counted, grouped};
use plan::Plan;
use schedule::Pace;

/// Memory for one connection of ours: the kernel's socket, measured at about 2.5 KiB while it is
/// idle, and our task.
const MEMORY_PER_CONNECTION: u64 = 4096;

/// Runs the subcommand.
pub fn run(args: &LoadArgs) -> Result<Exit, Failure> {
    let messages = args.output.messages();
    let mut sink = Sink::open(&args.output)?;
    let stop = StopRequest::listen()?;
    args.runtime.end_with_parent(&stop)?;
    let ports = LocalPorts::read()?;
    let descriptor_limit = limits::raise_descriptor_limit();
    let plan = Plan::new(args, &ports)?;
    let runtime = args.runtime.build()?;
    let sockets = runtime.port().socket_capacity() as u64;
    check_limits(&plan, &ports, sockets, descriptor_limit)?;
    messages.note(format_args!(
        "{}; once all are open, {}",
        counted(u64::from(plan.connections), "connection"),
        plan.schedule
    ));
    tell_sources(&plan.sources, &ports, messages);
    let setting = Setting {
        target: named(&args.target, &plan),
        mode: plan.mode,
        connections: plan.connections,
        message_bytes: plan.size,
        source_addresses: plan.sources.count(),
        driver: runtime.port().driver().to_owned(),
        driver_reason: runtime.port().driver_reason().to_owned(),
        workers: args.runtime.workers,
        concurrency: args.runtime.concurrency,
        descriptor_limit,
        is_planned: !matches!(plan.schedule.pace, Pace::BackToBack),
    };
    let planned = plan.schedule.total();

    let run = Run::new(plan, messages);
    let progress = Progress::start(messages, watch(&run, planned));
    let course = runtime.block_on(run.drive(&stop, args.drain_timeout));
    drop(progress);

    let figures = Figures::new(run.recorder.total(), setting.mode, planned);
    let mismatch = run.first_mismatch.get().copied();
    let report = LoadReport::new(setting, course, &figures, mismatch, &args.fail_if);
    sink.write(&report)?;
    for complaint in report.complaints() {
        Messages::error(complaint);
    }
    if let Exit::Stopped(signal) = report.exit() {
        // Asked to stop at once: not even the orderly end of the runtime is waited for.
        std::process::exit(i32::from(Exit::Stopped(signal).code()));
    }
    Ok(report.exit())
}

/// Refuses a plan this machine cannot carry out, naming everything that is too little.
fn check_limits(
    plan: &Plan,
    ports: &LocalPorts,
    sockets: u64,
    descriptor_limit: u64,
) -> Result<(), Failure> {
    let connections = u64::from(plan.connections);
    let memory = connections.saturating_mul(MEMORY_PER_CONNECTION);
    limits::refuse_if_short(
        &format!("a load of {}", counted(connections, "connection")),
        [
            limits::check_sockets(connections, sockets, descriptor_limit),
            limits::check_ports(connections, plan.sources.capacity(ports), ports.range()),
            limits::check_memory(memory, limits::available_memory()),
        ],
    )
}

/// Says so when connections come from more addresses than one might expect.
fn tell_sources(sources: &Sources, ports: &LocalPorts, messages: Messages) {
    if let Sources::Loopback(count @ 2..) = sources {
        let ports = grouped(u64::from(ports.per_source()));
        messages.note(format_args!(
            "connecting from {count} addresses of 127.0.0.0/8, as each has {ports} ports"
        ));
    }
}

/// The target as it was named, with the address that stands for unless that is the same.
fn named(target: &str, plan: &Plan) -> String {
    let address = plan.target.to_string();
    if address == target {
        address
    } else {
        format!("{target} ({address})")
    }
}

/// Tells the progress display how far the run has come.
fn watch(run: &Arc<Run>, planned: Option<u64>) -> impl FnMut() -> Stage + Send + use<> {
    let run = Arc::clone(run);
    move || {
        let (counts, faults) = run.recorder.counts();
        let connections = u64::from(run.plan.connections);
        if run.control.start_moment().is_none() {
            let detail = format!("{} failed", grouped(counts.connect_failed));
            return Stage {
                name: "connecting",
                done: run.control.settled(),
                total: connections,
                detail,
            };
        }
        let errors = format!("{} errors", grouped(faults));
        let detail = match run.plan.mode {
            Mode::Discard => errors,
            Mode::Echo | Mode::EchoUnverified => {
                format!("{} answered, {errors}", grouped(counts.answered))
            }
        };
        Stage {
            name: "sending",
            done: counts.sent,
            total: planned.unwrap_or(counts.sent),
            detail,
        }
    }
}
