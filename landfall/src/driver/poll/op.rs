//! Operations, and the one system call that each attempt of them is.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendFlags};
use socket2::{MaybeUninitSlice, SockAddr, SockRef, TcpKeepalive};

use super::file::SendFile;
use crate::buffer::{Buffer, Pool, filled};
use crate::driver::accept_stream::AcceptStream;
use crate::driver::file::{FileOp, FileRange};
use crate::driver::ticket::Ticket;
use crate::port::{Address, CompletionKind, Operation, Payload, SocketOption};

pub(super) struct Op {
    pub(super) generation: u32,
    /// Bytes sent so far.
    pub(super) done: usize,
    pub(super) ticket: Ticket,
    /// The socket within the lane.
    pub(super) socket: u32,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    /// Into a vector of the program's.
    Receive(Vec<u8>),
    /// As `Receive`, and says from whom.
    ReceiveFrom(Vec<u8>),
    /// Into pooled buffers until the end of the stream.
    ReceiveStream,
    /// Into a pooled buffer once.
    ReceiveOnce,
    Readable,
    Writable,
    Send(Buffer),
    SendVectored(Vec<Buffer>),
    SendTo(Buffer, Address),
    SendFile(Box<SendFile>),
    /// Done already; to be reported.
    File(FileOp),
    Connect(Box<Connect>),
    Shutdown(Shutdown),
    SetOption(SocketOption),
    /// The first data of an accepted connection.
    FirstData(Box<FirstData>),
}

/// A connect, which a non-blocking socket begins with one call and ends with an edge.
pub(super) struct Connect {
    address: SockAddr,
    begun: bool,
}

/// A connection whose first data is awaited.
pub(super) struct FirstData {
    pub(super) stream: Arc<AcceptStream>,
    pub(super) peer: Option<SocketAddr>,
    /// `None`: too far for the clock.
    pub(super) deadline: Option<Instant>,
}

/// What a receive brought.
pub(super) struct Received {
    pub(super) bytes: usize,
    /// There was no more room: the system may have more.
    pub(super) full: bool,
    /// A datagram was longer than the buffer.
    pub(super) truncated: bool,
    /// Its sender, if that was asked for.
    pub(super) peer: Option<SocketAddr>,
}

/// Bytes handed to the system in one call at most, so that a long send of one connection keeps the
/// others of its lane waiting no longer than some tens of microseconds.
pub(super) const MOST_AT_ONCE: usize = 256 * 1024;

/// Buffers that a vectored send passes without allocating.
const FEW_BUFFERS: usize = 16;

/// The most that one call takes: IOV_MAX of Linux, macOS and the BSDs.
const MOST_BUFFERS: usize = 1024;

impl Kind {
    /// An operation that fits the socket.
    pub(super) fn of(operation: Operation) -> Self {
        match operation {
            Operation::Receive(buffer) => Kind::Receive(buffer),
            Operation::ReceiveFrom(buffer) => Kind::ReceiveFrom(buffer),
            Operation::ReceiveStream => Kind::ReceiveStream,
            Operation::ReceiveOnce => Kind::ReceiveOnce,
            Operation::WaitReadable => Kind::Readable,
            Operation::WaitWritable => Kind::Writable,
            // No system gives memory back without the peer's help on readiness: copy.
            Operation::Send(buffer) | Operation::SendZeroCopy(buffer) => Kind::Send(buffer),
            Operation::SendVectored(buffers) => Kind::SendVectored(buffers),
            Operation::SendTo { address, buffer } => Kind::SendTo(buffer, address.into()),
            Operation::Connect(address) => Kind::Connect(Box::new(Connect {
                address: address.into(),
                begun: false,
            })),
            Operation::Shutdown(how) => Kind::Shutdown(how),
            Operation::SetOption(option) => Kind::SetOption(option),
            Operation::SendFile {
                file,
                offset,
                length,
            } => Kind::SendFile(SendFile::new(FileRange::new(file, offset, length))),
            Operation::Accept(_) => unreachable!("accepts are submitted as streams"),
            Operation::ReadAt { .. }
            | Operation::WriteAt { .. }
            | Operation::SyncAll
            | Operation::SyncData => unreachable!("refused on sockets"),
        }
    }

