//! The parts of `net` that name a system's own codes and options.

#[cfg(target_os = "linux")]
use std::ffi::OsStr;
use std::io;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
#[cfg(target_os = "linux")]
use std::os::unix::ffi::OsStrExt;
#[cfg(unix)]
use std::os::unix::net;

#[cfg(unix)]
use socket2::SockAddr;
use socket2::Socket;

#[cfg(unix)]
mod codes {
    pub(crate) const RESET: i32 = libc::ECONNRESET;
    pub(crate) const BROKEN_PIPE: i32 = libc::EPIPE;
    pub(crate) const MESSAGE_TOO_LONG: i32 = libc::EMSGSIZE;
}

#[cfg(windows)]
mod codes {
    use windows_sys::Win32::Networking::WinSock;

    pub(crate) const RESET: i32 = WinSock::WSAECONNRESET;
    pub(crate) const BROKEN_PIPE: i32 = WinSock::WSAECONNABORTED;
    pub(crate) const MESSAGE_TOO_LONG: i32 = WinSock::WSAEMSGSIZE;
}

/// The connection was cut: the peer, or something on the way, sent a reset.
pub(super) const RESET: i32 = codes::RESET;

/// What a send fails with after a reset that something else has been told of already. It means
/// nothing else, unless this side has shut its sending down itself.
pub(super) const BROKEN_PIPE: i32 = codes::BROKEN_PIPE;

/// A datagram was longer than the room for it, or than the network takes.
pub(super) const MESSAGE_TOO_LONG: i32 = codes::MESSAGE_TOO_LONG;

/// The address of a Unix socket, to connect to.
#[cfg(unix)]
pub(super) fn unix_address(address: &net::SocketAddr) -> io::Result<SockAddr> {
    if let Some(path) = address.as_pathname() {
        return SockAddr::unix(path);
    }
    #[cfg(target_os = "linux")]
    if let Some(name) = address.as_abstract_name() {
        return SockAddr::unix(OsStr::from_bytes(&[&[0][..], name].concat()));
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "the address has no name, so nobody can be connected to by it",
    ))
}

/// Lets a server be started again while connections of the last one linger in `TIME_WAIT`.
#[cfg(unix)]
pub(super) fn allow_rebinding(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)
}

/// Windows permits that by itself. What has the name `SO_REUSEADDR` there lets another program take
/// the port over; the option set here forbids that.
#[cfg(windows)]
pub(super) fn allow_rebinding(socket: &Socket) -> io::Result<()> {
    crate::driver::iocp::use_address_exclusively(socket)
}

/// Leaves the choice of a local port to the connect, when the peer is known and ports can be shared
/// between peers. Choosing one at bind gets slower with each port in use: 28,000 connections took
/// most of a minute.
#[cfg(target_os = "linux")]
pub(super) fn choose_port_late(socket: &Socket) -> io::Result<()> {
    nix::sys::socket::setsockopt(
        socket,
        nix::sys::socket::sockopt::IpBindAddressNoPort,
        &true,
    )?;
    Ok(())
}

/// The port is chosen at bind.
#[cfg(all(unix, not(target_os = "linux")))]
pub(super) fn choose_port_late(_: &Socket) -> io::Result<()> {
    Ok(())
}

/// Nothing: `ConnectEx` takes bound sockets only.
#[cfg(windows)]
pub(super) fn choose_port_late(_socket: &Socket) -> io::Result<()> {
    Ok(())
}

/// Hands the socket, which must not block, what it takes at once of a head and a range of a file
/// (`sendfile`); that may wait for the disk. Returns how many bytes of both it has taken.
#[cfg(target_os = "linux")]
pub(super) fn send_file_at_once(
    socket: &std::os::fd::OwnedFd,
    head: &[u8],
    file: &std::fs::File,
    offset: u64,
    length: u64,
) -> io::Result<u64> {
    use rustix::fs::sendfile;
    use rustix::io::Errno;

    let socket_options = socket2::SockRef::from(socket);
    let mut of_head = 0;
    if !head.is_empty() {
        // With the first bytes of the file it makes one segment.
        let flags = match length {
            0 => libc::MSG_NOSIGNAL,
            _ => libc::MSG_MORE | libc::MSG_NOSIGNAL,
        };
        of_head = socket_options.send_with_flags(head, flags)?;
        if of_head < head.len() {
            return Ok(of_head as u64);
        }
    }
    let mut position = offset;
    let end = offset.saturating_add(length);
    let result = loop {
        if position == end {
            break Ok(());
        }
        let count = usize::try_from(end - position).unwrap_or(usize::MAX);
        match sendfile(socket, file, Some(&mut position), count) {
            // The file ends.
            Ok(0) => break Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => break Err(error),
        }
    };
    if of_head > 0 && position == offset && result != Err(Errno::AGAIN) {
        // None followed: the system would hold the head back for 200 ms. A socket that is not TCP
        // holds nothing back.
        let _ = socket_options.set_tcp_cork(false);
    }
    match (of_head as u64 + position - offset, result) {
        (0, Err(error)) => Err(error.into()),
        (sent, _) => Ok(sent),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn send_file_at_once<T>(
    _: &T,
    _: &[u8],
    _: &std::fs::File,
    _: u64,
    _: u64,
) -> io::Result<u64> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this system sends no file without a chance to wait for the peer",
    ))
}
