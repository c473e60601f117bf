//! Pooled receives: memory is found for data that is there, and not before.
//!
//! A stream of receives has a poll with the kernel, which says when there is data, and is received
//! from a few sockets at a time. So a connection is answered while the processor still has its
//! memory, which a thousand multishot receives that all come at once would have driven out of the
//! cache (`docs/decisions/0002-accepts-receives-and-the-watcher.md`), and buffers are used that have
//! just come back.

use std::collections::VecDeque;

use io_uring::squeue::Entry;
use io_uring::{cqueue, opcode, types};

use super::complete::{code, end, end_with, finish, retried, step};
use super::lane::{Lane, State, user_data};
use super::op::{Kind, poll_entry};
use crate::buffer::{Buffer, Pool, filled};
use crate::driver::ABORTED;
use crate::port::Payload;

/// Receives under way at a time in a lane.
const AT_A_TIME: usize = 32;

/// Completions held back for a serial handle before its stream of receives is paused, so that a
/// peer cannot fill memory while a handler takes its time.
const MOST_HELD: usize = 8;

/// Memory to receive into: a buffer of the pool, or a vector when the program has all of them.
pub(super) struct Room(Buffer);

impl Room {
    fn new(buffers: &Pool) -> Self {
        Room(match buffers.take() {
            Some(pooled) => Buffer::Pooled(pooled),
            None => Buffer::Vec(Vec::with_capacity(buffers.size())),
        })
    }

    fn entry(&mut self, fd: types::Fd, flags: libc::c_int) -> Entry {
        let (start, length) = match &mut self.0 {
            Buffer::Pooled(pooled) => (pooled.as_mut_ptr(), pooled.len()),
            Buffer::Vec(vec) => (vec.as_mut_ptr(), vec.capacity()),
            _ => unreachable!("room is made of the pool or a vector"),
        };
        // The policy bounds a buffer's size by what an entry can carry.
        opcode::Recv::new(fd, start, length as u32)
            .flags(flags)
            .build()
    }

    /// The first `bytes`, which the kernel has written.
    fn filled(self, bytes: usize) -> Buffer {
        match self.0 {
            Buffer::Vec(vec) => Buffer::Vec(filled(vec, bytes)),
            mut pooled => {
                pooled.truncate(bytes);
                pooled
            }
        }
    }
}

/// How far a single receive into pooled memory has come.
pub(super) enum Stage {
    /// It waits for data,
    Wait,
    /// then takes it, if it is still there;
    Fill(Room),
    /// if not, it waits with the memory: what a poll reported may have been no data, but something
    /// that the program leaves there, and would be reported again.
    Linger(Room),
}

/// What a report means for a single receive.
pub(super) enum Advance {
    /// It is to be started again: in its next stage, or since the data went elsewhere.
    Again,
    Received(Buffer),
    Failed,
}

impl Stage {
    pub(super) fn entry(&mut self, fd: types::Fd, datagram: bool) -> Entry {
        // On a stream the flag means something else: it throws data away.
        let flags = if datagram { libc::MSG_TRUNC } else { 0 };
        match self {
            Stage::Wait => poll_entry(fd, false),
            Stage::Fill(room) => room.entry(fd, flags | libc::MSG_DONTWAIT),
            Stage::Linger(room) => room.entry(fd, flags),
        }
    }

    pub(super) fn advance(&mut self, result: i32, buffers: &Pool) -> Advance {
        match std::mem::replace(self, Stage::Wait) {
            Stage::Wait if result < 0 => Advance::Failed,
            Stage::Wait => {
                *self = Stage::Fill(Room::new(buffers));
                Advance::Again
            }
            Stage::Fill(room) if result == -libc::EAGAIN => {
                *self = Stage::Linger(room);
                Advance::Again
            }
            Stage::Fill(_) | Stage::Linger(_) if result < 0 => Advance::Failed,
            Stage::Fill(room) | Stage::Linger(room) => {
                // A datagram may have been longer than the room.
                Advance::Received(room.filled((result as usize).min(buffers.size())))
            }
        }
    }
}

/// A single receive has something to report.
pub(super) fn once(lane: &Lane, state: &mut State, key: u32, result: i32) {
    let op = &mut state.ops[key as usize];
    let ends = op.cancelled || state.closed;
    let Kind::ReceiveOnce { datagram, stage } = &mut op.kind else {
        return;
    };
    let datagram = *datagram;
    match stage.advance(result, &lane.buffers) {
        Advance::Again if ends => end(lane, state, key, ABORTED, 0),
        Advance::Again => lane.start(state, key, true),
        Advance::Failed if retried(lane, state, key, result) => {}
        Advance::Failed => {
            let code = code(&state.ops[key as usize], result);
            end(lane, state, key, code, 0)
        }
        Advance::Received(data) => {
            // Of a datagram the system tells how long it was.
            let truncated = datagram && result as usize > data.len();
            let code = if truncated { libc::EMSGSIZE } else { 0 };
            let bytes = data.len();
            end_with(lane, state, key, code, bytes, |_, _| match bytes {
                0 => Payload::None,
                _ => Payload::Buffer(data),
            });
        }
    }
}

