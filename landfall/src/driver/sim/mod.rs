//! A driver for tests: sockets are queues of bytes in memory, and a seed decides what happens when.
//!
//! It keeps what [`Driver`] and `docs/contract.md` promise, and uses every freedom that they leave:
//! an operation may complete before its submission has returned or long after it could have, in
//! pieces of any size, beside those of other sockets in any order, on any lane, with any error of
//! the system; a cancel may come too late or wait; pooled memory and places in the queue run out, by chance or on
//! command. Nothing happens by itself: what is possible is
//! done, one step at a time, when somebody takes completions or a test asks for it
//! ([`Network::advance`]), and which step that is the seed says. So a schedule is the same each time
//! that it is played. It is all on one thread, which never waits: it takes [`IDLE`] instead.
//!
//! The other ends of the connections are the test's, through [`Network`].
//!
//! Left out, as the fuzzed programs do not ask for them: datagrams, accepts with first data, and
//! files, which are refused.

mod complete;
mod network;
mod op;
mod socket;

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;
use slab::Slab;
use socket2::Socket as SystemSocket;

use super::refusal::{self, closed, not_listening};
use super::{Driver, Origin, Sink, SocketRef, Submitted};
use crate::buffer::Pool;
use crate::port::{
    BufferPolicy, Completion, CompletionKind, Handle, Operation, OperationId, Packet, SubmitError,
};
use network::Connection;
pub(crate) use network::{Flow, Network};
use op::{Kind, Op};
use socket::{Role, Socket};

/// What a thread takes from a port that has nothing for it, instead of waiting for ever.
pub(crate) const IDLE: Packet = Packet {
    bytes: usize::MAX,
    key: 0,
    token: 0,
};

/// What may go wrong, and how often.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Of a thousand steps of an operation, so many fail instead.
    pub(crate) failures: u32,
    /// Of a thousand connects, so many are never answered.
    pub(crate) unanswered: u32,
    /// Of a thousand submissions, so many are refused for want of a place in the queue.
    pub(crate) refusals: u32,
    /// Of a thousand receives into pooled memory, so many find none left.
    pub(crate) starved: u32,
}

/// What a simulation is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    /// Prints each completion.
    pub(crate) tells: bool,
    pub(crate) lanes: usize,
    /// Pooled memory. Pieces of a byte each are as good as any.
    pub(crate) buffers: BufferPolicy,
    /// Bytes under way in each direction of a connection before its sender has to wait.
    pub(crate) window: usize,
    /// Completions that wait to be taken before the system has no place for another.
    pub(crate) places: usize,
    /// Of 256 occasions on which the system could do something, it uses so many.
    pub(crate) eagerness: u8,
    pub(crate) faults: Faults,
}

pub(crate) struct Sim(Arc<Shared>);

/// What the driver shares with the other ends.
struct Shared {
    state: Mutex<State>,
    buffers: Pool,
    lanes: usize,
}

struct State {
    world: World,
    rng: Rng,
    sockets: Slab<Socket>,
    ops: Slab<Op>,
    generation: u32,
    connections: Vec<Connection>,
    /// Connections that the port's side began.
    outgoing: VecDeque<usize>,
    /// Completions to be taken, by lane.
    ready: Vec<VecDeque<Completion>>,
    /// Completions that nobody will take, to be dropped without the lock.
    dropped: Vec<Completion>,
    /// Errors that the next operations of a kind fail with.
    commanded: Vec<(CompletionKind, i32)>,
    /// So many submissions are refused next for want of a place in the queue.
    to_refuse: usize,
    /// Pooled memory is said to have run out.
    starved: bool,
    closed: bool,
}

