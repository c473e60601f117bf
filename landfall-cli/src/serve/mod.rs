//! `landfall serve`: an echo or discard server.

mod args;
mod handler;
mod metrics;
mod report;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use landfall::net::ListenOptions;
use landfall::server::{Server, ServerHandle};

pub use args::ServeArgs;
pub use metrics::ServerMetrics;
pub use report::{ServerReport, Setting};

use handler::{Delay, Service};
use report::ServeReport;

use crate::exit::{Exit, Failure};
use crate::metrics::Endpoint;
use crate::output::{Announcement, Log, Sink, announce, announce_drain};
use crate::system::limits;
use crate::system::signals::StopRequest;
use crate::system::systemd::Sockets;
use crate::units::port_of;

/// Runs the subcommand.
pub fn run(args: &ServeArgs) -> Result<Exit, Failure> {
    let inherited = Sockets::from_environment()?;
    let log = Log::start(args.output.messages())?;
    serve(args, inherited, &log).map_err(|failure| {
        // Said by the log, which may hold standard error for a reader that takes nothing.
        log.error(&failure);
        log.finish();
        Failure::told(failure.exit)
    })
}

fn serve(args: &ServeArgs, mut inherited: Sockets, log: &Log) -> Result<Exit, Failure> {
    let mut sink = Sink::open(&args.output)?;
    if args.idle_timeout.0.is_some_and(|time| time.is_zero()) {
        return Err(Failure::usage(
            "--idle-timeout 0s leaves clients no time at all: give them some, as in 10m, or `none`",
        ));
    }
    args.metrics.check_apart(&args.addresses)?;
    let stop = StopRequest::listen()?;
    args.runtime.end_with_parent(&stop)?;
    let descriptor_limit = limits::raise_descriptor_limit();
    let runtime = args.runtime.build()?;
    let endpoint = Endpoint::listen(args.metrics.address(), &mut inherited, descriptor_limit)?;
    let sockets = args
        .metrics
        .leave_of(runtime.port().socket_capacity() as u64);
    let most = most_connections(args, sockets, descriptor_limit)?;
    let began = Instant::now();
    let server = bind(args, most, inherited, descriptor_limit)?;
    let setting = Setting {
        command: "serve",
        runtime: &args.runtime,
        announcement: Announcement::new(
            &server,
            runtime.port().driver(),
            endpoint.as_ref().map(Endpoint::address),
        ),
        driver_reason: runtime.port().driver_reason().to_owned(),
        descriptor_limit,
        began,
    };
    obey(
        stop.clone(),
        server.handle(),
        args.drain_timeout,
        log.clone(),
    )?;
    if let Some(endpoint) = endpoint {
        let server = ServerMetrics(server.handle());
        endpoint.serve(&runtime, log, [Box::new(server) as _]);
    }
    announce(&setting.announcement, args.output.json, log)?;

    let service = Arc::new(service_of(args, log.clone()));
    let serve = move |connection| Arc::clone(&service).serve(connection);
    let served = server
        .serve_on(&runtime, serve)
        .map_err(|error| Failure::of_system("cannot serve", &error))?;

    log.finish();
    let exit = stop.now().map_or(Exit::Done, Exit::Stopped);
    sink.write(&ServeReport {
        server: ServerReport::new(setting, &served, exit),
        mode: if args.discard { "discard" } else { "echo" },
    })?;
    if let Exit::Stopped(_) = exit {
        // Asked to stop at once: a handler that still computes or sleeps is not waited for.
        std::process::exit(exit.code().into());
    }
    Ok(exit)
}

/// How many connections there may be, if there is a bound: metrics are to be had when all other sockets are
/// taken.
fn most_connections(
    args: &ServeArgs,
    sockets: u64,
    descriptor_limit: u64,
) -> Result<Option<u64>, Failure> {
    let Some(most) = args.max_conns.0.map(u64::from) else {
        let listeners = args.addresses.len() as u64;
        let left = sockets.saturating_sub(listeners);
        let left = left.saturating_sub(limits::waiting(listeners, left));
        return Ok(args.metrics.address().map(|_| left.max(1)));
    };
    limits::refuse_if_short(
        "--max-conns",
        [limits::check_sockets(most, sockets, descriptor_limit)],
    )?;
    Ok(Some(most))
}

fn bind(
    args: &ServeArgs,
    most: Option<u64>,
    mut inherited: Sockets,
    descriptor_limit: u64,
) -> Result<Server, Failure> {
    let mut server = listen(&args.addresses, &mut inherited, descriptor_limit)?;
    inherited.refuse_rest()?;
    if let Some(most) = most {
        server = server.max_connections(usize::try_from(most).unwrap_or(usize::MAX));
    }
    if let Some(idle) = args.idle_timeout.0 {
        server = server.idle_timeout(idle);
    }
    Ok(server.drain_timeout(args.drain_timeout))
}

/// A server that listens on all of these, by sockets that were handed over where there are some.
pub fn listen(
    addresses: &[String],
    inherited: &mut Sockets,
    descriptor_limit: u64,
) -> Result<Server, Failure> {
    for address in addresses {
        port_of(address).map_err(Failure::usage)?;
    }
    if addresses.is_empty() {
        return Err(Failure::usage("no address to listen on"));
    }
    let mut server = Server::new().listen_options(ListenOptions::new().nodelay(true));
    for address in addresses {
        server = listen_on(server, address, inherited).map_err(|error| {
            let in_the_way = inherited.in_the_way(address, false, &error);
            in_the_way.unwrap_or_else(|| Failure::cannot_listen(address, &error, descriptor_limit))
        })?;
    }
    Ok(server)
}

fn listen_on(server: Server, address: &str, inherited: &mut Sockets) -> io::Result<Server> {
    match inherited.take_tcp(address)? {
        Some(listener) => server.and_std(listener),
        None => server.and_bind(address),
    }
}

/// Passes signals on to the server: the first drains it, the second stops it.
pub fn obey(
    stop: StopRequest,
    server: ServerHandle,
    timeout: Duration,
    log: Log,
) -> Result<(), Failure> {
    let watch = move || {
        block_on(stop.wait_for_drain());
        announce_drain(&log, server.stats().active, timeout);
        server.drain();
        block_on(stop.wait_for_now());
        server.stop();
    };
    let thread = thread::Builder::new()
        .name(String::from("stop"))
        .spawn(watch);
    thread
        .map(drop)
        .map_err(|error| Failure::of_system("cannot start a thread", &error))
}

fn service_of(args: &ServeArgs, log: Log) -> Service {
    let busy = args.busy.0.map(Delay::Busy);
    let sleep = args.sleep.0.map(Delay::Sleep);
    Service {
        echo: !args.discard,
        delay: busy.or(sleep),
        slow: args.slow,
        log,
        begun: AtomicU64::new(0),
    }
}
