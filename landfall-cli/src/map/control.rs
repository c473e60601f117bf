//! What all connections of the mapper share.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use landfall::net::relay::Relay;

use super::health::Change;
use super::mapping::Mapping;
use super::room::{Occupancy, Room};
use super::targets::{Counters, Target};
use crate::output::Log;

/// What all connections share.
#[derive(Debug)]
pub struct Control {
    /// What goes on.
    pub messages: Log,
    /// One line for each connection.
    pub log: Log,
    /// Everything together, rules of before a reload as well.
    pub total: Arc<Counters>,
    /// How many connections there are, and may be.
    pub occupancy: Arc<Occupancy>,
    /// For sessions of UDP.
    pub udp_room: Arc<Room>,
    /// The ports that this machine gives to connections.
    pub local_ports: RangeInclusive<u16>,
    /// What relays have in common: pipes and large buffers.
    pub relay: Relay,
    /// Bytes that have gone from one socket to the other inside the kernel.
    pub zero_copied: AtomicU64,
    /// Reloads that took place, and those that did not.
    reloads: [AtomicU64; 2],
}

impl Control {
    /// With nothing that has happened, and no room yet.
    pub fn new(messages: Log, log: Log, local_ports: RangeInclusive<u16>) -> Self {
        Self {
            messages,
            log,
            total: Arc::default(),
            occupancy: Arc::default(),
            udp_room: Arc::default(),
            local_ports,
            relay: Relay::new(),
            zero_copied: AtomicU64::new(0),
            reloads: Default::default(),
        }
    }

    /// A reload has taken place, or changed nothing.
    pub fn reloaded(&self, is_done: bool) {
        self.reloads[usize::from(!is_done)].fetch_add(1, Ordering::Relaxed);
    }

    /// Reloads that took place, and those that did not.
    pub fn reloads(&self) -> [u64; 2] {
        self.reloads
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed))
    }

    /// A client has not got through to a target.
    pub fn failed(&self, mapping: &Mapping, target: &Target, reason: impl Display) {
        for counters in [&self.total, &mapping.counters, &target.counters] {
            counters.connect_failed();
        }
        let change = match target.failed(mapping.settings()) {
            Some(Change::LeftOut(_)) if mapping.targets.count() == 1 => Some(Change::Failing),
            change => change,
        };
        self.tell(mapping, target, change, reason);
    }

    /// Says that a target has changed, if it has.
    pub fn tell(
        &self,
        mapping: &Mapping,
        target: &Target,
        change: Option<Change>,
        reason: impl Display,
    ) {
        if let Some(change) = change {
            let (rule, target) = (&mapping.rule.name, &target.name);
            self.messages
                .note(format_args!("target {rule}/{target} {change}: {reason}"));
        }
    }
}
