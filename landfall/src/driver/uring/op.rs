//! Operations as the ring carries them: the entry to submit, and the memory it points to.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex as StdMutex};
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::{opcode, types};
use socket2::{SockAddr, SockAddrStorage};

use super::file::SendFile;
use super::lane::user_data;
use super::message::{Message, Messages};
use super::receive::{Stage, Stream};
use super::socket::Target;
use crate::buffer::Buffer;
use crate::driver::accept_stream::AcceptStream;
use crate::driver::file::FileOp;
use crate::driver::name;
use crate::driver::ticket::Ticket;
use crate::port::{CompletionKind, Payload, SocketOption};

/// The socket of an operation that belongs to none of its lane.
pub(super) const NO_SOCKET: u32 = u32::MAX;

/// An entry of the lane's table of things the kernel may report on.
pub(super) struct Op {
    pub(super) generation: u32,
    /// It was asked to end: a cancellation is not the kernel's own idea.
    pub(super) cancelled: bool,
    pub(super) in_kernel: bool,
    /// Attempts that failed for no reason of the operation's own, since it last got on.
    pub(super) retries: u8,
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
    /// As `Receive`, where bytes past the end of the vector are lost and must be noticed.
    ReceiveDatagram(Vec<u8>, Box<Message>),
    /// As `ReceiveDatagram`, and says from whom.
    ReceiveFrom(Vec<u8>, Box<Message>),
    /// Into pooled memory, once.
    ReceiveOnce {
        datagram: bool,
        stage: Stage,
    },
    /// Into pooled memory until the end of the stream.
    ReceiveStream(Stream),
    /// The poll of a stream of receives that is over: the kernel has been told to end it.
    Spent,
    Readable,
    Writable,
    Send(Buffer),
    /// The buffer, and the result once known: a notification then says that the memory is free.
    SendZeroCopy(Buffer, Option<i32>),
    SendVectored(Vec<Buffer>, Box<Message>),
    /// A datagram to the address in the message.
    SendTo(Buffer, Box<Message>),
    SendFile(Box<SendFile>),
    /// On a file instead of a socket.
    File(FileOp),
    Connect(Box<Connect>),
    Shutdown(std::net::Shutdown),
    SetOption(Box<Options>),
    /// One posted accept of a stream of them.
    Accept(Box<AcceptOne>),
    /// The first data of an accepted connection.
    FirstData(Box<FirstData>),
    /// The deadline for first data, and the name of the operation that waits for it.
    Deadline(Box<types::Timespec>, u64),
    /// Somebody waits for a descriptor.
    Install(Arc<Installed>),
}

pub(super) struct Connect {
    address: SockAddr,
    /// A first attempt died with the thread that submitted it: wait for its outcome.
    pub(super) again: bool,
    /// That has happened, so that the socket may be found connected.
    pub(super) retried: bool,
}

impl Connect {
    pub(super) fn new(address: SocketAddr) -> Box<Self> {
        Box::new(Connect {
            address: address.into(),
            again: false,
            retried: false,
        })
    }
}

/// A connection whose first data is awaited.
pub(super) struct FirstData {
    pub(super) stream: Arc<AcceptStream>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) stage: Stage,
    /// The name of the operation that keeps its deadline.
    pub(super) deadline: u64,
}

/// Options still to be set, one after another.
pub(super) struct Options {
    steps: Vec<(i32, i32, OptionValue)>,
}

#[repr(C)]
union OptionValue {
    number: libc::c_int,
    linger: libc::linger,
}

impl Options {
    pub(super) fn new(option: SocketOption) -> Box<Self> {
        let number = |number| OptionValue { number };
        let seconds = |time: Duration| {
            time.as_secs()
                .saturating_add(u64::from(time.subsec_nanos() > 0))
        };
        let clamp = |seconds: u64| i32::try_from(seconds).unwrap_or(i32::MAX);
        // Taken from the end.
        let steps = match option {
            SocketOption::NoDelay(on) => {
                vec![(libc::IPPROTO_TCP, libc::TCP_NODELAY, number(on.into()))]
            }
            SocketOption::KeepAlive(None) => {
                vec![(libc::SOL_SOCKET, libc::SO_KEEPALIVE, number(0))]
            }
            SocketOption::KeepAlive(Some(idle)) => vec![
                (libc::SOL_SOCKET, libc::SO_KEEPALIVE, number(1)),
                // 32,767 s is the most that Linux takes (MAX_TCP_KEEPIDLE).
                (
                    libc::IPPROTO_TCP,
                    libc::TCP_KEEPIDLE,
                    number(clamp(seconds(idle)).clamp(1, 32_767)),
                ),
            ],
            SocketOption::Linger(time) => {
                let linger = libc::linger {
                    l_onoff: time.is_some().into(),
                    l_linger: clamp(time.map_or(0, seconds)),
                };
                vec![(libc::SOL_SOCKET, libc::SO_LINGER, OptionValue { linger })]
            }
            SocketOption::ReceiveBuffer(bytes) => {
                vec![(
                    libc::SOL_SOCKET,
                    libc::SO_RCVBUF,
                    number(clamp(bytes.into())),
                )]
            }
            SocketOption::SendBuffer(bytes) => {
                vec![(
                    libc::SOL_SOCKET,
                    libc::SO_SNDBUF,
                    number(clamp(bytes.into())),
                )]
            }
        };
        Box::new(Options { steps })
    }

