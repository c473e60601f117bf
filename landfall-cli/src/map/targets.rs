//! The targets of a rule: their addresses, health and counters.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::args::Settings;
use super::balance::{Balance, Balancer, Candidate};
use super::health::{Change, Fitness, Health};
use super::rule::TargetText;

/// Where connections go. It outlives a reload that keeps it.
#[derive(Debug)]
pub struct Target {
    /// `HOST:PORT`, as it was written.
    pub name: String,
    /// What it has done.
    pub counters: Arc<Counters>,
    addresses: Mutex<Arc<[SocketAddr]>>,
    health: Mutex<Health>,
}

/// What a rule or a target has done.
#[derive(Debug, Default)]
pub struct Counters {
    active: AtomicU64,
    connections: AtomicU64,
    refused: AtomicU64,
    failed_connects: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

/// The same at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Connections, or sessions of UDP, that are open.
    pub active: u64,
    /// All there were.
    pub connections: u64,
    /// Clients that were not let in.
    pub refused: u64,
    /// Connects that failed.
    pub failed_connects: u64,
    /// Bytes given to targets.
    pub to_server: u64,
    /// Bytes given to clients.
    pub to_client: u64,
}

impl Counters {
    /// Counts a connection among those that are open, as long as the guard lives.
    pub fn open(self: &Arc<Self>) -> OpenGuard {
        self.active.fetch_add(1, Ordering::Relaxed);
        OpenGuard(Arc::clone(self))
    }

    /// Counts a connection among all there were.
    pub fn came(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a client that was not let in.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts bytes.
    pub fn passed(&self, to_server: u64, to_client: u64) {
        self.to_server.fetch_add(to_server, Ordering::Relaxed);
        self.to_client.fetch_add(to_client, Ordering::Relaxed);
    }

    /// Counts a connect that failed.
    pub fn connect_failed(&self) {
        self.failed_connects.fetch_add(1, Ordering::Relaxed);
    }

    /// What they are now.
    pub fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            active: read(&self.active),
            connections: read(&self.connections),
            refused: read(&self.refused),
            failed_connects: read(&self.failed_connects),
            to_server: read(&self.to_server),
            to_client: read(&self.to_client),
        }
    }
}

/// An open connection of a rule or a target.
#[derive(Debug)]
pub struct OpenGuard(Arc<Counters>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Target {
    fn new(name: &str, settings: &Settings) -> io::Result<Self> {
        let addresses = match resolve(name) {
            Err(_) if settings.resolve_later => Arc::default(),
            found => found?,
        };
        Ok(Self {
            name: name.to_owned(),
            counters: Arc::default(),
            addresses: Mutex::new(addresses),
            health: Mutex::default(),
        })
    }

    /// The addresses, as they were found last; none until there are some, of one that is to be
    /// [resolved later](Settings::resolve_later).
    pub fn addresses(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.addresses.lock())
    }

    /// Whether to send clients to it.
    fn fitness(&self, now: Instant) -> Fitness {
        match self.addresses.lock().is_empty() {
            true => Fitness::Down,
            false => self.health.lock().fitness(now),
        }
    }

    /// Whether its addresses can change.
    pub fn is_named(&self) -> bool {
        self.name.parse::<SocketAddr>().is_err()
    }

    /// Asks for the addresses again. Keeps the old ones where there are none. Returns the new ones
    /// if they are others.
    pub fn look_up(&self) -> io::Result<Option<Arc<[SocketAddr]>>> {
        let found = resolve(&self.name)?;
        let mut addresses = self.addresses.lock();
        if *addresses == found {
            return Ok(None);
        }
        *addresses = Arc::clone(&found);
        Ok(Some(found))
    }

    /// Whether clients are sent to it before all others.
    pub fn is_fit(&self) -> bool {
        self.fitness(Instant::now()) == Fitness::Fit
    }

    /// A client's connect has failed.
    pub fn failed(&self, settings: &Settings) -> Option<Change> {
        self.health.lock().failed(Instant::now(), settings)
    }

    /// A client has been connected.
    pub fn connected(&self) -> Option<Change> {
        self.health.lock().connected()
    }

    /// A check has ended; unless it does not count any more.
    pub fn checked(
        &self,
        is_good: bool,
        settings: &Settings,
        counts: impl FnOnce() -> bool,
    ) -> Option<Change> {
        let mut health = self.health.lock();
        // Asked under the lock: whoever forgets what checks have found takes it afterwards.
        counts()
            .then(|| health.checked(is_good, settings))
            .flatten()
    }
}

/// The addresses behind `HOST:PORT`, one or more, always in the same order.
fn resolve(name: &str) -> io::Result<Arc<[SocketAddr]>> {
    let mut addresses: Vec<_> = name.to_socket_addrs()?.collect();
    // Name servers deal them in turn; so a change is told from that.
    addresses.sort_by_key(|address| (address.is_ipv6(), *address));
    addresses.dedup();
    match addresses.is_empty() {
        true => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        )),
        false => Ok(addresses.into()),
    }
}

/// All targets of a rule.
#[derive(Debug)]
pub struct Targets {
    all: Vec<Arc<Target>>,
    balancer: Balancer,
}

