//! What a driver must provide, and which driver a port gets.
//!
//! A driver turns operations into system calls and what the system reports into
//! [`Completion`]s. It has one or more *lanes*: independent queues (a ring, an epoll instance)
//! that one thread at a time waits on and any thread may take from. Who waits where, who is
//! released and how many run is decided above, in `port/scheduler.rs`, once for all drivers with
//! lanes. Where the system itself keeps the queue and decides that (Windows), the driver has a
//! [`SystemQueue`] instead.
//!
//! To write another driver, implement [`Driver`] and put it under `tests/contract/`.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;

use crate::explained::explained;
use crate::port::{
    BufferPolicy, Completion, DriverChoice, Facilities, GetError, Handle, Operation, OperationId,
    Posted, SubmitError,
};
use crate::sync::atomic::AtomicBool;

mod accept_stream;
#[cfg(landfall_broken)]
mod broken;
mod direction;
mod file;
#[cfg(windows)]
pub(crate) mod iocp;
#[cfg(unix)]
mod kind;
#[cfg_attr(windows, allow(dead_code, reason = "operations there have no table"))]
mod name;
pub(crate) mod os;
#[cfg(unix)]
mod outbox;
#[cfg(unix)]
mod poll;
mod refusal;
#[cfg(all(test, unix, not(loom)))]
pub(crate) mod sim;
mod ticket;
#[cfg(target_os = "linux")]
pub(crate) mod uring;

pub(crate) use os::{ABORTED, OwnedDescriptor};

/// The most lanes a port can have: sets of lanes are the bits of a `u64`.
pub(crate) const MAX_LANES: usize = 64;

/// In place of [`DriverChoice::Auto`], if it is set.
const VARIABLE: &str = "LANDFALL_DRIVER";

/// Where a socket comes from that a driver is to take over: that says what need not be asked of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// The program, whose socket may be any.
    Program,
    /// This library, which has made it for a connection over TCP and left it in its blocking mode.
    NewTcp,
}

/// What a port asks of a driver's set-up.
#[allow(dead_code, reason = "no system's drivers need all of it")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// How many threads may run at a time.
    pub(crate) concurrency: usize,
    pub(crate) lanes: usize,
    pub(crate) buffers: BufferPolicy,
    pub(crate) facilities: Facilities,
}

/// Sets a driver up. Returns it with the reason for it, in a sentence.
pub(crate) fn set_up(
    choice: DriverChoice,
    settings: Settings,
) -> io::Result<(Box<dyn Driver>, String)> {
    let variable = match choice {
        DriverChoice::Auto => std::env::var_os(VARIABLE),
        _ => None,
    };
    let variable = variable.map(|name| name.to_string_lossy().into_owned());
    let choice = match &variable {
        Some(name) => named(name)?,
        None => choice,
    };
    let driver = match choice {
        DriverChoice::Auto => return os::automatic(settings),
        DriverChoice::Uring => os::uring(settings),
        DriverChoice::Poll => os::poll(settings),
        DriverChoice::Iocp => os::iocp(settings),
    };
    match variable {
        None => Ok((driver?, "asked for".to_owned())),
        Some(name) => match driver {
            Ok(driver) => Ok((driver, format!("{VARIABLE} asks for it"))),
            Err(error) => Err(explained(format!("{VARIABLE} asks for `{name}`"), error)),
        },
    }
}

fn named(name: &str) -> io::Result<DriverChoice> {
    match name {
        "" | "auto" => Ok(DriverChoice::Auto),
        "uring" => Ok(DriverChoice::Uring),
        "poll" => Ok(DriverChoice::Poll),
        "iocp" => Ok(DriverChoice::Iocp),
        other => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{VARIABLE} names no driver: `{other}`; use auto, uring, poll or iocp"),
        )),
    }
}

/// A socket or file inside a driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SocketRef {
    pub(crate) lane: u32,
    pub(crate) index: u32,
}

/// Where a driver puts the completions that it takes.
pub(crate) enum Sink<'a> {
    One(&'a mut Option<Completion>),
    Many(&'a mut Vec<Completion>),
}

impl Sink<'_> {
    #[inline]
    pub(crate) fn push(&mut self, completion: Completion) {
        match self {
            Sink::Many(taken) => taken.push(completion),
            Sink::One(taken) => {
                debug_assert!(taken.is_none(), "asked for one completion");
                **taken = Some(completion);
            }
        }
    }
}

/// An accepted submission.
pub(crate) struct Submitted {
    pub(crate) id: OperationId,
    /// The lanes that now have something to flush, as bits.
    pub(crate) lanes: u64,
}

/// The queue of a driver whose system keeps one, and decides by itself who waits, who is released
/// and how many run. Packets and completions come out of it in one order.
pub(crate) trait SystemQueue: Send + Sync + fmt::Debug {
    /// Takes up to `max` completions, waiting until there is one.
    fn take(
        &self,
        sink: &mut Sink<'_>,
        max: usize,
        timeout: Option<Duration>,
    ) -> Result<usize, GetError>;

