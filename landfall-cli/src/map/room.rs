//! How many sockets the rules can have open: what that is made of, who gets how many, and who waits or
//! is refused when they are taken.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use event_listener::Event;
use landfall::net::relay::PipePool;
use landfall::runtime::Runtime;
use landfall::runtime::time::sleep;
use parking_lot::Mutex;

use super::control::Control;
use super::mapping::Rule;
use crate::exit::Failure;
use crate::metrics::MetricsArgs;
use crate::system::limits;
use crate::units::{counted, grouped};

/// Descriptors that are neither a connection's nor a listener's: the standard streams, files, the
/// port's own, sockets on their way to the port.
const OTHER_DESCRIPTORS: u64 = 64;

/// What a pipe takes for as long as it is used: its ends, and one for each of the two sockets.
const DESCRIPTORS_OF_PIPE: u64 = 4;

/// The time between two messages that there is no room for connections, or that there is again.
const MESSAGES_APART: Duration = Duration::from_secs(1);

/// What rules may have open.
#[derive(Clone, Copy, Debug)]
struct Demand {
    listeners: u64,
    /// Those of them that take connections.
    doors: u64,
    /// Targets that are checked, each of them by one connection at a time.
    checks: u64,
    /// Sessions of UDP.
    sessions: u64,
    /// Connections, if their number is given.
    connections: Option<u64>,
}

/// What the system gives.
#[derive(Clone, Copy, Debug)]
pub struct Supply {
    /// Sockets.
    sockets: u64,
    /// The limit on descriptors.
    descriptors: u64,
}

/// Who gets how many sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Connections, with two sockets each.
    pub connections: u64,
    /// Sessions of UDP.
    pub sessions: u64,
    /// Listeners, checks, and clients that wait.
    others: [u64; 3],
    /// What there is.
    available: u64,
}

impl Demand {
    fn of(rules: &[Rule], connections: Option<u32>) -> Self {
        let sum = |of: &dyn Fn(&Rule) -> u64| rules.iter().map(of).sum();
        let listeners = rules.len() as u64;
        let doors = sum(&|rule| u64::from(!rule.settings.udp));
        Self {
            listeners,
            doors,
            checks: sum(&|rule| match rule.settings.check {
                true => rule.text.targets.len() as u64,
                false => 0,
            }),
            sessions: sum(&|rule| match rule.settings.udp {
                true => u64::from(rule.settings.udp_sessions),
                false => 0,
            }),
            connections: connections.map(u64::from).filter(|_| doors > 0),
        }
    }
}

impl Supply {
    /// What a runtime can have.
    pub fn of(runtime: &Runtime, descriptors: u64) -> Self {
        let sockets = runtime.port().socket_capacity() as u64;
        let pipes = PipePool::default().limit() as u64;
        Self {
            // Where sockets are descriptors, the pipes of relays take from the same.
            sockets: match sockets <= descriptors {
                true => sockets.saturating_sub(pipes * DESCRIPTORS_OF_PIPE),
                false => sockets,
            },
            descriptors,
        }
    }

    /// Without what the page of metrics takes.
    pub fn beside(self, metrics: &MetricsArgs) -> Self {
        Self {
            sockets: metrics.leave_of(self.sockets),
            ..self
        }
    }

    /// Shares sockets out among connections and sessions, so that there is always one for whoever is
    /// let in. Refuses if that is less than what is asked for.
    pub fn share(&self, rules: &[Rule], max_conns: Option<u32>) -> Result<Shares, Failure> {
        let demand = Demand::of(rules, max_conns);
        let Demand {
            listeners, checks, ..
        } = demand;
        let left = self.sockets.saturating_sub(listeners + checks);
        let waiting = limits::waiting(demand.doors, left);
        let least = match demand.connections {
            Some(connections) => connections.saturating_mul(2),
            None => 2 * demand.doors.min(1),
        };
        let needed = least
            .saturating_add(demand.sessions.min(1))
            .saturating_add(listeners + checks + waiting);
        limits::refuse_if_short(
            &match parts(&[(checks, "check", ""), (waiting, "client", " that wait")]) {
                none if none.is_empty() => format!("mapping {}", counted(listeners, "port")),
                some => format!("mapping {}, with {some},", counted(listeners, "port")),
            },
            [
                limits::check_descriptors(listeners + OTHER_DESCRIPTORS, self.descriptors),
                limits::check_sockets(needed, self.sockets, self.descriptors),
            ],
        )?;
        let left = left - waiting;
        let connections = demand.connections.unwrap_or_else(|| match demand.doors {
            0 => 0,
            _ => (left - demand.sessions.min(left / 2)) / 2,
        });
        Ok(Shares {
            connections,
            sessions: demand.sessions.min(left - 2 * connections),
            others: [listeners, checks, waiting],
            available: self.sockets,
        })
    }
}

