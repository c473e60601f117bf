//! The parts of `net` that name a system's own codes and options.

use std::io;

use socket2::Socket;

/// The connection was cut: the peer, or something on the way, sent a reset.
pub(super) const RESET: i32 = libc::ECONNRESET;

/// What a send fails with after a reset that something else has been told of already. It means
/// nothing else, unless this side has shut its sending down itself.
pub(super) const BROKEN_PIPE: i32 = libc::EPIPE;

/// Lets a server be started again while connections of the last one linger in `TIME_WAIT`. On
/// Windows the option of this name means something else, and must not be set.
pub(super) fn allow_rebinding(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)
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
#[cfg(not(target_os = "linux"))]
pub(super) fn choose_port_late(_: &Socket) -> io::Result<()> {
    Ok(())
}
