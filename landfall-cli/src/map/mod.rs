//! `landfall map`: a port mapper.

mod access;
mod args;
mod balance;
mod config;
mod conflicts;
mod connect;
mod control;
mod front;
mod health;
mod log;
mod mapping;
mod metrics;
mod proxy;
mod report;
mod room;
mod rule;
mod session;
mod targets;
mod udp;
mod watch;

use std::future::pending;
use std::io;
use std::mem::ManuallyDrop;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_lite::future::or;
use landfall::runtime::time::{sleep, timeout};
use landfall::runtime::{self, JoinHandle};
use landfall::server::{Report, Server, ServerHandle};

pub use args::MapArgs;

use config::Config;
use control::Control;
use front::{Front, Prepared};
use metrics::MapMetrics;
use report::{Course, MapReport, Setting};
use room::{Shares, Supply};

use crate::exit::{Exit, Failure};
use crate::metrics::{Endpoint, MetricsArgs};
use crate::output::{Announcement, Log, Sink, announce, announce_drain, write_stdout};
use crate::system::limits;
use crate::system::ports::LocalPorts;
use crate::system::signals::{ReloadRequest, StopRequest};
use crate::system::systemd::{self, Sockets};
use crate::units::counted;

/// How long connections that were cut have to end.
const CUT_PATIENCE: Duration = Duration::from_secs(2);

/// Runs the subcommand.
pub fn run(args: &MapArgs) -> Result<Exit, Failure> {
    let inherited = Sockets::from_environment()?;
    let messages = Log::start(args.output.messages())?;
    map(args, inherited, &messages).map_err(|failure| {
        // Said by the log, which may hold standard error for a reader that takes nothing.
        messages.error(&failure);
        messages.finish();
        Failure::told(failure.exit)
    })
}

fn map(args: &MapArgs, mut inherited: Sockets, messages: &Log) -> Result<Exit, Failure> {
    let config = config::read_all(args).map_err(Failure::usage)?;
    if args.check_config {
        return check(args, config);
    }
    let metrics = config.metrics.clone();
    let mut sink = Sink::open(&args.output)?;
    let log = match args.log.as_os_str() == "-" {
        true => messages.clone(),
        false => Log::to_file(&args.log)?,
    };
    let stop = StopRequest::listen()?;
    let reload = ReloadRequest::listen()?;
    args.runtime.end_with_parent(&stop)?;
    let descriptor_limit = limits::raise_descriptor_limit();
    let endpoint = Endpoint::listen(metrics.address(), &mut inherited, descriptor_limit)?;
    // Its end would wait for tasks that block, and those that ask for addresses may do so for long.
    let runtime = ManuallyDrop::new(args.runtime.build()?);
    let supply = Supply::of(&runtime, descriptor_limit).beside(&metrics);
    // Where the system does not tell, it may be any.
    let local_ports = LocalPorts::read().map_or(1..=u16::MAX, |ports| ports.range().clone());
    let control = Arc::new(Control::new(messages.clone(), log, local_ports));
    let setting = Setting {
        args,
        driver: [
            runtime.port().driver().to_owned(),
            runtime.port().driver_reason().to_owned(),
        ],
        descriptor_limit,
        began: Instant::now(),
    };
    let server = server_of(messages.clone());
    let figures = Arc::new(MapMetrics::new(Arc::clone(&control), server.handle()));
    let mut mapper = Mapper {
        args,
        front: Front::new(Arc::clone(&control), server.handle(), inherited),
        server: server.handle(),
        control,
        supply,
        shares: None,
        metrics,
        metrics_address: endpoint.as_ref().map(Endpoint::address),
        figures: Arc::clone(&figures),
        drain_timeout: config.drain_timeout,
        descriptor_limit,
        course: Course::default(),
    };
    if let Some(endpoint) = endpoint {
        endpoint.serve(&runtime, messages, [Box::new(figures) as _]);
    }
    let start = Start { server, config };
    runtime.block_on(mapper.serve(start, &stop, &reload, &setting.driver[0]))?;

    let exit = stop.now().map_or(Exit::Done, Exit::Stopped);
    mapper.control.log.finish();
    messages.finish();
    sink.write(&MapReport::new(setting, &mapper.front, mapper.course, exit))?;
    Ok(exit)
}

