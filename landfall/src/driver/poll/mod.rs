//! Completion ports on readiness: epoll on Linux, kqueue on macOS and the BSDs (which compile, and
//! are not tested).
//!
//! A lane is a poller in edge-triggered form (`mio`) behind a lock. A socket is registered once,
//! when it comes, and never again: an edge says that a direction may get on, and the driver
//! remembers that until a call comes back short. So a message costs one receive, one send, and a
//! share of a wait. Receives are made when somebody takes completions, not when the edge comes: an
//! idle connection holds no buffer, and what nobody takes stays with the system. A worker's sends go
//! out when it comes back for the next completion, other threads' at once.
//!
//! Nothing is with the system between calls: a cancel and a close take effect at once, and there
//! is no memory to wait for. Files are always ready, so what is asked of one is done by the thread
//! that asks.

mod accept;
mod complete;
mod file;
mod lane;
mod op;
mod socket;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{SockRef, Socket as SystemSocket};

use super::accept_stream::{STREAM_LANE, Streams};
use super::kind::{self, Listener, SocketKind};
use super::refusal::{self, closed, not_listening};
use super::ticket::Ticket;
use super::{ABORTED, Driver, Origin, Sink, SocketRef, Submitted};
use crate::port::{Accept, BufferPolicy, Handle, Operation, OperationId, SubmitError};
use crate::sync::atomic::AtomicBool;
use lane::Lane;
use op::Kind;
use socket::Socket;

pub(crate) struct Poll {
    lanes: Vec<Lane>,
    streams: Arc<Streams>,
}

impl Poll {
    pub(crate) fn new(lanes: usize, buffers: BufferPolicy) -> io::Result<Self> {
        let streams = Arc::new(Streams::default());
        let lanes: io::Result<Vec<_>> = (0..lanes)
            .map(|index| Lane::new(index, buffers, streams.clone()))
            .collect();
        Ok(Poll {
            lanes: lanes.map_err(explain)?,
            streams,
        })
    }

    fn lane(&self, socket: SocketRef) -> &Lane {
        &self.lanes[socket.lane as usize]
    }

    /// Begins to accept on a listener.
    fn accept(
        &self,
        handle: &Handle,
        accept: Accept,
        token: usize,
    ) -> Result<Submitted, SubmitError> {
        let socket = handle.socket();
        let lane = self.lane(socket);
        let listener = {
            let state = lane.state.lock();
            let entry = &state.sockets[socket.index as usize];
            match &entry.fd {
                Some(fd) if !state.closed && !entry.closing => Ok(fd.clone()),
                None if entry.file.is_some() => Err(not_listening()),
                _ => Err(closed()),
            }
        };
        let listener = match listener.and_then(ready_to_accept) {
            Ok(listener) => listener,
            Err(error) => {
                return Err(SubmitError {
                    error,
                    operation: Operation::Accept(accept),
                });
            }
        };
        // Closed meanwhile, it ends at once.
        let stream = self
            .streams
            .begin(handle, Listener::new(listener), accept, token);
        accept::begin(&self.lanes, &stream);
        Ok(Submitted {
            id: OperationId(stream.id),
            lanes: 1 << lane.index,
        })
    }

    fn cancel_streams_of(&self, socket: SocketRef) -> usize {
        let streams = self.streams.of(socket);
        for stream in &streams {
            accept::cancel_everywhere(&self.lanes, stream);
        }
        streams.len()
    }

    fn all_lanes(&self) -> u64 {
        self.lanes.iter().fold(0, |set, lane| set | 1 << lane.index)
    }
}

