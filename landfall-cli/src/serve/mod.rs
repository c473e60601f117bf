//! `landfall serve`: an echo or discard server.

mod args;
mod handler;
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

use handler::{Delay, Service};
use report::{Announcement, ServeReport};

use crate::exit::{Exit, Failure};
use crate::output::{Messages, Sink, json_line, write_stdout};
use crate::system::signals::StopRequest;
use crate::system::{limits, process};
use crate::units::{grouped, show_time};

/// Runs the subcommand.
pub fn run(args: &ServeArgs) -> Result<Exit, Failure> {
    let mut sink = Sink::open(&args.output)?;
    args.runtime.end_with_parent()?;
    let stop = StopRequest::listen()?;
    let descriptor_limit = limits::raise_descriptor_limit();
    let sockets = args.runtime.socket_capacity(descriptor_limit);
    let most = args.max_conns.0.map(u64::from);
    limits::refuse_if_short(
        "--max-conns",
        [most.and_then(|most| limits::check_sockets(most, sockets, descriptor_limit))],
    )?;
    let began = Instant::now();
    let server = bind(args)?;
    let runtime = args.runtime.build()?;
    let announcement = Announcement::new(&server, runtime.port().driver())?;
    let handle = server.handle();
    obey(
        stop.clone(),
        handle,
        args.drain_timeout,
        args.output.messages(),
    )?;
    announce(&announcement, args.output.json)?;

    let service = Arc::new(service_of(args));
    let serve = move |connection| {
        let service = Arc::clone(&service);
        async move { service.serve(connection).await }
    };
    let served = server
        .serve_on(&runtime, serve)
        .map_err(|error| Failure::failed(format!("cannot serve: {error}")))?;

    let exit = stop.now().map_or(Exit::Done, Exit::Stopped);
    sink.write(&ServeReport {
        command: "serve",
        version: env!("CARGO_PKG_VERSION"),
        addresses: announcement.listening,
        mode: if args.discard { "discard" } else { "echo" },
        driver: announcement.driver,
        driver_reason: runtime.port().driver_reason().to_owned(),
        workers: args.runtime.workers,
        concurrency: args.runtime.concurrency,
        accepted: served.stats.accepted,
        refused: served.stats.refused,
        failed: served.stats.failed + served.stats.panicked,
        accept_errors: served.stats.accept_errors,
        received_bytes: served.stats.received_bytes,
        sent_bytes: served.stats.sent_bytes,
        cut_off: served.cut_off,
        uptime_seconds: began.elapsed().as_secs_f64(),
        server_cpu_seconds: process::own_cpu_time().as_secs_f64(),
        peak_memory_bytes: process::own_peak_memory().ok(),
        descriptors: process::own_descriptors().ok(),
        descriptor_limit,
        exit_code: exit.code(),
    })?;
    if let Exit::Stopped(_) = exit {
        // Asked to stop at once: a handler that still computes or sleeps is not waited for.
        std::process::exit(exit.code().into());
    }
    Ok(exit)
}

fn bind(args: &ServeArgs) -> Result<Server, Failure> {
    let options = ListenOptions::new().nodelay(true);
    let mut addresses = args.addresses.iter();
    let first = addresses
        .next()
        .ok_or_else(|| Failure::usage("no address to listen on"))?;
    let mut server =
        Server::bind_with(first.as_str(), options).map_err(|error| cannot_listen(first, &error))?;
    for address in addresses {
        server = server
            .and_bind(address.as_str())
            .map_err(|error| cannot_listen(address, &error))?;
    }
    if let Some(most) = args.max_conns.0 {
        server = server.max_connections(most as usize);
    }
    if let Some(idle) = args.idle_timeout.0 {
        server = server.idle_timeout(idle);
    }
    Ok(server.drain_timeout(args.drain_timeout))
}

fn cannot_listen(address: &str, error: &io::Error) -> Failure {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; stop the program that listens there (`ss -ltnp` names it), or choose another port"
        }
        io::ErrorKind::AddrNotAvailable => "; it is not an address of this machine",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need a privilege, choose a higher one"
        }
        io::ErrorKind::InvalidInput => "; write HOST:PORT, as in 127.0.0.1:7000 or [::]:7000",
        _ => "",
    };
    let message = format!("cannot listen on {address}: {error}{advice}");
    if error.kind() == io::ErrorKind::InvalidInput {
        Failure::usage(message)
    } else {
        Failure::failed(message)
    }
}

/// Says where the server listens, on standard output, for clients and scripts that wait for it.
fn announce(announcement: &Announcement, json: bool) -> Result<(), Failure> {
    let text = if json {
        json_line(announcement)?
    } else {
        announcement
            .listening
            .iter()
            .map(|address| format!("listening on {address}\n"))
            .collect()
    };
    write_stdout(&text)
        .map_err(|error| Failure::failed(format!("cannot write to standard output: {error}")))
}

/// Passes signals on to the server: the first drains it, the second stops it.
fn obey(
    stop: StopRequest,
    server: ServerHandle,
    timeout: Duration,
    messages: Messages,
) -> Result<(), Failure> {
    let watch = move || {
        block_on(stop.wait_for_drain());
        let (active, time) = (grouped(server.stats().active), show_time(timeout));
        messages.note(format_args!(
            "letting {active} connections finish, for {time} at most; again to stop now"
        ));
        server.drain();
        block_on(stop.wait_for_now());
        server.stop();
    };
    let thread = thread::Builder::new()
        .name(String::from("stop"))
        .spawn(watch);
    thread
        .map(drop)
        .map_err(|error| Failure::failed(format!("cannot start a thread: {error}")))
}

fn service_of(args: &ServeArgs) -> Service {
    let busy = args.busy.0.map(Delay::Busy);
    let sleep = args.sleep.0.map(Delay::Sleep);
    Service {
        echo: !args.discard,
        delay: busy.or(sleep),
        slow: args.slow,
        messages: args.output.messages(),
        begun: AtomicU64::new(0),
    }
}
