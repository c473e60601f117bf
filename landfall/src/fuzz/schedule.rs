//! One schedule, from the seed to the checks.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::handler::{self, Habits, Reports};
use super::peer::Peer;
use crate::clock::simulated as clock;
use crate::driver::sim::{Faults, Flow, Network, Sim, World};
use crate::port::{BufferPolicy, CompletionPort};
use crate::runtime::{JoinHandle, Runtime};
use crate::server::{Report, Server, ServerHandle};

/// Steps after which a schedule is said to go on for ever. Most take some hundreds.
const MOST_STEPS: usize = 100_000;

/// What the seed has decided beforehand.
#[derive(Debug)]
struct Plan {
    world: World,
    peers: usize,
    most_connections: usize,
    listeners: usize,
    /// After how many steps others take the place of all listeners.
    exchange: Option<usize>,
    idle: Option<Duration>,
    /// What comes to an end before everything has come to rest, and after how many steps.
    early: Option<(Early, usize)>,
    /// The clock moves although there is something to do.
    restless_clock: bool,
    /// How often of 16 the runtime, the system, and a client are asked first.
    first: [u8; 2],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Early {
    Drain,
    Stop,
    Drop,
}

impl Plan {
    fn new(rng: &mut Rng) -> Self {
        let fails = rng.bool();
        let early = match rng.u8(..8) {
            0 => Some(Early::Drain),
            1 => Some(Early::Stop),
            2 => Some(Early::Drop),
            _ => None,
        };
        let world = World {
            seed: rng.u64(..),
            tells: false,
            lanes: rng.usize(1..4),
            buffers: BufferPolicy {
                size: rng.usize(1..48),
                count: 1 << rng.usize(..3),
            },
            window: match rng.bool() {
                true => rng.usize(1..16),
                false => rng.usize(16..200),
            },
            places: rng.usize(1..12),
            eagerness: rng.u8(..230),
            faults: Faults {
                failures: if fails { rng.u32(1..60) } else { 0 },
                unanswered: if fails { 300 } else { 0 },
                refusals: if fails { rng.u32(..30) } else { 0 },
                // Nobody is to notice.
                starved: rng.u32(..500),
            },
        };
        Plan {
            world,
            peers: rng.usize(1..4),
            most_connections: rng.usize(1..4),
            listeners: rng.usize(1..3),
            exchange: (rng.u8(..4) == 0).then(|| rng.usize(..100)),
            idle: (rng.u8(..3) == 0).then(|| Duration::from_millis(rng.u64(1..50))),
            early: early.map(|early| (early, rng.usize(..200))),
            restless_clock: rng.u8(..4) == 0,
            first: [rng.u8(1..8), rng.u8(1..8)],
        }
    }

