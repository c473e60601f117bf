//! What a driver must provide, and which driver a port gets.
//!
//! A driver turns operations into system calls and what the system reports into
//! [`Completion`]s. It has one or more *lanes*: independent queues (a ring, an epoll instance)
//! that one thread at a time waits on and any thread may take from. Who waits where, who is
//! released and how many run is decided above, in `port/scheduler.rs`, once for all drivers.
//!
//! To write another driver, implement [`Driver`] and put it under `tests/contract/`.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use socket2::Socket;

use crate::port::{
    BufferPolicy, Completion, DriverChoice, Facilities, Handle, Operation, OperationId, SubmitError,
};

mod accept_stream;
mod direction;
mod poll;
mod refusal;
#[cfg(test)]
pub(crate) mod sim;
#[cfg(target_os = "linux")]
mod uring;

/// The code of an operation ended by a cancel or a close.
pub(crate) const ABORTED: i32 = libc::ECANCELED;

/// The most lanes a port can have: sets of lanes are the bits of a `u64`.
pub(crate) const MAX_LANES: usize = 64;

/// In place of [`DriverChoice::Auto`], if it is set.
const VARIABLE: &str = "LANDFALL_DRIVER";

/// What a port asks of a driver's set-up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) lanes: usize,
    pub(crate) buffers: BufferPolicy,
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "io_uring's"))]
    pub(crate) facilities: Facilities,
}

/// Sets a driver up. Returns it with the reason for it, in a sentence.
pub(crate) fn set_up(
    choice: DriverChoice,
    settings: Settings,
) -> io::Result<(Box<dyn Driver>, String)> {
    let (choice, reason) = match (choice, std::env::var_os(VARIABLE)) {
        (DriverChoice::Auto, Some(name)) => {
            let asked_for = format!("{VARIABLE} asks for it");
            (named(&name.to_string_lossy())?, asked_for)
        }
        (choice, _) => (choice, "asked for".to_owned()),
    };
    match choice {
        DriverChoice::Auto => automatic(settings),
        DriverChoice::Uring => Ok((uring(settings)?, reason)),
        DriverChoice::Poll => Ok((poll(settings)?, reason)),
    }
}

fn named(name: &str) -> io::Result<DriverChoice> {
    match name {
        "" | "auto" => Ok(DriverChoice::Auto),
        "uring" => Ok(DriverChoice::Uring),
        "poll" => Ok(DriverChoice::Poll),
        other => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{VARIABLE} names no driver of this system: `{other}`; use auto, uring or poll"
            ),
        )),
    }
}

fn poll(settings: Settings) -> io::Result<Box<dyn Driver>> {
    let driver = poll::Poll::new(settings.lanes, settings.buffers)?;
    Ok(Box::new(driver))
}

#[cfg(target_os = "linux")]
fn uring(settings: Settings) -> io::Result<Box<dyn Driver>> {
    let driver = uring::Uring::new(settings).map_err(uring::explain)?;
    Ok(Box::new(driver))
}

/// io_uring, or readiness where the system does not have or permit it. A lack of memory or
/// descriptors is no reason: that would hide it, and the other driver needs them too.
#[cfg(target_os = "linux")]
fn automatic(settings: Settings) -> io::Result<(Box<dyn Driver>, String)> {
    match uring::Uring::new(settings) {
        Ok(driver) => Ok((Box::new(driver), "io_uring is permitted here".to_owned())),
        Err(error) => match uring::refused(&error) {
            Some(refusal) => Ok((poll(settings)?, format!("{refusal}: {error}"))),
            None => Err(uring::explain(error)),
        },
    }
}

#[cfg(not(target_os = "linux"))]
fn uring(_: Settings) -> io::Result<Box<dyn Driver>> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "io_uring is a facility of Linux; leave the driver to `auto`, or ask for `poll`",
    ))
}

#[cfg(not(target_os = "linux"))]
fn automatic(settings: Settings) -> io::Result<(Box<dyn Driver>, String)> {
    let reason = "the only driver for this system".to_owned();
    Ok((poll(settings)?, reason))
}

/// A socket inside a driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SocketRef {
    pub(crate) lane: u32,
    pub(crate) index: u32,
}

/// Takes completions as a driver finds them.
pub(crate) trait Sink {
    fn push(&mut self, completion: Completion);
}

impl Sink for Vec<Completion> {
    fn push(&mut self, completion: Completion) {
        Vec::push(self, completion);
    }
}

impl Sink for Option<Completion> {
    fn push(&mut self, completion: Completion) {
        debug_assert!(self.is_none(), "asked for one completion");
        *self = Some(completion);
    }
}

/// An accepted submission.
pub(crate) struct Submitted {
    pub(crate) id: OperationId,
    /// The lanes that now have something to flush, as bits.
    pub(crate) lanes: u64,
}

/// The list of what every system must provide.
///
/// Completions, handles and buffers run user code and other locks when dropped, so a driver never
/// drops one while it holds a lock of its own.
pub(crate) trait Driver: Send + Sync + fmt::Debug {
    /// The name that `--driver` takes and the tool prints.
    fn name(&self) -> &'static str;

    fn lanes(&self) -> usize;

    /// Takes a socket over, into the lane that has the fewest. On failure it comes back.
    fn attach(&self, socket: Socket) -> Result<SocketRef, (io::Error, Socket)>;

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

    /// Forgets a socket that nothing refers to any more, closing it if need be. Returns the lanes
    /// to flush.
    fn release(&self, socket: SocketRef, worker: bool) -> u64;

    /// Lets the next held-back completion of a serial handle out, and wakes whoever waits in its
    /// lane.
    fn next_turn(&self, socket: SocketRef);

    /// A descriptor of the caller's own for a socket.
    fn descriptor(&self, socket: SocketRef) -> io::Result<OwnedFd>;

    /// Takes up to `max` completions from a lane without waiting and returns how many.
    fn reap(&self, lane: usize, max: usize, sink: &mut dyn Sink) -> usize;

    /// Whether `reap` would probably find something. Cheap; may be wrong while another thread is
    /// taking from the lane.
    fn pending(&self, lane: usize) -> bool;

    /// As `pending`, or there is something to clear away that would keep `wait` from waiting.
    fn stirred(&self, lane: usize) -> bool;

    /// Hands what rests in the lane to the system and lets the system post what it has, without
    /// waiting. Returns whether there was anything to do, so that `reap` may now find more.
    fn flush(&self, lane: usize) -> bool;

    /// Flushes and waits until one of `lanes` (bits) has a completion, `released` is set and `wake`
    /// called, or the time is over. May return early.
    fn wait(&self, lanes: u64, timeout: Option<Duration>, released: &AtomicBool);

    /// Rouses a thread that waits in the lane, after its `released` was set. The thread, which may
    /// have woken by itself, answers with `woken`.
    fn wake(&self, lane: usize);

    /// The answer to one `wake`.
    fn woken(&self, lane: usize);

    /// Has the thread that waits in the lane, if there is one, come back and flush.
    fn nudge(&self, lane: usize);

    /// Makes threads that compute in user code let the system post what they submitted.
    fn poke(&self);

    /// Refuses what comes later, ends everything pending, and returns when the system holds no
    /// memory of ours any more.
    fn shutdown(&self);
}