impl Driver for Poll {
    fn name(&self) -> &'static str {
        "poll"
    }

    fn lanes(&self) -> usize {
        self.lanes.len()
    }

    fn socket_capacity(&self) -> usize {
        // The standard streams, files, the lanes' pollers.
        const OTHERS: u64 = 64;
        let sockets = super::os::descriptor_limit().saturating_sub(OTHERS);
        usize::try_from(sockets).unwrap_or(usize::MAX)
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
        let lane = beside.map_or_else(|| emptiest(&self.lanes), |other| self.lane(other));
        let fd = Arc::new(OwnedFd::from(socket));
        accept::no_signals(&fd);
        match lane.register(Socket::new(fd.clone(), kind)) {
            Ok(index) => Ok(SocketRef {
                lane: lane.index as u32,
                index,
            }),
            Err(error) => {
                let fd = Arc::into_inner(fd).expect("the lane gave its copy up");
                Err((error, SystemSocket::from(fd)))
            }
        }
    }

    fn attach_file(&self, file: Arc<File>) -> io::Result<SocketRef> {
        if !refusal::has_offsets(&file) {
            return Err(refusal::no_offsets());
        }
        let lane = emptiest(&self.lanes);
        Ok(SocketRef {
            lane: lane.index as u32,
            index: lane.insert_file(file),
        })
    }

    fn submit(
        &self,
        handle: &Handle,
        operation: Operation,
        token: usize,
        worker: bool,
    ) -> Result<Submitted, SubmitError> {
        if let Operation::Accept(accept) = operation {
            return self.accept(handle, accept, token);
        }
        let socket = handle.socket();
        let lane = self.lane(socket);
        let mut state = lane.state.lock();
        let entry = &state.sockets[socket.index as usize];
        if let Some(file) = entry.file.clone() {
            drop(state);
            return file::submit(&self.lanes, lane, &file, handle, operation, token);
        }
        let refusal = match () {
            () if state.closed || entry.closing => Some(closed()),
            () if !state.has_room() => Some(refusal::too_many()),
            () => refusal::check(&operation, entry.kind.datagram).err(),
        };
        if let Some(error) = refusal {
            drop(state);
            return Err(SubmitError { error, operation });
        }
        let kind = Kind::of(operation);
        let option = match kind {
            Kind::SetOption(option) => Some(option),
            _ => None,
        };
        let (receives, sends_bytes) = (kind.is_receive(), kind.sends_bytes());
        let ticket = Ticket::new(Some(handle.clone()), token);
        let key = state.insert(kind, socket.index, ticket);
        let id = lane.id(&state, key);
        let entry = &mut state.sockets[socket.index as usize];
        if let Some(option) = option {
            let set = entry.fd.as_ref().map(|fd| op::set_option(fd, option));
            let code = set.map_or(ABORTED, op::code_of);
            complete::finish(lane, &mut state, key, code);
        } else if let Some(code) = entry.broken.filter(|_| sends_bytes) {
            complete::finish(lane, &mut state, key, code);
        } else if receives {
            if entry.receives.enter(key) && entry.readable {
                state.queue(socket.index);
            }
        } else if entry.sends.enter(key) {
            match worker {
                true => state.sends.push_back(socket.index),
                false => complete::send(lane, &mut state, socket.index),
            }
        }
        let lanes = u64::from(state.has_work()) << lane.index;
        Ok(Submitted { id, lanes })
    }

    fn cancel(&self, socket: SocketRef, id: OperationId, _worker: bool) -> Option<u64> {
        let place = id.0 >> 56;
        if place == STREAM_LANE {
            let stream = self
                .streams
                .get(id.0)
                .filter(|stream| stream.socket == socket)?;
            accept::cancel_everywhere(&self.lanes, &stream);
            return Some(self.all_lanes());
        }
        let lane = self
            .lanes
            .get(place as usize)
            .filter(|_| place == u64::from(socket.lane))?;
        lane.locked(&self.lanes, |state| {
            let key = state
                .find(id.0)
                .filter(|&key| state.ops[key as usize].socket == socket.index)?;
            complete::withdraw(lane, state, key, ABORTED);
            Some(1 << lane.index)
        })
    }

    fn cancel_all(&self, socket: SocketRef, _worker: bool) -> (usize, u64) {
        let streams = self.cancel_streams_of(socket);
        let lane = self.lane(socket);
        let operations = lane.locked(&self.lanes, |state| {
            complete::withdraw_all(lane, state, socket.index)
        });
        (streams + operations, self.all_lanes())
    }

    fn close(&self, socket: SocketRef, _worker: bool) -> u64 {
        let lane = self.lane(socket);
        let entry_closing = |state: &mut lane::State| {
            std::mem::replace(&mut state.sockets[socket.index as usize].closing, true)
        };
        if entry_closing(&mut lane.state.lock()) {
            return 0;
        }
        let streams = self.cancel_streams_of(socket);
        let operations = lane.locked(&self.lanes, |state| {
            let count = complete::withdraw_all(lane, state, socket.index);
            lane.close_now(state, socket.index);
            count
        });
        match streams {
            0 => u64::from(operations > 0) << lane.index,
            _ => self.all_lanes(),
        }
    }

    fn stop_listening(&self, socket: SocketRef) {
        let fd = self.lane(socket).state.lock().sockets[socket.index as usize]
            .fd
            .clone();
        // Unlocked: it resets all that are in the backlog.
        if let Some(fd) = fd {
            kind::stop_listening(&fd);
        }
    }

    fn release(&self, socket: SocketRef, _worker: bool) -> u64 {
        let lane = self.lane(socket);
        lane.locked(&self.lanes, |state| {
            lane.close_now(state, socket.index);
            lane.forget(state, socket.index);
        });
        0
    }

    fn next_turn(&self, socket: SocketRef) {
        let lane = self.lane(socket);
        lane.locked(&self.lanes, |state| {
            complete::next_turn(state, socket.index)
        });
        lane.rouse();
    }

    fn descriptor(&self, socket: SocketRef) -> io::Result<OwnedFd> {
        let state = self.lane(socket).state.lock();
        let entry = &state.sockets[socket.index as usize];
        match (&entry.fd, &entry.file) {
            (Some(fd), _) => fd.try_clone(),
            (None, Some(file)) => file.try_clone().map(OwnedFd::from),
            (None, None) => Err(closed()),
        }
    }

    fn reap(&self, lane: usize, max: usize, sink: &mut Sink<'_>) -> usize {
        self.lanes[lane].reap(&self.lanes, max, sink)
    }

    fn pending(&self, lane: usize) -> bool {
        self.lanes[lane].pending()
    }

    fn flush(&self, lane: usize) -> bool {
        self.lanes[lane].flush(&self.lanes)
    }

    fn wait(&self, lanes: u64, timeout: Option<Duration>, released: &AtomicBool) {
        if lanes.is_power_of_two() {
            self.lanes[lanes.trailing_zeros() as usize].wait(&self.lanes, timeout, released);
            return;
        }
        let lanes = || {
            self.lanes
                .iter()
                .filter(|lane| lanes & 1 << lane.index != 0)
        };
        let timeout = lanes().fold(timeout, |timeout, lane| lane.begin_shared_wait(timeout));
        if !released.load(Ordering::SeqCst) && !lanes().any(Lane::pending) {
            super::os::wait_for_any(lanes().map(Lane::fd), timeout);
        }
        lanes().for_each(|lane| lane.end_shared_wait(&self.lanes));
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

    /// Nothing but what a flush hands on hides behind a thread that computes.
    fn poke(&self) {}

    fn shutdown(&self) {
        for lane in &self.lanes {
            lane.state.lock().closed = true;
        }
        for stream in self.streams.all() {
            accept::cancel_everywhere(&self.lanes, &stream);
        }
        for lane in &self.lanes {
            lane.shutdown(&self.lanes);
        }
    }
}

