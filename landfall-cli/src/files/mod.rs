//! `landfall files`: the files of a directory over HTTP/1.1.

mod access;
mod args;
mod conditional;
mod connection;
mod counts;
mod date;
mod listing;
mod metrics;
mod pace;
mod path;
mod range;
mod report;
mod respond;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use landfall::fs::{Directory, SymbolicLinks};
use landfall::port::{self, Facilities};
use landfall::runtime::Runtime;
use landfall::server::Server;

pub use args::FilesArgs;

use connection::Service;
use counts::Counts;
use date::DateText;
use metrics::AnswerMetrics;
use report::FilesReport;
use respond::Site;

use crate::exit::{Exit, Failure};
use crate::metrics::Endpoint;
use crate::output::{Announcement, Log, Sink, announce};
use crate::serve::{ServerMetrics, ServerReport, Setting, listen, obey};
use crate::system::limits;
use crate::system::signals::StopRequest;
use crate::system::systemd::Sockets;

/// Descriptors of this process that are neither a connection's nor a file's.
const OTHER_DESCRIPTORS: u64 = 64;

/// Runs the subcommand.
pub fn run(args: &FilesArgs) -> Result<Exit, Failure> {
    let inherited = Sockets::from_environment()?;
    let log = Log::start(args.output.messages())?;
    serve(args, inherited, &log).map_err(|failure| {
        // Said by the log, which may hold standard error for a reader that takes nothing.
        log.error(&failure);
        log.finish();
        Failure::told(failure.exit)
    })
}

fn serve(args: &FilesArgs, mut inherited: Sockets, log: &Log) -> Result<Exit, Failure> {
    let mut sink = Sink::open(&args.output)?;
    check_times(args)?;
    args.zero_copy.check()?;
    let site = site_of(args, log)?;
    args.metrics.check_apart(&args.listen)?;
    let stop = StopRequest::listen()?;
    args.runtime.end_with_parent(&stop)?;
    let descriptor_limit = limits::raise_descriptor_limit();
    let runtime = runtime_of(args)?;
    let endpoint = Endpoint::listen(args.metrics.address(), &mut inherited, descriptor_limit)?;
    let sockets = args
        .metrics
        .leave_of(runtime.port().socket_capacity() as u64);
    let most = most_connections(args, sockets, descriptor_limit)?;
    let began = Instant::now();
    let server = bind(args, most, inherited, descriptor_limit)?;
    let setting = Setting {
        command: "files",
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
    let service = Arc::new(Service {
        site,
        rate: args.rate_limit.0,
        head_timeout: args.timeout,
        tells_answers: args.output.verbose,
        stop: stop.clone(),
    });
    if let Some(endpoint) = endpoint {
        let server = Box::new(ServerMetrics(server.handle()));
        let answers = Box::new(AnswerMetrics(service.clone()));
        endpoint.serve(&runtime, log, [server as _, answers as _]);
    }
    announce(&setting.announcement, args.output.json, log)?;
    for address in server.local_addrs() {
        log.note(format_args!("{}", url_of(address)));
    }

    let serving = service.clone();
    let served = server
        .serve_on(&runtime, move |connection| {
            serving.clone().serve(connection)
        })
        .map_err(|error| Failure::of_system("cannot serve", &error))?;

    log.finish();
    let exit = stop.now().map_or(Exit::Done, Exit::Stopped);
    sink.write(&FilesReport::new(
        ServerReport::new(setting, &served, exit),
        args.directory.display().to_string(),
        &service.site.counts,
    ))?;
    Ok(exit)
}

/// What a browser on this machine takes: the address that stands for all is none to connect to on every
/// system.
fn url_of(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address.is_ipv4() {
            true => Ipv4Addr::LOCALHOST.into(),
            false => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}/")
}

fn check_times(args: &FilesArgs) -> Result<(), Failure> {
    let is_zero = [
        ("--timeout", args.timeout.is_zero()),
        (
            "--idle-timeout",
            args.idle_timeout.0.is_some_and(|time| time.is_zero()),
        ),
    ];
    match is_zero.into_iter().find(|(_, is_zero)| *is_zero) {
        Some((flag, _)) => Err(Failure::usage(format!(
            "{flag} 0s leaves clients no time at all: give them some, as in 10s"
        ))),
        None => Ok(()),
    }
}

/// Where the system sends from files, it needs a descriptor of the connection in the process: to install
/// one costs more than to have it from the beginning.
fn runtime_of(args: &FilesArgs) -> Result<Runtime, Failure> {
    let mut facilities = Facilities::default();
    facilities.direct_descriptors &= !args.zero_copy.sends_at_once();
    args.runtime
        .build_on(port::Builder::new().facilities(facilities))
}

fn site_of(args: &FilesArgs, log: &Log) -> Result<Site, Failure> {
    let links = match args.follow_symlinks {
        true => SymbolicLinks::FollowBeneath,
        false => SymbolicLinks::Refuse,
    };
    let directory =
        Directory::open(&args.directory, links).map_err(|error| cannot_open(args, &error))?;
    Ok(Site {
        directory,
        index: args.index.clone(),
        lists: !args.no_list,
        shows_hidden: args.hidden,
        sends_at_once: args.zero_copy.sends_at_once(),
        counts: Counts::default(),
        log: log.clone(),
        date: DateText::new(),
    })
}

/// A directory that cannot be served is a mistake on the command line, unless a limit is in the way.
fn cannot_open(args: &FilesArgs, error: &io::Error) -> Failure {
    let exit = match Exit::of_system(error) {
        Exit::Failed => Exit::Usage,
        exit => exit,
    };
    let directory = args.directory.display();
    Failure::new(
        exit,
        format!("cannot serve the directory {directory}: {error}"),
    )
}

/// How many connections there may be, each of which may have a file open as well, and a second
/// descriptor to send it by.
fn most_connections(
    args: &FilesArgs,
    sockets: u64,
    descriptor_limit: u64,
) -> Result<usize, Failure> {
    let each = 2 + u64::from(args.zero_copy.sends_at_once());
    let descriptors = descriptor_limit.saturating_sub(OTHER_DESCRIPTORS);
    let capacity = args.metrics.leave_of(descriptors) / each;
    let capacity = capacity.min(sockets).max(1);
    let most = args.max_conns.0.map_or(capacity, u64::from);
    limits::refuse_if_short(
        "--max-conns",
        [limits::check_sockets(most, capacity, descriptor_limit)],
    )?;
    Ok(usize::try_from(most).unwrap_or(usize::MAX))
}

fn bind(
    args: &FilesArgs,
    most: usize,
    mut inherited: Sockets,
    descriptor_limit: u64,
) -> Result<Server, Failure> {
    let mut server = listen(&args.listen, &mut inherited, descriptor_limit)?;
    inherited.refuse_rest()?;
    if let Some(idle) = args.idle_timeout.0 {
        server = server.idle_timeout(idle);
    }
    Ok(server
        .max_connections(most)
        .drain_timeout(args.drain_timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_to_this_machine() {
        for (address, url) in [
            ("127.0.0.1:8000", "http://127.0.0.1:8000/"),
            ("0.0.0.0:80", "http://127.0.0.1:80/"),
            ("[::]:8000", "http://[::1]:8000/"),
            ("[2001:db8::1]:8000", "http://[2001:db8::1]:8000/"),
        ] {
            assert_eq!(url_of(address.parse().unwrap()), url);
        }
    }
}