    /// Whether nothing in it may keep a byte from coming back.
    fn is_harmless(&self) -> bool {
        self.world.faults.failures == 0 && self.early.is_none() && !self.restless_clock
    }
}

struct Schedule {
    seed: u64,
    plan: Plan,
    rng: Rng,
    network: Network,
    runtime: Runtime,
    server: JoinHandle<std::io::Result<Report>>,
    handle: ServerHandle,
    reports: Reports,
    /// How often accepts were told to fail.
    told: Arc<AtomicU64>,
    peers: Vec<Peer>,
    /// Those that handlers have connected to.
    others: Vec<usize>,
    now: Instant,
    /// A sum of all that has happened.
    trace: u64,
}

/// Gives the calling thread its clock back.
struct Clock;

impl Drop for Clock {
    fn drop(&mut self) {
        clock::set(None);
    }
}

/// Plays a schedule. Returns a sum of what happened. Panics when something is wrong.
pub(super) fn play(seed: u64, tells: bool) -> u64 {
    let now = Instant::now();
    clock::set(Some(now));
    let _clock = Clock;
    let mut schedule = Schedule::begin(seed, tells, now);
    let rested = schedule.run();
    match rested {
        true => schedule.check_at_rest(),
        false => schedule.check_dropped(),
    }
}

/// The server asks its listeners only whether they are some: all schedules share the first.
pub(super) fn listener() -> TcpListener {
    static LISTENER: OnceLock<TcpListener> = OnceLock::new();
    let listener =
        LISTENER.get_or_init(|| TcpListener::bind("127.0.0.1:0").expect("loopback is there"));
    listener.try_clone().expect("a descriptor is left")
}

impl Schedule {
    fn begin(seed: u64, tells: bool, now: Instant) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut plan = Plan::new(&mut rng);
        plan.world.tells = tells;
        if tells {
            eprintln!("{plan:#?}");
        }
        let (driver, network) = Sim::new(plan.world).expect("a few bytes are left");
        let port = CompletionPort::simulated(Box::new(driver));
        let runtime = Runtime::builder().max_spares(0).without_workers(port, 1);
        let mut server = Server::from_std(listener())
            .expect("it has an address")
            .max_connections(plan.most_connections);
        for _ in 1..plan.listeners {
            server = server.and_bind("127.0.0.1:0").expect("a port is left");
        }
        if let Some(idle) = plan.idle {
            server = server.idle_timeout(idle);
        }
        let told = Arc::new(AtomicU64::new(0));
        server = server.on_accept_error({
            let told = told.clone();
            move |_, _| {
                told.fetch_add(1, Ordering::Relaxed);
            }
        });
        let reports = Reports::default();
        let handle = server.handle();
        let handler = {
            let reports = reports.clone();
            move |connection| handler::echo(connection, seed, reports.clone())
        };
        let server = runtime.spawn(server.run(handler));
        let peers = (0..plan.peers).map(|_| Peer::new(&mut rng)).collect();
        Schedule {
            seed,
            plan,
            rng,
            network,
            runtime,
            server,
            handle,
            reports,
            told,
            peers,
            others: Vec::new(),
            now,
            trace: 0,
        }
    }

    /// Lets everything happen. Returns whether it came to its end by itself.
    fn run(&mut self) -> bool {
        let mut still = 0;
        for step in 0..MOST_STEPS {
            match self.plan.early {
                Some((Early::Drop, at)) if at == step => return false,
                Some((Early::Drain, at)) if at == step => self.handle.drain(),
                Some((Early::Stop, at)) if at == step => self.handle.stop(),
                _ => {}
            }
            if self.plan.exchange == Some(step) {
                self.exchange_listeners();
            }
            if self.plan.restless_clock && self.rng.u8(..16) == 0 {
                let time = Duration::from_micros(self.rng.u64(..20_000));
                self.let_pass(time);
            }
            still = if self.move_on() { 0 } else { still + 1 };
            self.check_limit();
            // What was done on the way may be what somebody waits for.
            if still == 2 {
                if self.is_over() {
                    return true;
                }
                self.go_on_from_rest();
                still = 0;
            }
        }
        panic!("goes on for ever");
    }

    fn exchange_listeners(&self) {
        let old = self.handle.local_addrs();
        if self.handle.is_serving() {
            self.handle.bind("127.0.0.1:0").expect("a port is left");
        }
        for address in old {
            self.handle.remove(address);
        }
    }

    /// Has one of those who can do something do it; `false` if there is nobody.
    fn move_on(&mut self) -> bool {
        let [runtime, network] = self.plan.first;
        let first = match self.rng.u8(..16) {
            dice if dice < runtime => 0,
            dice if dice < runtime + network => 1,
            _ => 2,
        };
        (first..first + 3).any(|actor| {
            let actor = actor % 3;
            let moved = match actor {
                0 => self.runtime.step(),
                1 => self.network.advance(),
                _ => self.act_as_peers(),
            };
            self.note(2 * actor + u64::from(moved));
            moved
        })
    }

    fn check_limit(&self) {
        let (open, most) = (self.handle.stats().active, self.plan.most_connections);
        assert!(
            open <= most as u64,
            "{open} connections are open, not {most} at most"
        );
    }

