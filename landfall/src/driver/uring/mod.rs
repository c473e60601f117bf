//! Completion ports on io_uring, Linux 6.1 and later.
//!
//! A lane is a ring with cooperative task running (`COOP_TASKRUN`), which any thread may submit to
//! and take from, behind a lock (shape C of `docs/decisions/0001-shape-of-the-port.md`). What
//! follows from it: a request belongs to the thread that submitted it. Its completions are posted
//! when that thread is in the kernel, asleep or not; one that computes is made to enter it by
//! [`Driver::poke`]; when one is gone, the kernel ends its requests with `ECANCELED` at the moment
//! when they would have completed, and they are submitted again.

mod accept;
mod complete;
mod file;
mod lane;
mod message;
mod op;
mod receive;
mod socket;
pub(crate) mod waiters;

use std::fmt;
use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::MutexGuard;
use socket2::{SockRef, Socket as SystemSocket};

use super::accept_stream::{AcceptStream, STREAM_LANE};
use super::file::{FileOp, FileRange};
use super::kind::{self, Listener, SocketKind};
use super::refusal::{self, closed, not_listening};
use super::ticket::Ticket;
use super::{Driver, Origin, Settings, Sink, SocketRef, Submitted};
use crate::port::{Handle, Operation, OperationId, SubmitError};
use accept::Streams;
use file::SendFile;
use lane::{Lane, State};
use message::Messages;
use op::{Connect, Installed, Kind, Options};
use receive::{Stage, Stream};
use socket::{Place, Socket};

pub(crate) struct Uring {
    lanes: Vec<Lane>,
    streams: Arc<Streams>,
    /// Whether threads can be made to enter the kernel from outside.
    membarrier: bool,
}

impl Uring {
    /// An error is the system's own, to be judged by [`refused`] and told by [`explain`].
    pub(crate) fn new(settings: Settings) -> io::Result<Self> {
        let Settings {
            lanes,
            buffers,
            facilities,
            ..
        } = settings;
        let streams = Arc::new(Streams::default());
        let lanes: io::Result<Vec<_>> = (0..lanes)
            .map(|index| Lane::new(index, buffers, facilities, streams.clone()))
            .collect();
        Ok(Uring {
            lanes: lanes?,
            streams,
            membarrier: register_membarrier(),
        })
    }

    fn lane(&self, socket: SocketRef) -> &Lane {
        &self.lanes[socket.lane as usize]
    }

    fn emptiest(&self) -> &Lane {
        self.lanes
            .iter()
            .min_by_key(|lane| lane.population.load(Ordering::Relaxed))
            .expect("a driver has at least one lane")
    }

    fn all_lanes(&self) -> u64 {
        (0..self.lanes.len()).fold(0, |set, lane| set | 1 << lane)
    }

    /// Submits a stream of accepts, on all lanes; a single accept, on the listener's.
    fn accept(
        &self,
        handle: &Handle,
        accept: crate::port::Accept,
        token: usize,
        worker: bool,
    ) -> Result<Submitted, SubmitError> {
        let refuse = |error| SubmitError {
            error,
            operation: Operation::Accept(accept),
        };
        let socket = handle.socket();
        let stream = match self.open_stream(handle, accept, token) {
            Ok(stream) => stream,
            Err(error) => return Err(refuse(error)),
        };
        let lanes = match accept.once {
            true => 1 << socket.lane,
            false => self.all_lanes(),
        };
        for lane in self
            .lanes
            .iter()
            .filter(|lane| lanes & 1 << lane.index != 0)
        {
            accept::post(lane, &mut lane.state.lock(), &stream, worker);
        }
        // Dropped unlocked where nobody will take it.
        let undelivered = accept::posted(self.lane(socket), &stream);
        drop(undelivered);
        Ok(Submitted {
            id: OperationId(stream.id),
            lanes,
        })
    }

    /// Enters a stream under its listener. Whoever closes the listener or the port afterwards
    /// finds it there.
    fn open_stream(
        &self,
        handle: &Handle,
        accept: crate::port::Accept,
        token: usize,
    ) -> io::Result<Arc<AcceptStream>> {
        let socket = handle.socket();
        let state = self.lane(socket).state.lock();
        let entry = &state.sockets[socket.index as usize];
        if state.closed || entry.closing {
            return Err(closed());
        }
        if !Lane::has_room(&state) {
            return Err(refusal::too_many());
        }
        let Place::Plain(listener) = &entry.place else {
            return Err(not_listening());
        };
        if !SockRef::from(listener).is_listener().unwrap_or(true) {
            return Err(not_listening());
        }
        let listener = Listener::new(listener.clone());
        Ok(self.streams.named.begin(handle, listener, accept, token))
    }

