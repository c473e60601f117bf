//! Where the mapper listens, and how other rules take the place of those in force.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_lite::future::or;
use landfall::net::{ListenOptions, TcpListener, TcpStream, UdpSocket};
use landfall::runtime;
use landfall::runtime::time::sleep;
use parking_lot::Mutex;

use super::control::{Control, Flag};
use super::mapping::{Mapping, Rule};
use super::session::Session;
use super::targets::Counts;
use super::udp::UdpDoor;
use super::watch::watch;
use crate::exit::Failure;

/// The pause after an accept that failed for want of something.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(50);

/// All that is listened on.
#[derive(Debug)]
pub struct Front {
    control: Arc<Control>,
    doors: Vec<Arc<Door>>,
}

/// One address that is listened on.
#[derive(Debug)]
pub struct Door {
    /// The address, with the port that the system chose.
    pub address: SocketAddr,
    /// The rule for those that come now.
    mapping: Mutex<Arc<Mapping>>,
    closed: Flag,
}

impl Door {
    /// The rule for those that come now.
    pub fn mapping(&self) -> Arc<Mapping> {
        Arc::clone(&self.mapping.lock())
    }

    /// Whether datagrams come in by it, and not connections.
    pub fn is_udp(&self) -> bool {
        self.mapping().settings().udp
    }

    /// Whether it takes nobody in any more.
    pub fn is_closed(&self) -> bool {
        self.closed.is_set()
    }

    /// Waits until it takes nobody in any more.
    pub async fn closed(&self) {
        self.closed.wait().await;
    }

    fn close(&self) {
        self.mapping.lock().retire();
        self.closed.set();
    }

    /// Whether a rule is for this door.
    fn fits(&self, rule: &Rule) -> bool {
        let own = &self.mapping().rule;
        own.text.listen == rule.text.listen && own.settings.udp == rule.settings.udp
    }
}

/// What a door is.
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// A door that is not open yet, or another rule for one that is.
enum Step {
    Open(Socket, Arc<Door>),
    Change(Arc<Door>, Arc<Mapping>),
}

impl Front {
    /// With nothing to listen on.
    pub fn new(control: Arc<Control>) -> Self {
        Self {
            control,
            doors: Vec::new(),
        }
    }

    /// What is listened on.
    pub fn doors(&self) -> &[Arc<Door>] {
        &self.doors
    }

    /// Puts rules in the place of those in force, or leaves everything as it is. Connections go on
    /// under the rules they came by.
    pub fn apply(
        &mut self,
        rules: Vec<Rule>,
        explain: impl Fn(&str, &io::Error) -> Failure,
    ) -> Result<(), Failure> {
        let mut old = self.doors.clone();
        let mut steps = Vec::new();
        for rule in rules {
            let known = old.iter().position(|door| door.fits(&rule));
            let door = known.map(|place| old.swap_remove(place));
            let last = door.as_deref().map(Door::mapping);
            let mapping = Mapping::new(rule, last.as_deref()).map_err(Failure::failed)?;
            let mapping = Arc::new(mapping);
            steps.push(match door {
                Some(door) => Step::Change(door, mapping),
                None => open(mapping, &explain)?,
            });
        }
        // From here on nothing can fail.
        self.doors = steps.into_iter().map(|step| self.take(step)).collect();
        old.iter().for_each(|door| door.close());
        Ok(())
    }

    fn take(&self, step: Step) -> Arc<Door> {
        match step {
            Step::Open(socket, door) => {
                watch(&self.control, &door.mapping());
                let (control, own) = (Arc::clone(&self.control), Arc::clone(&door));
                match socket {
                    Socket::Tcp(listener) => {
                        drop(runtime::spawn(accept_all(control, own, listener)));
                    }
                    Socket::Udp(socket) => {
                        let udp = UdpDoor::new(control, own, socket);
                        drop(runtime::spawn(udp.serve()));
                    }
                }
                door
            }
            Step::Change(door, mapping) => {
                let mut current = door.mapping.lock();
                if current.rule != mapping.rule {
                    current.retire();
                    *current = Arc::clone(&mapping);
                    watch(&self.control, &mapping);
                }
                drop(current);
                door
            }
        }
    }

    /// What all rules have done.
    pub fn total(&self) -> Counts {
        self.control.total.read()
    }

    /// Takes nobody in any more. Connections go on.
    pub fn close(&self) {
        self.doors.iter().for_each(|door| door.close());
    }
}

fn open(
    mapping: Arc<Mapping>,
    explain: impl Fn(&str, &io::Error) -> Failure,
) -> Result<Step, Failure> {
    let address = mapping.rule.text.listen.clone();
    let is_udp = mapping.settings().udp;
    let (socket, local) = bind(&address, is_udp).map_err(|error| explain(&address, &error))?;
    let door = Door {
        address: local,
        mapping: Mutex::new(mapping),
        closed: Flag::default(),
    };
    Ok(Step::Open(socket, Arc::new(door)))
}

fn bind(address: &str, is_udp: bool) -> io::Result<(Socket, SocketAddr)> {
    if is_udp {
        let socket = UdpSocket::bind(address)?;
        let local = socket.local_addr()?;
        return Ok((Socket::Udp(socket), local));
    }
    let options = ListenOptions::new().nodelay(true);
    let listener = TcpListener::bind_with(address, options)?;
    let local = listener.local_addr()?;
    Ok((Socket::Tcp(listener), local))
}

async fn accept_all(control: Arc<Control>, door: Arc<Door>, listener: TcpListener) {
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok(stream) => admit(&control, &door, stream).await,
                Err(_) => {
                    control.accept_errors.fetch_add(1, Ordering::Relaxed);
                    sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        }
    };
    or(door.closed(), accepting).await;
}

/// Lets a client in once there is room, unless it is refused.
async fn admit(control: &Arc<Control>, door: &Door, stream: TcpStream) {
    let Ok(peer) = stream.peer_addr() else {
        // It has left already.
        return;
    };
    if let Some(session) = Session::admit(control, door.mapping(), peer) {
        let room = control.room.acquire_arc().await;
        control.run(|task| session.serve(stream, room, task));
    }
}
