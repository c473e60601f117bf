//! The result, in every form: written as the scan goes on, host by host, so that it need not be kept.

mod csv;
mod greppable;
mod human;
mod json;
mod outputs;
mod xml;

pub use outputs::Outputs;

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::SystemTime;

use serde::Serialize;

use super::hosts::Host;
use super::verdict::{State, Verdict};
use crate::system::services::Services;

/// A form of the result.
pub trait Form {
    /// Writes what comes before the first host.
    fn begin(&mut self, to: &mut dyn Write, setting: &Setting) -> io::Result<()>;

    /// Writes a host.
    fn host(&mut self, to: &mut dyn Write, setting: &Setting, host: &HostReport) -> io::Result<()>;

    /// Writes what comes after the last one.
    fn end(&mut self, to: &mut dyn Write, setting: &Setting, summary: &Summary) -> io::Result<()>;
}

/// What was asked for. Its keys are documented in the README and stay.
#[derive(Debug, Serialize)]
pub struct Setting {
    /// `scan`.
    pub command: &'static str,
    /// The version of the tool.
    pub version: &'static str,
    /// The words of the command line.
    #[serde(skip)]
    pub command_line: String,
    /// When it began.
    #[serde(skip)]
    pub started: SystemTime,
    /// The same, in seconds since 1970.
    pub started_unix_seconds: f64,
    /// The ports, as ranges.
    pub ports: String,
    /// How many ports there are.
    pub ports_per_host: u32,
    /// What the order followed from.
    pub seed: u64,
    /// The longest wait for a connect.
    pub timeout_seconds: f64,
    /// Further tries where nothing answered.
    pub retries: u32,
    /// The most connects that could have been under way.
    pub concurrency: u32,
    /// The driver that ran.
    pub driver: String,
    /// Why that one.
    pub driver_reason: String,
    /// How many workers it had.
    pub workers: u32,
    /// The limit on descriptors.
    pub descriptor_limit: u64,
    /// Whether every port is listed.
    pub all_states: bool,
    /// Whether people are told reasons.
    #[serde(skip)]
    pub shows_reasons: bool,
    /// Whether banners were waited for.
    #[serde(skip)]
    pub has_banners: bool,
}

/// One port that is listed.
#[derive(Debug, Serialize)]
pub struct PortReport {
    /// Its number.
    pub port: u16,
    /// Its state.
    #[serde(serialize_with = "state_name")]
    pub state: State,
    /// Why.
    pub reason: String,
    /// What the system's list calls the service.
    pub service: Option<String>,
    /// What it said unasked, with other characters than printable ones escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub banner: Option<String>,
}

fn state_name<S: serde::Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.name())
}

/// How many ports of a host came to the same verdict, and are not listed.
#[derive(Debug)]
pub struct Unlisted {
    /// The verdict.
    pub verdict: Verdict,
    /// How many.
    pub count: u32,
}

/// What is known of a host.
#[derive(Debug)]
pub struct HostReport {
    /// The host.
    pub host: Host,
    /// The ports that are listed, in order.
    pub listed: Vec<PortReport>,
    /// The others.
    pub unlisted: Vec<Unlisted>,
    /// What a router or this machine said of the way to it, if that is all that came.
    obstacle: Option<Verdict>,
    /// How many are in each state.
    pub counts: Counts,
}

/// How many ports are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Something listens.
    pub open: u64,
    /// Nothing does.
    pub closed: u64,
    /// No answer, or a refusal on the way.
    pub filtered: u64,
    /// This machine failed.
    pub unresolved: u64,
    /// Not tried, since the scan was interrupted.
    pub not_scanned: u64,
}

impl Counts {
    fn add(&mut self, verdict: Option<Verdict>) {
        *match verdict.map(Verdict::state) {
            Some(State::Open) => &mut self.open,
            Some(State::Closed) => &mut self.closed,
            Some(State::Filtered) => &mut self.filtered,
            Some(State::Unresolved) => &mut self.unresolved,
            None => &mut self.not_scanned,
        } += 1;
    }

    /// How many there are that were tried.
    pub fn scanned(&self) -> u64 {
        self.open + self.closed + self.filtered + self.unresolved
    }

    /// Adds those of another host.
    pub fn add_all(&mut self, other: &Self) {
        self.open += other.open;
        self.closed += other.closed;
        self.filtered += other.filtered;
        self.unresolved += other.unresolved;
        self.not_scanned += other.not_scanned;
    }
}

/// How many hosts were scanned, and answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HostCounts {
    /// All of whose ports were tried.
    #[serde(rename = "hosts_scanned")]
    pub scanned: u64,
    /// Some of whose ports were, before the scan was interrupted.
    #[serde(rename = "hosts_partly_scanned")]
    pub partly_scanned: u64,
    /// None of whose ports were.
    #[serde(rename = "hosts_not_scanned")]
    pub not_scanned: u64,
    /// Those that gave an answer, also if only some of their ports were tried.
    #[serde(rename = "hosts_up")]
    pub up: u64,
    /// Those that gave none on any of their ports.
    #[serde(skip)]
    pub down: u64,
}

