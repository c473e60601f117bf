//! Operations as the kernel carries them, and the memory that they own meanwhile.

use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockAddr, SockRef, Socket, TcpKeepalive};
use windows_sys::Win32::Networking::WinSock::{WSABUF, WSAEINVAL};

use super::code;
use super::file;
use super::winsock::{self, Block, Extensions, Sender, description};
use crate::buffer::Buffer;
use crate::driver::accept_stream::AcceptStream;
use crate::driver::file::{FileOp, FileRange};
use crate::driver::ticket::Ticket;
use crate::port::{CompletionKind, Handle, Payload, SocketOption};

pub(super) struct Op {
    pub(super) id: u64,
    pub(super) ticket: Ticket,
    pub(super) kind: Kind,
    pub(super) block: Block,
    pub(super) in_kernel: bool,
    /// It was asked to end.
    pub(super) cancelled: bool,
    /// A receive that does not go on until the program has taken what is held back, or the kernel
    /// has told of those before it.
    pub(super) paused: bool,
    /// Bytes sent so far.
    pub(super) done: usize,
}

pub(super) enum Kind {
    /// Into a vector of the program's.
    Receive(Vec<u8>),
    /// Of a stream's data, into pooled buffers: a receive of no bytes waits for it, so that an idle
    /// connection has no page locked and holds no buffer.
    Pooled {
        once: bool,
    },
    /// A datagram into a vector of the program's, or of our own, which is given away only with a
    /// datagram in it. A receive of no bytes would throw the datagram away, so the buffer must be
    /// there.
    Datagram(Vec<u8>, Owner),
    /// A datagram into a vector of the program's, and its sender.
    DatagramFrom(Vec<u8>, Sender),
    Readable,
    /// As `Readable`, of a datagram: it peeks at a byte.
    ReadableDatagram(Vec<u8>),
    Send(Buffer),
    SendVectored(Vec<Buffer>),
    SendTo(Buffer, SocketAddr),
    SendFile(FileRange),
    /// On a file instead of a socket.
    File(FileOp),
    /// Whether it only names the peer of a socket of datagrams.
    Connect(SocketAddr, bool),
    Shutdown(Shutdown),
    SetOption(SocketOption),
    /// The first data of an accepted connection, and who wants it.
    FirstData(Arc<AcceptStream>, Option<SocketAddr>),
}

/// Whose vector it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Program,
    Driver,
}

/// How an operation began.
pub(super) enum Begun {
    /// A packet will follow.
    Pending,
    /// It is over: no packet follows.
    Done,
}

/// Bytes that one call is given at most, so that a long send does not lock all of its memory.
pub(super) const MOST_BYTES: usize = 1 << 20;

/// Vectors that one call is given at most; the rest goes in the next round.
const MOST_VECTORS: usize = 1024;

impl Op {
    pub(super) fn new(id: u64, kind: Kind, token: usize, handle: Option<Handle>) -> Box<Self> {
        Box::new(Op {
            id,
            ticket: Ticket::new(handle, token),
            kind,
            block: Block::new(),
            in_kernel: false,
            cancelled: false,
            paused: false,
            done: 0,
        })
    }

