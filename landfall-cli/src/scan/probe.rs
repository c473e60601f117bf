//! One port: connects until it is known what it is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use landfall::net::{ConnectOptions, TcpStream};
use landfall::runtime::time::{sleep, sleep_until, timeout};

use super::verdict::{Cause, State, Verdict};
use super::window::Window;
use crate::system::errno;
use crate::system::ports::has_met_itself;
use crate::units::Rate;

/// How often a connect is tried again that failed here, and how long is waited before the first
/// time; each wait is twice as long as the one before, so the last is 2.56 s and all are 5 s.
const LOCAL_RETRIES: u32 = 10;
const FIRST_WAIT: Duration = Duration::from_millis(5);

/// By how much the end of a timeout may come late, in parts of it. Later than that, this process was
/// kept from running, and an answer may have been there in time without being seen.
const LATE: u32 = 4;

/// What a connect fails with where no local port is left, or there is no address to connect from.
const NO_LOCAL_ADDRESS: Verdict = Verdict::Failed(errno::ADDRNOTAVAIL as u16);

/// Any port (RFC 863), where nothing is sent.
const DISCARD: u16 = 9;

/// How much of a banner is kept, in bytes.
pub const BANNER_BYTES: usize = 256;

/// How ports are probed.
#[derive(Debug)]
pub struct Prober {
    /// How many connects are under way.
    pub window: Window,
    options: ConnectOptions,
    timeout: Duration,
    retries: u32,
    rate: Option<Rate>,
    banner_time: Option<Duration>,
    began: Instant,
    /// Turns that `rate` has given out; who has one may still wait for it.
    turns: AtomicU64,
    connects: AtomicU64,
    under_way: AtomicU32,
    peak: AtomicU32,
    /// Connects that failed for a limit of this machine.
    local_failures: AtomicU64,
    is_stopped: AtomicBool,
}

/// What is known of a port in the end.
#[derive(Debug)]
pub struct Finding {
    /// Its state and the reason.
    pub verdict: Verdict,
    /// How long the answer took, if there was one.
    pub answered_in: Option<Duration>,
    /// What it sent unasked; empty if that was not waited for.
    pub banner: Vec<u8>,
}

impl Finding {
    fn new(verdict: Verdict, answered_in: Option<Duration>) -> Self {
        Self {
            verdict,
            answered_in,
            banner: Vec::new(),
        }
    }
}

impl Prober {
    /// A prober that connects within this window.
    pub fn new(window: Window, timeout: Duration, retries: u32) -> Self {
        Self {
            window,
            options: ConnectOptions::new().timeout(timeout),
            timeout,
            retries,
            rate: None,
            banner_time: None,
            began: Instant::now(),
            turns: AtomicU64::new(0),
            connects: AtomicU64::new(0),
            under_way: AtomicU32::new(0),
            peak: AtomicU32::new(0),
            local_failures: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
        }
    }

    /// Connects are begun at most at this rate.
    pub fn rate(mut self, rate: Option<Rate>) -> Self {
        self.rate = rate;
        self
    }

    /// Open ports are given so long to say something.
    pub fn banner_time(mut self, time: Option<Duration>) -> Self {
        self.banner_time = time;
        self
    }

    /// Nothing new begins.
    pub fn stop(&self) {
        self.is_stopped.store(true, Relaxed);
    }