    pub(super) fn completion_kind(&self) -> CompletionKind {
        match self {
            Kind::Receive(_)
            | Kind::ReceiveFrom(_)
            | Kind::ReceiveStream
            | Kind::ReceiveOnce
            | Kind::Readable => CompletionKind::Receive,
            Kind::Send(_)
            | Kind::SendVectored(_)
            | Kind::SendTo(..)
            | Kind::SendFile(_)
            | Kind::Writable => CompletionKind::Send,
            Kind::File(op) => op.completion_kind(),
            Kind::Connect(_) => CompletionKind::Connect,
            Kind::Shutdown(_) => CompletionKind::Shutdown,
            Kind::SetOption(_) => CompletionKind::SetOption,
            Kind::FirstData(_) => CompletionKind::Accept,
        }
    }

    pub(super) fn is_receive(&self) -> bool {
        matches!(
            self,
            Kind::Receive(_)
                | Kind::ReceiveFrom(_)
                | Kind::ReceiveStream
                | Kind::ReceiveOnce
                | Kind::Readable
                | Kind::FirstData(_)
        )
    }

    /// Whether bytes are sent.
    pub(super) fn sends_bytes(&self) -> bool {
        matches!(
            self,
            Kind::Send(_) | Kind::SendVectored(_) | Kind::SendTo(..) | Kind::SendFile(_)
        )
    }

    /// Bytes that a send has to send.
    pub(super) fn length(&self) -> usize {
        match self {
            Kind::Send(buffer) | Kind::SendTo(buffer, _) => buffer.len(),
            Kind::SendVectored(buffers) => buffers.iter().map(|buffer| buffer.len()).sum(),
            Kind::SendFile(send) => send.length(),
            _ => 0,
        }
    }

    /// The memory to give back with the final completion.
    pub(super) fn payload(self) -> Payload {
        match self {
            Kind::Receive(buffer) | Kind::ReceiveFrom(buffer) => {
                Payload::Buffer(Buffer::Vec(buffer))
            }
            Kind::Send(buffer) | Kind::SendTo(buffer, _) => Payload::Buffer(buffer),
            Kind::SendVectored(buffers) => Payload::Buffers(buffers),
            Kind::File(op) => op.payload(),
            _ => Payload::None,
        }
    }