impl Shares {
    /// Whether there is a limit at all.
    pub fn is_limited(&self) -> bool {
        self.available < usize::MAX as u64
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [listeners, checks, waiting] = self.others;
        let used = 2 * self.connections + self.sessions + listeners + checks + waiting;
        write!(
            f,
            "room for {}; with {}, {} of {} sockets",
            parts(&[
                (self.connections, "connection", ""),
                (self.sessions, "session", " of UDP"),
            ]),
            parts(&[
                (listeners, "listener", ""),
                (checks, "check", ""),
                (waiting, "client", " that wait"),
            ]),
            grouped(used),
            grouped(self.available)
        )
    }
}

/// Counts in a row, each with its noun and what follows that, without those of nothing.
fn parts(counts: &[(u64, &str, &str)]) -> String {
    let some = counts.iter().filter(|(count, ..)| *count > 0);
    let mut shown: Vec<_> = some
        .map(|(count, noun, more)| counted(*count, noun) + more)
        .collect();
    match shown.pop() {
        Some(last) if !shown.is_empty() => format!("{} and {last}", shown.join(", ")),
        last => last.unwrap_or_default(),
    }
}

/// How many connections there are, and how many there may be.
#[derive(Debug, Default)]
pub struct Occupancy {
    open: AtomicU64,
    most: AtomicU64,
    /// The first has come up to the second, or gone far enough below it, or there is another second one.
    changed: Event,
}

impl Occupancy {
    /// There may be so many from now on.
    pub fn resize(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
        self.changed.notify(usize::MAX);
    }

    /// There is one more, as long as the guard lives.
    pub fn enter(self: &Arc<Self>) -> Occupied {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        if open == self.most.load(Ordering::Relaxed) {
            self.changed.notify(usize::MAX);
        }
        Occupied(Arc::clone(self))
    }

    /// Whether there are as many as may be. Once there were, there are until a tenth of the room is free:
    /// so not every client is news.
    fn is_full(&self, was_full: bool) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let spare = if was_full { most / 10 } else { 0 };
        // Rules of UDP alone need no room.
        most > 0 && self.open.load(Ordering::Relaxed) + spare >= most
    }

    async fn until_full(&self, is_full: bool) {
        loop {
            let changed = self.changed.listen();
            if self.is_full(!is_full) == is_full {
                return;
            }
            changed.await;
        }
    }
}

/// A connection that is counted as long as this lives.
#[derive(Debug)]
pub struct Occupied(Arc<Occupancy>);

impl Drop for Occupied {
    fn drop(&mut self) {
        let open = self.0.open.fetch_sub(1, Ordering::Relaxed) - 1;
        let most = self.0.most.load(Ordering::Relaxed);
        if open + most / 10 + 1 == most {
            self.0.changed.notify(usize::MAX);
        }
    }
}

/// Says when clients have to wait, since there are as many connections as may be, and when they have to
/// no more.
pub async fn tell_when_full(control: &Control) -> ! {
    let (occupancy, messages) = (&control.occupancy, &control.messages);
    loop {
        occupancy.until_full(true).await;
        let open = occupancy.open.load(Ordering::Relaxed);
        messages.note(format_args!(
            "{} {} open, which is all there is room for: clients have to wait",
            counted(open, "connection"),
            if open == 1 { "is" } else { "are" },
        ));
        sleep(MESSAGES_APART).await;
        occupancy.until_full(false).await;
        messages.note("there is room for connections again");
        sleep(MESSAGES_APART).await;
    }
}

/// Places of which so many can be taken at a time.
#[derive(Debug, Default)]
pub struct Room(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    taken: u64,
    most: u64,
}

impl Room {
    /// Lets so many in from now on. Those that are in stay.
    pub fn resize(&self, most: u64) {
        self.0.lock().most = most;
    }

    /// A place, if there is one.
    pub fn try_enter(self: &Arc<Self>) -> Option<Place> {
        let mut places = self.0.lock();
        let has_room = places.taken < places.most;
        places.taken += u64::from(has_room);
        has_room.then(|| Place(Arc::clone(self)))
    }
}

