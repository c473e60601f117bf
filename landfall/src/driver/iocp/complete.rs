//! What becomes of an operation when the kernel reports on it.

use std::io::Read;
use std::net::Shutdown;
use std::sync::Arc;

use windows_sys::Win32::Networking::WinSock::{
    WSAECONNABORTED, WSAEMSGSIZE, WSAESHUTDOWN, WSAEWOULDBLOCK,
};

use super::accept::{self, Outcome};
use super::file;
use super::op::{Begun, Kind, Op};
use super::queue::Packet;
use super::socket::{Socket, State, Way};
use super::{Core, code, winsock};
use crate::buffer::{Buffer, filled};
use crate::driver::ABORTED;
use crate::driver::direction::may_go_out;
use crate::port::{Completion, OperationId, Payload};

/// Completions held back for a serial handle before its stream of receives is paused, so that a
/// peer cannot fill memory while a handler takes its time.
const MOST_HELD: usize = 8;

/// Blocks kept at most for packets to come of operations that are over; a block is never freed before
/// its packet, or an operation that got its address would be taken for it. That the packets come is
/// seen in Wine and follows from the rules of Windows' kernel.
const MOST_STRAYS: usize = 64;

/// Works a packet of a socket off. Its pointer is compared with those of the operations that the
/// kernel has of this socket, and is nothing to us if it is none of them: a duplicate of the socket
/// can bring blocks of the program's own.
pub(super) fn process(core: &Core, packet: Packet) -> Outcome {
    let Some(socket) = core.sockets.named(packet.key) else {
        return [None, None];
    };
    let code = code::of_status(packet.status);
    let mut state = socket.state.lock();
    let outcome = if let Some(way) = state.way_of(packet.block) {
        let op = state.direction(way).current.as_mut();
        let op = op.expect("found by its block");
        op.in_kernel = false;
        if matches!(op.kind, Kind::FirstData(..)) {
            drop(state);
            accept::first_data(core, &socket, code)
        } else {
            let outcome = reported(core, &mut state, way, code, packet.bytes);
            advance(core, &mut state, way);
            drop(state);
            outcome
        }
    } else if let Some(place) = file::place_of(&state, packet.block) {
        let completion = file::reported(core, &mut state, place, code, packet.bytes);
        drop(state);
        [completion, None]
    } else if let Some(place) = state
        .accepts
        .iter()
        .position(|posted| posted.accept.block.address() == packet.block)
    {
        accept::accepted(core, state, place, code)
    } else {
        let strays = state.strays.len();
        state.strays.retain(|block| block.address() != packet.block);
        if state.strays.len() < strays {
            resume(core, &mut state);
        }
        return [None, None];
    };
    // Last of all: when nothing is in the kernel, nothing is being worked off either.
    core.out_of_kernel();
    outcome
}

fn reported(core: &Core, state: &mut State, way: Way, code: i32, bytes: usize) -> Outcome {
    let (closing, receives_shut) = (state.closing, state.receives_shut);
    let Some(op) = &mut state.direction(way).current else {
        return [None, None];
    };
    let ending = op.cancelled || closing;
    let cut = way == Way::Receives && code == WSAEMSGSIZE;
    if code != 0 && !cut {
        let code = match way {
            _ if closing => ABORTED,
            _ if ending => ended(code),
            Way::Receives if receives_shut => 0,
            _ => code,
        };
        let done = op.done;
        return [end(state, way, code, done, None), None];
    }
    match &mut op.kind {
        Kind::Receive(vec) => {
            *vec = filled(std::mem::take(vec), bytes);
            [end(state, way, code, bytes, None), None]
        }
        Kind::Datagram(vec, _) | Kind::DatagramFrom(vec, _) => {
            let bytes = match code {
                0 => bytes,
                _ => vec.capacity() - vec.len(),
            };
            *vec = filled(std::mem::take(vec), bytes);
            [end(state, way, code, bytes, None), None]
        }
        Kind::Readable | Kind::ReadableDatagram(_) => [end(state, way, 0, 0, None), None],
        Kind::Pooled { .. } if ending => [end(state, way, ABORTED, 0, None), None],
        Kind::Pooled { once } => {
            let once = *once;
            pooled(core, state, once)
        }
        Kind::Send(_) | Kind::SendVectored(_) | Kind::SendTo(..) | Kind::SendFile(_) => {
            op.done += bytes;
            let (done, left) = (op.done, op.length().saturating_sub(op.done));
            let last = match left {
                0 => end(state, way, code, done, None),
                _ if ending => end(state, way, ABORTED, done, None),
                _ => run(core, state, way),
            };
            [last, None]
        }
        Kind::Connect(..) => {
            let finished = state.system.as_ref().map(winsock::finish_connect);
            let code = match finished {
                Some(Ok(())) => {
                    // What sends failed with before is nothing to those that follow.
                    state.gap = None;
                    0
                }
                Some(Err(error)) => code::of(&error),
                None => ABORTED,
            };
            [end(state, way, code, 0, None), None]
        }
        Kind::Shutdown(_) | Kind::SetOption(_) | Kind::FirstData(..) | Kind::File(_) => {
            [None, None]
        }
    }
}