    /// Tries to receive; what a pooled receive received into becomes `data`.
    pub(super) fn receive(
        &mut self,
        fd: &OwnedFd,
        datagram: bool,
        buffers: &Pool,
        data: &mut Option<Buffer>,
    ) -> io::Result<Received> {
        match self {
            Kind::Receive(vec) => {
                let received = receive_into(fd, vec.spare_capacity_mut(), datagram)?;
                *vec = filled(std::mem::take(vec), received.bytes);
                Ok(received)
            }
            Kind::ReceiveFrom(vec) => {
                let received = receive_from(fd, vec.spare_capacity_mut())?;
                *vec = filled(std::mem::take(vec), received.bytes);
                Ok(received)
            }
            Kind::Readable => {
                if !is_readable(fd)? {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(Received {
                    bytes: 0,
                    full: true,
                    truncated: false,
                    peer: None,
                })
            }
            _ => match buffers.take() {
                Some(mut pooled) => {
                    let received = receive_into(fd, uninitialised(&mut pooled), datagram)?;
                    pooled.truncate(received.bytes);
                    *data = Some(Buffer::Pooled(pooled));
                    Ok(received)
                }
                // Nobody starves: the pool's users may keep its buffers for ever.
                None => {
                    let mut vec = Vec::with_capacity(buffers.size());
                    let spare = &mut vec.spare_capacity_mut()[..buffers.size()];
                    let received = receive_into(fd, spare, datagram)?;
                    *data = Some(Buffer::Vec(filled(vec, received.bytes)));
                    Ok(received)
                }
            },
        }
    }

    /// Tries to send what is left after `done` bytes. Returns the bytes that went, and whether the
    /// system took all it was given.
    pub(super) fn send(
        &mut self,
        fd: &OwnedFd,
        done: usize,
        datagram: bool,
    ) -> io::Result<(usize, bool)> {
        match self {
            Kind::Send(buffer) => {
                let mut rest = &buffer[done..];
                if !datagram {
                    rest = &rest[..rest.len().min(MOST_AT_ONCE)];
                }
                let sent = send(fd, rest)?;
                Ok((sent, sent == rest.len()))
            }
            Kind::SendVectored(buffers) => {
                let mut few = [IoSlice::new(&[]); FEW_BUFFERS];
                let mut many = Vec::new();
                let slices = match buffers.len() {
                    ..=FEW_BUFFERS => &mut few[..],
                    count => {
                        many.resize(count.min(MOST_BUFFERS), IoSlice::new(&[]));
                        &mut many[..]
                    }
                };
                let (used, asked) = gather(buffers, done, slices);
                let slices = &slices[..used];
                let sent = SockRef::from(fd).send_vectored_with_flags(slices, SEND_FLAGS)?;
                Ok((sent, sent == asked))
            }
            Kind::SendTo(buffer, address) => {
                let sent = rustix::net::sendto(fd, buffer, send_flags(), &address.get())?;
                Ok((sent, true))
            }
            Kind::SendFile(send) => send.send(fd),
            Kind::Writable if !is_writable(fd)? => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok((0, true)),
        }
    }
}

/// Points at what is left of `buffers` after `done` bytes. Returns how many slices that took, and
/// the bytes in them.
fn gather<'a>(
    buffers: &'a [Buffer],
    mut done: usize,
    slices: &mut [IoSlice<'a>],
) -> (usize, usize) {
    let (mut used, mut bytes) = (0, 0);
    for buffer in buffers {
        let skip = done.min(buffer.len());
        done -= skip;
        if skip == buffer.len() {
            continue;
        }
        let Some(slice) = slices.get_mut(used) else {
            break;
        };
        *slice = IoSlice::new(&buffer[skip..]);
        used += 1;
        bytes += buffer.len() - skip;
    }
    (used, bytes)
}

impl Connect {
    /// Begins to connect, or looks how far it has come. `None`: not done yet.
    pub(super) fn advance(&mut self, fd: &OwnedFd) -> Option<i32> {
        let socket = SockRef::from(fd);
        let result = if self.begun {
            outcome(&socket)
        } else {
            self.begun = true;
            socket
                .set_nonblocking(true)
                .and_then(|()| socket.connect(&self.address))
        };
        match code_of(result) {
            libc::EINPROGRESS | libc::EINTR | libc::EAGAIN => None,
            code => {
                // The program may have a descriptor of this socket, and expects it to block.
                let blocking = socket.set_nonblocking(false);
                Some(if code == 0 { code_of(blocking) } else { code })
            }
        }
    }
}

/// How a connect that was under way has ended. A socket that is not connected yet says that it is
/// writable too.
fn outcome(socket: &SockRef<'_>) -> io::Result<()> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => {
            Err(io::ErrorKind::WouldBlock.into())
        }
        Err(error) => Err(error),
    }
}

/// The system's code for a result, 0 for success.
pub(super) fn code_of(result: io::Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => libc::EAGAIN,
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// Never waits, whatever the mode of the descriptor, which the program may share; never a SIGPIPE.
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
/// Never waits. That no SIGPIPE comes is an option of the socket there.
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT;

/// Not through the C library, whose points of cancellation cost an echo some 115 instructions
/// (`docs/decisions/0003-readiness.md`).
pub(super) fn send(fd: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(fd, bytes, send_flags())?)
}

fn send_flags() -> SendFlags {
    SendFlags::from_bits_retain(SEND_FLAGS as _)
}