    fn cancel_stream(&self, stream: &Arc<AcceptStream>, worker: bool) -> u64 {
        stream.cancelled.store(true, Ordering::Release);
        for lane in &self.lanes {
            accept::cancel(lane, &mut lane.state.lock(), stream, worker);
        }
        self.all_lanes()
    }

    /// A stream that failed on one lane ends on all.
    #[cold]
    fn end_failed_streams(&self) {
        for stream in self.streams.take_failed() {
            self.cancel_stream(&stream, false);
            self.lanes.iter().for_each(Lane::rouse);
        }
    }

    fn cancel_streams_of(&self, socket: SocketRef, worker: bool) -> (usize, u64) {
        let streams = self.streams.named.of(socket);
        let lanes = streams.iter().fold(0, |lanes, stream| {
            lanes | self.cancel_stream(stream, worker)
        });
        (streams.len(), lanes)
    }
}

impl Driver for Uring {
    fn name(&self) -> &'static str {
        "uring"
    }

    fn lanes(&self) -> usize {
        self.lanes.len()
    }

    fn socket_capacity(&self) -> usize {
        let tables: usize = self.lanes.iter().map(|lane| lane.table as usize).sum();
        match tables {
            0 => usize::try_from(super::os::descriptor_limit()).unwrap_or(usize::MAX),
            tables => tables,
        }
    }

    fn attach(
        &self,
        socket: SystemSocket,
        origin: Origin,
        beside: Option<SocketRef>,
    ) -> Result<SocketRef, (io::Error, SystemSocket)> {
        let kind = match SocketKind::prepare(&socket, origin) {
            Ok(kind) => kind,
            Err(error) => return Err((error, socket)),
        };
        let listener = origin == Origin::Program && socket.is_listener().unwrap_or(false);
        let lane = beside.map_or_else(|| self.emptiest(), |other| self.lane(other));
        // A listener serves all lanes, so it stays in the process's table.
        let slot = if listener {
            None
        } else {
            lane.state.lock().slots.take()
        };
        let place = match slot {
            None => Place::Plain(Arc::new(OwnedFd::from(socket))),
            Some(slot) => {
                let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
                match lane.ring.submitter().register_files_update(slot, &[fd]) {
                    Ok(_) => Place::Direct(slot),
                    Err(error) => {
                        lane.state.lock().slots.give_back(slot);
                        return Err((error, socket));
                    }
                }
            }
        };
        lane.population.fetch_add(1, Ordering::Relaxed);
        let index = lane.state.lock().sockets.insert(Socket::new(place, kind)) as u32;
        Ok(SocketRef {
            lane: lane.index as u32,
            index,
        })
    }

    fn attach_file(&self, file: Arc<File>) -> io::Result<SocketRef> {
        if !refusal::has_offsets(&file) {
            return Err(refusal::no_offsets());
        }
        let lane = self.emptiest();
        lane.population.fetch_add(1, Ordering::Relaxed);
        let entry = Socket::new(Place::File(file), SocketKind::default());
        Ok(SocketRef {
            lane: lane.index as u32,
            index: lane.state.lock().sockets.insert(entry) as u32,
        })
    }

    fn stays_with_submitter(&self, socket: SocketRef, operation: &Operation) -> Option<u64> {
        match operation {
            Operation::ReceiveStream => Some(1 << socket.lane),
            Operation::Accept(accept) if !accept.once => Some(self.all_lanes()),
            _ => None,
        }
    }

    fn submit(
        &self,
        handle: &Handle,
        operation: Operation,
        token: usize,
        worker: bool,
    ) -> Result<Submitted, SubmitError> {
        if let Operation::Accept(accept) = operation {
            return self.accept(handle, accept, token, worker);
        }
        let socket = handle.socket();
        let lane = self.lane(socket);
        let mut state = lane.state.lock();
        let entry = &state.sockets[socket.index as usize];
        let refusal = match () {
            () if state.closed || entry.closing => Some(closed()),
            () if !Lane::has_room(&state) => Some(refusal::too_many()),
            () => entry.check(&operation).err(),
        };
        if let Some(error) = refusal {
            drop(state);
            return Err(SubmitError { error, operation });
        }
        let State {
            sockets, messages, ..
        } = &mut *state;
        let kind = kind_of(&sockets[socket.index as usize], messages, operation);
        let (is_send, is_receive) = (kind.is_send(), kind.is_receive());
        let is_shutdown = matches!(kind, Kind::Shutdown(_));
        let sends_bytes = kind.sends_bytes();
        let ticket = Ticket::new(Some(handle.clone()), token);
        let key = lane.insert(&mut state, kind, socket.index, ticket);
        let id = lane.id(&state.ops[key as usize], key);
        let entry = &mut state.sockets[socket.index as usize];
        if let Some(code) = entry.broken.filter(|_| sends_bytes) {
            complete::finish(lane, &mut state, key, code);
            return Ok(Submitted {
                id,
                lanes: 1 << lane.index,
            });
        }
        let direction = match () {
            () if is_send => Some(&mut entry.sends),
            () if is_receive => Some(&mut entry.receives),
            () => None,
        };
        let start = match direction {
            Some(direction) => direction.enter(key),
            None => true,
        };
        match start {
            true if is_shutdown => shut_down(lane, state, key, worker),
            true => lane.start(&mut state, key, worker),
            false => {}
        }
        Ok(Submitted {
            id,
            lanes: 1 << lane.index,
        })
    }

    fn cancel(&self, socket: SocketRef, id: OperationId, worker: bool) -> Option<u64> {
        let place = id.0 >> 56;
        if place == STREAM_LANE {
            let stream = self
                .streams
                .named
                .get(id.0)
                .filter(|stream| stream.socket == socket)?;
            return Some(self.cancel_stream(&stream, worker));
        }
        let lane = self
            .lanes
            .get(place as usize)
            .filter(|_| place == u64::from(socket.lane))?;
        let mut state = lane.state.lock();
        let key = Lane::find(&state, id.0)
            .filter(|&key| state.ops[key as usize].socket == socket.index)?;
        complete::cancel(lane, &mut state, key, worker);
        Some(1 << lane.index)
    }

    fn cancel_all(&self, socket: SocketRef, worker: bool) -> (usize, u64) {
        let (streams, lanes) = self.cancel_streams_of(socket, worker);
        let lane = self.lane(socket);
        let mut state = lane.state.lock();
        let operations = cancel_operations(lane, &mut state, socket.index, worker);
        (streams + operations, lanes | 1 << lane.index)
    }

    fn close(&self, socket: SocketRef, worker: bool) -> u64 {
        let lane = self.lane(socket);
        {
            let mut state = lane.state.lock();
            if std::mem::replace(&mut state.sockets[socket.index as usize].closing, true) {
                return 0;
            }
        }
        let (_, lanes) = self.cancel_streams_of(socket, worker);
        let mut state = lane.state.lock();
        lane.reset_if_unacknowledged(&mut state, socket.index, worker);
        cancel_operations(lane, &mut state, socket.index, worker);
        if state.sockets[socket.index as usize].in_kernel == 0 {
            lane.close_now(&mut state, socket.index, worker);
        }
        lanes | 1 << lane.index
    }

    fn stop_listening(&self, socket: SocketRef) {
        let fd = match &self.lane(socket).state.lock().sockets[socket.index as usize].place {
            Place::Plain(fd) => fd.clone(),
            _ => return,
        };
        // Unlocked: it resets all that are in the backlog.
        kind::stop_listening(&fd);
    }

    fn release(&self, socket: SocketRef, worker: bool) -> u64 {
        let lane = self.lane(socket);
        let mut state = lane.state.lock();
        let entry = &mut state.sockets[socket.index as usize];
        entry.closing = true;
        entry.released = true;
        // A descriptor that is being installed is the one operation that needs no handle.
        if entry.in_kernel == 0 {
            lane.close_now(&mut state, socket.index, worker);
        }
        let closed = state.closed;
        drop(state);
        if closed {
            // No worker will come by any more.
            lane.flush();
        }
        1 << lane.index
    }

    fn next_turn(&self, socket: SocketRef) {
        let lane = self.lane(socket);
        let dropped = complete::next_turn(lane, &mut lane.state.lock(), socket.index);
        drop(dropped);
        lane.rouse();
    }

    fn descriptor(&self, socket: SocketRef) -> io::Result<OwnedFd> {
        let lane = self.lane(socket);
        let answer = Arc::new(Installed::default());
        {
            let mut state = lane.state.lock();
            match &state.sockets[socket.index as usize].place {
                Place::Plain(fd) => return fd.try_clone(),
                Place::File(file) => return file.try_clone().map(OwnedFd::from),
                Place::Closed => return Err(closed()),
                Place::Direct(_) => {}
            }
            if state.closed {
                return Err(closed());
            }
            let kind = Kind::Install(answer.clone());
            let key = lane.insert(&mut state, kind, socket.index, Ticket::default());
            lane.start(&mut state, key, true);
        }
        let answer = loop {
            lane.flush();
            lane.drain();
            if let Some(answer) = answer.wait(Duration::from_millis(1)) {
                break answer;
            }
        };
        // What was taken along may have begun something again.
        lane.flush();
        match answer {
            // SAFETY: the kernel answers an install with a new descriptor.
            fd @ 0.. => Ok(unsafe { lane::own(fd) }),
            code => Err(io::Error::from_raw_os_error(-code)),
        }
    }

    fn reap(&self, lane: usize, max: usize, sink: &mut Sink<'_>) -> usize {
        let taken = self.lanes[lane].reap(max, sink);
        if self.streams.some_failed() {
            self.end_failed_streams();
        }
        taken
    }

    fn pending(&self, lane: usize) -> bool {
        self.lanes[lane].pending()
    }

    fn flush(&self, lane: usize) -> bool {
        self.lanes[lane].flush()
    }

    fn wait(
        &self,
        lanes: u64,
        timeout: Option<Duration>,
        released: &crate::sync::atomic::AtomicBool,
    ) {
        if lanes.is_power_of_two() {
            self.lanes[lanes.trailing_zeros() as usize].wait(timeout, released);
            return;
        }
        let lanes = || {
            self.lanes
                .iter()
                .filter(|lane| lanes & 1 << lane.index != 0)
        };
        lanes().for_each(Lane::begin_shared_wait);
        if !released.load(Ordering::SeqCst) && !lanes().any(Lane::stirred) {
            super::os::wait_for_any(lanes().map(Lane::fd), timeout);
        }
        lanes().for_each(Lane::end_wait);
    }

    fn wake(&self, lane: usize) {
        self.lanes[lane].wake();
    }

    fn woken(&self, lane: usize) {
        self.lanes[lane].woken();
    }

    fn nudge(&self, lane: usize) {
        self.lanes[lane].rouse();
    }

    fn poke(&self) {
        if self.membarrier {
            membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
        }
    }

    fn shutdown(&self) {
        for lane in &self.lanes {
            lane.state.lock().closed = true;
        }
        for lane in &self.lanes {
            lane.shutdown(&|| self.poke());
        }
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("lanes", &self.lanes.len())
            .finish_non_exhaustive()
    }
}