    /// One is done; whether another follows.
    pub(super) fn next(&mut self) -> bool {
        self.steps.pop();
        !self.steps.is_empty()
    }
}

/// One posted accept and the memory for the peer's address.
pub(super) struct AcceptOne {
    pub(super) stream: Arc<AcceptStream>,
    /// The place reserved in the ring's own table.
    pub(super) slot: Option<u32>,
    pub(super) multishot: bool,
    /// It waits for a connection before it looks for one.
    pub(super) poll_first: bool,
    storage: SockAddrStorage,
    length: libc::socklen_t,
}

impl AcceptOne {
    pub(super) fn new(stream: Arc<AcceptStream>, slot: Option<u32>, multishot: bool) -> Box<Self> {
        Box::new(AcceptOne {
            stream,
            slot,
            multishot,
            poll_first: false,
            storage: SockAddrStorage::zeroed(),
            length: 0,
        })
    }

    fn entry(&mut self) -> Entry {
        let listener = types::Fd(self.stream.listener.fd.as_raw_fd());
        if self.multishot {
            return opcode::AcceptMulti::new(listener)
                .flags(libc::SOCK_CLOEXEC)
                .build();
        }
        self.length = self.storage.size_of();
        let slot = self
            .slot
            .and_then(|slot| types::DestinationSlot::try_from_slot_target(slot).ok());
        // A place in the ring's table is not inherited by anybody, and refuses the flag.
        let flags = if slot.is_some() {
            0
        } else {
            libc::SOCK_CLOEXEC
        };
        let address = (&raw mut self.storage).cast();
        let entry = opcode::Accept::new(listener, address, &raw mut self.length)
            .file_index(slot)
            .flags(flags)
            .build();
        match self.poll_first {
            true => with_accept_flag(entry, POLL_FIRST),
            false => entry,
        }
    }

    /// The peer of the connection just accepted, where the kernel gave it.
    pub(super) fn peer(&mut self) -> Option<SocketAddr> {
        if self.multishot {
            return None;
        }
        let storage = std::mem::replace(&mut self.storage, SockAddrStorage::zeroed());
        // SAFETY: the accept has completed, so the storage holds an address of that length.
        unsafe { SockAddr::new(storage, self.length) }.as_socket()
    }
}

/// Has an accept wait for a connection before it looks for one (`IORING_ACCEPT_POLL_FIRST`, Linux 6.10): to
/// look, the kernel makes a socket and a file, and throws them away if there is no connection.
pub(super) const POLL_FIRST: u16 = 1 << 2;

/// Sets a flag of an accept.
pub(super) fn with_accept_flag(mut accept: Entry, flag: u16) -> Entry {
    /// Of the accept's flags (`ioprio`) in `struct io_uring_sqe`, in units of their size.
    const PLACE: usize = 1;
    const { assert!(size_of::<Entry>() == 64 && align_of::<Entry>() >= align_of::<u16>()) };
    // SAFETY: an entry is the kernel's structure (`repr(C)`) and nothing else, and these two bytes of it
    // are a number, for which the crate has no setter with an accept.
    unsafe { (&raw mut accept).cast::<u16>().add(PLACE).write(flag) };
    accept
}

/// Where the answer to an install is put.
#[derive(Default)]
pub(super) struct Installed {
    result: StdMutex<Option<i32>>,
    done: Condvar,
}

impl Installed {
    pub(super) fn set(&self, result: i32) {
        *self.result.lock().unwrap_or_else(|e| e.into_inner()) = Some(result);
        self.done.notify_all();
    }