/// As `send`.
fn receive(fd: &OwnedFd, memory: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    let flags = RecvFlags::from_bits_retain(libc::MSG_DONTWAIT as _);
    let (_, bytes) = rustix::net::recv(fd, memory, flags)?;
    Ok(bytes)
}

fn receive_into(
    fd: &OwnedFd,
    memory: &mut [MaybeUninit<u8>],
    datagram: bool,
) -> io::Result<Received> {
    let memory = receivable(memory);
    let room = memory.len();
    let (bytes, truncated) = if datagram {
        let socket = SockRef::from(fd);
        let mut slices = [MaybeUninitSlice::new(memory)];
        let (bytes, flags) = socket.recv_vectored_with_flags(&mut slices, libc::MSG_DONTWAIT)?;
        (bytes, flags.is_truncated())
    } else {
        (receive(fd, memory)?, false)
    };
    Ok(Received {
        bytes,
        full: bytes == room,
        truncated,
        peer: None,
    })
}

/// As `receive_into`, on a datagram socket.
fn receive_from(fd: &OwnedFd, memory: &mut [MaybeUninit<u8>]) -> io::Result<Received> {
    let mut slices = [MaybeUninitSlice::new(receivable(memory))];
    let (bytes, flags, peer) =
        SockRef::from(fd).recv_from_vectored_with_flags(&mut slices, libc::MSG_DONTWAIT)?;
    Ok(Received {
        bytes,
        full: true,
        truncated: flags.is_truncated(),
        peer: peer.as_socket(),
    })
}

/// As much of the memory as can be received into: systems other than Linux may refuse lengths past a
/// C `int`.
fn receivable(memory: &mut [MaybeUninit<u8>]) -> &mut [MaybeUninit<u8>] {
    let room = memory.len().min(libc::c_int::MAX as usize - 1);
    &mut memory[..room]
}

fn uninitialised(memory: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    let (start, length) = (memory.as_mut_ptr(), memory.len());
    // SAFETY: the same memory, borrowed as long; only the system writes to it through this, and
    // what it writes are initialised bytes.
    unsafe { std::slice::from_raw_parts_mut(start.cast(), length) }
}

/// Whether there is data, the end, or an error, none of which is taken.
fn is_readable(fd: &OwnedFd) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    let wanted = PollFlags::IN | PollFlags::RDHUP;
    #[cfg(not(target_os = "linux"))]
    let wanted = PollFlags::IN;
    is_ready(fd, wanted)
}

/// Whether there is room for bytes to send, or an error. If not, an edge will say when there is: the
/// program may have filled it past the driver.
fn is_writable(fd: &OwnedFd) -> io::Result<bool> {
    is_ready(fd, PollFlags::OUT)
}

fn is_ready(fd: &OwnedFd, wanted: PollFlags) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), wanted)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Ok(rustix::event::poll(&mut fds, Some(&at_once))? > 0)
}

/// Sets an option of a socket.
pub(super) fn set_option(fd: &OwnedFd, option: SocketOption) -> io::Result<()> {
    /// The most that Linux takes (MAX_TCP_KEEPIDLE), in seconds.
    const LONGEST_IDLE: u64 = 32_767;
    let socket = SockRef::from(fd);
    match option {
        SocketOption::NoDelay(on) => socket.set_tcp_nodelay(on),
        SocketOption::KeepAlive(None) => socket.set_keepalive(false),
        SocketOption::KeepAlive(Some(idle)) => {
            let seconds = whole_seconds(idle).clamp(1, LONGEST_IDLE);
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(seconds)))
        }
        SocketOption::Linger(time) => {
            socket.set_linger(time.map(|time| Duration::from_secs(whole_seconds(time))))
        }
        SocketOption::ReceiveBuffer(bytes) => socket.set_recv_buffer_size(bytes as usize),
        SocketOption::SendBuffer(bytes) => socket.set_send_buffer_size(bytes as usize),
    }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs()
        .saturating_add(u64::from(time.subsec_nanos() > 0))
}