impl fmt::Debug for Poll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poll")
            .field("lanes", &self.lanes.len())
            .finish_non_exhaustive()
    }
}

/// Readies a listener: accepting has no flag that says that it must not wait.
fn ready_to_accept(listener: Arc<OwnedFd>) -> io::Result<Arc<OwnedFd>> {
    let socket = SockRef::from(&*listener);
    if !listens(&socket) {
        return Err(not_listening());
    }
    socket.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(not(target_vendor = "apple"))]
fn listens(socket: &SockRef<'_>) -> bool {
    socket.is_listener().unwrap_or(true)
}

/// Not to be asked there: the accept fails.
#[cfg(target_vendor = "apple")]
fn listens(_: &SockRef<'_>) -> bool {
    true
}

fn emptiest(lanes: &[Lane]) -> &Lane {
    lanes
        .iter()
        .min_by_key(|lane| lane.population.load(Ordering::Relaxed))
        .expect("a driver has at least one lane")
}

/// Says what to do about a refused set-up.
fn explain(error: io::Error) -> io::Error {
    let advice = match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => "no descriptor is left; raise the limit (ulimit -n)",
        Some(libc::ENOMEM) => "no memory is left",
        _ => "setting the poller up failed",
    };
    refusal::set_up(advice, error)
}
