//! The result of a mapper, when it has ended.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::args::MapArgs;
use super::front::{Door, Front};
use super::targets::Counts;
use crate::exit::Exit;
use crate::output::{Report, list, render};
use crate::system::process;
use crate::units::{counted, grouped, show_bytes};

/// The result. Its keys are documented in the README and stay.
#[derive(Debug, Serialize)]
pub struct MapReport {
    /// `map`.
    pub command: &'static str,
    /// The version of the tool.
    pub version: &'static str,
    /// The driver that ran.
    pub driver: String,
    /// Why that one.
    pub driver_reason: String,
    /// How many workers it had.
    pub workers: u32,
    /// How many of them could run at once.
    pub concurrency: u32,
    /// What all rules together have done, those of before a reload as well.
    #[serde(flatten)]
    pub total: Figures,
    /// How many of the bytes went by zero copy.
    pub zero_copied_bytes: u64,
    /// Connections cut off at the end of `--drain-timeout`, or by a second signal.
    pub cut_off: u64,
    /// Accepts that failed, for want of descriptors or memory as a rule.
    pub accept_errors: u64,
    /// Reloads that were asked for and took place.
    pub reloads: u64,
    /// Those that did not, since the rules were wrong.
    pub failed_reloads: u64,
    /// The rules in force at the end.
    pub rules: Vec<RuleReport>,
    /// How long it ran.
    pub uptime_seconds: f64,
    /// Processor time it used.
    pub cpu_seconds: f64,
    /// The most memory that was resident; `None` if the system does not say.
    pub peak_memory_bytes: Option<u64>,
    /// Descriptors open at the end.
    pub descriptors: Option<u64>,
    /// The limit on descriptors.
    pub descriptor_limit: u64,
    /// The exit code.
    pub exit_code: u8,
}

/// What something has done.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Connections, or sessions of UDP.
    pub connections: u64,
    /// Those of clients that were refused.
    pub refused: u64,
    /// Connects to targets that failed.
    pub failed_connects: u64,
    /// Bytes given to targets.
    pub to_server_bytes: u64,
    /// Bytes given to clients.
    pub to_client_bytes: u64,
}

/// What a rule has done.
#[derive(Debug, Serialize)]
pub struct RuleReport {
    /// Its name.
    pub name: String,
    /// Where it listened.
    pub address: String,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// All its targets together.
    #[serde(flatten)]
    pub figures: Figures,
    /// Each of them.
    pub targets: Vec<TargetReport>,
}

/// What a target has done.
#[derive(Debug, Serialize)]
pub struct TargetReport {
    /// `HOST:PORT`, as written.
    pub target: String,
    /// Its part.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What is known of a run before its end.
#[derive(Debug)]
pub struct Setting<'a> {
    /// The command line.
    pub args: &'a MapArgs,
    /// The driver, and why that one.
    pub driver: [String; 2],
    /// The limit on descriptors.
    pub descriptor_limit: u64,
    /// When it began.
    pub began: Instant,
}

/// How it went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Course {
    /// Reloads that took place, and those that did not.
    pub reloads: [u64; 2],
    /// Bytes that went by zero copy.
    pub zero_copied: u64,
    /// Connections cut off.
    pub cut_off: u64,
    /// Accepts that failed.
    pub accept_errors: u64,
}

impl From<Counts> for Figures {
    fn from(counts: Counts) -> Self {
        Self {
            connections: counts.connections,
            refused: counts.refused,
            failed_connects: counts.failed_connects,
            to_server_bytes: counts.to_server,
            to_client_bytes: counts.to_client,
        }
    }
}

impl RuleReport {
    fn new(door: &Arc<Door>) -> Self {
        let mapping = door.mapping();
        let targets: Vec<_> = mapping
            .targets
            .iter()
            .map(|target| TargetReport {
                target: target.name.clone(),
                figures: target.counters.read().into(),
            })
            .collect();
        Self {
            name: mapping.rule.name.clone(),
            address: door.address.to_string(),
            protocol: mapping.settings().protocol(),
            figures: mapping.counters.read().into(),
            targets,
        }
    }
}

impl MapReport {
    /// Puts together what is known before and after, and what this process has used until now.
    pub fn new(setting: Setting<'_>, front: &Front, course: Course, exit: Exit) -> Self {
        let Setting {
            args,
            driver: [driver, driver_reason],
            descriptor_limit,
            began,
        } = setting;
        let [reloads, failed_reloads] = course.reloads;
        Self {
            command: "map",
            version: env!("CARGO_PKG_VERSION"),
            driver,
            driver_reason,
            workers: args.runtime.workers,
            concurrency: args.runtime.concurrency,
            total: front.total().into(),
            zero_copied_bytes: course.zero_copied,
            cut_off: course.cut_off,
            accept_errors: course.accept_errors,
            reloads,
            failed_reloads,
            rules: front.doors().iter().map(RuleReport::new).collect(),
            uptime_seconds: began.elapsed().as_secs_f64(),
            cpu_seconds: process::own_cpu_time().as_secs_f64(),
            peak_memory_bytes: process::own_peak_memory().ok(),
            descriptors: process::own_descriptors().ok(),
            descriptor_limit,
            exit_code: exit.code(),
        }
    }
}

/// Rules shown to people one by one; more are in `--json`.
const MOST_SHOWN: usize = 20;

impl Report for MapReport {
    fn table(&self) -> String {
        let mut table = list();
        let mut row = |label: &str, value: String| {
            table.add_row([label, &value]);
        };
        row(
            "driver",
            format!(
                "{}, {}, concurrency {}",
                self.driver,
                counted(u64::from(self.workers), "worker"),
                self.concurrency
            ),
        );
        row("connections", grouped(self.total.connections));
        let rare = [
            ("refused", self.total.refused),
            ("connects that failed", self.total.failed_connects),
            ("accepts that failed", self.accept_errors),
            ("cut off", self.cut_off),
            ("reloads", self.reloads),
            ("reloads that failed", self.failed_reloads),
        ];
        for (label, count) in rare.into_iter().filter(|(_, count)| *count > 0) {
            row(label, grouped(count));
        }
        let bytes = |count| format!("{} bytes", grouped(count));
        row("to targets", bytes(self.total.to_server_bytes));
        row("to clients", bytes(self.total.to_client_bytes));
        if self.zero_copied_bytes > 0 {
            row("by zero copy", bytes(self.zero_copied_bytes));
        }
        for rule in self.rules.iter().take(MOST_SHOWN) {
            row(&format!("{} ({})", rule.name, rule.protocol), rule.shown());
        }
        if self.rules.len() > MOST_SHOWN {
            let more = (self.rules.len() - MOST_SHOWN) as u64;
            row("", format!("and {} more", counted(more, "rule")));
        }
        row("time", format!("{:.2} s", self.uptime_seconds));
        row("processor", format!("{:.2} s", self.cpu_seconds));
        if let Some(peak) = self.peak_memory_bytes {
            row("peak memory", show_bytes(peak));
        }
        render(&mut table)
    }
}

impl RuleReport {
    fn shown(&self) -> String {
        let targets: Vec<_> = self
            .targets
            .iter()
            .map(|target| {
                format!(
                    "{} to {}",
                    grouped(target.figures.connections),
                    target.target
                )
            })
            .collect();
        targets.join(", ")
    }
}