/// What was asked to end is aborted, unless it had failed for a reason of its own.
fn ended(code: i32) -> i32 {
    match code {
        WSAECONNABORTED => ABORTED,
        code => code,
    }
}

/// There is something to receive, or the end of the stream.
fn pooled(core: &Core, state: &mut State, once: bool) -> Outcome {
    let way = Way::Receives;
    match receive(core, state) {
        Err(WSAEWOULDBLOCK) => [run(core, state, way), None],
        Err(code) => [end(state, way, code, 0, None), None],
        Ok(data) if data.is_empty() => [end(state, way, 0, 0, None), None],
        Ok(data) if once => {
            let bytes = data.len();
            [end(state, way, 0, bytes, Some(data)), None]
        }
        Ok(data) => {
            let completion = step(state, data);
            let delivered = completion.and_then(|completion| deliver(state, completion));
            let wait = state.held.len() >= MOST_HELD;
            if let Some(op) = state.receives.current.as_mut().filter(|_| wait) {
                op.paused = true;
                return [delivered, None];
            }
            [delivered, run(core, state, way)]
        }
    }
}

/// Receives what is there, without waiting, into a pooled buffer, or into memory of its own while the
/// pool is empty.
pub(super) fn receive(core: &Core, state: &State) -> Result<Buffer, i32> {
    let mut system = state.system.as_ref().ok_or(ABORTED)?;
    let received = match core.buffers.take() {
        Some(mut pooled) => system
            .read(&mut pooled)
            .map(|length| (Buffer::Pooled(pooled), length)),
        None => {
            let mut vec = vec![0; core.buffers.size()];
            system
                .read(&mut vec)
                .map(|length| (Buffer::Vec(vec), length))
        }
    };
    let (mut buffer, length) = received.map_err(|error| code::of(&error))?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Hands a direction's current operation to the kernel. Returns its code if it is over already.
pub(super) fn begin(core: &Core, state: &mut State, way: Way) -> Option<i32> {
    let stream = state.stream;
    let (system, direction) = state.parts(way);
    let op = direction.current.as_mut()?;
    let Some(system) = system else {
        return Some(ABORTED);
    };
    if !stream {
        if let Some(code) = op.send_datagram(system) {
            return Some(code);
        }
    }
    // Before the call: its packet may be taken before it returns, by a thread that then waits for
    // the lock that is held here.
    op.in_kernel = true;
    core.into_kernel();
    let begun = op.begin(system, &core.extensions);
    if let Ok(Begun::Pending) = begun {
        return None;
    }
    op.in_kernel = false;
    core.out_of_kernel();
    let code = begun.err().map_or(0, code::of_error);
    if code == WSAEMSGSIZE && way == Way::Sends {
        // Lost rather than freed before a packet that may follow.
        std::mem::forget(op.take_block());
    }
    Some(code)
}

/// As [`begin`]; an operation that is over ends, with the completion returned.
pub(super) fn run(core: &Core, state: &mut State, way: Way) -> Option<Completion> {
    if way == Way::Receives && state.strays.len() >= MOST_STRAYS {
        // Or the blocks would grow without end.
        state.receives.current.as_mut()?.paused = true;
        return None;
    }
    let mut code = begin(core, state, way)?;
    if code == WSAEMSGSIZE && way == Way::Receives {
        return cut_at_once(state);
    }
    // A receive after this side has shut its receiving down finds the end of the stream, as
    // everywhere else.
    if way == Way::Receives && code == WSAESHUTDOWN {
        code = 0;
    }
    let op = state.direction(way).current.as_mut()?;
    let bytes = op.done;
    if code == 0 && shuts_receives(op) {
        end_receives(state);
    }
    end(state, way, code, bytes, None)
}

/// Has a direction's current operation go, and those behind it as long as they are over at once.
pub(super) fn start(core: &Core, state: &mut State, way: Way) {
    let completion = run(core, state, way);
    completion.into_iter().for_each(|c| core.announce(c));
    advance(core, state, way);
}

/// Lets the next operations of a direction go, as long as none is with the kernel.
fn advance(core: &Core, state: &mut State, way: Way) {
    loop {
        if let Some(code) = state.gap.filter(|_| way == Way::Sends) {
            withdraw(core, state, way, code, Op::sends_bytes);
            if code == ABORTED {
                // The program knows that something is missing, and may go on.
                state.gap = None;
            }
        }
        if !state.direction(way).advance() {
            return;
        }
        let completion = run(core, state, way);
        completion.into_iter().for_each(|c| core.announce(c));
    }
}

/// Has a receive go on that was paused.
fn resume(core: &Core, state: &mut State) {
    let paused = |op: &mut Box<Op>| std::mem::take(&mut op.paused);
    if state.receives.current.as_mut().is_some_and(paused) {
        start(core, state, Way::Receives);
    }
}

/// A datagram longer than its buffer fails the call, and yet a packet follows: to the kernel that
/// is a warning. It brings nothing new (not even the count, which is the room there was), and has
/// its block kept until it comes, so that no other operation gets that address meanwhile.
fn cut_at_once(state: &mut State) -> Option<Completion> {
    let op = state.receives.current.as_mut()?;
    let (code, bytes) = match &mut op.kind {
        Kind::Datagram(vec, _) | Kind::DatagramFrom(vec, _) => {
            let room = vec.capacity() - vec.len();
            *vec = filled(std::mem::take(vec), room);
            (WSAEMSGSIZE, room)
        }
        _ => (0, 0),
    };
    let block = op.take_block();
    state.strays.push_back(block);
    end(state, Way::Receives, code, bytes, None)
}

fn shuts_receives(op: &Op) -> bool {
    matches!(op.kind, Kind::Shutdown(Shutdown::Read | Shutdown::Both))
}

/// Ends a receive whose direction has just been shut down, with the end of the stream. The system
/// would let it wait on.
fn end_receives(state: &mut State) {
    state.receives_shut = true;
    let current = state.receives.current.as_ref().filter(|op| op.in_kernel);
    if let (Some(op), Some(system)) = (current, &state.system) {
        winsock::cancel(system, &op.block);
    }
}

/// One completion of several.
fn step(state: &mut State, data: Buffer) -> Option<Completion> {
    let op = state.receives.current.as_mut()?;
    let (id, kind) = (OperationId(op.id), op.completion_kind());
    let bytes = data.len();
    Some(op.ticket.step(id, kind, bytes, Payload::Buffer(data)))
}

/// Ends a direction's current operation and lets its final completion out, or holds it back.
pub(super) fn end(
    state: &mut State,
    way: Way,
    code: i32,
    bytes: usize,
    data: Option<Buffer>,
) -> Option<Completion> {
    let op = state.direction(way).current.take()?;
    if code != 0 && state.stream && op.sends_bytes() {
        state.gap = Some(code);
    }
    let mut completion = finished(op, code, bytes);
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        completion.payload = Payload::Buffer(data);
    }
    deliver(state, completion)
}

