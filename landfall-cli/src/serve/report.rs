//! The result of a server, when it has ended.

use std::time::Instant;

use serde::Serialize;

use crate::exit::Exit;
use crate::options::RuntimeOptions;
use crate::output::{Announcement, Report, list, render};
use crate::system::process;
use crate::units::{counted, grouped, show_bytes};

/// What is said of every server. Its keys are documented in the README and stay.
#[derive(Debug, Serialize)]
pub struct ServerReport {
    /// The subcommand.
    pub command: &'static str,
    /// The version of the tool.
    pub version: &'static str,
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
    /// Connections that ended with an error.
    pub failed: u64,
    /// Connections that were closed after `--idle-timeout`.
    pub timed_out: u64,
    /// Accepts that failed, for want of descriptors or memory as a rule.
    pub accept_errors: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Connections cut off at the end of `--drain-timeout`.
    pub cut_off: u64,
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
    /// The subcommand.
    pub command: &'static str,
    /// What the command line says of the runtime.
    pub runtime: &'a RuntimeOptions,
    /// The addresses and the driver.
    pub announcement: Announcement,
    /// Why that driver.
    pub driver_reason: String,
    /// The limit on descriptors.
    pub descriptor_limit: u64,
    /// When it began.
    pub began: Instant,
}

impl ServerReport {
    /// Puts together what is known before and after, and what this process has used until now.
    pub fn new(setting: Setting<'_>, served: &landfall::server::Report, exit: Exit) -> Self {
        let stats = served.stats;
        Self {
            command: setting.command,
            version: env!("CARGO_PKG_VERSION"),
            addresses: setting.announcement.listening,
            driver: setting.announcement.driver,
            driver_reason: setting.driver_reason,
            workers: setting.runtime.workers,
            concurrency: setting.runtime.concurrency,
            accepted: stats.accepted,
            refused: stats.refused,
            failed: stats.failed + stats.panicked,
            timed_out: stats.timed_out,
            accept_errors: stats.accept_errors,
            received_bytes: stats.received_bytes,
            sent_bytes: stats.sent_bytes,
            cut_off: served.cut_off,
            uptime_seconds: setting.began.elapsed().as_secs_f64(),
            server_cpu_seconds: process::own_cpu_time().as_secs_f64(),
            peak_memory_bytes: process::own_peak_memory().ok(),
            descriptors: process::own_descriptors().ok(),
            descriptor_limit: setting.descriptor_limit,
            exit_code: exit.code(),
        }
    }

    /// The table of a server of so and so, with a row of its own.
    pub fn table(&self, what: &str, own: (&str, String)) -> String {
        let mut table = list();
        let mut row = |label: &str, value: String| {
            table.add_row([label, &value]);
        };
        row("served", format!("{what} on {}", self.addresses.join(", ")));
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
        if self.accept_errors > 0 {
            row("accepts that failed", self.show_accept_errors());
        }
        for (label, count) in [
            ("came too late", self.refused),
            ("ended with an error", self.failed),
            ("idle for too long", self.timed_out),
            ("cut off while draining", self.cut_off),
        ] {
            if count > 0 {
                row(label, grouped(count));
            }
        }
        row(own.0, own.1);
        row("sent", format!("{} bytes", grouped(self.sent_bytes)));
        row("time", format!("{:.2} s", self.uptime_seconds));
        row("processor", format!("{:.2} s", self.server_cpu_seconds));
        if let Some(peak) = self.peak_memory_bytes {
            row("peak memory", show_bytes(peak));
        }
        render(&mut table)
    }

    /// The server does not tell them apart, but little else fails an accept.
    fn show_accept_errors(&self) -> String {
        format!(
            "{}, for want of descriptors ({} allowed) or memory: raise the hard limit \
             (`ulimit -Hn`), or serve fewer with --max-conns",
            grouped(self.accept_errors),
            grouped(self.descriptor_limit)
        )
    }
}

/// The result of `serve`.
#[derive(Debug, Serialize)]
pub struct ServeReport {
    /// What is said of every server.
    #[serde(flatten)]
    pub server: ServerReport,
    /// `echo` or `discard`.
    pub mode: &'static str,
}

impl Report for ServeReport {
    fn table(&self) -> String {
        let received = format!("{} bytes", grouped(self.server.received_bytes));
        self.server.table(self.mode, ("received", received))
    }
}
