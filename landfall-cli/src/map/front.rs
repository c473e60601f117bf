//! Where the mapper listens, and how other rules take the place of those in force.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use landfall::net::{ListenOptions, TcpListener, UdpSessions, UdpSocket};
use landfall::runtime;
use landfall::runtime::time::sleep;
use landfall::server::{Connection, ServerHandle};
use parking_lot::Mutex;

use super::conflicts::{self, Ends, overlap};
use super::control::Control;
use super::mapping::{Mapping, Rule};
use super::session::Session;
use super::targets::Counts;
use super::udp::{Flow, UdpDoor};
use super::watch::watch;
use crate::exit::Failure;
use crate::system::systemd::Sockets;
use crate::units::{counted, show_time};

/// How long a session of UDP lasts after its last datagram once the mapper is to end: nobody says of
/// datagrams which one is the last.
const DRAIN_QUIET: Duration = Duration::from_secs(1);

/// All that is listened on.
#[derive(Debug)]
pub struct Front {
    control: Arc<Control>,
    /// Of what takes connections in.
    server: ServerHandle,
    doors: Vec<Arc<Door>>,
    /// Those of UDP that were closed, as long as their sessions go on.
    closing: Vec<Weak<Door>>,
    tcp: Arc<TcpDoors>,
    /// Sockets that were handed over: a rule that comes back takes its one again.
    inherited: Arc<Mutex<Sockets>>,
}

/// One address that is listened on.
#[derive(Debug)]
pub struct Door {
    /// The address, with the port that the system chose.
    pub address: SocketAddr,
    /// The rule for those that come now.
    mapping: Mutex<Arc<Mapping>>,
    /// Of whom its datagrams are, if those come in by it, and not connections.
    datagrams: Option<UdpSessions<Flow>>,
    stage: Mutex<Stage>,
}

/// Whether a door of UDP lets clients in.
#[derive(Debug, Default)]
struct Stage {
    /// When that has ended. Sessions go on.
    closed: Option<Instant>,
    /// They have been told to end.
    is_cut: bool,
    /// Nobody receives its datagrams any more.
    is_left: bool,
}

/// The doors that connections come in by.
#[derive(Debug, Default)]
pub struct TcpDoors(Mutex<HashMap<SocketAddr, Arc<Door>>>);

impl TcpDoors {
    /// Serves a client, unless it is refused.
    pub async fn serve(&self, control: &Arc<Control>, client: Connection) {
        let _occupied = control.occupancy.enter();
        let door = self.0.lock().get(&client.listener()).map(Arc::clone);
        let (Some(door), Ok(peer)) = (door, client.peer_addr()) else {
            // One of them has left already.
            control.total.came();
            return control.total.refused();
        };
        if let Some(session) = Session::admit(control, door.mapping(), peer) {
            session.serve(client.into_stream()).await;
        }
    }
}

impl Door {
    /// The rule for those that come now.
    pub fn mapping(&self) -> Arc<Mapping> {
        Arc::clone(&self.mapping.lock())
    }

    /// Whether datagrams come in by it, and not connections.
    pub fn is_udp(&self) -> bool {
        self.datagrams.is_some()
    }

    /// Whether sessions of UDP have been told to end.
    pub fn is_cut(&self) -> bool {
        self.stage.lock().is_cut
    }

    /// Whether its datagrams need not be received any more, when the last session has ended: clients may
    /// have been let in again.
    pub fn is_left(&self) -> bool {
        let mut stage = self.stage.lock();
        stage.is_left = stage.closed.is_some();
        stage.is_left
    }

    /// Lets nobody in any more by a door of UDP. A session lasts until it has been quiet for so long, if
    /// that is less than its own time. Returns the moment, which tells this end from others.
    fn close(&self, sessions: &UdpSessions<Flow>, quiet: Duration) -> Instant {
        let mut stage = self.stage.lock();
        sessions.drain(quiet);
        *stage.closed.insert(Instant::now())
    }

    /// Ends the sessions of a door of UDP that was closed then, and has not been opened since.
    fn cut(&self, closed: Instant) {
        let mut stage = self.stage.lock();
        if let Some(sessions) = &self.datagrams
            && stage.closed == Some(closed)
        {
            stage.is_cut = true;
            sessions.drain(Duration::ZERO);
        }
    }