impl Sim {
    pub(crate) fn new(world: World) -> io::Result<(Self, Network)> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                world,
                rng: Rng::with_seed(world.seed),
                sockets: Slab::new(),
                ops: Slab::new(),
                generation: 0,
                connections: Vec::new(),
                outgoing: VecDeque::new(),
                ready: (0..world.lanes).map(|_| VecDeque::new()).collect(),
                dropped: Vec::new(),
                commanded: Vec::new(),
                to_refuse: 0,
                starved: false,
                closed: false,
            }),
            buffers: Pool::new(world.buffers.size, world.buffers.count)?,
            lanes: world.lanes,
        });
        Ok((Sim(shared.clone()), Network::new(shared)))
    }
}

impl Shared {
    /// Works on the state, then drops what must be dropped without the lock.
    fn locked<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let result = work(&mut state);
        let dropped = std::mem::take(&mut state.dropped);
        drop(state);
        drop(dropped);
        result
    }

    /// Takes a few of the steps that are possible, or none.
    fn maybe_advance(&self, state: &mut State) {
        while state.is_eager() && state.advance(&self.buffers) {}
    }
}

impl State {
    fn is_eager(&mut self) -> bool {
        self.rng.u8(..) < self.world.eagerness
    }

    /// Whether something happens that does so this often in a thousand times.
    fn happens(&mut self, often: u32) -> bool {
        often > 0 && self.rng.u32(..1000) < often
    }

    fn refuses(&mut self) -> bool {
        let commanded = self.to_refuse > 0;
        self.to_refuse = self.to_refuse.saturating_sub(1);
        commanded || self.happens(self.world.faults.refusals)
    }

    fn any_lane(&mut self) -> u32 {
        self.rng.u32(..self.world.lanes as u32)
    }

    fn insert_socket(&mut self, role: Role) -> SocketRef {
        let lane = self.any_lane();
        let index = self.sockets.insert(Socket::new(lane, role)) as u32;
        SocketRef { lane, index }
    }

    fn insert_op(&mut self, mut op: Op) -> (u32, OperationId) {
        self.generation += 1;
        op.generation = self.generation;
        let key = self.ops.insert(op) as u32;
        (key, self.id(key))
    }

    fn id(&self, key: u32) -> OperationId {
        OperationId(u64::from(self.ops[key as usize].generation) << 32 | u64::from(key))
    }

    fn ops_of(&self, socket: u32) -> Vec<u32> {
        let of_socket = |(_, op): &(usize, &Op)| op.socket == socket;
        let ops = self.ops.iter().filter(of_socket);
        ops.map(|(key, _)| key as u32).collect()
    }

    /// Asks for the end of all operations of a socket. Returns how many.
    fn cancel_all(&mut self, socket: u32) -> usize {
        let keys = self.ops_of(socket);
        for &key in &keys {
            self.ops[key as usize].cancelled = true;
        }
        keys.len()
    }

    fn has_ready(&self, lanes: u64) -> bool {
        let mut ready = self.ready.iter().enumerate();
        ready.any(|(lane, ready)| lanes & 1 << lane != 0 && !ready.is_empty())
    }
}

impl Driver for Sim {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn lanes(&self) -> usize {
        self.0.lanes
    }

    /// Of a system's socket only its role is taken over: a listener, or one to connect.
    fn attach(
        &self,
        socket: SystemSocket,
        _origin: Origin,
        _beside: Option<SocketRef>,
    ) -> Result<SocketRef, (io::Error, SystemSocket)> {
        let role = match socket.is_listener() {
            Ok(true) => Role::Listener(VecDeque::new()),
            Ok(false) => Role::Unconnected,
            Err(error) => return Err((error, socket)),
        };
        Ok(self.0.locked(|state| state.insert_socket(role)))
    }

    fn attach_file(&self, _: Arc<File>) -> io::Result<SocketRef> {
        Err(no_files())
    }

