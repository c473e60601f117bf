//! What all connections of the mapper share.

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use event_listener::Event;
use landfall::net::relay::Relay;
use landfall::runtime::{self, JoinHandle};
use parking_lot::Mutex;

use super::health::Change;
use super::mapping::Mapping;
use super::room::Room;
use super::targets::{Counters, Target};
use crate::output::Log;

/// Happens once, and is waited for.
#[derive(Debug, Default)]
pub struct Flag {
    is_set: AtomicBool,
    changed: Event,
}

impl Flag {
    /// It has happened.
    pub fn set(&self) {
        self.is_set.store(true, Ordering::Release);
        self.changed.notify(usize::MAX);
    }

    /// Whether it has.
    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    /// Waits until it has.
    pub async fn wait(&self) {
        loop {
            let change = self.changed.listen();
            if self.is_set() {
                return;
            }
            change.await;
        }
    }
}

/// What all connections share.
#[derive(Debug)]
pub struct Control {
    /// What goes on.
    pub messages: Log,
    /// One line for each connection.
    pub log: Log,
    /// Everything together, rules of before a reload as well.
    pub total: Arc<Counters>,
    /// For connections.
    pub room: Arc<Room>,
    /// For sessions of UDP.
    pub udp_room: Arc<Room>,
    /// The ports that this machine gives to connections.
    pub local_ports: RangeInclusive<u16>,
    /// What relays have in common: pipes and large buffers.
    pub relay: Relay,
    /// Bytes that have gone from one socket to the other inside the kernel.
    pub zero_copied: AtomicU64,
    /// Accepts that failed.
    pub accept_errors: AtomicU64,
    tasks: Mutex<Tasks>,
    fewer: Event,
}

#[derive(Debug, Default)]
struct Tasks {
    last: u64,
    /// How many have not ended.
    running: u64,
    /// Theirs, as soon as they are known.
    handles: HashMap<u64, Option<JoinHandle<()>>>,
}

impl Control {
    /// With nothing that has happened, and no room yet.
    pub fn new(messages: Log, log: Log, local_ports: RangeInclusive<u16>) -> Self {
        Self {
            messages,
            log,
            total: Arc::default(),
            room: Arc::default(),
            udp_room: Arc::default(),
            local_ports,
            relay: Relay::new(),
            zero_copied: AtomicU64::new(0),
            accept_errors: AtomicU64::new(0),
            tasks: Mutex::default(),
            fewer: Event::new(),
        }
    }

    /// Runs a connection's task, which is counted until its end. `task` is given what ends it.
    pub fn run<F>(self: &Arc<Self>, task: impl FnOnce(TaskGuard) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let number = {
            let mut tasks = self.tasks.lock();
            tasks.last += 1;
            tasks.running += 1;
            let number = tasks.last;
            tasks.handles.insert(number, None);
            number
        };
        let guard = TaskGuard {
            control: Arc::clone(self),
            number,
        };
        // With the lock open, which the task's end takes: it may be over before this returns.
        let handle = runtime::spawn(task(guard));
        if let Some(place) = self.tasks.lock().handles.get_mut(&number) {
            *place = Some(handle);
        }
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

    /// How many connections there are.
    pub fn running(&self) -> u64 {
        self.tasks.lock().running
    }

    /// Waits until there are none.
    pub async fn ended(&self) {
        loop {
            let change = self.fewer.listen();
            if self.running() == 0 {
                return;
            }
            change.await;
        }
    }

    /// Ends all connections where they are. Returns how many.
    pub fn cut(&self) -> u64 {
        let handles = std::mem::take(&mut self.tasks.lock().handles);
        let cut = handles.len() as u64;
        for mut handle in handles.into_values().flatten() {
            handle.abort();
        }
        cut
    }
}

/// Counts a task as long as it lives.
#[derive(Debug)]
pub struct TaskGuard {
    control: Arc<Control>,
    number: u64,
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        let handle = {
            let mut tasks = self.control.tasks.lock();
            tasks.running -= 1;
            tasks.handles.remove(&self.number)
        };
        drop(handle);
        self.control.fewer.notify(usize::MAX);
    }
}