    /// Lets clients in again by a door of UDP, if it was closed. Returns whether somebody is needed who
    /// receives its datagrams.
    fn reopen(&self, sessions: &UdpSessions<Flow>) -> bool {
        let mut stage = self.stage.lock();
        sessions.resume();
        std::mem::take(&mut *stage).is_left
    }

    /// Puts a rule in force.
    fn open(&self, control: &Arc<Control>, mapping: &Arc<Mapping>) {
        if let Some(sessions) = &self.datagrams {
            let settings = mapping.settings();
            sessions.set_max_sessions(settings.udp_sessions as usize);
            sessions.set_idle_timeout(settings.udp_timeout);
        }
        watch(control, mapping);
    }

    /// Whether a rule is for this door, however it spells one of these addresses.
    fn fits(&self, rule: &Rule, addresses: &[SocketAddr]) -> bool {
        let own = &self.mapping().rule;
        let is_here = match addresses.iter().all(|address| address.port() == 0) {
            // The system has chosen one, which the rule does not know.
            true => own.text.listen == rule.text.listen && own.name == rule.name,
            false => addresses.contains(&self.address),
        };
        is_here && self.is_udp() == rule.settings.udp
    }
}

/// A rule whose names have been asked for.
#[derive(Debug)]
pub struct Found {
    /// Where it can listen.
    addresses: Vec<SocketAddr>,
    /// Where it listens already.
    door: Option<Arc<Door>>,
    mapping: Arc<Mapping>,
}

impl Found {
    /// Where it listens, or tries to first.
    fn address(&self) -> Option<SocketAddr> {
        let door = self.door.as_ref().map(|door| door.address);
        door.or_else(|| self.addresses.first().copied())
    }

    fn ends(&self) -> Ends {
        let targets = self.mapping.targets.iter();
        Ends {
            name: self.mapping.rule.name.clone(),
            is_udp: self.mapping.settings().udp,
            listen: self.address().into_iter().collect(),
            targets: targets
                .flat_map(|target| target.addresses().to_vec())
                .collect(),
        }
    }
}

/// Finds the addresses of rules, and which of the doors that are open they are for. Refuses rules that
/// cannot be in force together, or beside what else this process listens on. This may take long, and
/// blocks.
pub fn find(
    rules: Vec<Rule>,
    doors: &[Arc<Door>],
    beside: Option<Ends>,
) -> Result<Vec<Found>, Failure> {
    let mut left = doors.to_vec();
    let find = |rule: Rule| {
        let listen = &rule.text.listen;
        let addresses: Vec<_> = listen
            .to_socket_addrs()
            .map_err(|error| {
                let problem = format!("cannot find the address of {listen}: {error}");
                Failure::failed(problem)
            })?
            .collect();
        let known = left.iter().position(|door| door.fits(&rule, &addresses));
        let door = known.map(|place| left.remove(place));
        let last = door.as_deref().map(Door::mapping);
        let mapping = Mapping::new(rule, last.as_deref()).map_err(Failure::failed)?;
        Ok(Found {
            addresses,
            door,
            mapping: Arc::new(mapping),
        })
    };
    let found: Vec<_> = rules.into_iter().map(find).collect::<Result<_, _>>()?;
    let ends: Vec<_> = found.iter().map(Found::ends).chain(beside).collect();
    conflicts::check(&ends).map_err(Failure::usage)?;
    Ok(found)
}

/// What a door is.
#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSessions<Flow>),
}

/// A door that is not open yet, or another rule for one that is.
#[derive(Debug)]
enum Step {
    Open(Socket, Arc<Door>),
    Change(Arc<Door>, Arc<Mapping>),
}

/// Rules that can take the place of those in force.
#[derive(Debug)]
pub struct Prepared(Vec<Step>);

/// Listens where nobody does yet, by sockets that were handed over where there are some. Those doors
/// are open.
pub fn prepare(
    found: Vec<Found>,
    doors: &[Arc<Door>],
    inherited: &mut Sockets,
    descriptor_limit: u64,
) -> Result<Prepared, Failure> {
    // Of a rule that was taken out: no two of those found listen on one address.
    inherited.let_all_be_taken_again();
    let step = |found: Found| match found.door {
        Some(door) => Ok(Step::Change(door, found.mapping)),
        None => open(
            &found.addresses,
            found.mapping,
            doors,
            inherited,
            descriptor_limit,
        ),
    };
    let steps = found.into_iter().map(step).collect::<Result<_, _>>()?;
    inherited.refuse_rest()?;
    Ok(Prepared(steps))
}