/// Says of a configuration that it is right, and that this machine has room for it; what is wrong has been
/// said.
fn check(args: &MapArgs, config: Config) -> Result<Exit, Failure> {
    let Config {
        rules,
        metrics,
        max_conns,
        ..
    } = config;
    let descriptor_limit = limits::raise_descriptor_limit();
    let supply = Supply::of(&args.runtime.build()?, descriptor_limit).beside(&metrics);
    supply.share(&rules, max_conns)?;
    let count = rules.len() as u64;
    let metrics = metrics.address().map(|address| {
        let problem = |error| Failure::usage(format!("cannot find --metrics {address}: {error}"));
        address
            .to_socket_addrs()
            // It listens on the first that it can have.
            .map(|addresses| metrics::ends(addresses.take(1)))
            .map_err(problem)
    });
    front::find(rules, &[], metrics.transpose()?)
        .map_err(|failure| Failure::usage(failure.to_string()))?;
    let text = format!("{}: no mistake found\n", counted(count, "rule"));
    write_stdout(&text)
        .map_err(|error| Failure::of_system("cannot write to standard output", &error))?;
    Ok(Exit::Done)
}

/// What takes connections in. It listens nowhere yet.
fn server_of(messages: Log) -> Server {
    Server::new()
        // A reload can change it, so the mapper keeps to it.
        .drain_timeout(Duration::MAX)
        // A relay would pass such an end on.
        .drain_ends_receives(false)
        .on_accept_error(move |address, error| {
            messages.note(format_args!("clients of {address} have to wait: {error}"));
        })
}

/// What is to take the place of what is in force.
struct Change {
    prepared: Prepared,
    shares: Shares,
    metrics: MetricsArgs,
    drain_timeout: Duration,
}

/// A mapper that runs.
struct Mapper<'a> {
    args: &'a MapArgs,
    front: Front,
    server: ServerHandle,
    control: Arc<Control>,
    supply: Supply,
    shares: Option<Shares>,
    /// Where metrics are to be had, as it was asked for, and as it became.
    metrics: MetricsArgs,
    metrics_address: Option<SocketAddr>,
    figures: Arc<MapMetrics>,
    drain_timeout: Duration,
    descriptor_limit: u64,
    course: Course,
}

/// What a mapper begins with.
struct Start {
    server: Server,
    config: Config,
}

