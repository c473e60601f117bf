//! What rules and their targets have done, for `--metrics`. Never who the clients are.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use landfall::server::ServerHandle;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::conflicts::Ends;
use super::control::Control;
use super::front::Door;
use super::targets::Counts;
use crate::metrics::Families;

/// Where the figures are.
#[derive(Debug)]
pub struct MapMetrics {
    control: Arc<Control>,
    server: ServerHandle,
    /// Of the rules in force.
    doors: Mutex<Vec<Arc<Door>>>,
}

/// What tells one rule or target from the others, and what it has done.
type Series = (Vec<(&'static str, String)>, Counts);

/// A figure: its name, what it is, and where it is found.
type Figure = (&'static str, &'static str, fn(&Counts) -> u64);

/// What is said of each rule, and of each target.
const FIGURES: [Figure; 4] = [
    ("connections", "Connections, or sessions of UDP", |counts| {
        counts.connections
    }),
    (
        "failed_connects",
        "Connects to targets that failed",
        |counts| counts.failed_connects,
    ),
    (
        "to_server_bytes",
        "Bytes of connections that have ended, given to targets",
        |counts| counts.to_server,
    ),
    (
        "to_client_bytes",
        "Bytes of connections that have ended, given to clients",
        |counts| counts.to_client,
    ),
];

impl MapMetrics {
    /// With no rule in force.
    pub fn new(control: Arc<Control>, server: ServerHandle) -> Self {
        Self {
            control,
            server,
            doors: Mutex::default(),
        }
    }

    /// These rules are in force.
    pub fn follow(&self, doors: &[Arc<Door>]) {
        *self.doors.lock() = doors.to_vec();
    }
}

/// The listener of metrics beside those of rules.
pub fn ends(addresses: impl IntoIterator<Item = SocketAddr>) -> Ends {
    Ends {
        name: String::from("--metrics"),
        is_udp: false,
        listen: addresses.into_iter().collect(),
        targets: Vec::new(),
    }
}

impl Collector for MapMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let doors = self.doors.lock().clone();
        let mut families = Families::new(encoder);
        self.write_process(&mut families)?;
        write_rules(&mut families, &doors)?;
        write_targets(&mut families, &doors)
    }
}

impl MapMetrics {
    fn write_process(&self, families: &mut Families<'_>) -> fmt::Result {
        families.counter(
            "accept_errors",
            "Accepts that failed, for want of descriptors or memory as a rule",
            self.server.stats().accept_errors,
        )?;
        families.counter(
            "map_zero_copied_bytes",
            "Bytes of connections that have ended, passed on inside the kernel",
            self.control.zero_copied.load(Ordering::Relaxed),
        )?;
        let [done, failed] = self.control.reloads();
        families.counters(
            "map_reloads",
            "Reloads that took place, and those that changed nothing",
            [
                ([("result", "success")], done),
                ([("result", "failure")], failed),
            ],
        )
    }
}

fn write_rules(families: &mut Families<'_>, doors: &[Arc<Door>]) -> fmt::Result {
    let series: Vec<Series> = doors
        .iter()
        .map(|door| (labels_of(door), door.mapping().counters.read()))
        .collect();
    write(families, "map_rule", &series)?;
    let refused = series.iter();
    families.counters(
        "map_rule_refused",
        "Clients that were not let in",
        refused.map(|(labels, counts)| (&labels[..], counts.refused)),
    )
}

fn write_targets(families: &mut Families<'_>, doors: &[Arc<Door>]) -> fmt::Result {
    let (mut series, mut fit): (Vec<Series>, Vec<bool>) = (Vec::new(), Vec::new());
    for door in doors {
        for target in door.mapping().targets.iter() {
            let mut labels = labels_of(door);
            labels.push(("target", target.name.clone()));
            series.push((labels, target.counters.read()));
            fit.push(target.is_fit());
        }
    }
    write(families, "map_target", &series)?;
    let up = series.iter().zip(fit);
    families.gauges(
        "map_target_up",
        "1: clients are sent to it; 0: its name has no address, it is down by its checks, or connects to \
         it have failed and it is the last resort",
        up.map(|((labels, _), is_fit)| (&labels[..], u64::from(is_fit))),
    )
}

fn labels_of(door: &Door) -> Vec<(&'static str, String)> {
    let mapping = door.mapping();
    vec![
        ("rule", mapping.rule.name.clone()),
        ("listen", door.address.to_string()),
        ("protocol", mapping.settings().protocol().to_owned()),
    ]
}

fn write(families: &mut Families<'_>, whose: &str, series: &[Series]) -> fmt::Result {
    families.gauges(
        &format!("{whose}_connections_active"),
        "Connections, or sessions of UDP, that are open",
        series
            .iter()
            .map(|(labels, counts)| (&labels[..], counts.active)),
    )?;
    for (name, help, figure) in FIGURES {
        let samples = series.iter();
        families.counters(
            &format!("{whose}_{name}"),
            help,
            samples.map(|(labels, counts)| (&labels[..], figure(counts))),
        )?;
    }
    Ok(())
}
