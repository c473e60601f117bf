//! The result of the headline run, beside the tutorial's.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::args::DemoArgs;
use super::samples::Samples;
use crate::exit::{Exit, Failure};
use crate::options::processors;
use crate::output::{Report, render, table_of_figures};
use crate::units::{grouped, percent, show_bytes, show_micros};

/// What the tutorial "Completion Port in detail" reports of its own run.
#[derive(Clone, Copy, Debug, Serialize)]
struct Tutorial {
    connections: u64,
    messages: u64,
    processors: u32,
    server_cpu_share_of_machine: f64,
    client_cpu_share_of_machine: f64,
}

const TUTORIAL: Tutorial = Tutorial {
    connections: 30_000,
    messages: 90_000,
    processors: 8,
    server_cpu_share_of_machine: 0.0382,
    client_cpu_share_of_machine: 0.1153,
};

/// What a server uses for its workers and pools outweighs what it uses for fewer connections.
const FEWEST_FOR_MEMORY: u64 = 1000;
const TOO_FEW: &str = "too few connections to tell";

/// The first line of `landfall serve --json`.
#[derive(Debug, Deserialize)]
pub struct Announcement {
    listening: Vec<String>,
}

impl Announcement {
    /// The address to connect to.
    pub fn address(&self) -> Result<String, Failure> {
        let first = self.listening.first().cloned();
        first.ok_or_else(|| Failure::failed("`landfall serve` listens nowhere"))
    }
}

/// The result of a child: what is needed here, and the whole of it.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Value", bound = "T: DeserializeOwned")]
pub struct ChildResult<T> {
    figures: T,
    whole: Value,
}

impl<T: DeserializeOwned> TryFrom<Value> for ChildResult<T> {
    type Error = serde_json::Error;

    fn try_from(whole: Value) -> Result<Self, Self::Error> {
        Ok(Self {
            figures: serde_json::from_value(whole.clone())?,
            whole,
        })
    }
}

/// The result of `landfall load`.
pub type LoadResult = ChildResult<LoadFigures>;
/// The result of `landfall serve`.
pub type ServeResult = ChildResult<ServeFigures>;

/// What is needed of the client's result.
#[derive(Debug, Deserialize)]
pub struct LoadFigures {
    connected: u64,
    refused: u64,
    planned: u64,
    sent: u64,
    verified: u64,
    mismatched: u64,
    lost: u64,
    sent_bytes: u64,
    latency_p50_us: Option<u64>,
    latency_p99_us: Option<u64>,
    latency_p99_9_us: Option<u64>,
    started_unix_seconds: f64,
    connecting_seconds: f64,
    messaging_seconds: f64,
    client_messaging_cpu_seconds: f64,
    peak_memory_bytes: Option<u64>,
    descriptors: Option<u64>,
    interrupted: bool,
    exit_code: u8,
}

/// What is needed of the server's result.
#[derive(Debug, Deserialize)]
pub struct ServeFigures {
    driver: String,
    driver_reason: String,
    received_bytes: u64,
    server_cpu_seconds: f64,
    peak_memory_bytes: Option<u64>,
    descriptors: Option<u64>,
}

/// The result. Its keys are documented in the README and stay.
#[derive(Debug, Serialize)]
pub struct DemoReport {
    command: &'static str,
    version: &'static str,
    mode: &'static str,
    processors: u32,
    connections: u32,
    message_bytes: u64,
    lost: u64,
    server_cpu_share_of_one_processor: f64,
    server_cpu_share_of_machine: f64,
    client_cpu_share_of_one_processor: f64,
    client_cpu_share_of_machine: f64,
    server_memory_per_connection_bytes: Option<u64>,
    tutorial: Tutorial,
    interrupted: bool,
    exit_code: u8,
    load: Value,
    serve: Value,
    /// The table alone.
    #[serde(skip)]
    quiet: bool,
    /// Each message was sent at a planned moment.
    #[serde(skip)]
    planned: bool,
    #[serde(skip)]
    client: LoadFigures,
    #[serde(skip)]
    server: ServeFigures,
}