/// A place that is taken as long as this lives.
#[derive(Debug)]
pub struct Place(Arc<Room>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.lock().taken -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::Settings;
    use super::super::rule::parse_rule;
    use super::*;
    use crate::map::test_settings;

    fn rules(text: &str, udp: bool, check: bool) -> Vec<Rule> {
        let rule = |text| Rule {
            name: String::from("test"),
            text,
            settings: Settings {
                udp,
                check,
                ..test_settings()
            },
        };
        parse_rule(text).unwrap().into_iter().map(rule).collect()
    }

    fn supply(sockets: u64) -> Supply {
        Supply {
            sockets,
            descriptors: sockets + OTHER_DESCRIPTORS,
        }
    }

    fn shares(sockets: u64, rules: &[Rule], max_conns: Option<u32>) -> Option<[u64; 2]> {
        let shares = supply(sockets).share(rules, max_conns).ok()?;
        assert!(
            shares.connections * 2 + shares.sessions + shares.others.iter().sum::<u64>() <= sockets
        );
        Some([shares.connections, shares.sessions])
    }

    #[test]
    fn sockets_are_for_all_that_may_be_open() {
        let tcp = rules("127.0.0.1:1=127.0.0.1:2,127.0.0.1:3", false, true);
        let udp = rules("127.0.0.1:1=127.0.0.1:2", true, false);
        let both = [tcp.clone(), udp.clone()].concat();
        // A listener and two checks, 72 that wait, and two for each connection.
        assert_eq!(shares(3 + 72 + 20, &tcp, None), Some([10, 0]));
        assert_eq!(shares(3 + 72 + 1, &tcp, None), None);
        assert_eq!(shares(3 + 72 + 20, &tcp, Some(10)), Some([10, 0]));
        assert_eq!(shares(3 + 72 + 20, &tcp, Some(11)), None);
        assert_eq!(shares(1_000, &tcp, Some(10)), Some([10, 0]));
        // Sessions are fewer where they do not fit.
        assert_eq!(shares(1 + 30, &udp, None), Some([0, 30]));
        assert_eq!(shares(20_000, &udp, None), Some([0, 10_000]));
        assert_eq!(shares(1, &udp, None), None);
        assert_eq!(shares(4 + 72 + 40, &both, None), Some([10, 20]));
        assert_eq!(shares(4 + 72 + 40, &both, Some(15)), Some([15, 10]));
        assert_eq!(shares(4 + 72 + 40, &both, Some(20)), None);
        // Of many listeners, not all have clients waiting.
        let many = rules("127.0.0.1:1000-1999=127.0.0.1:2", false, false);
        assert_eq!(shares(20_000, &many, None), Some([4_750, 0]));
    }

    #[test]
    fn a_shortage_says_what_is_needed() {
        let tcp = rules("127.0.0.1:1=127.0.0.1:2,127.0.0.1:3", false, true);
        let refusal = supply(50).share(&tcp, None).unwrap_err().to_string();
        assert!(
            refusal.contains("mapping 1 port, with 2 checks and 72 clients that wait, is more"),
            "{refusal}"
        );
        assert!(
            refusal.contains("sockets: 77 needed, 50 available"),
            "{refusal}"
        );
        let shares = supply(100).share(&tcp, None).unwrap();
        assert_eq!(
            shares.to_string(),
            "room for 12 connections; with 1 listener, 2 checks and 72 clients that wait, 99 of 100 \
             sockets"
        );
        let udp = rules("127.0.0.1:1=127.0.0.1:2", true, false);
        let shares = supply(31).share(&udp, None).unwrap();
        assert_eq!(
            shares.to_string(),
            "room for 30 sessions of UDP; with 1 listener, 31 of 31 sockets"
        );
        let refusal = supply(0).share(&udp, None).unwrap_err().to_string();
        assert!(refusal.contains("mapping 1 port is more"), "{refusal}");
    }

    #[test]
    fn fullness_is_heard_of_without_looking_and_ends_when_a_tenth_is_free() {
        use futures_lite::future::{block_on, poll_once};
        use std::pin::pin;
        let occupancy = Arc::new(Occupancy::default());
        occupancy.resize(10);
        let mut connections: Vec<_> = (0..9).map(|_| occupancy.enter()).collect();
        let mut full = pin!(occupancy.until_full(true));
        assert_eq!(block_on(poll_once(full.as_mut())), None);
        connections.push(occupancy.enter());
        block_on(full);
        let mut free = pin!(occupancy.until_full(false));
        assert_eq!(block_on(poll_once(free.as_mut())), None);
        connections.pop();
        assert_eq!(block_on(poll_once(free.as_mut())), None, "one of ten");
        connections.pop();
        block_on(free);
        let full = pin!(occupancy.until_full(true));
        occupancy.resize(8);
        block_on(full);
        occupancy.resize(0);
        block_on(occupancy.until_full(false));
    }

    #[test]
    fn a_place_that_is_left_is_for_the_next() {
        let room = Arc::new(Room::default());
        assert!(room.try_enter().is_none());
        room.resize(2);
        let (first, second) = (room.try_enter(), room.try_enter());
        assert!(first.is_some() && second.is_some() && room.try_enter().is_none());
        drop(first);
        let third = room.try_enter();
        assert!(third.is_some() && room.try_enter().is_none());
        drop((second, third));
        let place = room.try_enter();
        room.resize(1);
        drop(place);
        let place = room.try_enter();
        assert!(place.is_some() && room.try_enter().is_none());
    }
}