    /// Hands the operation, or what is left of it, to the kernel; or does it, where that takes no
    /// time.
    pub(super) fn begin(&mut self, socket: &Socket, extensions: &Extensions) -> Result<Begun, i32> {
        let Op { block, done, .. } = self;
        match &mut self.kind {
            Kind::Receive(vec) | Kind::Datagram(vec, _) => {
                receive_into(socket, vec, false, block)?;
            }
            Kind::DatagramFrom(vec, sender) => {
                let spare = vec.spare_capacity_mut();
                let spare = [description(spare.as_ptr().cast(), spare.len())];
                // SAFETY: as in `receive_into`, and the sender's memory is the operation's too.
                unsafe { winsock::receive_from(socket, &spare, sender, block)? }
            }
            Kind::ReadableDatagram(vec) => receive_into(socket, vec, true, block)?,
            Kind::Pooled { .. } | Kind::Readable | Kind::FirstData(..) => {
                let nothing = [description(std::ptr::null(), 0)];
                // SAFETY: no memory is described, and the operation keeps the block until its
                // packet has been taken.
                unsafe { winsock::receive(socket, &nothing, false, block)? }
            }
            Kind::Send(buffer) => {
                let rest = &buffer[*done..];
                let rest = &rest[..rest.len().min(MOST_BYTES)];
                send_from(socket, &[description(rest.as_ptr(), rest.len())], block)?;
            }
            Kind::SendVectored(buffers) => send_from(socket, &gather(buffers, *done), block)?,
            Kind::SendTo(buffer, address) => {
                let buffer = [description(buffer.as_ptr(), buffer.len())];
                // SAFETY: as in `send_from`.
                unsafe { winsock::send_to(socket, &buffer, &SockAddr::from(*address), block)? }
            }
            Kind::SendFile(range) => {
                return file::transmit(socket, range, *done, extensions, block);
            }
            Kind::File(_) => unreachable!("begins on its file"),
            Kind::Connect(address, true) => {
                // That names the peer and sends nothing.
                let named = socket.connect(&(*address).into());
                named.map_err(|error| code::of(&error))?;
                return Ok(Begun::Done);
            }
            Kind::Connect(address, false) => return connect(socket, *address, extensions, block),
            Kind::Shutdown(how) => {
                socket.shutdown(*how).map_err(|error| code::of(&error))?;
                return Ok(Begun::Done);
            }
            Kind::SetOption(option) => {
                set_option(socket, *option).map_err(|error| code::of(&error))?;
                return Ok(Begun::Done);
            }
        }
        Ok(Begun::Pending)
    }

