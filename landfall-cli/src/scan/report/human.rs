//! For people: a table for each host.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};

use super::{Form, HostReport, Setting, Summary};
use crate::output::{render, table_of_text};
use crate::units::{counted, grouped};

/// Tables.
#[derive(Debug, Default)]
pub struct Human {
    /// Whether any host has a paragraph.
    has_hosts: bool,
    /// Hosts of a block that gave no answer: how many for each set of reasons.
    silent: BTreeMap<Vec<Cow<'static, str>>, u64>,
}

impl Form for Human {
    fn begin(&mut self, _: &mut dyn Write, _: &Setting) -> io::Result<()> {
        Ok(())
    }

    fn host(&mut self, to: &mut dyn Write, setting: &Setting, host: &HostReport) -> io::Result<()> {
        if !host.is_worth_telling() {
            if host.is_down() {
                *self.silent.entry(reasons(host)).or_default() += 1;
            }
            return Ok(());
        }
        self.has_hosts = true;
        writeln!(to, "{}: {}", title(host), in_short(host))?;
        if !host.listed.is_empty() {
            to.write_all(table(setting, host).as_bytes())?;
        }
        writeln!(to)
    }

    fn end(&mut self, to: &mut dyn Write, setting: &Setting, summary: &Summary) -> io::Result<()> {
        let host = match self.has_hosts {
            true => "other host",
            false => "host",
        };
        for (reasons, &count) in &self.silent {
            writeln!(to, "{}{}", counted(count, host), why_silent(reasons))?;
        }
        if !self.silent.is_empty() {
            writeln!(to)?;
        }
        let (scanned, left) = match summary.interrupted {
            true => (partly(summary), left(summary)),
            false => (wholly(setting, summary), String::new()),
        };
        writeln!(
            to,
            "{scanned} scanned in {:.2} s, {} under way at most, seed {}{left}",
            summary.elapsed_seconds,
            counted(summary.peak_concurrency.into(), "connect"),
            setting.seed,
        )?;
        to.flush()
    }
}

/// Why a host gave no answer on any port, each reason once.
fn reasons(host: &HostReport) -> Vec<Cow<'static, str>> {
    let unlisted = host.unlisted.iter();
    let mut reasons: Vec<_> = unlisted.map(|ports| ports.verdict.reason()).collect();
    reasons.sort_unstable();
    reasons
}

/// The end of the sentence about hosts that are silent for these reasons.
fn why_silent(reasons: &[Cow<'static, str>]) -> String {
    let guess = match reasons {
        [only] if only == "no-response" => return String::from(" gave no answer"),
        [only] if only == "net-unreach" => ", no route from this machine?",
        [only] if only == "host-unreach" => ", nobody at these addresses?",
        [only] if only == "admin-prohibited" => ", a packet filter?",
        _ => "",
    };
    format!(": {}{guess}", reasons.join(", "))
}

/// `1,000 ports of 256 hosts`.
fn wholly(setting: &Setting, summary: &Summary) -> String {
    let ports = counted(setting.ports_per_host.into(), "port");
    format!("{ports} of {}", counted(summary.hosts.scanned, "host"))
}

/// `6 of 256,000 ports`.
fn partly(summary: &Summary) -> String {
    let (scanned, left) = (summary.counts.scanned(), summary.counts.not_scanned);
    format!(
        "{} of {}",
        grouped(scanned),
        counted(scanned + left, "port")
    )
}

/// `; interrupted: 6 hosts scanned in part, 250 hosts not reached`.
fn left(summary: &Summary) -> String {
    let hosts = [
        (summary.hosts.partly_scanned, "scanned in part"),
        (summary.hosts.not_scanned, "not reached"),
    ];
    let hosts = hosts.into_iter().filter(|&(count, _)| count > 0);
    let parts: Vec<_> = hosts
        .map(|(count, how)| format!("{} {how}", counted(count, "host")))
        .collect();
    format!("; interrupted: {}", parts.join(", "))
}

fn title(host: &HostReport) -> String {
    let address = host.host.address;
    match &host.host.name {
        Some(name) => format!("{address} ({name})"),
        None => address.to_string(),
    }
}

/// `3 open, 65,532 closed (conn-refused)`.
fn in_short(host: &HostReport) -> String {
    let counts = &host.counts;
    let states = [
        ("open", counts.open),
        ("closed", counts.closed),
        ("filtered", counts.filtered),
        ("unresolved", counts.unresolved),
        ("not scanned", counts.not_scanned),
    ];
    let parts = states.into_iter().filter_map(|(state, count)| {
        let reasons: Vec<_> = host
            .unlisted
            .iter()
            .filter(|unlisted| unlisted.verdict.state().name() == state)
            .map(|unlisted| unlisted.verdict.reason())
            .collect();
        let reasons = match reasons.is_empty() {
            true => String::new(),
            false => format!(" ({})", reasons.join(", ")),
        };
        (count > 0 || state == "open").then(|| format!("{} {state}{reasons}", grouped(count)))
    });
    parts.collect::<Vec<_>>().join(", ")
}

fn table(setting: &Setting, host: &HostReport) -> String {
    // Of an unresolved port the reason is all there is.
    let shows_reasons = setting.shows_reasons || host.counts.unresolved > 0;
    let mut head = vec!["port", "state", "service"];
    head.extend(shows_reasons.then_some("reason"));
    head.extend(setting.has_banners.then_some("banner"));
    let mut table = table_of_text(&head);
    for port in &host.listed {
        let mut row = vec![
            format!("{}/tcp", port.port),
            port.state.name().to_owned(),
            port.service.clone().unwrap_or_default(),
        ];
        row.extend(shows_reasons.then(|| port.reason.clone()));
        row.extend(
            setting
                .has_banners
                .then(|| port.banner.clone().unwrap_or_default()),
        );
        table.add_row(row);
    }
    render(&mut table)
}
