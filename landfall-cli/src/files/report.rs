//! The result of a server of files, when it has ended.

use std::time::Instant;

use landfall::server;
use serde::Serialize;

use super::args::FilesArgs;
use super::counts::Counts;
use crate::exit::Exit;
use crate::output::{Report, list, render};
use crate::serve::Announcement;
use crate::system::process;
use crate::units::{counted, grouped};

/// The result. Its keys are documented in the README and stay.
#[derive(Debug, Serialize)]
pub struct FilesReport {
    /// `files`.
    pub command: &'static str,
    /// The version of the tool.
    pub version: &'static str,
    /// The directory.
    pub directory: String,
    /// The addresses listened on.
    pub addresses: Vec<String>,
    /// The driver that ran.
    pub driver: String,
    /// Why that one.
    pub driver_reason: String,
    /// How many workers it had.
    pub workers: u32,
    /// How many of them could run at once.
    pub concurrency: u32,
    /// Connections that were served.
    pub accepted: u64,
    /// Connections that had come when the server ended, and were closed without being served.
    pub refused: u64,
    /// Connections that ended with an error: clients that left amid an answer, as a rule.
    pub failed: u64,
    /// Connections that were closed after `--idle-timeout`.
    pub timed_out: u64,
    /// Accepts that failed, for want of descriptors or memory as a rule.
    pub accept_errors: u64,
    /// Connections cut off at the end of `--drain-timeout`.
    pub cut_off: u64,
    /// Requests that were answered.
    pub requests: u64,
    /// With a status of 200 to 299.
    pub answered_2xx: u64,
    /// With a status of 300 to 399.
    pub answered_3xx: u64,
    /// With a status of 400 to 499.
    pub answered_4xx: u64,
    /// With a status of 500 to 599.
    pub answered_5xx: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent, heads and bodies.
    pub sent_bytes: u64,
    /// How long it ran.
    pub uptime_seconds: f64,
    /// Processor time it used.
    pub server_cpu_seconds: f64,
    /// The most memory that was resident; `None` if the system does not say.
    pub peak_memory_bytes: Option<u64>,
    /// Descriptors open at the end.
    pub descriptors: Option<u64>,
    /// The limit on descriptors.
    pub descriptor_limit: u64,
    /// The exit code.
    pub exit_code: u8,
}

/// What is known of a run before it begins.
#[derive(Debug)]
pub struct Setting<'a> {
    /// The command line.
    pub args: &'a FilesArgs,
    /// The addresses and the driver.
    pub announcement: Announcement,
    /// Why that driver.
    pub driver_reason: String,
    /// The limit on descriptors.
    pub descriptor_limit: u64,
    /// When it began.
    pub began: Instant,
}

impl FilesReport {
    /// Puts together what is known before and after, and what this process has used until now.
    pub fn new(setting: Setting<'_>, served: &server::Report, counts: &Counts, exit: Exit) -> Self {
        let Setting {
            args,
            announcement,
            driver_reason,
            descriptor_limit,
            began,
        } = setting;
        let stats = served.stats;
        Self {
            command: "files",
            version: env!("CARGO_PKG_VERSION"),
            directory: args.directory.display().to_string(),
            addresses: announcement.listening,
            driver: announcement.driver,
            driver_reason,
            workers: args.runtime.workers,
            concurrency: args.runtime.concurrency,
            accepted: stats.accepted,
            refused: stats.refused,
            failed: stats.failed + stats.panicked,
            timed_out: stats.timed_out,
            accept_errors: stats.accept_errors,
            cut_off: served.cut_off,
            requests: counts.total(),
            answered_2xx: counts.of_class(2),
            answered_3xx: counts.of_class(3),
            answered_4xx: counts.of_class(4),
            answered_5xx: counts.of_class(5),
            received_bytes: stats.received_bytes,
            sent_bytes: stats.sent_bytes,
            uptime_seconds: began.elapsed().as_secs_f64(),
            server_cpu_seconds: process::own_cpu_time().as_secs_f64(),
            peak_memory_bytes: process::own_peak_memory().ok(),
            descriptors: process::own_descriptors().ok(),
            descriptor_limit,
            exit_code: exit.code(),
        }
    }

    /// Requests by what they were answered with.
    fn answers(&self) -> String {
        format!(
            "{}: {} 2xx, {} 3xx, {} 4xx, {} 5xx",
            grouped(self.requests),
            grouped(self.answered_2xx),
            grouped(self.answered_3xx),
            grouped(self.answered_4xx),
            grouped(self.answered_5xx),
        )
    }
}

impl Report for FilesReport {
    fn table(&self) -> String {
        let mut table = list();
        let mut row = |label: &str, value: String| {
            table.add_row([label, &value]);
        };
        row(
            "served",
            format!("{} on {}", self.directory, self.addresses.join(", ")),
        );
        row(
            "driver",
            format!(
                "{}, {}, concurrency {}",
                self.driver,
                counted(u64::from(self.workers), "worker"),
                self.concurrency
            ),
        );
        row("accepted", grouped(self.accepted));
        for (label, count) in [
            ("accepts that failed", self.accept_errors),
            ("came too late", self.refused),
            ("ended with an error", self.failed),
            ("idle for too long", self.timed_out),
            ("cut off while draining", self.cut_off),
        ] {
            if count > 0 {
                row(label, grouped(count));
            }
        }
        row("requests", self.answers());
        row("sent", format!("{} bytes", grouped(self.sent_bytes)));
        row("time", format!("{:.2} s", self.uptime_seconds));
        row("processor", format!("{:.2} s", self.server_cpu_seconds));
        render(&mut table)
    }
}
