//! What sort of socket it is, as far as receiving depends on it.

use std::io;

use socket2::{Domain, SockRef, Type};

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SocketKind {
    pub(crate) datagram: bool,
    /// A receive that leaves room has taken all that there was. So it is with TCP; others keep
    /// records, or stop at what came with a message, though more is waiting.
    pub(crate) drains: bool,
}

impl SocketKind {
    pub(crate) fn of(socket: &SockRef<'_>) -> io::Result<Self> {
        let kind = socket.r#type()?;
        let address = socket.local_addr()?;
        let internet = [Domain::IPV4, Domain::IPV6].contains(&address.domain());
        Ok(SocketKind {
            datagram: kind == Type::DGRAM,
            drains: kind == Type::STREAM && internet && is_tcp(socket),
        })
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn is_tcp(socket: &SockRef<'_>) -> bool {
    matches!(socket.protocol(), Ok(Some(socket2::Protocol::TCP)))
}

/// Other systems have no other stream of bytes there.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn is_tcp(_socket: &SockRef<'_>) -> bool {
    true
}