    fn submit(
        &self,
        handle: &Handle,
        operation: Operation,
        token: usize,
        _worker: bool,
    ) -> Result<Submitted, SubmitError> {
        let index = handle.socket().index;
        self.0.locked(|state| {
            let socket = &state.sockets[index as usize];
            let error = match operation {
                _ if state.closed || socket.closing => Some(closed()),
                Operation::Accept(_) if !socket.listens() => Some(not_listening()),
                Operation::SendFile { .. } => Some(no_files()),
                _ if state.refuses() => Some(refusal::too_many()),
                _ => refusal::check(&operation, false).err(),
            };
            if let Some(error) = error {
                return Err(SubmitError { error, operation });
            }
            let op = Op::new(Kind::of(operation), index, token, handle.clone());
            let (key, id) = state.insert_op(op);
            if let Some(direction) = state.direction_of(key) {
                direction.enter(key);
            }
            // It may be over before the submission is.
            self.0.maybe_advance(state);
            let lanes = u64::from(state.has_ready(u64::MAX)) * all(self.0.lanes);
            Ok(Submitted { id, lanes })
        })
    }

    fn cancel(&self, socket: SocketRef, id: OperationId, _worker: bool) -> Option<u64> {
        self.0.locked(|state| {
            let key = id.0 as u32;
            let op = state.ops.get_mut(key as usize)?;
            if op.socket != socket.index || u64::from(op.generation) != id.0 >> 32 {
                return None;
            }
            op.cancelled = true;
            self.0.maybe_advance(state);
            Some(all(self.0.lanes))
        })
    }

    fn cancel_all(&self, socket: SocketRef, _worker: bool) -> (usize, u64) {
        let count = self.0.locked(|state| state.cancel_all(socket.index));
        (count, all(self.0.lanes))
    }

    fn close(&self, socket: SocketRef, _worker: bool) -> u64 {
        self.0.locked(|state| {
            let entry = &mut state.sockets[socket.index as usize];
            if std::mem::replace(&mut entry.closing, true) {
                return 0;
            }
            if state.cancel_all(socket.index) == 0 {
                state.hang_up(socket.index);
            }
            self.0.maybe_advance(state);
            all(self.0.lanes)
        })
    }

    fn release(&self, socket: SocketRef, _worker: bool) -> u64 {
        self.0.locked(|state| {
            state.hang_up(socket.index);
            state.sockets.remove(socket.index as usize);
        });
        0
    }

    fn next_turn(&self, socket: SocketRef) {
        self.0.locked(|state| state.next_turn(socket.index));
    }

    fn descriptor(&self, _: SocketRef) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn reap(&self, lane: usize, max: usize, sink: &mut Sink<'_>) -> usize {
        self.0.locked(|state| {
            self.0.maybe_advance(state);
            let ready = &mut state.ready[lane];
            let count = max.min(ready.len());
            ready.drain(..count).for_each(|next| sink.push(next));
            count
        })
    }

    fn pending(&self, lane: usize) -> bool {
        self.0.state.lock().has_ready(1 << lane)
    }

    fn flush(&self, lane: usize) -> bool {
        self.0.locked(|state| {
            self.0.maybe_advance(state);
            state.has_ready(1 << lane)
        })
    }

    /// Nothing happens by itself: a thread that has nothing to take is sent back with [`IDLE`].
    fn wait(&self, lanes: u64, _timeout: Option<Duration>, _released: &AtomicBool) {
        self.0.locked(|state| {
            if !state.has_ready(lanes) {
                let idle = Completion::unbound(CompletionKind::Packet, OperationId(0), IDLE);
                state.give(lanes.trailing_zeros(), idle);
            }
        });
    }

    fn wake(&self, _lane: usize) {}

    fn woken(&self, _lane: usize) {}

    fn nudge(&self, _lane: usize) {}

    fn poke(&self) {}

    fn shutdown(&self) {
        self.0.locked(|state| {
            state.closed = true;
            state.end_everything();
        });
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").finish_non_exhaustive()
    }
}

fn no_files() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "files are not simulated")
}

fn all(lanes: usize) -> u64 {
    (1 << lanes) - 1
}