/// The final completion of an operation, with its memory.
pub(super) fn finished(mut op: Box<Op>, code: i32, bytes: usize) -> Completion {
    let (id, kind) = (OperationId(op.id), op.completion_kind());
    let ticket = std::mem::take(&mut op.ticket);
    ticket.finish(id, kind, code, bytes, Op::payload(op.take_kind()))
}

/// Hands a completion out, or holds it back while another of a serial handle is out.
pub(super) fn deliver(state: &mut State, completion: Completion) -> Option<Completion> {
    if may_go_out(&completion) {
        return Some(completion);
    }
    state.held.push(completion);
    None
}

/// Ends a direction's current operation, or asks for its end. Returns whether there is one.
pub(super) fn cancel_current(core: &Core, state: &mut State, way: Way) -> bool {
    let (system, direction) = state.parts(way);
    let Some(op) = &mut direction.current else {
        return false;
    };
    op.cancelled = true;
    match system.filter(|_| op.in_kernel) {
        Some(system) => winsock::cancel(system, &op.block),
        None if op.in_kernel => {}
        // Its report is just being worked off, and finds the flag.
        None if matches!(op.kind, Kind::FirstData(..)) => {}
        None => {
            let done = op.done;
            let completion = end(state, way, ABORTED, done, None);
            completion.into_iter().for_each(|c| core.announce(c));
            advance(core, state, way);
        }
    }
    true
}

/// Takes operations back that wait for their turn: they complete with a code.
pub(super) fn withdraw(
    core: &Core,
    state: &mut State,
    way: Way,
    code: i32,
    which: impl Fn(&Op) -> bool,
) -> usize {
    let withdrawn = state.direction(way).take_waiting(|op| which(op));
    let count = withdrawn.len();
    for op in withdrawn {
        let completion = deliver(state, finished(op, code, 0));
        completion.into_iter().for_each(|c| core.announce(c));
    }
    count
}

/// Lets the next held-back completion of a socket out. On a closed port nobody will take it: it
/// comes back, to be dropped once the socket is unlocked.
pub(super) fn next_turn(core: &Core, socket: &Arc<Socket>) -> Option<Completion> {
    let mut state = socket.state.lock();
    let (completion, left) = state.held.next()?;
    if core.is_closed() {
        return Some(completion);
    }
    core.announce(completion);
    if left == 0 {
        resume(core, &mut state);
    }
    None
}
