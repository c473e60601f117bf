//! What systemd, or another service manager, hands over and is told: sockets (sd_listen_fds(3)), and how far
//! the program has come (sd_notify(3)).

use std::env;
use std::fmt::{self, Display};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::process;

use listenfd::ListenFd;
use rustix::net::sockopt;
use sd_notify::NotifyState;

use crate::exit::Failure;
use crate::output::Log;

/// What is meant for this process alone.
pub const VARIABLES: [&str; 4] = [
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
];

/// The first descriptor that is handed over.
const FIRST: usize = 3;

/// Sockets that were handed over, and not taken yet.
#[derive(Debug, Default)]
pub struct Sockets(Vec<Inherited>);

#[derive(Debug)]
struct Inherited {
    /// What messages call it.
    name: String,
    address: SocketAddr,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Sockets {
    /// Those that the environment says are for this process. To be called before there are threads:
    /// the variables are taken away, so that no process started later takes them for its own.
    pub fn from_environment() -> Result<Self, Failure> {
        let pid = process::id().to_string();
        // Without a process, the crate would take them for its own.
        if env::var("LISTEN_PID") != Ok(pid) {
            return Ok(Self::default());
        }
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut given = ListenFd::from_env();
        let count = given.len();
        let inherit = |index| {
            let name = match names.next() {
                Some(name) if !name.is_empty() => format!(" ({name})"),
                _ => String::new(),
            };
            let name = format!("descriptor {}{name}", FIRST + index);
            Inherited::take(&mut given, index, name)
        };
        (0..count).map(inherit).collect::<Result<_, _>>().map(Self)
    }

    /// The one that listens for connections on one of these addresses.
    pub fn take_tcp(&mut self, addresses: impl ToSocketAddrs) -> io::Result<Option<TcpListener>> {
        let taken = self.take(addresses, |socket| matches!(socket, Socket::Tcp(_)))?;
        let Some(Socket::Tcp(listener)) = taken else {
            return Ok(None);
        };
        // As on those that are opened here; connections have it from their listener.
        sockopt::set_tcp_nodelay(&listener, true)?;
        Ok(Some(listener))
    }

    /// The one that receives datagrams at one of these addresses.
    pub fn take_udp(&mut self, addresses: impl ToSocketAddrs) -> io::Result<Option<UdpSocket>> {
        let taken = self.take(addresses, |socket| matches!(socket, Socket::Udp(_)))?;
        Ok(match taken {
            Some(Socket::Udp(socket)) => Some(socket),
            _ => None,
        })
    }

    fn take(
        &mut self,
        addresses: impl ToSocketAddrs,
        is_wanted: impl Fn(&Socket) -> bool,
    ) -> io::Result<Option<Socket>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let addresses: Vec<_> = addresses.to_socket_addrs()?.collect();
        let is_it = |one: &Inherited| is_wanted(&one.socket) && addresses.contains(&one.address);
        let place = self.0.iter().position(is_it);
        Ok(place.map(|place| self.0.remove(place).socket))
    }

    /// Refuses to leave any of them: clients would wait there for ever.
    pub fn refuse_rest(&self) -> Result<(), Failure> {
        let Some(one) = self.0.first() else {
            return Ok(());
        };
        Err(Failure::usage(format!(
            "{one} was handed over by the service manager, and nothing here listens on that address: \
             name it as the address to listen on, or take it out of the socket unit"
        )))
    }
}

impl Inherited {
    fn take(given: &mut ListenFd, index: usize, name: String) -> Result<Self, Failure> {
        let refuse = |problem: &str| {
            Failure::usage(format!(
                "{name} was handed over by the service manager and {problem}"
            ))
        };
        let unfit = |_: io::Error| {
            refuse(
                "is neither a listener of TCP nor a socket of UDP: write ListenStream=HOST:PORT or \
                 ListenDatagram=HOST:PORT in the socket unit",
            )
        };
        if let Ok(Some(listener)) = given.take_tcp_listener(index) {
            if !is_listening(&listener) {
                return Err(refuse(
                    "does not listen: write Accept=no in the socket unit, so that it is the listener \
                     and not a connection",
                ));
            }
            let address = listener.local_addr().map_err(unfit)?;
            let socket = Socket::Tcp(listener);
            return Ok(Self {
                name,
                address,
                socket,
            });
        }
        let socket = given.take_udp_socket(index).map_err(unfit)?;
        let socket = socket.ok_or_else(|| unfit(io::ErrorKind::NotFound.into()))?;
        let address = socket.local_addr().map_err(unfit)?;
        let socket = Socket::Udp(socket);
        Ok(Self {
            name,
            address,
            socket,
        })
    }
}

impl Display for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.socket {
            Socket::Tcp(_) => "TCP",
            Socket::Udp(_) => "UDP",
        };
        write!(f, "{}, {protocol} on {},", self.name, self.address)
    }
}

/// Whether a socket is a listener.
#[cfg(not(target_vendor = "apple"))]
fn is_listening(socket: &TcpListener) -> bool {
    sockopt::socket_acceptconn(socket).unwrap_or(false)
}

/// Whether a socket can be a listener: here the system does not tell, but of connections.
#[cfg(target_vendor = "apple")]
fn is_listening(socket: &TcpListener) -> bool {
    rustix::net::getpeername(socket).is_err()
}

/// Tells the service manager, if there is one, that clients can come, or that what a reload has asked for
/// is done; and a line for people.
pub fn ready(log: &Log, status: impl Display) {
    let status = status.to_string();
    notify(log, &[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// Tells it that a reload has begun.
pub fn reloading(log: &Log) {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    notify(log, &states);
}

/// Tells it that the end has begun; and a line for people.
pub fn stopping(log: &Log, status: impl Display) {
    let status = status.to_string();
    notify(log, &[NotifyState::Stopping, NotifyState::Status(&status)]);
}

fn notify(log: &Log, states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log.note(format_args!(
            "the service manager cannot be told at NOTIFY_SOCKET how far this has come: {error}"
        ));
    }
}
