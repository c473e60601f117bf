//! Datagrams: a client's go to one target through a socket of their own, and what comes back by it
//! goes to the client, until nothing has come or gone for a while.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_lite::future::or;
use landfall::net::{FromPeer, UdpSession, UdpSessions, UdpSocket, is_too_long};
use landfall::runtime::time::sleep;
use landfall::server::ServerHandle;

use super::control::Control;
use super::front::Door;
use super::log::state;
use super::session::Session;
use super::targets::Target;
use crate::system::errno;

/// What a datagram has at most, over IPv6.
const LONGEST: usize = 65_527;

/// The pause after a receive that failed for want of something.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(50);

/// One address that datagrams come to.
#[derive(Debug)]
pub struct UdpDoor {
    control: Arc<Control>,
    server: ServerHandle,
    door: Arc<Door>,
    sessions: UdpSessions<Flow>,
}

/// Where the datagrams of one client go.
#[derive(Debug)]
pub struct Flow {
    /// Connected to the target.
    socket: UdpSocket,
    to_server: AtomicU64,
    /// The target is not there.
    has_failed: AtomicBool,
}

impl UdpDoor {
    /// A door that has no client yet.
    pub fn new(
        control: Arc<Control>,
        server: ServerHandle,
        door: Arc<Door>,
        sessions: UdpSessions<Flow>,
    ) -> Self {
        Self {
            control,
            server,
            door,
            sessions,
        }
    }

    /// Passes datagrams on until the door is closed, and those of sessions until they have ended.
    pub async fn serve(self) {
        while !self.door.is_left() {
            or(self.sessions.drained(), self.receive_all()).await;
        }
    }

    async fn receive_all(&self) {
        let mut datagram = Vec::with_capacity(LONGEST);
        loop {
            datagram.clear();
            let received = self.sessions.receive(datagram).await;
            datagram = match received {
                (Ok(from), datagram) => self.pass_on(from, datagram).await,
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
    async fn pass_on(&self, from: FromPeer<Flow>, mut datagram: Vec<u8>) -> Vec<u8> {
        let mut known = from.session;
        for _ in 0..=self.door.mapping().targets.count() {
            let opened = match known.take() {
                Some(flow) => Some(flow),
                None => self.open(from.peer).await,
            };
            let Some(flow) = opened else {
                break;
            };
            let (sent, buffer) = flow.socket.send_owned(datagram).await;
            datagram = buffer.into_vec();
            match sent {
                Ok(()) => {
                    let length = from.bytes as u64;
                    flow.to_server.fetch_add(length, Ordering::Relaxed);
                    break;
                }
                Err(error) if is_too_long(&error) || datagram.len() != from.bytes => break,
                Err(_) => {
                    flow.has_failed.store(true, Ordering::Relaxed);
                    self.sessions.end(from.peer);
                }
            }
        }
        datagram
    }

    /// Begins a session, unless the client is refused or there is no target.
    async fn open(&self, client: SocketAddr) -> Option<Arc<Flow>> {
        let mapping = self.door.mapping();
        let has_room = !self.sessions.is_full();
        let room = has_room.then(|| self.control.udp_room.try_enter());
        let admitted = room.flatten().and_then(|room| {
            let source = mapping.admit(client.ip()).ok()?;
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
        let flow = Flow {
            socket,
            to_server: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
        };
        // The door may have been closed meanwhile.
        let answers = self.sessions.open(client, flow)?;
        let flow = Arc::clone(answers.value());
        let mut session = Session::begin(&self.control, mapping, client);
        session.reach(Arc::clone(&target), source, room);
        let answering = Answering {
            door: Arc::clone(&self.door),
            answers,
            to_client: 0,
            target,
            session,
        };
        self.server.spawn(answering.run());
        Some(flow)
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
    door: Arc<Door>,
    answers: UdpSession<Flow>,
    to_client: u64,
    target: Arc<Target>,
    session: Session,
}

impl Answering {
    async fn run(mut self) {
        let flow = Arc::clone(self.answers.value());
        let failure = loop {
            match self.answers.forward(&flow.socket).await {
                Ok(Some(bytes)) => {
                    self.to_client += bytes as u64;
                    self.target.connected();
                }
                Ok(None) if flow.has_failed.load(Ordering::Relaxed) => {
                    break io::Error::from_raw_os_error(errno::CONNREFUSED);
                }
                Ok(None) if self.door.is_cut() => return self.session.end(state::KILLED),
                Ok(None) => return self.session.end(state::DONE),
                Err(error) => break error,
            }
        };
        self.session.server_failed(&self.target, &failure);
        self.session.end(state::SERVER_CUT);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let to_server = self.answers.value().to_server.load(Ordering::Relaxed);
        self.session.passed_datagrams(to_server, self.to_client);
    }
}