    /// Queues a completion that belongs to no handle.
    fn post(&self, item: Posted) -> io::Result<()>;

    /// Ends every `take`, now and later.
    fn close(&self);
}

/// The list of what every system must provide.
///
/// A driver that has a [`SystemQueue`] has no lanes: it leaves what says so below as it is.
///
/// Completions, handles and buffers run user code and other locks when dropped, so a driver never
/// drops one while it holds a lock of its own.
pub(crate) trait Driver: Send + Sync + fmt::Debug {
    /// The name that `--driver` takes and the tool prints.
    fn name(&self) -> &'static str;

    /// The queue that the system keeps, if it does.
    fn system_queue(&self) -> Option<Arc<dyn SystemQueue>> {
        None
    }

    /// How many there are; 0 with a queue of the system's.
    fn lanes(&self) -> usize {
        0
    }

    /// How many sockets the driver can hold; `usize::MAX` if nothing but memory bounds them.
    fn socket_capacity(&self) -> usize {
        usize::MAX
    }

    /// Takes a socket over, into the lane of `beside` or else the one that has the fewest. On
    /// failure it comes back.
    fn attach(
        &self,
        socket: Socket,
        origin: Origin,
        beside: Option<SocketRef>,
    ) -> Result<SocketRef, (io::Error, Socket)>;

    /// Takes a file over.
    fn attach_file(&self, file: Arc<File>) -> io::Result<SocketRef>;

    /// The lanes in which the system goes on to do such an operation on the thread that handed it
    /// over, which is roused for each of its completions; `None` if it is done once and soon.
    fn stays_with_submitter(&self, _socket: SocketRef, _operation: &Operation) -> Option<u64> {
        None
    }

    /// Accepts an operation or gives it back. From a worker it may rest in the lane until that
    /// worker's next `flush` or `wait`; other threads' operations wait for a worker or the
    /// watcher, since the system may tie an operation to the thread that hands it over.
    fn submit(
        &self,
        handle: &Handle,
        operation: Operation,
        token: usize,
        worker: bool,
    ) -> Result<Submitted, SubmitError>;

    /// Asks for the end of one operation of a socket. Returns the lanes to flush, or `None` when there is no
    /// such operation.
    fn cancel(&self, socket: SocketRef, id: OperationId, worker: bool) -> Option<u64>;

    /// Asks for the end of a socket's operations. Returns how many, and the lanes to flush.
    fn cancel_all(&self, socket: SocketRef, worker: bool) -> (usize, u64);

    /// Closes a socket: its operations end as aborted, later ones are refused. Returns the lanes
    /// to flush.
    fn close(&self, socket: SocketRef, worker: bool) -> u64;

    /// Has the system listen no more by a listener whose accepts have been told to end, whoever has it.
    /// Closing alone may do that only when the last of them has ended.
    fn stop_listening(&self, _socket: SocketRef) {}

    /// Forgets a socket that nothing refers to any more, closing it if need be. Returns the lanes
    /// to flush.
    fn release(&self, socket: SocketRef, worker: bool) -> u64;

    /// Lets the next held-back completion of a serial handle out, and wakes whoever waits in its
    /// lane.
    fn next_turn(&self, socket: SocketRef);

    /// A descriptor of the caller's own for a socket.
    fn descriptor(&self, socket: SocketRef) -> io::Result<OwnedDescriptor>;

    /// Refuses what comes later, ends everything pending, and returns when the system holds no
    /// memory of ours any more.
    fn shutdown(&self);

    // What follows is for drivers with lanes.

    /// Takes up to `max` completions from a lane without waiting and returns how many.
    fn reap(&self, _lane: usize, _max: usize, _sink: &mut Sink<'_>) -> usize {
        0
    }

    /// Whether `reap` would probably find something. Cheap; may be wrong while another thread is
    /// taking from the lane.
    fn pending(&self, _lane: usize) -> bool {
        false
    }

    /// Hands what rests in the lane to the system and lets the system post what it has, without
    /// waiting. Returns whether there was anything to do, so that `reap` may now find more.
    fn flush(&self, _lane: usize) -> bool {
        false
    }

    /// Flushes and waits until one of `lanes` (bits) has a completion, `released` is set and `wake`
    /// called, or the time is over. May return early.
    fn wait(&self, _lanes: u64, _timeout: Option<Duration>, _released: &AtomicBool) {}

    /// Rouses a thread that waits in the lane, after its `released` was set. The thread, which may
    /// have woken by itself, answers with `woken`.
    fn wake(&self, _lane: usize) {}

    /// The answer to one `wake`.
    fn woken(&self, _lane: usize) {}

    /// Has the thread that waits in the lane, if there is one, come back and flush.
    fn nudge(&self, _lane: usize) {}

    /// Makes threads that compute in user code let the system post what they submitted.
    fn poke(&self) {}
}