    /// Sends a datagram, if it is one to be sent, unless that has to wait. Returns its code. Of one that
    /// is too long, an overlapped send fails at once and a packet may follow or not, as it is a warning
    /// or an error to the kernel (it has a status of either kind for that).
    pub(super) fn send_datagram(&mut self, socket: &Socket) -> Option<i32> {
        let sent = match &self.kind {
            Kind::Send(buffer) => socket.send(buffer),
            Kind::SendVectored(buffers) => {
                let slices: Vec<_> = buffers.iter().map(|buffer| IoSlice::new(buffer)).collect();
                socket.send_vectored(&slices)
            }
            Kind::SendTo(buffer, address) => socket.send_to(buffer, &SockAddr::from(*address)),
            _ => return None,
        };
        match sent {
            Ok(bytes) => {
                self.done = bytes;
                Some(0)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => Some(code::of(&error)),
        }
    }

    pub(super) fn sends_bytes(&self) -> bool {
        matches!(
            self.kind,
            Kind::Send(_) | Kind::SendVectored(_) | Kind::SendTo(..) | Kind::SendFile(_)
        )
    }

    pub(super) fn completion_kind(&self) -> CompletionKind {
        match &self.kind {
            Kind::Receive(_)
            | Kind::Pooled { .. }
            | Kind::Datagram(..)
            | Kind::DatagramFrom(..)
            | Kind::Readable
            | Kind::ReadableDatagram(_) => CompletionKind::Receive,
            Kind::Send(_) | Kind::SendVectored(_) | Kind::SendTo(..) | Kind::SendFile(_) => {
                CompletionKind::Send
            }
            Kind::File(op) => op.completion_kind(),
            Kind::Connect(..) => CompletionKind::Connect,
            Kind::Shutdown(_) => CompletionKind::Shutdown,
            Kind::SetOption(_) => CompletionKind::SetOption,
            Kind::FirstData(..) => CompletionKind::Accept,
        }
    }

    /// The memory of an operation that has ended.
    pub(super) fn take_kind(&mut self) -> Kind {
        std::mem::replace(&mut self.kind, Kind::Readable)
    }

    /// The block of an operation that has ended and may still be told of.
    pub(super) fn take_block(&mut self) -> Block {
        std::mem::replace(&mut self.block, Block::new())
    }

    /// Bytes that a send has to send.
    pub(super) fn length(&self) -> usize {
        match &self.kind {
            Kind::Send(buffer) | Kind::SendTo(buffer, _) => buffer.len(),
            Kind::SendVectored(buffers) => buffers.iter().map(|buffer| buffer.len()).sum(),
            Kind::SendFile(range) => range.length(),
            _ => 0,
        }
    }

    /// The memory to give back with the final completion.
    pub(super) fn payload(kind: Kind) -> Payload {
        match kind {
            Kind::Datagram(vec, Owner::Driver) if vec.is_empty() => Payload::None,
            Kind::Receive(vec) | Kind::Datagram(vec, _) => Payload::Buffer(Buffer::Vec(vec)),
            Kind::DatagramFrom(vec, sender) => Payload::datagram(vec, sender.address()),
            Kind::Send(buffer) | Kind::SendTo(buffer, _) => Payload::Buffer(buffer),
            Kind::SendVectored(buffers) => Payload::Buffers(buffers),
            Kind::File(op) => op.payload(),
            _ => Payload::None,
        }
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        debug_assert!(!self.in_kernel, "the kernel still has this operation");
        if self.in_kernel {
            // Lost rather than freed under the kernel's hands.
            std::mem::forget((self.take_kind(), self.take_block()));
        }
    }
}

fn receive_into(
    socket: &Socket,
    vec: &mut Vec<u8>,
    peek: bool,
    block: &mut Block,
) -> Result<(), i32> {
    let spare = vec.spare_capacity_mut();
    let spare = [description(spare.as_ptr().cast(), spare.len())];
    // SAFETY: the operation owns the vector and the block, and touches neither until its packet
    // has been taken.
    unsafe { winsock::receive(socket, &spare, peek, block) }
}

fn send_from(socket: &Socket, buffers: &[WSABUF], block: &mut Block) -> Result<(), i32> {
    // SAFETY: the operation owns the buffers and the block until its packet has been taken, and
    // what it sends lies behind a further pointer, so that it stays where it is.
    unsafe { winsock::send(socket, buffers, block) }
}

/// What is left of `buffers` after `done` bytes.
fn gather(buffers: &[Buffer], mut done: usize) -> Vec<WSABUF> {
    let mut rest = Vec::with_capacity(buffers.len().min(MOST_VECTORS));
    let mut room = MOST_BYTES;
    for buffer in buffers {
        let skip = done.min(buffer.len());
        done -= skip;
        if rest.len() == MOST_VECTORS || room == 0 {
            break;
        }
        if skip < buffer.len() {
            let length = room.min(buffer.len() - skip);
            rest.push(description(buffer[skip..].as_ptr(), length));
            room -= length;
        }
    }
    rest
}

fn connect(
    socket: &Socket,
    address: SocketAddr,
    extensions: &Extensions,
    block: &mut Block,
) -> Result<Begun, i32> {
    let failed = |error: std::io::Error| code::of(&error);
    bind_if_need_be(socket, address).map_err(failed)?;
    extensions.connect(socket, &SockAddr::from(address), block)?;
    Ok(Begun::Pending)
}

/// `ConnectEx` takes bound sockets only.
fn bind_if_need_be(socket: &Socket, peer: SocketAddr) -> std::io::Result<()> {
    // A socket that is not bound has no name (`WSAEINVAL`).
    match socket.local_addr() {
        Ok(_) => return Ok(()),
        Err(error) if error.raw_os_error() == Some(WSAEINVAL) => {}
        Err(error) => return Err(error),
    }
    let any = match peer {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    socket.bind(&SocketAddr::new(any, 0).into())
}

fn set_option(socket: &Socket, option: SocketOption) -> std::io::Result<()> {
    let socket = SockRef::from(socket);
    let clamp = |bytes: u32| usize::try_from(bytes.min(i32::MAX as u32)).unwrap_or(usize::MAX);
    match option {
        SocketOption::NoDelay(on) => socket.set_tcp_nodelay(on),
        SocketOption::KeepAlive(None) => socket.set_keepalive(false),
        SocketOption::KeepAlive(Some(idle)) => {
            let idle = in_seconds(idle).max(Duration::from_secs(1));
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))
        }
        SocketOption::Linger(time) => socket.set_linger(time.map(in_seconds)),
        SocketOption::ReceiveBuffer(bytes) => socket.set_recv_buffer_size(clamp(bytes)),
        SocketOption::SendBuffer(bytes) => socket.set_send_buffer_size(clamp(bytes)),
    }
}

/// Rounded up to seconds.
fn in_seconds(time: Duration) -> Duration {
    let up = u64::from(time.subsec_nanos() > 0);
    Duration::from_secs(time.as_secs().saturating_add(up))
}
