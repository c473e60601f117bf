//! What the tests share: the variants they run under, a watchdog, sockets, and ways to wait.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use landfall::port::{
    Builder, Completion, CompletionPort, DriverChoice, Facilities, GetError, Handle, Packet,
};
use parking_lot::RwLock;
use socket2::SockRef;

/// How long anything that must happen may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a port is watched for something that must not happen.
pub const QUIET: Duration = Duration::from_millis(8);

/// The most that one test may take under one variant.
const WATCHDOG: Duration = Duration::from_secs(30);

/// A driver, or a driver with less to help it, that the contract is checked under.
#[derive(Debug)]
pub struct Variant {
    name: &'static str,
    driver: DriverChoice,
    /// As many lanes; 0 for the default.
    lanes: usize,
    /// Switches facilities off.
    restrict: fn(&mut Facilities),
}

#[cfg(windows)]
const VARIANTS: &[Variant] = &[Variant {
    name: "iocp",
    driver: DriverChoice::Iocp,
    lanes: 0,
    restrict: |_| {},
}];

#[cfg(target_os = "linux")]
const VARIANTS: &[Variant] = &[
    Variant {
        name: "defaults",
        driver: DriverChoice::Uring,
        lanes: 0,
        restrict: |_| {},
    },
    Variant {
        name: "one-lane",
        driver: DriverChoice::Uring,
        lanes: 1,
        restrict: |_| {},
    },
    Variant {
        name: "two-lanes",
        driver: DriverChoice::Uring,
        lanes: 2,
        restrict: |_| {},
    },
    Variant {
        name: "no-direct-descriptors",
        driver: DriverChoice::Uring,
        lanes: 0,
        restrict: |f| f.direct_descriptors = false,
    },
    // Multishot accepts are used with ordinary descriptors only.
    Variant {
        name: "no-multishot-accept",
        driver: DriverChoice::Uring,
        lanes: 0,
        restrict: |f| {
            f.direct_descriptors = false;
            f.multishot_accept = false;
        },
    },
    Variant {
        name: "no-poll-first",
        driver: DriverChoice::Uring,
        lanes: 0,
        restrict: |f| f.poll_first = false,
    },
    Variant {
        name: "no-zero-copy",
        driver: DriverChoice::Uring,
        lanes: 0,
        restrict: |f| f.zero_copy = false,
    },
    Variant {
        name: "no-facilities",
        driver: DriverChoice::Uring,
        lanes: 0,
        restrict: |f| {
            f.direct_descriptors = false;
            f.multishot_accept = false;
            f.poll_first = false;
            f.zero_copy = false;
        },
    },
    Variant {
        name: "poll-defaults",
        driver: DriverChoice::Poll,
        lanes: 0,
        restrict: |_| {},
    },
    Variant {
        name: "poll-one-lane",
        driver: DriverChoice::Poll,
        lanes: 1,
        restrict: |_| {},
    },
    Variant {
        name: "poll-two-lanes",
        driver: DriverChoice::Poll,
        lanes: 2,
        restrict: |_| {},
    },
];

impl Variant {
    /// Settings of a port under this variant.
    pub fn builder(&self, concurrency: usize) -> Builder {
        let mut facilities = Facilities::default();
        (self.restrict)(&mut facilities);
        CompletionPort::builder()
            .driver(self.driver)
            .lanes(self.lanes)
            .facilities(facilities)
            .concurrency(concurrency)
    }

    /// The name of the driver that a port under this variant gets.
    pub fn driver(&self) -> &'static str {
        match self.driver {
            DriverChoice::Poll => "poll",
            DriverChoice::Iocp => "iocp",
            _ => "uring",
        }
    }

    /// A port under this variant.
    pub fn port(&self, concurrency: usize) -> CompletionPort {
        self.builder(concurrency)
            .build()
            .expect("the driver can be set up")
    }
}

/// Tests that count what the whole process has, or that measure time, hold this alone.
static MACHINE: RwLock<()> = RwLock::new(());

/// Runs a test under every variant, and fails naming those that failed.
pub fn for_each_driver(test: fn(&Variant)) {
    let _shared = MACHINE.read();
    run(test);
}

/// As [`for_each_driver`], while no other test runs.
pub fn for_each_driver_alone(test: fn(&Variant)) {
    let _alone = MACHINE.write();
    run(test);
}

fn run(test: fn(&Variant)) {
    let failed: Vec<_> = chosen()
        .into_iter()
        .filter(|variant| !passes(test, variant))
        .map(|variant| variant.name)
        .collect();
    assert!(failed.is_empty(), "failed under: {}", failed.join(", "));
}

fn chosen() -> Vec<&'static Variant> {
    let Ok(names) = std::env::var("LANDFALL_CONTRACT_VARIANTS") else {
        return VARIANTS.iter().collect();
    };
    names
        .split(',')
        .flat_map(|name| named(name.trim()))
        .collect()
}