    pub(super) fn wait(&self, time: Duration) -> Option<i32> {
        let result = self.result.lock().unwrap_or_else(|e| e.into_inner());
        let waited = self
            .done
            .wait_timeout_while(result, time, |result| result.is_none());
        *waited.unwrap_or_else(|e| e.into_inner()).0
    }
}

impl Kind {
    pub(super) fn completion_kind(&self) -> CompletionKind {
        match self {
            Kind::Receive(_)
            | Kind::ReceiveDatagram(..)
            | Kind::ReceiveFrom(..)
            | Kind::ReceiveOnce { .. }
            | Kind::ReceiveStream(_)
            | Kind::Spent
            | Kind::Readable => CompletionKind::Receive,
            Kind::Send(_)
            | Kind::SendZeroCopy(..)
            | Kind::SendVectored(..)
            | Kind::SendTo(..)
            | Kind::SendFile(_)
            | Kind::Writable => CompletionKind::Send,
            Kind::File(op) => op.completion_kind(),
            Kind::Connect(_) => CompletionKind::Connect,
            Kind::Shutdown(_) => CompletionKind::Shutdown,
            Kind::SetOption(_) | Kind::Install(_) => CompletionKind::SetOption,
            Kind::Accept(_) | Kind::FirstData(_) | Kind::Deadline(..) => CompletionKind::Accept,
        }
    }

    /// Whether the socket's order of sends applies.
    pub(super) fn is_send(&self) -> bool {
        matches!(
            self,
            Kind::Send(_)
                | Kind::SendZeroCopy(..)
                | Kind::SendVectored(..)
                | Kind::SendTo(..)
                | Kind::SendFile(_)
                | Kind::Writable
                | Kind::Connect(_)
                | Kind::Shutdown(_)
        )
    }

    pub(super) fn is_receive(&self) -> bool {
        matches!(
            self,
            Kind::Receive(_)
                | Kind::ReceiveDatagram(..)
                | Kind::ReceiveFrom(..)
                | Kind::ReceiveOnce { .. }
                | Kind::ReceiveStream(_)
                | Kind::Readable
        )
    }

    /// Whether bytes are sent.
    pub(super) fn sends_bytes(&self) -> bool {
        matches!(
            self,
            Kind::Send(_)
                | Kind::SendZeroCopy(..)
                | Kind::SendVectored(..)
                | Kind::SendTo(..)
                | Kind::SendFile(_)
        )
    }

    /// Bytes that a send has to send.
    pub(super) fn length(&self) -> usize {
        match self {
            Kind::Send(buffer) | Kind::SendZeroCopy(buffer, _) | Kind::SendTo(buffer, _) => {
                buffer.len()
            }
            Kind::SendVectored(buffers, _) => buffers.iter().map(|buffer| buffer.len()).sum(),
            _ => 0,
        }
    }

    /// The memory to give back with the final completion.
    pub(super) fn payload(self, messages: &mut Messages) -> Payload {
        match self {
            Kind::Receive(buffer) => Payload::Buffer(Buffer::Vec(buffer)),
            Kind::ReceiveDatagram(buffer, message) => {
                messages.give_back(message);
                Payload::Buffer(Buffer::Vec(buffer))
            }
            Kind::ReceiveFrom(buffer, mut message) => {
                let peer = message.peer();
                messages.give_back(message);
                Payload::datagram(buffer, peer)
            }
            Kind::Send(buffer) | Kind::SendZeroCopy(buffer, _) => Payload::Buffer(buffer),
            Kind::SendTo(buffer, message) => {
                messages.give_back(message);
                Payload::Buffer(buffer)
            }
            Kind::SendVectored(buffers, message) => {
                messages.give_back(message);
                Payload::Buffers(buffers)
            }
            Kind::File(op) => op.payload(),
            _ => Payload::None,
        }
    }
}

impl Op {
    #[inline]
    pub(super) fn new(generation: u32, kind: Kind, socket: u32, ticket: Ticket) -> Self {
        Op {
            generation,
            cancelled: false,
            in_kernel: false,
            retries: 0,
            done: 0,
            ticket,
            socket,
            kind,
        }
    }

    /// What the kernel echoes for it at that place of the table.
    pub(super) fn name(&self, key: u32) -> u64 {
        user_data::tagged(user_data::OPERATION, name::of(self.generation, key))
    }