    /// Whether nothing new is to begin.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Relaxed)
    }

    /// How many connects were begun.
    pub fn connects(&self) -> u64 {
        self.connects.load(Relaxed)
    }

    /// How many were under way at one time, at most.
    pub fn peak(&self) -> u32 {
        self.peak.load(Relaxed)
    }

    /// How many of them failed for a limit of this machine.
    pub fn local_failures(&self) -> u64 {
        self.local_failures.load(Relaxed)
    }

    /// Finds out what a port is. That nothing here can connect to its host is found out once, and then
    /// said of all its ports.
    pub async fn probe(&self, address: SocketAddr, lacks_source: &AtomicBool) -> Finding {
        let mut unanswered = 0;
        let mut local_failures = 0;
        // Kept, so that the next connect has to come from another port.
        let mut to_itself: Option<TcpStream> = None;
        loop {
            if lacks_source.load(Relaxed) {
                return Finding::new(Verdict::NoSource, None);
            }
            self.wait_for_turn().await;
            let began = Instant::now();
            let connected = self.connect(address).await;
            let took = began.elapsed();
            let verdict = match connected {
                Ok(stream) if has_met_itself(&stream) => {
                    let stream = Self::to_be_reset(stream).await;
                    if to_itself.replace(stream).is_none() {
                        continue;
                    }
                    Verdict::SelfConnect
                }
                Ok(stream) => {
                    self.note_answer(unanswered, began);
                    return self.open(stream, took).await;
                }
                Err(error) => match Verdict::of_error(&error) {
                    Verdict::NoResponse if self.is_late(took) => Verdict::Late,
                    verdict => verdict,
                },
            };
            if verdict == NO_LOCAL_ADDRESS && !has_source(address.ip()) {
                lacks_source.store(true, Relaxed);
                continue;
            }
            let failed_here = matches!(verdict.cause(), Some(Cause::Limit | Cause::Late));
            if failed_here && to_itself.is_some() {
                // There is no other port. But then this one was free, so nobody listens there.
                return Finding::new(Verdict::SelfConnect, None);
            }
            if failed_here && local_failures < LOCAL_RETRIES {
                self.local_failures.fetch_add(1, Relaxed);
                self.window.shrink(began);
                sleep(FIRST_WAIT * (1 << local_failures)).await;
                local_failures += 1;
            } else if verdict == Verdict::NoResponse && unanswered < self.retries {
                unanswered += 1;
            } else if verdict.state() == State::Closed {
                self.note_answer(unanswered, began);
                return Finding::new(verdict, Some(took));
            } else {
                return Finding::new(verdict, None);
            }
        }
    }

    /// Whether a timeout was noticed too late.
    fn is_late(&self, took: Duration) -> bool {
        took > self.timeout.saturating_add(self.timeout / LATE)
    }

    /// An answer to a second try says that the first was lost.
    fn note_answer(&self, unanswered: u32, began: Instant) {
        if unanswered > 0 {
            self.window.shrink(began);
        }
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.connects.fetch_add(1, Relaxed);
        let under_way = self.under_way.fetch_add(1, Relaxed) + 1;
        self.peak.fetch_max(under_way, Relaxed);
        let connected = self.options.connect(address).await;
        self.under_way.fetch_sub(1, Relaxed);
        connected
    }

    async fn wait_for_turn(&self) {
        if let Some(rate) = self.rate {
            let turn = self.turns.fetch_add(1, Relaxed);
            sleep_until(self.began + rate.offset_of(turn)).await;
        }
    }

    /// Has a connection reset when it is dropped, so that its port does not linger in `TIME_WAIT`. A
    /// failure leaves an orderly end, which does as well.
    async fn to_be_reset(mut stream: TcpStream) -> TcpStream {
        let _ = stream.set_linger(Some(Duration::ZERO)).await;
        stream
    }

    /// Takes what an open port says, if that is wanted, and closes the connection: with a reset if
    /// nothing was to be received; who was listened to gets an orderly end.
    async fn open(&self, mut stream: TcpStream, took: Duration) -> Finding {
        let Some(time) = self.banner_time else {
            drop(Self::to_be_reset(stream).await);
            return Finding::new(Verdict::SynAck, Some(took));
        };
        let mut banner = Vec::new();
        // Neither silence nor an early end is a failure.
        let _ = timeout(time, receive_banner(&mut stream, &mut banner)).await;
        Finding {
            verdict: Verdict::SynAck,
            answered_in: Some(took),
            banner,
        }
    }
}

/// Whether there is an address here to connect from. To connect over UDP asks the system for one just the
/// same, but sends nothing, and does not fail like this for want of a port.
fn has_source(target: IpAddr) -> bool {
    let any = match target {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let connected = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((target, DISCARD)));
    connected.err().and_then(|error| errno::code(&error)) != Some(errno::ADDRNOTAVAIL)
}

/// Receives up to the end of a line, or as much as is kept.
async fn receive_banner(stream: &mut TcpStream, banner: &mut Vec<u8>) -> io::Result<()> {
    while banner.len() < BANNER_BYTES && !banner.ends_with(b"\n") {
        let Some(data) = stream.receive().await? else {
            break;
        };
        let room = BANNER_BYTES - banner.len();
        banner.extend_from_slice(&data[..data.len().min(room)]);
    }
    Ok(())
}
