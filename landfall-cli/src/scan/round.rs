//! Some hosts, all their ports: as many as are kept track of at one time.
//!
//! A scan of many hosts is done in rounds, so that what is kept does not grow with their number: two
//! bytes for each port of each host of the round.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use event_listener::Event;
use landfall::runtime::spawn;
use parking_lot::Mutex;

use super::hosts::Host;
use super::order::Order;
use super::probe::{BANNER_BYTES, Finding, Prober};
use super::verdict::{State, Verdict};
use super::window::{Course, Pace};

/// How many ports of hosts one round has at most; never less than one host. Two mebibytes.
const MOST_PAIRS: u64 = 1 << 20;

/// With banners it has fewer, so that these take 64 MiB at most if all are open and talk.
const MOST_PAIRS_WITH_BANNERS: u64 = (64 << 20) / BANNER_BYTES as u64;

/// How many hosts are scanned in a round.
pub fn hosts_of_round(ports: usize, with_banners: bool) -> usize {
    let pairs = match with_banners {
        true => MOST_PAIRS_WITH_BANNERS,
        false => MOST_PAIRS,
    };
    (pairs as usize / ports.max(1)).max(1)
}

/// A round under way.
#[derive(Debug)]
pub struct Round {
    hosts: Vec<Host>,
    ports: Arc<[u16]>,
    order: Order,
    /// How many places of the order have been given out.
    given: AtomicU64,
    /// The code of what is known, 0 for nothing yet, of each port of each host in turn.
    verdicts: Vec<AtomicU16>,
    /// How long the fastest answer of each host took, in nanoseconds.
    fastest: Vec<AtomicU64>,
    /// Whether each host is known to be one that nothing here can connect to.
    lacks_source: Vec<AtomicBool>,
    banners: Mutex<BTreeMap<u64, Vec<u8>>>,
    settled: AtomicU64,
    open: AtomicU64,
    ended: Event,
    is_ended: AtomicBool,
}

/// How many ports of hosts are settled, and how many of those are open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Of which it is known what they are.
    pub settled: u64,
    /// The open ones.
    pub open: u64,
}

impl Round {
    /// A round of these hosts. There must be one at least, and one port.
    pub fn new(hosts: Vec<Host>, ports: Arc<[u16]>, seed: u64) -> Self {
        let pairs = hosts.len() as u64 * ports.len() as u64;
        Self {
            fastest: hosts.iter().map(|_| AtomicU64::new(u64::MAX)).collect(),
            lacks_source: hosts.iter().map(|_| AtomicBool::new(false)).collect(),
            hosts,
            ports,
            order: Order::new(pairs, seed),
            given: AtomicU64::new(0),
            verdicts: (0..pairs).map(|_| AtomicU16::new(0)).collect(),
            banners: Mutex::default(),
            settled: AtomicU64::new(0),
            open: AtomicU64::new(0),
            ended: Event::new(),
            is_ended: false.into(),
        }
    }

    /// Probes all ports of all hosts, or those begun when the prober is stopped.
    pub async fn run(self: &Arc<Self>, prober: &Arc<Prober>) {
        while self.has_more() && self.begin_another(prober) {}
        loop {
            let ended = self.ended.listen();
            if self.is_ended.load(Ordering::Acquire) {
                return;
            }
            ended.await;
        }
    }

    /// The hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// How far it has come.
    pub fn progress(&self) -> Progress {
        Progress {
            settled: self.settled.load(Ordering::Relaxed),
            open: self.open.load(Ordering::Relaxed),
        }
    }

    /// What is known of the ports of the host at a place, in the order of the ports.
    pub fn findings(&self, host: usize) -> impl Iterator<Item = (u16, Option<Verdict>, Vec<u8>)> {
        let first = host * self.ports.len();
        self.ports.iter().enumerate().map(move |(index, &port)| {
            let pair = first + index;
            let verdict = Verdict::of_code(self.verdicts[pair].load(Ordering::Relaxed));
            let banner = match verdict {
                Some(Verdict::SynAck) => self.banners.lock().remove(&(pair as u64)),
                _ => None,
            };
            (port, verdict, banner.unwrap_or_default())
        })
    }

    fn has_more(&self) -> bool {
        self.given.load(Ordering::Relaxed) < self.verdicts.len() as u64
    }

    /// Starts a task that probes one port after the other, if the window has a place for it.
    fn begin_another(self: &Arc<Self>, prober: &Arc<Prober>) -> bool {
        let is_free = prober.window.enter();
        if is_free {
            let (round, prober) = (Arc::clone(self), Arc::clone(prober));
            drop(spawn(async move { round.probe_some(&prober).await }));
        }
        is_free
    }

    async fn probe_some(self: Arc<Self>, prober: &Arc<Prober>) {
        loop {
            let pair = match prober.is_stopped() {
                true => None,
                false => self.next(),
            };
            let Some(pair) = pair else {
                if prober.window.leave() {
                    self.is_ended.store(true, Ordering::Release);
                    self.ended.notify(usize::MAX);
                }
                return;
            };
            let (host, address) = self.place(pair);
            let finding = prober.probe(address, &self.lacks_source[host]).await;
            let pace = finding.answered_in.map(|took| self.pace(host, took));
            self.record(pair, finding);
            match prober.window.settled(pace) {
                Course::GoOn => {}
                Course::GoOnWithAnother if self.has_more() => {
                    self.begin_another(prober);
                }
                Course::GoOnWithAnother => {}
                Course::Leave => return,
            }
        }
    }

    fn next(&self) -> Option<u64> {
        let place = self.given.fetch_add(1, Ordering::Relaxed);
        (place < self.verdicts.len() as u64).then(|| self.order.at(place))
    }

    /// The place of the host, and where to connect to.
    fn place(&self, pair: u64) -> (usize, SocketAddr) {
        let ports = self.ports.len();
        let (host, port) = (pair as usize / ports, pair as usize % ports);
        let address = SocketAddr::new(self.hosts[host].address, self.ports[port]);
        (host, address)
    }

    fn pace(&self, host: usize, took: Duration) -> Pace {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.fastest[host].fetch_min(nanos, Ordering::Relaxed);
        Pace {
            took,
            fastest: Duration::from_nanos(before.min(nanos)),
        }
    }

    fn record(&self, pair: u64, finding: Finding) {
        if !finding.banner.is_empty() {
            self.banners.lock().insert(pair, finding.banner);
        }
        if finding.verdict.state() == State::Open {
            self.open.fetch_add(1, Ordering::Relaxed);
        }
        self.verdicts[pair as usize].store(finding.verdict.code(), Ordering::Relaxed);
        self.settled.fetch_add(1, Ordering::Relaxed);
    }
}
