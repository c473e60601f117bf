//! Datagrams: a client's go to one target through a socket of their own, and what comes back by it
//! goes to the client, until nothing has come or gone for a while.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_lite::future::or;
use landfall::net::{UdpSocket, is_too_long};
use landfall::runtime::time::{sleep, timeout};
use parking_lot::Mutex;

use super::control::{Control, Flag, TaskGuard};
use super::front::Door;
use super::log::state;
use super::session::Session;
use super::targets::Target;
use crate::system::errno;

/// What a datagram has at most, over IPv6.
const LONGEST: usize = 65_527;

/// How long a session lasts after its last datagram once the mapper is to end: nobody says of
/// datagrams which one is the last.
const DRAIN_QUIET: Duration = Duration::from_secs(1);

/// How often a door that is closed looks whether its sessions have ended.
const CLOSED_PERIOD: Duration = Duration::from_millis(250);

/// The pause after a receive that failed for want of something.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(50);

/// One address that datagrams come to.
#[derive(Debug)]
pub struct UdpDoor {
    control: Arc<Control>,
    door: Arc<Door>,
    socket: UdpSocket,
    began: Instant,
    flows: Mutex<HashMap<SocketAddr, Arc<Flow>>>,
}

/// The datagrams of one client.
#[derive(Debug)]
struct Flow {
    client: SocketAddr,
    /// Connected to the target.
    socket: UdpSocket,
    target: Arc<Target>,
    to_server: AtomicU64,
    to_client: AtomicU64,
    /// When a datagram last came or went, in milliseconds since the door was opened.
    last: AtomicU64,
    /// The target is not there.
    failed: Flag,
}

impl UdpDoor {
    /// A door whose socket is bound.
    pub fn new(control: Arc<Control>, door: Arc<Door>, socket: UdpSocket) -> Arc<Self> {
        Arc::new(Self {
            control,
            door,
            socket,
            began: Instant::now(),
            flows: Mutex::default(),
        })
    }

    /// Passes datagrams on until the door is closed, and those of sessions until they have ended.
    pub async fn serve(self: Arc<Self>) {
        let open = self.receive_all();
        or(self.door.closed(), open).await;
        while !self.flows.lock().is_empty() {
            let _ = timeout(CLOSED_PERIOD, self.receive_all()).await;
        }
    }

    async fn receive_all(self: &Arc<Self>) {
        let mut datagram = Vec::with_capacity(LONGEST);
        loop {
            datagram.clear();
            let received = self.socket.receive_from(datagram).await;
            datagram = match received {
                (Ok((_, client)), datagram) => self.pass_on(client, datagram).await,
                (Err(_), datagram) => {
                    // Where the system tells of clients that are not there any more, this ends.
                    sleep(PAUSE_AFTER_FAILURE).await;
                    datagram
                }
            };
        }
    }

    /// Passes a client's datagram on: to its target, or to another one if that is not there. Gives
    /// the memory back.
    async fn pass_on(self: &Arc<Self>, client: SocketAddr, mut datagram: Vec<u8>) -> Vec<u8> {
        let length = datagram.len();
        for _ in 0..=self.door.mapping().targets.count() {
            let Some(flow) = self.flow_of(client).await else {
                break;
            };
            let (sent, buffer) = flow.socket.send_owned(datagram).await;
            datagram = buffer.into_vec();
            match sent {
                Ok(()) => {
                    flow.to_server.fetch_add(length as u64, Ordering::Relaxed);
                    self.touch(&flow);
                    break;
                }
                Err(error) if is_too_long(&error) || datagram.len() != length => break,
                Err(_) => {
                    self.forget(&flow);
                    flow.failed.set();
                }
            }
        }
        datagram
    }

    async fn flow_of(self: &Arc<Self>, client: SocketAddr) -> Option<Arc<Flow>> {
        let known = self.flows.lock().get(&client).map(Arc::clone);
        match known {
            Some(flow) => Some(flow),
            None if self.door.is_closed() => None,
            None => self.open(client).await,
        }
    }