impl DemoReport {
    /// Puts both results together.
    pub fn new(args: &DemoArgs, load: LoadResult, serve: ServeResult, samples: &Samples) -> Self {
        let (client, server) = (load.figures, serve.figures);
        let from = Duration::from_secs_f64(client.started_unix_seconds + client.connecting_seconds);
        let messaging = Duration::from_secs_f64(client.messaging_seconds);
        let server_cpu = samples.cpu_between(from, from + messaging).as_secs_f64();
        let share = |cpu: f64| {
            if messaging.is_zero() {
                0.0
            } else {
                cpu / messaging.as_secs_f64()
            }
        };
        let (server_share, client_share) = (
            share(server_cpu),
            share(client.client_messaging_cpu_seconds),
        );
        // A server that does not answer is asked itself what came.
        let lost = if args.discard {
            client
                .sent_bytes
                .saturating_sub(server.received_bytes)
                .div_ceil(args.size)
        } else {
            client.lost
        };
        let exit_code = match client.exit_code {
            0 if lost > 0 => Exit::CheckFailed.code(),
            code => code,
        };
        Self {
            command: "demo",
            version: env!("CARGO_PKG_VERSION"),
            mode: if args.discard { "discard" } else { "echo" },
            processors: processors(),
            connections: args.connections,
            message_bytes: args.size,
            lost,
            server_cpu_share_of_one_processor: server_share,
            server_cpu_share_of_machine: server_share / f64::from(processors()),
            client_cpu_share_of_one_processor: client_share,
            client_cpu_share_of_machine: client_share / f64::from(processors()),
            server_memory_per_connection_bytes: (client.connected >= FEWEST_FOR_MEMORY)
                .then(|| samples.memory_growth() / client.connected),
            tutorial: TUTORIAL,
            interrupted: client.interrupted,
            exit_code,
            load: load.whole,
            serve: serve.whole,
            quiet: args.output.quiet,
            planned: !args.interval.is_zero(),
            client,
            server,
        }
    }

    /// How the run ends: as the client's did, unless the server missed something.
    pub fn exit(&self) -> Exit {
        match self.exit_code {
            0 => Exit::Done,
            3 => Exit::CheckFailed,
            4 => Exit::LocalLimit,
            _ => Exit::Failed,
        }
    }

    /// What was wrong that the client could not see.
    pub fn complaints(&self) -> Vec<String> {
        let is_unseen = self.mode == "discard" && self.lost > 0;
        let complaint = || {
            format!(
                "{} of the messages sent did not reach the server",
                grouped(self.lost)
            )
        };
        is_unseen.then(complaint).into_iter().collect()
    }
}

impl Report for DemoReport {
    fn table(&self) -> String {
        let mut table = table_of_figures(&["", "the tutorial", "this machine"]);
        for (label, tutorial, here) in self.rows() {
            table.add_row([label.to_owned(), tutorial, here]);
        }
        match self.quiet {
            true => render(&mut table),
            false => format!("{}\n{}", render(&mut table), self.footnotes()),
        }
    }
}

impl DemoReport {
    /// Label, the tutorial's figure, this machine's.
    fn rows(&self) -> Vec<(&'static str, String, String)> {
        let Self { client, .. } = self;
        let sent = match client.sent == client.planned {
            true => grouped(client.sent),
            false => format!("{} of {}", grouped(client.sent), grouped(client.planned)),
        };
        let mut rows = vec![
            (
                "connected",
                grouped(TUTORIAL.connections),
                grouped(client.connected),
            ),
            ("refused", none(), grouped(client.refused)),
            ("messages sent", grouped(TUTORIAL.messages), sent),
        ];
        rows.extend(match self.mode {
            "echo" => self.echo_rows(),
            _ => self.discard_rows(),
        });
        rows.extend(self.processor_rows());
        rows.extend(self.memory_rows());
        if self.interrupted {
            rows.push(("interrupted", none(), String::from("yes")));
        }
        rows
    }