/// Pairs an operation that fits with the memory it needs.
fn kind_of(socket: &Socket, messages: &mut Messages, operation: Operation) -> Kind {
    if let Place::File(_) = socket.place {
        return Kind::File(FileOp::of(operation));
    }
    match operation {
        Operation::Receive(buffer) if socket.kind.datagram => {
            Kind::ReceiveDatagram(buffer, messages.take())
        }
        Operation::Receive(buffer) => Kind::Receive(buffer),
        Operation::ReceiveFrom(buffer) => Kind::ReceiveFrom(buffer, messages.take()),
        Operation::ReceiveStream => Kind::ReceiveStream(Stream::default()),
        Operation::ReceiveOnce => Kind::ReceiveOnce {
            datagram: socket.kind.datagram,
            stage: Stage::Wait,
        },
        Operation::WaitReadable => Kind::Readable,
        Operation::WaitWritable => Kind::Writable,
        Operation::Connect(address) => Kind::Connect(Connect::new(address)),
        Operation::Send(buffer) => Kind::Send(buffer),
        Operation::SendVectored(buffers) => Kind::SendVectored(buffers, messages.take()),
        Operation::SendTo { address, buffer } => Kind::SendTo(buffer, messages.take_to(address)),
        Operation::SendZeroCopy(buffer) => Kind::SendZeroCopy(buffer, None),
        Operation::Shutdown(how) => Kind::Shutdown(how),
        Operation::SetOption(option) => Kind::SetOption(Options::new(option)),
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

/// Shuts a socket down that nothing is left to send on. A ring leaves that to a thread of the kernel's
/// (io_shutdown_prep() forces it), which costs several times the system call; a socket that only the ring
/// has a name for takes it.
fn shut_down(lane: &Lane, mut state: MutexGuard<'_, State>, key: u32, worker: bool) {
    let Some((how, fd)) = begin_shutdown(&mut state, key) else {
        return lane.start(&mut state, key, worker);
    };
    drop(state);
    let result = SockRef::from(&*fd).shutdown(how);
    let code = result.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
    // The socket may be closed with the operation's end, by whoever has it last.
    drop(fd);
    complete::end(lane, &mut lane.state.lock(), key, code, 0);
}

/// What is to be shut down how, of a socket that has a descriptor. The operation is the kernel's from now
/// on: a cancel leaves it alone, and the socket stays open until it has ended.
fn begin_shutdown(state: &mut State, key: u32) -> Option<(Shutdown, Arc<OwnedFd>)> {
    let op = &mut state.ops[key as usize];
    let socket = &mut state.sockets[op.socket as usize];
    let (&Kind::Shutdown(how), Place::Plain(fd)) = (&op.kind, &socket.place) else {
        return None;
    };
    op.in_kernel = true;
    socket.in_kernel += 1;
    Some((how, fd.clone()))
}

/// Ends a socket's receives and sends; those that wait for their turn first, so that none of them
/// starts.
fn cancel_operations(lane: &Lane, state: &mut State, socket: u32, worker: bool) -> usize {
    let withdrawn = complete::withdraw_all(lane, state, socket);
    let entry = &state.sockets[socket as usize];
    let current = [entry.receives.current, entry.sends.current];
    for key in current.into_iter().flatten() {
        complete::cancel(lane, state, key, worker);
    }
    let of_file = file::cancel_all(lane, state, socket, worker);
    withdrawn + current.into_iter().flatten().count() + of_file
}

/// Why there is no io_uring to be had here, if that is what an error at set-up means.
pub(super) fn refused(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::ENOSYS => Some("this kernel has no io_uring (Linux 6.1 or later is needed)"),
        libc::EPERM => Some(
            "io_uring is forbidden here, by a container's seccomp profile or the sysctl \
             kernel.io_uring_disabled; permit it",
        ),
        libc::EINVAL => Some("this kernel's io_uring is too old (Linux 6.1 or later is needed)"),
        _ => None,
    }
}

/// Says what to do about a set-up that failed.
pub(super) fn explain(error: io::Error) -> io::Error {
    let advice = refused(&error).unwrap_or_else(|| match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => "no descriptor is left; raise the limit (ulimit -n)",
        Some(libc::ENOMEM) => {
            "no memory is left, or the limit on locked memory (ulimit -l) is too low"
        }
        _ => "setting io_uring up failed",
    });
    refusal::set_up(advice, error)
}