    fn act_as_peers(&mut self) -> bool {
        if let Some(other) = self.network.outgoing() {
            if self.rng.bool() {
                self.network.reset(other);
            }
            self.others.push(other);
            return true;
        }
        let start = self.rng.usize(..self.peers.len());
        for index in (start..self.peers.len()).chain(0..start) {
            if self.peers[index].act(&self.network, &mut self.rng) {
                self.note(index as u64 + 16);
                return true;
            }
        }
        false
    }

    fn note(&mut self, event: u64) {
        self.trace = (self.trace ^ event)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(5);
    }

    fn is_over(&self) -> bool {
        self.server.is_finished() && self.runtime.census().0 == 0
    }

    /// Nothing happens any more: the clock moves to the next timer, or else the server is to end.
    fn go_on_from_rest(&mut self) {
        if let Some(due) = self.runtime.port().post_due_timers(self.now) {
            let wait = due.saturating_duration_since(self.now);
            self.let_pass(wait);
        } else if self.handle.is_serving() {
            self.handle.drain();
        } else {
            panic!("somebody waits for ever: {:?}", self.handle.stats());
        }
    }

    fn let_pass(&mut self, time: Duration) {
        self.now += time;
        clock::set(Some(self.now));
        self.runtime.port().post_due_timers(self.now);
    }

    fn check_at_rest(mut self) -> u64 {
        for peer in &mut self.peers {
            peer.finish(&self.network);
        }
        check_closed(&self.others, &self.network);
        self.check_streams();
        let stats = self.handle.stats();
        let (received, sent) = self.network.carried();
        assert_eq!(
            (stats.received_bytes, stats.sent_bytes, stats.active),
            (received as u64, sent as u64, 0),
            "the counts are not those of the network: {stats:?}"
        );
        let (told, failed) = (self.told.load(Ordering::Relaxed), stats.accept_errors);
        assert!(
            told <= failed && (told > 0) == (failed > 0),
            "{told} of {failed}"
        );
        let (tasks, sockets) = self.runtime.census();
        assert_eq!((tasks, sockets), (0, 0), "tasks and sockets are left");
        assert_eq!(
            self.network.leftovers(),
            Vec::<String>::new(),
            "left in the driver"
        );
        self.note(stats.received_bytes);
        self.note(stats.accepted);
        self.check_gone()
    }

    /// All streams that nothing has disturbed have come back in full.
    fn check_streams(&self) {
        if !self.plan.is_harmless() {
            return;
        }
        let reports = self.reports.lock();
        for peer in &self.peers {
            let Some(connection) = peer.connection else {
                continue;
            };
            let is_faithful = Habits::of(self.seed, connection).is_faithful();
            let done = match reports.get(&connection) {
                Some(&done) => done || self.plan.idle.is_none() && is_faithful,
                None => false,
            };
            assert!(
                !done || !peer.expects_everything() || peer.received == peer.sent,
                "of the stream of connection {connection} only {} of {} bytes came back",
                peer.received,
                peer.sent
            );
        }
    }

    /// The runtime has been dropped in the middle of it all.
    fn check_dropped(mut self) -> u64 {
        let trace = self.trace;
        let mut peers = std::mem::take(&mut self.peers);
        let (network, others) = (self.network.clone(), std::mem::take(&mut self.others));
        self.drop_runtime();
        for peer in &mut peers {
            peer.finish(&network);
        }
        check_closed(&others, &network);
        assert_eq!(
            network.leftovers(),
            Vec::<String>::new(),
            "left in the driver"
        );
        assert!(network.is_alone(), "the port is left");
        trace
    }

    fn drop_runtime(self) {
        drop(self.runtime);
        drop(self.server);
    }

    fn check_gone(self) -> u64 {
        let (network, trace) = (self.network.clone(), self.trace);
        self.drop_runtime();
        assert!(network.is_alone(), "the port is left");
        trace
    }
}

fn check_closed(connections: &[usize], network: &Network) {
    for &connection in connections {
        let (flow, _) = network.read(connection, 1);
        assert!(
            matches!(flow, Flow::Ended | Flow::Cut),
            "outgoing connection {connection} stays open for ever"
        );
    }
}