/// The variant of a name, or all those of a driver.
fn named(name: &str) -> Vec<&'static Variant> {
    let found: Vec<_> = VARIANTS
        .iter()
        .filter(|variant| name == variant.name || name == variant.driver())
        .collect();
    let known: Vec<_> = VARIANTS.iter().map(|variant| variant.name).collect();
    assert!(
        !found.is_empty(),
        "no variant or driver is called {name:?}; there are: {}",
        known.join(", ")
    );
    found
}

/// Runs a test in a thread of its own, so that one that hangs fails and the others go on.
fn passes(test: fn(&Variant), variant: &'static Variant) -> bool {
    let (running, ended) = mpsc::channel::<()>();
    let thread = thread::Builder::new()
        .name(format!("under {}", variant.name))
        .spawn(move || {
            let _running = running;
            test(variant);
        })
        .expect("a thread for the test");
    match ended.recv_timeout(WATCHDOG) {
        Err(RecvTimeoutError::Timeout) => {
            eprintln!("under {}: still running after {WATCHDOG:?}", variant.name);
            false
        }
        _ => thread.join().is_ok(),
    }
}

/// Waits until something is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        thread::sleep(Duration::from_micros(200));
    }
}

/// Computes, without a system call, until told to stop.
pub fn compute_until(stop: &AtomicBool) {
    let start = Instant::now();
    while !stop.load(Ordering::Acquire) {
        assert!(start.elapsed() < PATIENCE, "nobody ended the computation");
        std::hint::spin_loop();
    }
}

/// Computes, without a system call, for so long.
pub fn compute_for(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Computes until so many threads of a port run, this one among them: having slept a moment ago, it
/// may have been taken for blocked, and counts again once it is seen to go on.
#[track_caller]
pub fn compute_until_running(port: &CompletionPort, count: usize) {
    let start = Instant::now();
    while port.running() != count {
        assert!(
            start.elapsed() < PATIENCE,
            "{} run instead of {count}",
            port.running()
        );
        std::hint::spin_loop();
    }
}

/// A packet that is told from others by its token.
pub fn packet(token: usize) -> Packet {
    Packet {
        bytes: 0,
        key: 0,
        token,
    }
}

/// Posts a packet to an open port.
pub fn post(port: &CompletionPort, token: usize) {
    port.post(packet(token)).expect("the port is open");
}

/// The next completion, which must come.
#[track_caller]
pub fn next(port: &CompletionPort) -> Completion {
    port.get(Some(PATIENCE)).expect("a completion comes")
}

/// Takes what comes until a completion is final, and returns all of it.
#[track_caller]
pub fn until_final(port: &CompletionPort) -> Vec<Completion> {
    let mut taken = Vec::new();
    loop {
        taken.push(next(port));
        if taken.last().is_some_and(Completion::is_final) {
            return taken;
        }
    }
}

/// Statement 57, checked after the others: nothing more comes.
#[track_caller]
pub fn assert_quiet(port: &CompletionPort) {
    match port.get(Some(QUIET)) {
        Err(GetError::TimedOut) => {}
        other => panic!("nothing more should come, but got {other:?}"),
    }
}

/// A listener on a free port of loopback.
pub fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener on loopback");
    let address = listener
        .local_addr()
        .expect("a bound listener has an address");
    (listener, address)
}

/// A plain client that gives up rather than hang.
pub fn client(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).expect("connects over loopback");
    client
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout above zero");
    client
        .set_write_timeout(Some(PATIENCE))
        .expect("a timeout above zero");
    client
}

/// Two ends of a connection.
pub fn pair() -> (TcpStream, TcpStream) {
    let (listener, address) = listener();
    let peer = client(address);
    let (ours, _) = listener.accept().expect("accepts over loopback");
    (ours, peer)
}

/// A connection of a port, and its peer.
pub fn connected(port: &CompletionPort, key: usize) -> (Handle, TcpStream) {
    let (ours, peer) = pair();
    (port.associate(ours, key).expect("associates"), peer)
}

/// A stream of the program's own on the socket of a handle.
pub fn past_the_port(connection: &Handle) -> TcpStream {
    #[cfg(unix)]
    let socket = connection.try_clone_to_owned_fd();
    #[cfg(windows)]
    let socket = connection.try_clone_to_owned_socket();
    TcpStream::from(socket.expect("the handle is open"))
}

/// An address where nobody listens.
pub fn refusing_address() -> SocketAddr {
    let (listener, address) = listener();
    drop(listener);
    address
}

/// Ends a connection with a reset instead of an orderly close.
pub fn reset(peer: TcpStream) {
    SockRef::from(&peer)
        .set_linger(Some(Duration::ZERO))
        .expect("linger can be set");
    drop(peer);
}
