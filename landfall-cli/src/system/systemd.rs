//! What systemd, or another service manager, hands over and is told: sockets (sd_listen_fds(3)), and how far
//! the program has come (sd_notify(3)).

use std::env;
use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{self as unix, UnixDatagram};
use std::process;
use std::time::Duration;

use listenfd::ListenFd;
use rustix::net::sockopt;
use sd_notify::NotifyState;

use crate::exit::Failure;
use crate::output::Log;

/// What is meant for this process alone.
pub const VARIABLES: [&str; 5] = [
    "LISTEN_PID",
    "LISTEN_FDS",
    FIRST_FD,
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
];

/// Says which descriptor is the first that is handed over, if it is not this one: the crate asks for it,
/// which systemd does not set.
const FIRST_FD: &str = "LISTEN_FDS_FIRST_FD";
const FIRST: usize = 3;

/// How long the service manager may keep the program from going on with what it is told.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sockets that were handed over. One that is taken can be taken again, by a rule that comes back.
#[derive(Debug, Default)]
pub struct Sockets(Vec<Inherited>);

#[derive(Debug)]
struct Inherited {
    /// What messages call it.
    name: String,
    address: SocketAddr,
    socket: Socket,
    /// Since the process began.
    is_taken: bool,
    /// Somebody here listens by it.
    is_in_use: bool,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Socket {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(listener) => Self::Tcp(listener.try_clone()?),
            Self::Udp(socket) => Self::Udp(socket.try_clone()?),
        })
    }

    fn is_udp(&self) -> bool {
        matches!(self, Self::Udp(_))
    }
}

impl Sockets {
    /// Those that the environment says are for this process. To be called before there are threads:
    /// `LISTEN_PID` and `LISTEN_FDS` are taken away, so that no process started later takes them for its
    /// own.
    pub fn from_environment() -> Result<Self, Failure> {
        let pid = process::id().to_string();
        // Without a process, the crate would take them for its own.
        if env::var("LISTEN_PID") != Ok(pid) {
            return Ok(Self::default());
        }
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let first = env::var(FIRST_FD).ok().and_then(|first| first.parse().ok());
        let first: usize = first.unwrap_or(FIRST);
        let mut given = ListenFd::from_env();
        let count = given.len();
        let inherit = |index| {
            let name = match names.next() {
                Some(name) if !name.is_empty() => format!(" ({name})"),
                _ => String::new(),
            };
            let name = format!("descriptor {}{name}", first + index);
            Inherited::take(&mut given, index, name)
        };
        (0..count).map(inherit).collect::<Result<_, _>>().map(Self)
    }

    /// The one that listens for connections on one of these addresses.
    pub fn take_tcp(&mut self, addresses: impl ToSocketAddrs) -> io::Result<Option<TcpListener>> {
        let taken = self.take(addresses, false)?;
        let Some(Socket::Tcp(listener)) = taken else {
            return Ok(None);
        };
        // As on those that are opened here; connections have it from their listener.
        sockopt::set_tcp_nodelay(&listener, true)?;
        Ok(Some(listener))
    }

    /// The one that receives datagrams at one of these addresses.
    pub fn take_udp(&mut self, addresses: impl ToSocketAddrs) -> io::Result<Option<UdpSocket>> {
        let taken = self.take(addresses, true)?;
        Ok(match taken {
            Some(Socket::Udp(socket)) => Some(socket),
            _ => None,
        })
    }

    fn take(&mut self, addresses: impl ToSocketAddrs, is_udp: bool) -> io::Result<Option<Socket>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let addresses: Vec<_> = addresses.to_socket_addrs()?.collect();
        let is_it = |one: &&mut Inherited| {
            !one.is_in_use && one.socket.is_udp() == is_udp && addresses.contains(&one.address)
        };
        let Some(one) = self.0.iter_mut().find(is_it) else {
            return Ok(None);
        };
        let socket = one.socket.try_clone()?;
        one.is_taken = true;
        one.is_in_use = true;
        Ok(Some(socket))
    }

    /// Lets all be taken again: whoever calls this sees to it that none has two users at a time.
    pub fn let_all_be_taken_again(&mut self) {
        for one in &mut self.0 {
            one.is_in_use = false;
        }
    }

    /// Whether one of them has this address.
    pub fn has(&self, address: SocketAddr, is_udp: bool) -> bool {
        let mut all = self.0.iter();
        all.any(|one| one.address == address && one.socket.is_udp() == is_udp)
    }

    /// What to say of an address that is in use, if one of them may be why: it has the port, at all
    /// addresses or at one of those that are meant.
    pub fn in_the_way(&self, listen: &str, is_udp: bool, error: &io::Error) -> Option<Failure> {
        if self.0.is_empty() || error.kind() != io::ErrorKind::AddrInUse {
            return None;
        }
        let wanted: Vec<_> = listen.to_socket_addrs().ok()?.collect();
        let meets = |own: SocketAddr, wanted: &SocketAddr| {
            let is_any = own.ip().is_unspecified() || wanted.ip().is_unspecified();
            own.port() == wanted.port() && is_any
        };
        let one = self.0.iter().find(|one| {
            let mut wanted = wanted.iter();
            one.socket.is_udp() == is_udp && wanted.any(|wanted| meets(one.address, wanted))
        })?;
        Some(Failure::usage(format!(
            "cannot listen on {listen}: {one} was handed over by the service manager and has that port: \
             name {} as the address to listen on, or change the socket unit",
            one.address
        )))
    }

    /// Refuses to leave any of them: clients would wait there for ever.
    pub fn refuse_rest(&self) -> Result<(), Failure> {
        let Some(one) = self.0.iter().find(|one| !one.is_taken) else {
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
                is_taken: false,
                is_in_use: false,
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
            is_taken: false,
            is_in_use: false,
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
    let place = env::var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty());
    let Some(place) = place else {
        return;
    };
    let text: String = states.iter().map(|state| format!("{state}\n")).collect();
    let problem = match send(&place, text.as_bytes()) {
        Ok(()) => return,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => String::from("it does not read"),
        Err(error) => error.to_string(),
    };
    log.note(format_args!(
        "the service manager cannot be told at NOTIFY_SOCKET how far this has come: {problem}"
    ));
}

/// Sends what sd_notify has written, which would wait for a manager that does not read, and takes paths
/// alone.
fn send(place: &OsStr, text: &[u8]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let address = match place.as_bytes() {
        [b'@', name @ ..] => abstract_address(name)?,
        _ => unix::SocketAddr::from_pathname(place)?,
    };
    socket.connect_addr(&address)?;
    socket.send(text).map(drop)
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<unix::SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    unix::SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_name: &[u8]) -> io::Result<unix::SocketAddr> {
    Err(io::Error::other(
        "a name that begins with @ is no socket on this system",
    ))
}