impl Targets {
    /// Finds the addresses of targets. Those that `old` has too go on as they are, unless one has no
    /// address and is to have one.
    pub fn find(
        texts: &[TargetText],
        settings: &Settings,
        old: Option<&Self>,
    ) -> Result<Self, String> {
        let find = |text: &TargetText| {
            let known = old
                .into_iter()
                .flat_map(Self::iter)
                .find(|target| target.name == text.address)
                .filter(|target| settings.resolve_later || !target.addresses().is_empty());
            match known {
                Some(target) => Ok(Arc::clone(target)),
                None => Target::new(&text.address, settings)
                    .map(Arc::new)
                    .map_err(|error| {
                        format!(
                            "cannot find the address of {}: {error}; with --resolve-later it is \
                             found when it is there",
                            text.address
                        )
                    }),
            }
        };
        let all = texts.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        Ok(Self::new(all, texts, settings.balance))
    }

    fn new(all: Vec<Arc<Target>>, texts: &[TargetText], balance: Balance) -> Self {
        let names = texts
            .iter()
            .map(|text| (text.address.as_str(), text.weight));
        Self {
            balancer: Balancer::new(balance, names),
            all,
        }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.all.iter()
    }

    /// Forgets what checks have found.
    pub fn uncheck(&self) {
        for target in &self.all {
            target.health.lock().unchecked();
        }
    }

    /// Chooses a target for a client that has not been tried yet. Those that clients have failed to
    /// connect to come last, those that are down never.
    pub fn pick(&self, client: IpAddr, tried: &[usize]) -> Option<(usize, &Arc<Target>)> {
        let now = Instant::now();
        let of_fitness = |wanted| -> Vec<Candidate> {
            let all = self.all.iter().enumerate();
            all.filter(|(index, target)| !tried.contains(index) && target.fitness(now) == wanted)
                .map(|(index, target)| Candidate {
                    index,
                    active: target.counters.active.load(Ordering::Relaxed),
                })
                .collect()
        };
        let mut candidates = of_fitness(Fitness::Fit);
        if candidates.is_empty() {
            candidates = of_fitness(Fitness::LastResort);
        }
        let index = self.balancer.pick(client, &candidates)?;
        Some((index, &self.all[index]))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// How many could still be picked for a client, as things stand.
    pub fn left(&self, tried: &[usize]) -> usize {
        let now = Instant::now();
        let is_left = |(index, target): &(usize, &Arc<Target>)| {
            !tried.contains(index) && target.fitness(now) != Fitness::Down
        };
        self.all.iter().enumerate().filter(is_left).count()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::map::test_settings;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn targets(names: &[&str]) -> Targets {
        let texts: Vec<_> = names
            .iter()
            .map(|name| TargetText {
                address: (*name).to_owned(),
                weight: 1,
            })
            .collect();
        Targets::find(&texts, &test_settings(), None).unwrap()
    }

    #[test]
    fn a_target_that_failed_comes_last_and_one_that_is_down_never() {
        let targets = targets(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
        let settings = test_settings();
        targets.all[0].failed(&settings);
        for _ in 0..settings.check_fall {
            targets.all[1].checked(false, &settings, || true);
        }
        let mut tried = Vec::new();
        while let Some((index, _)) = targets.pick(CLIENT, &tried) {
            tried.push(index);
        }
        assert_eq!(tried, [2, 0]);
        targets.all[0].connected();
        targets.uncheck();
        let picked: Vec<_> = (0..3)
            .map(|_| targets.pick(CLIENT, &[]).unwrap().0)
            .collect();
        assert!((0..3).all(|index| picked.contains(&index)), "{picked:?}");
    }

    #[test]
    fn a_name_is_found_and_one_that_is_none_is_not() {
        let settings = test_settings();
        let target = Target::new("localhost:80", &settings).unwrap();
        assert!(target.is_named() && !target.addresses().is_empty());
        assert!(target.look_up().unwrap().is_none(), "nothing has changed");
        assert!(!Target::new("[::1]:80", &settings).unwrap().is_named());
        // RFC 6761 sets this domain apart.
        assert!(Target::new("nobody.invalid:80", &settings).is_err());
    }

    #[test]
    fn without_an_address_a_target_is_unfit_and_kept_only_as_long_as_that_is_permitted() {
        let texts = [TargetText {
            address: String::from("nobody.invalid:80"),
            weight: 1,
        }];
        let later = Settings {
            resolve_later: true,
            ..test_settings()
        };
        let old = Targets::find(&texts, &later, None).unwrap();
        assert!(!old.all[0].is_fit());
        assert!(old.pick(CLIENT, &[]).is_none());
        let kept = Targets::find(&texts, &later, Some(&old)).unwrap();
        assert!(Arc::ptr_eq(&kept.all[0], &old.all[0]));
        let refusal = Targets::find(&texts, &test_settings(), Some(&old)).unwrap_err();
        assert!(refusal.contains("cannot find the address of nobody.invalid:80"));
    }

    #[test]
    fn open_connections_are_counted() {
        let counters = Arc::new(Counters::default());
        let guard = counters.open();
        drop(counters.open());
        counters.came();
        counters.came();
        counters.passed(3, 4);
        let counts = counters.read();
        assert_eq!((counts.active, counts.connections), (1, 2));
        assert_eq!((counts.to_server, counts.to_client), (3, 4));
        drop(guard);
        assert_eq!(counters.read().active, 0);
    }
}