    fn echo_rows(&self) -> Vec<(&'static str, String, String)> {
        let Self { client, .. } = self;
        vec![
            ("verified, byte for byte", none(), grouped(client.verified)),
            ("mismatched", none(), grouped(client.mismatched)),
            ("lost", String::from("0"), grouped(self.lost)),
            (
                "latency p50",
                none(),
                shown(client.latency_p50_us, show_micros),
            ),
            (
                "latency p99",
                none(),
                shown(client.latency_p99_us, show_micros),
            ),
            (
                "latency p99.9",
                none(),
                shown(client.latency_p99_9_us, show_micros),
            ),
        ]
    }

    fn discard_rows(&self) -> Vec<(&'static str, String, String)> {
        let received = self.server.received_bytes / self.message_bytes;
        vec![
            ("received by the server", none(), grouped(received)),
            ("lost", String::from("0"), grouped(self.lost)),
        ]
    }

    fn processor_rows(&self) -> Vec<(&'static str, String, String)> {
        let Tutorial {
            processors,
            server_cpu_share_of_machine: server,
            ..
        } = TUTORIAL;
        let client = TUTORIAL.client_cpu_share_of_machine;
        let of_one = |share: f64| percent(share * f64::from(processors));
        vec![
            (
                "processors",
                processors.to_string(),
                self.processors.to_string(),
            ),
            (
                "server: of the machine",
                percent(server),
                percent(self.server_cpu_share_of_machine),
            ),
            (
                "server: of one",
                of_one(server),
                percent(self.server_cpu_share_of_one_processor),
            ),
            (
                "client: of the machine",
                percent(client),
                percent(self.client_cpu_share_of_machine),
            ),
            (
                "client: of one",
                of_one(client),
                percent(self.client_cpu_share_of_one_processor),
            ),
        ]
    }

    fn memory_rows(&self) -> Vec<(&'static str, String, String)> {
        let Self { client, server, .. } = self;
        let per_connection = self.server_memory_per_connection_bytes;
        vec![
            (
                "server: peak memory",
                none(),
                shown(server.peak_memory_bytes, show_bytes),
            ),
            (
                "client: peak memory",
                none(),
                shown(client.peak_memory_bytes, show_bytes),
            ),
            (
                "server: per connection",
                none(),
                per_connection.map_or_else(|| String::from(TOO_FEW), show_bytes),
            ),
            (
                "server: descriptors",
                none(),
                shown(server.descriptors, grouped),
            ),
            (
                "client: descriptors",
                none(),
                shown(client.descriptors, grouped),
            ),
            ("driver", String::from("IOCP"), server.driver.clone()),
        ]
    }

    /// What differs between the two columns, and how the figures were taken.
    fn footnotes(&self) -> String {
        let Self { client, server, .. } = self;
        let difference = match self.mode {
            "echo" => "echoes,\nand the client checks every byte; --discard is like for like",
            _ => "does the same",
        };
        let build = if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        };
        let sent = match self.planned {
            true => "planned to be sent",
            false => "sent",
        };
        let mut notes = String::new();
        for note in [
            String::from(
                "The tutorial's server (Windows, i7-2600, debug build) receives and shows,",
            ),
            format!("and never answers. This one ({build} build) {difference}."),
            format!(
                "Server and client are two processes; a message has {} bytes.",
                self.message_bytes
            ),
            format!(
                "Processor shares are those of the {:.1} s of messages.",
                client.messaging_seconds
            ),
            format!(
                "The server used {:.2} s in all, connecting included.",
                server.server_cpu_seconds
            ),
            String::from(
                "Memory per connection is the growth of the server's own memory (Pss_Anon):",
            ),
            String::from("buffers in use are in it, the kernel's sockets are not."),
            format!("Latency counts from the moment a message was {sent}."),
            format!("Driver: {} ({}).", server.driver, server.driver_reason),
        ] {
            notes.push_str(&note);
            notes.push('\n');
        }
        notes
    }
}

/// What a column shows where there is no figure.
fn none() -> String {
    String::from("-")
}

fn shown(value: Option<u64>, show: fn(u64) -> String) -> String {
    value.map_or_else(none, show)
}