    /// The entry that hands the operation, or what is left of it, to the kernel.
    ///
    /// Its pointers lead to memory that the operation owns behind a further pointer, so they hold
    /// wherever the operation itself moves, until its final completion takes it apart.
    pub(super) fn entry(&mut self, target: Target, zero_copy: bool) -> Entry {
        let fd = types::Fd(target.number);
        let send_flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let done = self.done;
        let entry = match &mut self.kind {
            Kind::Receive(buffer) => {
                let spare = buffer.spare_capacity_mut();
                opcode::Recv::new(fd, spare.as_mut_ptr().cast(), spare_length(spare.len())).build()
            }
            Kind::ReceiveDatagram(buffer, message) => {
                opcode::RecvMsg::new(fd, message.scatter(buffer)).build()
            }
            Kind::ReceiveFrom(buffer, message) => {
                opcode::RecvMsg::new(fd, message.scatter_from(buffer)).build()
            }
            Kind::ReceiveOnce { datagram, stage } => stage.entry(fd, *datagram),
            Kind::FirstData(first) => first.stage.entry(fd, false),
            Kind::ReceiveStream(_) => poll_entry(fd, true),
            Kind::Readable => poll_entry(fd, false),
            Kind::Writable => writable_entry(fd),
            Kind::Spent => return opcode::Nop::new().build(),
            Kind::Send(buffer) => {
                let rest = &buffer[done..];
                opcode::Send::new(fd, rest.as_ptr(), spare_length(rest.len()))
                    .flags(send_flags)
                    .build()
            }
            Kind::SendZeroCopy(buffer, _) => {
                let rest = &buffer[done..];
                if zero_copy {
                    opcode::SendZc::new(fd, rest.as_ptr(), spare_length(rest.len()))
                        .flags(send_flags)
                        .build()
                } else {
                    opcode::Send::new(fd, rest.as_ptr(), spare_length(rest.len()))
                        .flags(send_flags)
                        .build()
                }
            }
            Kind::SendVectored(buffers, message) => {
                opcode::SendMsg::new(fd, message.gather(buffers, done))
                    .flags(send_flags as u32)
                    .build()
            }
            Kind::SendTo(buffer, message) => {
                let buffer = std::slice::from_ref(buffer);
                opcode::SendMsg::new(fd, message.gather(buffer, done))
                    .flags(send_flags as u32)
                    .build()
            }
            Kind::SendFile(send) => return send.entry(target, done),
            Kind::File(op) => return op.entry(fd, done),
            Kind::Connect(connect) if connect.again => writable_entry(fd),
            Kind::Connect(connect) => {
                opcode::Connect::new(fd, connect.address.as_ptr().cast(), connect.address.len())
                    .build()
            }
            Kind::Shutdown(how) => {
                let how = match how {
                    std::net::Shutdown::Read => libc::SHUT_RD,
                    std::net::Shutdown::Write => libc::SHUT_WR,
                    std::net::Shutdown::Both => libc::SHUT_RDWR,
                };
                opcode::Shutdown::new(fd, how).build()
            }
            Kind::SetOption(options) => options.entry(fd),
            Kind::Install(_) => {
                return opcode::FixedFdInstall::new(types::Fixed(target.number as u32), 0).build();
            }
            Kind::Accept(accept) => return accept.entry(),
            Kind::Deadline(time, _) => {
                let time: *const types::Timespec = &**time;
                return opcode::Timeout::new(time).build();
            }
        };
        target.apply(entry)
    }
}

impl Options {
    fn entry(&self, fd: types::Fd) -> Entry {
        let Some((level, name, value)) = self.steps.last() else {
            return opcode::Nop::new().build();
        };
        let length = match *name {
            libc::SO_LINGER if *level == libc::SOL_SOCKET => size_of::<libc::linger>(),
            _ => size_of::<libc::c_int>(),
        };
        let value: *const OptionValue = value;
        opcode::SetSockOpt::new(fd, *level as u32, *name as u32, value.cast(), length as u32)
            .build()
    }
}

/// A wait until there is something to receive, or at each time that there is.
pub(super) fn poll_entry(fd: types::Fd, multishot: bool) -> Entry {
    opcode::PollAdd::new(fd, (libc::POLLIN | libc::POLLRDHUP) as u32)
        .multi(multishot)
        .build()
}

/// A wait until there is room for bytes to send, or a connect is over.
fn writable_entry(fd: types::Fd) -> Entry {
    opcode::PollAdd::new(fd, libc::POLLOUT as u32).build()
}

/// A length that an entry can carry; the rest goes in the next round. Linux moves at most
/// `MAX_RW_COUNT`, a page less than 2 GiB, at a time.
pub(super) fn spare_length(length: usize) -> u32 {
    length.min(0x7fff_f000) as u32
}