    /// Begins a session, unless the client is refused or there is no target.
    async fn open(self: &Arc<Self>, client: SocketAddr) -> Option<Arc<Flow>> {
        let mapping = self.door.mapping();
        let most = mapping.settings().udp_sessions as usize;
        let has_room = self.flows.lock().len() < most;
        let room = has_room.then(|| self.control.udp_room.try_enter());
        let admitted = room.flatten().and_then(|room| {
            let source = mapping.admit(client.ip())?;
            let (_, target) = mapping.targets.pick(client.ip(), &[])?;
            Some((room, source, Arc::clone(target)))
        });
        let Some((room, source, target)) = admitted else {
            // No line for it in the log: every datagram would have one.
            mapping.counters.refused();
            self.control.total.refused();
            return None;
        };
        let socket = match connect(&target).await {
            Ok(socket) => socket,
            Err(error) => {
                let name = &target.name;
                self.control
                    .messages
                    .note(format_args!("no datagrams to {name}: {error}"));
                if !errno::code(&error).is_some_and(errno::is_local_limit) {
                    self.control.failed(&mapping, &target, &error);
                }
                return None;
            }
        };
        let flow = Arc::new(Flow {
            client,
            socket,
            target: Arc::clone(&target),
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            last: AtomicU64::new(0),
            failed: Flag::default(),
        });
        self.touch(&flow);
        self.flows.lock().insert(client, Arc::clone(&flow));
        let mut session = Session::begin(&self.control, mapping, client);
        session.reach(target, source, room);
        let answering = Answering {
            door: Arc::clone(self),
            flow: Arc::clone(&flow),
            session,
        };
        self.control.run(|task| answering.run(task));
        Some(flow)
    }

    fn touch(&self, flow: &Flow) {
        let now = self.began.elapsed().as_millis() as u64;
        flow.last.store(now, Ordering::Relaxed);
    }

    /// How long a session still has, as things stand.
    fn left(&self, flow: &Flow, period: Duration) -> Duration {
        let last = Duration::from_millis(flow.last.load(Ordering::Relaxed));
        last.saturating_add(period)
            .saturating_sub(self.began.elapsed())
    }

    /// Takes a session out, if it is still the client's.
    fn forget(&self, flow: &Arc<Flow>) {
        let mut flows = self.flows.lock();
        let known = flows.get(&flow.client);
        if known.is_some_and(|known| Arc::ptr_eq(known, flow)) {
            flows.remove(&flow.client);
        }
    }
}

/// A socket for the datagrams of one client.
async fn connect(target: &Target) -> io::Result<UdpSocket> {
    let addresses = target.addresses();
    let unspecified = match addresses[0] {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(unspecified)?;
    socket.connect(addresses[0]).await?;
    Ok(socket)
}

/// Brings a client what its target answers.
struct Answering {
    door: Arc<UdpDoor>,
    flow: Arc<Flow>,
    session: Session,
}

/// How waiting for an answer has ended.
enum Wait {
    Answer,
    Quiet,
    Failed(io::Error),
    Closed,
}

impl Answering {
    async fn run(mut self, task: TaskGuard) {
        self.session.count(task);
        let (door, flow) = (Arc::clone(&self.door), Arc::clone(&self.flow));
        let mut closed = pin!(async {
            door.door.closed().await;
            Wait::Closed
        });
        let mut failed = pin!(async {
            flow.failed.wait().await;
            Wait::Failed(io::Error::from_raw_os_error(errno::CONNREFUSED))
        });
        let mut period = self.session.settings().udp_timeout;
        let mut is_closed = false;
        loop {
            let answer = Self::answer(&door, &flow, period);
            let wait = match is_closed {
                false => or(answer, or(&mut failed, &mut closed)).await,
                true => or(answer, &mut failed).await,
            };
            match wait {
                Wait::Answer => {}
                Wait::Quiet => return self.session.end(state::DONE),
                Wait::Failed(error) => {
                    self.session.server_failed(&flow.target, &error);
                    return self.session.end(state::SERVER_CUT);
                }
                Wait::Closed => {
                    is_closed = true;
                    period = period.min(DRAIN_QUIET);
                }
            }
        }
    }

    /// Waits for an answer and passes it on.
    async fn answer(door: &UdpDoor, flow: &Flow, period: Duration) -> Wait {
        let left = door.left(flow, period);
        if left.is_zero() {
            return Wait::Quiet;
        }
        match timeout(left, flow.socket.readable()).await {
            // Datagrams of the client's may have gone meanwhile.
            Err(_) => return Wait::Answer,
            Ok(Err(error)) => return Wait::Failed(error),
            Ok(Ok(())) => {}
        }
        // Taken now that there is something to put in it.
        let (received, datagram) = flow.socket.receive(Vec::with_capacity(LONGEST)).await;
        match received {
            Ok(bytes) => {
                flow.to_client.fetch_add(bytes as u64, Ordering::Relaxed);
                door.touch(flow);
                flow.target.connected();
                // One that cannot be sent is lost, as datagrams may be.
                let _ = door.socket.send_to(datagram, flow.client).await;
                Wait::Answer
            }
            Err(error) if is_too_long(&error) => Wait::Answer,
            Err(error) => Wait::Failed(error),
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.door.forget(&self.flow);
        self.session.passed_datagrams(
            self.flow.to_server.load(Ordering::Relaxed),
            self.flow.to_client.load(Ordering::Relaxed),
        );
    }
}
