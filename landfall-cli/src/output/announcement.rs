//! What a program that serves says of itself: where it listens, and how it ends.

use std::net::SocketAddr;
use std::time::Duration;

use landfall::server::Server;
use serde::Serialize;

use super::log::Log;
use super::sink::{json_line, write_stdout};
use crate::exit::Failure;
use crate::system::systemd;
use crate::units::{counted, show_time};

/// What clients and scripts need to know once a server listens; printed as one line with `--json`.
#[derive(Debug, Serialize)]
pub struct Announcement {
    /// The addresses, with the ports the system chose.
    pub listening: Vec<String>,
    /// The driver that runs.
    pub driver: String,
    /// Where metrics are to be had, if anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
}

impl Announcement {
    /// What is to be said of a server that listens.
    pub fn new(server: &Server, driver: &str, metrics: Option<SocketAddr>) -> Self {
        let addresses = server.local_addrs();
        Self {
            listening: addresses.iter().map(ToString::to_string).collect(),
            driver: driver.to_owned(),
            metrics,
        }
    }
}

/// Says where the server listens, on standard output and to a service manager, for clients and scripts
/// that wait for it.
pub fn announce(announcement: &Announcement, json: bool, log: &Log) -> Result<(), Failure> {
    let text = if json {
        json_line(announcement)?
    } else {
        let listening = announcement.listening.iter();
        let listening = listening.map(|address| format!("listening on {address}\n"));
        let metrics = announcement.metrics.iter();
        let metrics = metrics.map(|address| format!("metrics on {address}\n"));
        listening.chain(metrics).collect()
    };
    write_stdout(&text)
        .map_err(|error| Failure::of_system("cannot write to standard output", &error))?;
    match &announcement.listening[..] {
        [address] => systemd::ready(log, format_args!("listening on {address}")),
        many => {
            let addresses = counted(many.len() as u64, "socket");
            systemd::ready(log, format_args!("listening on {addresses}"));
        }
    }
    Ok(())
}

/// Says that so many connections are waited for, for so long.
pub fn announce_drain(log: &Log, active: u64, timeout: Duration) {
    let what = match active {
        0 => String::from("no connection is open: ending"),
        active => format!(
            "letting {} finish, for {} at most",
            counted(active, "connection"),
            show_time(timeout)
        ),
    };
    systemd::stopping(log, &what);
    match active {
        0 => log.note(what),
        _ => log.note(format_args!("{what}; again to stop now")),
    }
}
