//! A line for each host, in the form that nmap's `-oG` has.

use std::io::{self, Write};

use super::{Form, HostReport, PortReport, Setting, Summary, show_moment};
use crate::scan::verdict::State;

/// Lines to search with grep.
#[derive(Debug, Default)]
pub struct Greppable;

impl Form for Greppable {
    fn begin(&mut self, to: &mut dyn Write, setting: &Setting) -> io::Result<()> {
        let (started, words) = (show_moment(setting.started), &setting.command_line);
        let version = setting.version;
        writeln!(
            to,
            "# Landfall {version} scan initiated {started} as: {words}"
        )
    }

    fn host(&mut self, to: &mut dyn Write, _: &Setting, host: &HostReport) -> io::Result<()> {
        if !host.is_worth_telling() {
            return Ok(());
        }
        let title = format!("Host: {} ({})", host.host.address, host.name());
        let status = match host.is_up() {
            true => "Up",
            false => "Unknown",
        };
        writeln!(to, "{title}\tStatus: {status}")?;
        let ports: Vec<_> = host.listed.iter().map(port).collect();
        write!(to, "{title}")?;
        if !ports.is_empty() {
            write!(to, "\tPorts: {}", ports.join(", "))?;
        }
        for (index, (state, count)) in ignored(host).into_iter().enumerate() {
            let separator = match index {
                0 => "\tIgnored State: ",
                _ => ", ",
            };
            write!(to, "{separator}{} ({count})", state.nmap_name())?;
        }
        writeln!(to)
    }

    fn end(&mut self, to: &mut dyn Write, _: &Setting, summary: &Summary) -> io::Result<()> {
        let ended = show_moment(summary.ended);
        writeln!(
            to,
            "# Landfall {} at {ended} -- {}",
            summary.ending(),
            summary.in_nmaps_words(),
        )?;
        if !summary.complaints.is_empty() {
            writeln!(to, "# {}", summary.complaints)?;
        }
        to.flush()
    }
}

/// `22/open/tcp//ssh///`: port, state, protocol, owner, service, RPC information, version.
fn port(port: &PortReport) -> String {
    // A slash ends a field.
    let service = port
        .service
        .as_deref()
        .unwrap_or_default()
        .replace('/', "|");
    format!("{}/{}/tcp//{service}///", port.port, port.state.nmap_name())
}

/// The states of ports that are not listed, and how many are in each.
fn ignored(host: &HostReport) -> Vec<(State, u32)> {
    let mut states: Vec<(State, u32)> = Vec::new();
    for unlisted in &host.unlisted {
        let state = unlisted.verdict.state();
        match states.iter_mut().find(|(other, _)| *other == state) {
            Some((_, count)) => *count += unlisted.count,
            None => states.push((state, unlisted.count)),
        }
    }
    states
}
