//! What sort of socket it is, as far as receiving depends on it, and listeners, on Unix.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::{SockRef, Socket, Type};

use super::Origin;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct SocketKind {
    pub(crate) datagram: bool,
    /// A receive that leaves room has taken all that there was. So it is with TCP; others keep
    /// records, or stop at what came with a message, though more is waiting.
    pub(crate) drains: bool,
}

impl SocketKind {
    /// Readies a socket for a driver. The flag `O_NONBLOCK` would forbid a ring to wait for an accept on
    /// the program's behalf (receives and sends go by flags of their own, whatever the mode), and calls
    /// of readiness say for themselves that they must not.
    pub(crate) fn prepare(socket: &Socket, origin: Origin) -> io::Result<Self> {
        if origin == Origin::NewTcp {
            return Ok(SocketKind {
                datagram: false,
                drains: true,
            });
        }
        let kind = SocketKind::of(&SockRef::from(socket))?;
        socket.set_nonblocking(false)?;
        Ok(kind)
    }

    fn of(socket: &SockRef<'_>) -> io::Result<Self> {
        let kind = socket.r#type()?;
        Ok(SocketKind {
            datagram: kind == Type::DGRAM,
            drains: kind == Type::STREAM && is_tcp(socket),
        })
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn is_tcp(socket: &SockRef<'_>) -> bool {
    matches!(socket.protocol(), Ok(Some(socket2::Protocol::TCP)))
}

/// Other systems do not tell the protocol, and have no other stream of bytes over the internet.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn is_tcp(socket: &SockRef<'_>) -> bool {
    use socket2::Domain;
    let internet = |domain| [Domain::IPV4, Domain::IPV6].contains(&domain);
    socket
        .local_addr()
        .is_ok_and(|address| internet(address.domain()))
}

/// A listener, as a stream of accepts has it.
pub(crate) struct Listener {
    pub(crate) fd: Arc<OwnedFd>,
    /// What its connections are.
    pub(crate) kind: SocketKind,
}

impl Listener {
    pub(crate) fn new(fd: Arc<OwnedFd>) -> Self {
        // One whose kind cannot be told has connections that are received from once more.
        let kind = SocketKind::of(&SockRef::from(&*fd)).unwrap_or_default();
        Listener { fd, kind }
    }
}

/// Has the system listen no more by a socket, whoever has it. Where it refuses that (elsewhere than on
/// Linux) it listens until all accepts have ended that are under way, each of which has the socket.
pub(super) fn stop_listening(fd: &OwnedFd) {
    let _ = SockRef::from(fd).shutdown(Shutdown::Both);
}

/// Failures of one connection, after which the next accept may well succeed: the client gave up
/// (accept(2) lists the network's errors), or a signal.
pub(crate) fn passes(code: i32) -> bool {
    #[cfg(target_os = "linux")]
    if code == libc::ENONET {
        return true;
    }
    matches!(
        code,
        libc::ECONNABORTED
            | libc::EPROTO
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EINTR
            | libc::EAGAIN
    )
}

#[cfg(all(test, not(loom)))]
mod tests {
    use socket2::{Domain, Protocol};

    use super::*;

    #[test]
    fn a_new_socket_is_what_it_is_taken_for_without_asking() {
        for domain in [Domain::IPV4, Domain::IPV6] {
            let new = match Socket::new(domain, Type::STREAM, Some(Protocol::TCP)) {
                Err(_) if domain == Domain::IPV6 => {
                    eprintln!("skipped: this system has no IPv6");
                    continue;
                }
                new => new.expect("a socket"),
            };
            let asked = SocketKind::prepare(&new, Origin::Program).expect("a stream");
            let told = SocketKind::prepare(&new, Origin::NewTcp).expect("nothing is asked");
            assert_eq!(asked, told);
            assert!(!new.nonblocking().expect("it tells"));
        }
        // Nothing is asked: or this would be seen.
        let other = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        let told = SocketKind::prepare(&other, Origin::NewTcp).expect("nothing is asked");
        assert!(!told.datagram);
    }
}