impl Front {
    /// With nothing to listen on.
    pub fn new(control: Arc<Control>, server: ServerHandle, inherited: Sockets) -> Self {
        Self {
            control,
            server,
            doors: Vec::new(),
            closing: Vec::new(),
            tcp: Arc::default(),
            inherited: Arc::new(Mutex::new(inherited)),
        }
    }

    /// Sockets that were handed over.
    pub fn inherited(&self) -> Arc<Mutex<Sockets>> {
        Arc::clone(&self.inherited)
    }

    /// What connections come in by.
    pub fn tcp_doors(&self) -> Arc<TcpDoors> {
        Arc::clone(&self.tcp)
    }

    /// What is listened on.
    pub fn doors(&self) -> &[Arc<Door>] {
        &self.doors
    }

    /// What is listened on, and what was and has sessions of UDP yet: another rule can have it.
    pub fn all_doors(&self) -> Vec<Arc<Door>> {
        let closing = self.closing.iter().filter_map(Weak::upgrade);
        self.doors.iter().cloned().chain(closing).collect()
    }

    /// Puts rules in the place of those in force. Connections go on under the rules they came by, and
    /// sessions of UDP do for so long at most, if no rule listens there any more.
    pub fn apply(&mut self, prepared: Prepared, patience: Duration) {
        let mut old = self.all_doors();
        let steps = prepared.0.into_iter();
        let doors: Vec<_> = steps.map(|step| self.take(step)).collect();
        old.retain(|door| !doors.iter().any(|kept| Arc::ptr_eq(kept, door)));
        for door in &old {
            // Those that are closing already have their time.
            if self.doors.iter().any(|open| Arc::ptr_eq(open, door)) {
                self.close_door(door, patience);
                self.tell_if_inherited(door);
            }
        }
        let of_udp = old.iter().filter(|door| door.is_udp());
        self.closing = of_udp.map(Arc::downgrade).collect();
        self.doors = doors;
    }

    fn take(&self, step: Step) -> Arc<Door> {
        match step {
            Step::Open(socket, door) => {
                door.open(&self.control, &door.mapping());
                match socket {
                    Socket::Tcp(listener) => {
                        let own = Arc::clone(&door);
                        self.tcp.0.lock().insert(door.address, own);
                        // A server that has been told to end refuses it, and everybody.
                        let _ = self.server.add(listener);
                    }
                    Socket::Udp(sessions) => self.receive(&door, sessions),
                }
                door
            }
            Step::Change(door, mapping) => {
                let mut current = door.mapping.lock();
                if current.rule != mapping.rule || current.is_retired() {
                    current.retire();
                    *current = Arc::clone(&mapping);
                    door.open(&self.control, &mapping);
                }
                drop(current);
                if let Some(sessions) = &door.datagrams
                    && door.reopen(sessions)
                {
                    self.receive(&door, sessions.clone());
                }
                door
            }
        }
    }

    fn receive(&self, door: &Arc<Door>, sessions: UdpSessions<Flow>) {
        let (control, server) = (Arc::clone(&self.control), self.server.clone());
        let udp = UdpDoor::new(control, server, Arc::clone(door), sessions);
        drop(runtime::spawn(udp.serve()));
    }

    fn close_door(&self, door: &Arc<Door>, patience: Duration) {
        door.mapping.lock().retire();
        match &door.datagrams {
            Some(sessions) => self.give_up(door, sessions, patience),
            None => {
                self.server.remove(door.address);
                self.tcp.0.lock().remove(&door.address);
            }
        }
    }

    /// A socket that was handed over is the service manager's as well, which goes on listening.
    fn tell_if_inherited(&self, door: &Door) {
        if self.inherited.lock().has(door.address, door.is_udp()) {
            let (address, protocol) = (door.address, door.mapping().settings().protocol());
            self.control.messages.note(format_args!(
                "no rule listens on {address} ({protocol}) any more, which the service manager has handed \
                 over: clients that come there wait until a rule, or another process, takes it"
            ));
        }
    }