impl HostCounts {
    /// Adds a host.
    pub fn add(&mut self, host: &HostReport) {
        *match (host.counts.not_scanned, host.counts.scanned()) {
            (0, _) => &mut self.scanned,
            (_, 0) => &mut self.not_scanned,
            _ => &mut self.partly_scanned,
        } += 1;
        self.up += u64::from(host.is_up());
        self.down += u64::from(host.is_down());
    }

    /// Counts as not scanned what is missing of so many.
    pub fn set_total(&mut self, total: u64) {
        self.not_scanned = total - self.scanned - self.partly_scanned;
    }
}

impl HostReport {
    /// Puts together what was found of a host.
    pub fn new(
        host: Host,
        findings: impl Iterator<Item = (u16, Option<Verdict>, Vec<u8>)>,
        setting: &Setting,
        services: &Services,
    ) -> Self {
        let mut report = Self {
            host,
            listed: Vec::new(),
            unlisted: Vec::new(),
            obstacle: None,
            counts: Counts::default(),
        };
        for (port, verdict, banner) in findings {
            report.counts.add(verdict);
            let Some(verdict) = verdict else {
                continue;
            };
            if verdict.state() == State::Filtered && verdict != Verdict::NoResponse {
                report.obstacle.get_or_insert(verdict);
            }
            if verdict.is_worth_listing() || setting.all_states {
                report.listed.push(PortReport {
                    port,
                    state: verdict.state(),
                    reason: verdict.reason().into_owned(),
                    service: services.name(port).map(str::to_owned),
                    banner: (!banner.is_empty()).then(|| escaped(&banner)),
                });
            } else {
                report.count_unlisted(verdict);
            }
        }
        report
    }

    fn count_unlisted(&mut self, verdict: Verdict) {
        match self
            .unlisted
            .iter_mut()
            .find(|other| other.verdict == verdict)
        {
            Some(unlisted) => unlisted.count += 1,
            None => self.unlisted.push(Unlisted { verdict, count: 1 }),
        }
    }

    /// Whether it gave any answer.
    pub fn is_up(&self) -> bool {
        self.counts.open > 0 || self.counts.closed > 0
    }

    /// Whether it gave none on any port. Of one whose ports were not all tried that is not known.
    pub fn is_down(&self) -> bool {
        !self.is_up() && self.counts.not_scanned == 0
    }

    /// Whether it is worth a line: one of many that are silent is not.
    pub fn is_worth_telling(&self) -> bool {
        let is_told = self.is_up() || self.counts.unresolved > 0;
        is_told || !self.listed.is_empty() || self.host.is_single
    }

    /// The name it was given by, or nothing.
    fn name(&self) -> &str {
        self.host.name.as_deref().unwrap_or_default()
    }

    /// What keeps it from being called up, or shows that it is, in nmap's words.
    fn status(&self) -> (&'static str, Cow<'static, str>) {
        let known = |state, reason| (state, Cow::Borrowed(reason));
        match (self.counts.open > 0, self.counts.closed > 0) {
            (true, _) => known("up", "syn-ack"),
            (false, true) => known("up", "conn-refused"),
            (false, false) if self.counts.unresolved > 0 => known("unknown", "unresolved"),
            (false, false) if !self.is_down() => known("unknown", "not-scanned"),
            (false, false) => {
                let verdict = self.obstacle.unwrap_or(Verdict::NoResponse);
                ("unknown", verdict.reason())
            }
        }
    }
}

/// What came of it all. Its keys are documented in the README and stay.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// The hosts.
    #[serde(flatten)]
    pub hosts: HostCounts,
    /// Names without an address.
    pub unknown_names: u32,
    /// The ports of all hosts.
    #[serde(flatten)]
    pub counts: Counts,
    /// Connects begun.
    pub connects: u64,
    /// Those that failed for a limit of this machine, most of which were made up for.
    pub local_failures: u64,
    /// The most connects under way at one time.
    pub peak_concurrency: u32,
    /// How long it took.
    pub elapsed_seconds: f64,
    /// Processor time used.
    pub client_cpu_seconds: f64,
    /// The most memory that was resident; `None` if the system does not say.
    pub peak_memory_bytes: Option<u64>,
    /// Whether a signal ended it early.
    pub interrupted: bool,
    /// The exit code.
    pub exit_code: u8,
    /// What it lacks, in words; nothing if it is complete.
    #[serde(skip)]
    pub complaints: String,
    /// When it ended.
    #[serde(skip)]
    pub ended: SystemTime,
}

impl Summary {
    /// How it ended, in nmap's word or in ours.
    fn ending(&self) -> &'static str {
        match self.interrupted {
            true => "stopped",
            false => "done",
        }
    }

    /// In nmap's words, for forms of its own.
    fn in_nmaps_words(&self) -> String {
        let addresses = match self.hosts.up + self.hosts.down {
            1 => String::from("1 IP address"),
            count => format!("{count} IP addresses"),
        };
        let hosts = match self.hosts.up {
            1 => String::from("1 host up"),
            count => format!("{count} hosts up"),
        };
        format!(
            "{addresses} ({hosts}) scanned in {:.2} seconds",
            self.elapsed_seconds
        )
    }
}

/// A time as RFC 3339 has it, in UTC.
fn show_moment(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Bytes as text of printable ASCII.
fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