/// What a stream of receives knows of its socket.
#[derive(Default)]
pub(super) struct Stream {
    /// There may be data.
    noticed: bool,
    /// The end is to come, and no other notice.
    hung_up: bool,
    /// It is in the lane's [`Readable`].
    queued: bool,
    /// It does not go on until the program has taken what is held back.
    paused: bool,
    /// What the kernel is receiving into.
    room: Option<Room>,
}

impl Stream {
    pub(super) fn is_receiving(&self) -> bool {
        self.room.is_some()
    }
}

/// Streams of receives whose socket has data.
#[derive(Default)]
pub(super) struct Readable {
    /// Their names, in the order in which they are received from. Some may have ended meanwhile.
    names: VecDeque<u64>,
    /// Receives that the kernel has, or whose results have not been taken.
    receiving: usize,
}

impl Readable {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// Hands receives from the next few sockets to the kernel, which has the results at once.
pub(super) fn start_some(lane: &Lane, state: &mut State) {
    while state.readable.receiving < AT_A_TIME {
        let Some(name) = state.readable.names.pop_front() else {
            return;
        };
        if let Some(key) = Lane::find(state, name) {
            start(lane, state, key);
        }
    }
}

fn start(lane: &Lane, state: &mut State, key: u32) {
    let name = Lane::name(state, key);
    let op = &mut state.ops[key as usize];
    let Kind::ReceiveStream(stream) = &mut op.kind else {
        return;
    };
    stream.queued = false;
    if stream.paused {
        return;
    }
    let socket = &mut state.sockets[op.socket as usize];
    let Some(target) = socket.target() else {
        finish(lane, state, key, ABORTED);
        return;
    };
    stream.noticed = false;
    let room = stream.room.insert(Room::new(&lane.buffers));
    let entry = target.apply(room.entry(types::Fd(target.number), libc::MSG_DONTWAIT));
    let data = user_data::tagged(user_data::RECEIVED, user_data::rest(name));
    socket.in_kernel += 1;
    state.readable.receiving += 1;
    lane.push(state, entry.user_data(data), true);
}

/// The poll of a stream has something to report.
pub(super) fn noticed(lane: &Lane, state: &mut State, key: u32, result: i32) {
    let op = &mut state.ops[key as usize];
    let Kind::ReceiveStream(stream) = &mut op.kind else {
        return;
    };
    if result >= 0 {
        const END: libc::c_short = libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR;
        stream.hung_up |= result & i32::from(END) != 0;
        stream.noticed = true;
        op.retries = 0;
        return go_on(lane, state, key);
    }
    // What is being received comes first, and then waits again.
    if stream.is_receiving() || retried(lane, state, key, result) {
        return;
    }
    let code = code(&state.ops[key as usize], result);
    end(lane, state, key, code, 0);
}

/// A receive of a stream is over.
pub(super) fn received(lane: &Lane, state: &mut State, cqe: &cqueue::Entry) {
    state.readable.receiving -= 1;
    let Some(key) = Lane::find(state, cqe.user_data()) else {
        debug_assert!(false, "a stream stays while it receives");
        return;
    };
    let op = &mut state.ops[key as usize];
    let index = op.socket as usize;
    let socket = &mut state.sockets[index];
    socket.in_kernel -= 1;
    let Kind::ReceiveStream(stream) = &mut op.kind else {
        return;
    };
    let Some(room) = stream.room.take() else {
        return;
    };
    match cqe.result() {
        result @ 1.. => {
            let bytes = result as usize;
            let all = bytes < lane.buffers.size() && socket.kind.drains;
            stream.noticed |= !all || cqueue::sock_nonempty(cqe.flags());
            // Where one is held back, this one will be.
            stream.paused = socket.held.len() + 1 >= MOST_HELD;
            step(lane, state, key, room.filled(bytes));
        }
        again if [libc::EAGAIN, libc::EINTR, libc::ECANCELED].contains(&-again) => {
            stream.hung_up = false;
            stream.noticed |= again != -libc::EAGAIN;
        }
        ended => return end(lane, state, key, -ended, 0),
    }
    go_on(lane, state, key);
}

/// Goes on with a stream: receives, if there may be something, or waits for a notice. Ends it, if it
/// is to end.
fn go_on(lane: &Lane, state: &mut State, key: u32) {
    let op = &mut state.ops[key as usize];
    let Kind::ReceiveStream(stream) = &mut op.kind else {
        return;
    };
    if stream.is_receiving() {
        return;
    }
    if op.cancelled || state.closed {
        return end(lane, state, key, ABORTED, 0);
    }
    if stream.paused {
        return;
    }
    if stream.noticed || stream.hung_up {
        if !std::mem::replace(&mut stream.queued, true) {
            state.readable.names.push_back(op.name(key));
        }
    } else if !op.in_kernel {
        lane.start(state, key, true);
    }
}

/// Lets a paused stream go on.
pub(super) fn resume(lane: &Lane, state: &mut State, socket: u32) {
    let Some(key) = state.sockets[socket as usize].receives.current else {
        return;
    };
    let Kind::ReceiveStream(stream) = &mut state.ops[key as usize].kind else {
        return;
    };
    if std::mem::take(&mut stream.paused) {
        go_on(lane, state, key);
    }
}