    /// Gives a port of UDP up when its sessions have ended, in so long at most.
    fn give_up(&self, door: &Arc<Door>, sessions: &UdpSessions<Flow>, patience: Duration) {
        let closed = door.close(sessions, Duration::MAX);
        let count = sessions.count() as u64;
        if count == 0 {
            return;
        }
        let (address, time) = (door.address, show_time(patience));
        self.control.messages.note(format_args!(
            "{address}/udp is given up when its {} {} ended, in {time} at most",
            counted(count, "session"),
            if count == 1 { "has" } else { "have" },
        ));
        let door = Arc::downgrade(door);
        drop(runtime::spawn(async move {
            sleep(patience).await;
            if let Some(door) = door.upgrade() {
                door.cut(closed);
            }
        }));
    }

    /// What all rules have done.
    pub fn total(&self) -> Counts {
        self.control.total.read()
    }

    /// Takes nobody in any more. Connections go on.
    pub fn close(&self) {
        for door in self.all_doors() {
            match &door.datagrams {
                Some(sessions) => drop(door.close(sessions, DRAIN_QUIET)),
                None => self.close_door(&door, Duration::ZERO),
            }
        }
        *self.inherited.lock() = Sockets::default();
    }
}

fn open(
    addresses: &[SocketAddr],
    mapping: Arc<Mapping>,
    doors: &[Arc<Door>],
    inherited: &mut Sockets,
    descriptor_limit: u64,
) -> Result<Step, Failure> {
    let is_udp = mapping.settings().udp;
    let socket = take(addresses, is_udp, inherited)
        .and_then(|taken| taken.map_or_else(|| bind(addresses, is_udp), Ok));
    let (socket, address) = socket.map_err(|error| {
        let listen = &mapping.rule.text.listen;
        if let Some(failure) = inherited.in_the_way(listen, is_udp, &error) {
            return failure;
        }
        let is_own = |door: &&Arc<Door>| {
            let mut addresses = addresses.iter();
            door.is_udp() == is_udp && addresses.any(|address| overlap(address, &door.address))
        };
        match doors.iter().find(is_own) {
            Some(door)
                if error.kind() == io::ErrorKind::AddrInUse && door.mapping().is_retired() =>
            {
                Failure::failed(format!(
                    "cannot listen on {listen}: sessions of a rule that was taken out go on at {}; \
                     reload again when they have ended",
                    door.address
                ))
            }
            Some(door) if error.kind() == io::ErrorKind::AddrInUse => Failure::failed(format!(
                "cannot listen on {listen}: this mapper itself listens on {} until it ends; start \
                 it anew",
                door.address
            )),
            _ => Failure::cannot_listen(listen, &error, descriptor_limit),
        }
    })?;
    let datagrams = match &socket {
        Socket::Tcp(_) => None,
        Socket::Udp(sessions) => Some(sessions.clone()),
    };
    let door = Door {
        address,
        mapping: Mutex::new(mapping),
        datagrams,
        stage: Mutex::default(),
    };
    Ok(Step::Open(socket, Arc::new(door)))
}

/// The socket for one of the addresses that was handed over, if one was.
fn take(
    addresses: &[SocketAddr],
    is_udp: bool,
    inherited: &mut Sockets,
) -> io::Result<Option<(Socket, SocketAddr)>> {
    if is_udp {
        let taken = inherited.take_udp(addresses)?;
        return taken
            .map(|socket| udp(UdpSocket::from_std(socket)?))
            .transpose();
    }
    let taken = inherited.take_tcp(addresses)?;
    taken
        .map(|listener| tcp(TcpListener::from_std(listener)?))
        .transpose()
}

/// Listens on the first of the addresses that can be had.
fn bind(addresses: &[SocketAddr], is_udp: bool) -> io::Result<(Socket, SocketAddr)> {
    if is_udp {
        return udp(UdpSocket::bind(addresses)?);
    }
    let options = ListenOptions::new().nodelay(true);
    tcp(TcpListener::bind_with(addresses, options)?)
}

fn udp(socket: UdpSocket) -> io::Result<(Socket, SocketAddr)> {
    let local = socket.local_addr()?;
    Ok((Socket::Udp(UdpSessions::new(socket)), local))
}

fn tcp(listener: TcpListener) -> io::Result<(Socket, SocketAddr)> {
    let local = listener.local_addr()?;
    Ok((Socket::Tcp(listener), local))
}