impl Mapper<'_> {
    /// Maps until it is to end, and drains.
    async fn serve(
        &mut self,
        start: Start,
        stop: &StopRequest,
        reload: &ReloadRequest,
        driver: &str,
    ) -> Result<(), Failure> {
        let stopped = async {
            let signal = stop.wait_for_drain().await;
            let message = "stopped before it listened anywhere";
            Err(Failure::new(Exit::Stopped(signal), message))
        };
        let Start { server, config } = start;
        let change = or(self.prepare(|| Ok(config)), stopped).await?;
        self.apply(change);
        let (control, doors) = (Arc::clone(&self.control), self.front.tcp_doors());
        let serving = runtime::spawn(server.run(move |client| {
            let (control, doors) = (Arc::clone(&control), Arc::clone(&doors));
            async move {
                doors.serve(&control, client).await;
                Ok(())
            }
        }));
        self.announce(driver)?;
        let control = Arc::clone(&self.control);
        let reloading = async {
            loop {
                reload.wait().await;
                systemd::reloading(&self.control.messages);
                let is_done = self.reload().await;
                systemd::ready(&self.control.messages, self.status(is_done));
            }
        };
        let telling = async { room::tell_when_full(&control).await };
        or(stop.wait_for_drain(), or(reloading, telling)).await;
        self.front.close();
        let report = self.drain(serving, stop).await?;
        self.course.cut_off = report.cut_off;
        self.course.accept_errors = report.stats.accept_errors;
        self.course.reloads = self.control.reloads();
        self.course.zero_copied = self.control.zero_copied.load(Ordering::Relaxed);
        Ok(())
    }

    /// Finds what rules need, in a task, which may block.
    async fn prepare(
        &self,
        read: impl FnOnce() -> Result<Config, String> + Send + 'static,
    ) -> Result<Change, Failure> {
        let (doors, limit) = (self.front.all_doors(), self.descriptor_limit);
        let (supply, inherited) = (self.supply, self.front.inherited());
        let metrics_address = self.metrics_address;
        let preparing = runtime::spawn(async move {
            let Config {
                rules,
                metrics,
                max_conns,
                drain_timeout,
            } = read().map_err(Failure::usage)?;
            let shares = supply.share(&rules, max_conns)?;
            let beside = metrics_address.map(|address| metrics::ends([address]));
            let found = front::find(rules, &doors, beside)?;
            let prepared = front::prepare(found, &doors, &mut inherited.lock(), limit)?;
            Ok(Change {
                prepared,
                shares,
                metrics,
                drain_timeout,
            })
        });
        preparing
            .await
            .unwrap_or_else(|error| Err(Failure::failed(format!("the rules are lost: {error}"))))
    }

    fn apply(&mut self, change: Change) {
        let Change {
            prepared, shares, ..
        } = change;
        self.drain_timeout = change.drain_timeout;
        let is_news = self.shares.replace(shares) != Some(shares);
        if is_news && shares.is_limited() {
            self.control.messages.note(shares);
        }
        let connections = usize::try_from(shares.connections).unwrap_or(usize::MAX);
        self.server.set_max_connections(connections);
        self.control.occupancy.resize(shares.connections);
        self.control.udp_room.resize(shares.sessions);
        self.front.apply(prepared, self.drain_timeout);
        self.figures.follow(self.front.doors());
    }

    /// Reads the rules again. If anything is wrong with them, those in force stay, and `false` is
    /// returned.
    async fn reload(&mut self) -> bool {
        self.reopen();
        if self.args.config.0.is_none() {
            let message = "no rule is read again, as there is no --config";
            self.control.messages.note(message);
            return true;
        }
        let args = self.args.clone();
        let change = self.prepare(move || config::read_all(&args)).await;
        let is_done = change.is_ok();
        match change {
            Ok(change) => {
                let metrics = change.metrics.clone();
                self.apply(change);
                self.control.reloaded(true);
                let rules = counted(self.front.doors().len() as u64, "rule");
                let messages = &self.control.messages;
                messages.note(format_args!("reloaded: {rules} in force"));
                if metrics != self.metrics {
                    messages.note(match metrics.address() {
                        Some(address) => format!(
                            "metrics do not move to {address} in a reload: to change that, start anew"
                        ),
                        None => String::from(
                            "metrics do not end with a reload: to change that, start anew",
                        ),
                    });
                }
            }
            Err(failure) => {
                self.control.reloaded(false);
                let reason = failure.to_string();
                let lines: Vec<_> = reason.lines().map(str::trim).collect();
                let reason = lines.join("; ");
                let messages = &self.control.messages;
                messages.error(format_args!("not reloaded, the old rules stay: {reason}"));
            }
        }
        is_done
    }

    fn reopen(&self) {
        let (path, messages) = (&self.args.log, &self.control.messages);
        if path.as_os_str() == "-" {
            return;
        }
        let shown = path.display();
        match self.control.log.reopen(path) {
            Ok(()) => messages.note(format_args!("--log {shown} is open anew")),
            Err(error) => messages.error(format_args!("cannot open --log {shown} again: {error}")),
        }
    }

    /// What a service manager shows of it after a reload.
    fn status(&self, is_reloaded: bool) -> String {
        let rules = counted(self.front.doors().len() as u64, "rule");
        match is_reloaded {
            true => format!("{rules} in force"),
            false => format!("{rules} in force; the last reload failed"),
        }
    }

    fn announce(&self, driver: &str) -> Result<(), Failure> {
        let listening = self.front.doors().iter().map(|door| match door.is_udp() {
            true => format!("{}/udp", door.address),
            false => door.address.to_string(),
        });
        let announcement = Announcement {
            listening: listening.collect(),
            driver: driver.to_owned(),
            metrics: self.metrics_address,
        };
        announce(&announcement, self.args.output.json, &self.control.messages)
    }

    /// Lets connections end, and has those cut that do not.
    async fn drain(
        &self,
        serving: JoinHandle<io::Result<Report>>,
        stop: &StopRequest,
    ) -> Result<Report, Failure> {
        let stats = self.server.stats();
        let open = stats.active + stats.tasks;
        self.server.drain();
        announce_drain(&self.control.messages, open, self.drain_timeout);
        let stopped = async {
            let second = async {
                stop.wait_for_now().await;
            };
            or(second, sleep(self.drain_timeout)).await;
            self.server.stop();
            pending().await
        };
        let report = or(serving, stopped)
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|error| Failure::of_system("cannot serve", &error))?;
        // Those that were cut leave their lines in the log.
        let _ = timeout(CUT_PATIENCE, self.server.ended()).await;
        Ok(report)
    }
}

/// What the flags say by default.
#[cfg(test)]
fn test_settings() -> args::Settings {
    use clap::{Args, FromArgMatches};
    let command = args::Settings::augment_args(clap::Command::new("map"));
    let matches = command.get_matches_from(["map"]);
    args::Settings::from_arg_matches(&matches).expect("every flag has its default")
}