fn register_membarrier() -> bool {
    membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
}

/// Interrupts every running thread of this process, which then works off what the kernel has
/// pending for it (membarrier(2)).
fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: the call takes two integers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_refused_set_up_keeps_the_systems_code() {
        let error = explain(io::Error::from_raw_os_error(libc::EMFILE));
        let explanation = error.get_ref().expect("an explanation");
        let system = explanation.source().and_then(|s| s.downcast_ref());
        let code = system.and_then(io::Error::raw_os_error);
        assert_eq!(code, Some(libc::EMFILE));
        assert!(error.to_string().contains("ulimit -n"), "{error}");
    }

    #[test]
    fn a_shutdown_at_work_is_not_taken_back_and_its_socket_is_closed_after_it() {
        let Some(lane) = Lane::for_test() else {
            eprintln!("skipped: io_uring is forbidden here");
            return;
        };
        let (ours, mut peer) = UnixStream::pair().expect("a pair");
        let patience = Some(Duration::from_secs(10));
        peer.set_read_timeout(patience).expect("a socket");
        let mut state = lane.state.lock();
        let socket = Socket::new(Place::Plain(Arc::new(ours.into())), SocketKind::default());
        let index = state.sockets.insert(socket) as u32;
        let kinds = [Kind::Shutdown(Shutdown::Write), Kind::Writable];
        let [shutdown, waits] = kinds.map(|kind| {
            let key = lane.insert(&mut state, kind, index, Ticket::default());
            state.sockets[index as usize].sends.enter(key);
            key
        });
        let begun = begin_shutdown(&mut state, shutdown).expect("it has a descriptor");
        state.sockets[index as usize].closing = true;
        cancel_operations(&lane, &mut state, index, true);
        assert!(state.ops.contains(shutdown as usize), "it is at work");
        assert!(!state.ops.contains(waits as usize), "it had not begun");
        drop(begun);
        assert!(state.sockets[index as usize].target().is_some(), "open");
        complete::end(&lane, &mut state, shutdown, 0, 0);
        drop(state);
        lane.flush();
        assert_eq!(peer.read(&mut [0]).expect("no error"), 0, "closed");
    }
}
