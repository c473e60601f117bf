//! What becomes of an operation when the kernel reports on it.

use io_uring::cqueue;

use super::accept;
use super::file;
use super::lane::{Lane, State, user_data};
use super::message::Messages;
use super::op::{Kind, NO_SOCKET, Op};
use super::receive;
use super::socket::Socket;
use crate::buffer::{Buffer, filled};
use crate::driver::ABORTED;
use crate::driver::direction::may_go_out;
use crate::driver::ticket::Ticket;
use crate::port::{Completion, Payload};

/// Works one entry of the completion queue off.
pub(super) fn process(lane: &Lane, state: &mut State, cqe: &cqueue::Entry) {
    let data = cqe.user_data();
    match user_data::tag(data) {
        user_data::OPERATION => {}
        user_data::RECEIVED => return receive::received(lane, state, cqe),
        user_data::CLOSED => return state.slots.give_back(user_data::index(data)),
        user_data::CANCEL if cqe.result() < 0 => return cancel_again(lane, state, data),
        _ => return,
    }
    let Some(key) = Lane::find(state, data) else {
        debug_assert!(false, "the kernel reports on an operation that is not ours");
        return;
    };
    let more = cqueue::more(cqe.flags());
    if !more {
        left_kernel(state, key);
    }
    let result = cqe.result();
    let op = &mut state.ops[key as usize];
    match &mut op.kind {
        Kind::ReceiveStream(_) => receive::noticed(lane, state, key, result),
        Kind::ReceiveOnce { .. } => receive::once(lane, state, key, result),
        Kind::Spent => {
            if !more {
                remove(lane, state, key);
            }
        }
        Kind::Send(_) | Kind::SendVectored(..) | Kind::SendTo(..) => sent(lane, state, key, result),
        Kind::SendZeroCopy(..) => sent_without_copying(lane, state, key, result, more),
        Kind::Receive(_) => received(lane, state, key, result, false),
        Kind::ReceiveDatagram(_, message) | Kind::ReceiveFrom(_, message) => {
            let truncated = message.truncated();
            received(lane, state, key, result, truncated)
        }
        Kind::SendFile(_) => file::sent(lane, state, key, result),
        Kind::File(_) => file::reported(lane, state, key, result),
        Kind::Connect(_) => connected(lane, state, key, result),
        Kind::Readable | Kind::Writable | Kind::Shutdown(_) => {
            if result >= 0 || !retried(lane, state, key, result) {
                end(lane, state, key, (-result).max(0), 0);
            }
        }
        Kind::SetOption(options) => {
            if result >= 0 && options.next() {
                again_or_abort(lane, state, key);
            } else {
                end(lane, state, key, (-result).max(0), 0);
            }
        }
        Kind::Install(answer) => {
            answer.set(result);
            remove(lane, state, key);
        }
        Kind::Accept(_) => accept::accepted(lane, state, key, result, more),
        Kind::FirstData(_) => accept::first_data(lane, state, key, result),
        Kind::Deadline(_, name) => {
            let name = *name;
            remove(lane, state, key);
            accept::deadline(lane, state, name, result);
        }
    }
}

/// A cancel found nothing, or found its operation at work. If the operation went back to waiting
/// since, as an accept does whose connection another one took, it is still to be ended.
fn cancel_again(lane: &Lane, state: &mut State, data: u64) {
    let Some(key) = Lane::find(state, data) else {
        return;
    };
    let op = &state.ops[key as usize];
    // A notification cannot be cancelled, nor a file's operation that has begun.
    let notifies = matches!(op.kind, Kind::SendZeroCopy(_, Some(_)));
    let waits = op.in_kernel && !notifies && !file::is_at_work(&op.kind);
    if waits && op.cancelled {
        lane.push_cancel(state, key, true);
    }
}

/// The kernel is done with the operation, at least for now.
fn left_kernel(state: &mut State, key: u32) {
    let op = &mut state.ops[key as usize];
    let counted = !matches!(op.kind, Kind::SendZeroCopy(_, Some(_)));
    if std::mem::take(&mut op.in_kernel) && counted {
        if let Some(socket) = state.sockets.get_mut(op.socket as usize) {
            socket.in_kernel -= 1;
        }
    }
}

/// Attempts in vain before an error is taken for what it says: a bad address, for one, may be the
/// program's own memory, of a file that has been cut short.
const MOST_RETRIES: u8 = 3;

/// Submits an operation again that failed for no reason of its own: interrupted, or ended by the
/// kernel because the thread that submitted it is gone (io_uring_prep_cancel(3) names ECANCELED;
/// a retry on behalf of such a thread fails with EFAULT, liburing #1595).
pub(super) fn retried(lane: &Lane, state: &mut State, key: u32, result: i32) -> bool {
    let op = &mut state.ops[key as usize];
    let spurious = match -result {
        libc::ECANCELED | libc::EINTR => true,
        libc::EFAULT | libc::EAGAIN => {
            op.retries += 1;
            op.retries <= MOST_RETRIES
        }
        _ => false,
    };
    let again = spurious && !op.cancelled && !state.closed;
    if again {
        lane.start(state, key, true);
    }
    again
}

/// A failure as its code: what was asked to end is aborted, whatever the kernel calls it.
pub(super) fn code(op: &Op, result: i32) -> i32 {
    match -result {
        libc::EINTR | libc::EAGAIN if op.cancelled => ABORTED,
        code => code,
    }
}

/// Goes on with an operation whose last report left it without the kernel, unless it is to end.
pub(super) fn again_or_abort(lane: &Lane, state: &mut State, key: u32) {
    if state.ops[key as usize].cancelled || state.closed {
        return end(lane, state, key, ABORTED, 0);
    }
    lane.start(state, key, true);
}

fn received(lane: &Lane, state: &mut State, key: u32, result: i32, truncated: bool) {
    if result < 0 {
        if retried(lane, state, key, result) {
            return;
        }
        let code = code(&state.ops[key as usize], result);
        return end(lane, state, key, code, 0);
    }
    let bytes = result as usize;
    match &mut state.ops[key as usize].kind {
        Kind::Receive(buffer) | Kind::ReceiveDatagram(buffer, _) | Kind::ReceiveFrom(buffer, _) => {
            *buffer = filled(std::mem::take(buffer), bytes);
        }
        _ => {}
    }
    let code = if truncated { libc::EMSGSIZE } else { 0 };
    end(lane, state, key, code, bytes);
}

/// The first report brings the result; when more follow, a later one says that the memory is free.
fn sent_without_copying(lane: &Lane, state: &mut State, key: u32, result: i32, more: bool) {
    let op = &mut state.ops[key as usize];
    let Kind::SendZeroCopy(buffer, known) = &mut op.kind else {
        return;
    };
    if more {
        if known.replace(result).is_none() {
            // What is left depends on the peer, and must not keep the socket from being closed.
            state.sockets[op.socket as usize].in_kernel -= 1;
            close_if_due(lane, state, key);
        }
        return;
    }
    let result = known.take().unwrap_or(result);
    // Sockets without the facility, and memory that cannot be locked, take copies.
    let refused = [libc::EOPNOTSUPP, libc::ENOMEM, libc::ENOBUFS].contains(&-result);
    if refused && !op.cancelled && !state.closed {
        op.kind = Kind::Send(std::mem::take(buffer));
        lane.start(state, key, true);
        return;
    }
    sent(lane, state, key, result);
}

/// Closes the operation's socket if that was waited for.
fn close_if_due(lane: &Lane, state: &mut State, key: u32) {
    let index = state.ops[key as usize].socket;
    let socket = &state.sockets[index as usize];
    if (socket.closing || state.closed) && socket.in_kernel == 0 {
        lane.reset_if_unacknowledged(state, index, true);
        lane.close_now(state, index, true);
    }
}

fn sent(lane: &Lane, state: &mut State, key: u32, result: i32) {
    let op = &mut state.ops[key as usize];
    if result < 0 {
        if !retried(lane, state, key, result) {
            let code = code(&state.ops[key as usize], result);
            end_broken(lane, state, key, code);
        }
        return;
    }
    op.retries = 0;
    op.done += result as usize;
    let done = op.done;
    if done >= op.kind.length() || result == 0 {
        end(lane, state, key, 0, done);
    } else if op.cancelled || state.closed {
        end_broken(lane, state, key, ABORTED);
    } else {
        lane.start(state, key, true);
    }
}

/// Ends a send of which not all has gone, and on a stream the sends queued behind it with the same
/// code: nothing may follow a gap. A failure breaks the socket for later sends as well; after a
/// cancel the program, which knows how much has gone, may go on.
pub(super) fn end_broken(lane: &Lane, state: &mut State, key: u32, code: i32) {
    let State { ops, sockets, .. } = state;
    let op = &ops[key as usize];
    let done = op.done;
    let socket = &mut sockets[op.socket as usize];
    let mut behind = Vec::new();
    if !socket.kind.datagram && (code != ABORTED || done > 0) {
        socket.broken = Some(code).filter(|&code| code != ABORTED);
        behind = socket
            .sends
            .take_waiting(|&key| ops[key as usize].kind.sends_bytes());
    }
    end(lane, state, key, code, done);
    for key in behind {
        finish(lane, state, key, code);
    }
}

fn connected(lane: &Lane, state: &mut State, key: u32, result: i32) {
    let op = &mut state.ops[key as usize];
    let Kind::Connect(connect) = &mut op.kind else {
        return;
    };
    let ending = op.cancelled || state.closed;
    match -result {
        // The wait for an earlier attempt is over: ask for its outcome.
        ..=0 if connect.again => {
            connect.again = false;
            again_or_abort(lane, state, key);
        }
        libc::EISCONN if connect.retried => connection_made(lane, state, key),
        ..=0 => connection_made(lane, state, key),
        libc::ECANCELED | libc::EINTR | libc::EALREADY if !ending => {
            connect.again = true;
            connect.retried = true;
            lane.start(state, key, true);
        }
        code => end(lane, state, key, code, 0),
    }
}

/// What sends failed with before there was a connection is nothing to those that follow.
fn connection_made(lane: &Lane, state: &mut State, key: u32) {
    let socket = state.ops[key as usize].socket;
    state.sockets[socket as usize].broken = None;
    end(lane, state, key, 0, 0);
}

/// Gives out one completion of several.
pub(super) fn step(lane: &Lane, state: &mut State, key: u32, data: Buffer) {
    let op = &mut state.ops[key as usize];
    let id = lane.id(op, key);
    let kind = op.kind.completion_kind();
    let bytes = data.len();
    let completion = op.ticket.step(id, kind, bytes, Payload::Buffer(data));
    deliver(state, completion);
}

/// Ends an operation with its final completion, which brings its memory.
pub(super) fn end(lane: &Lane, state: &mut State, key: u32, code: i32, bytes: usize) {
    end_with(lane, state, key, code, bytes, Kind::payload);
}

/// As `end`, where the completion may bring something else.
#[inline]
pub(super) fn end_with(
    lane: &Lane,
    state: &mut State,
    key: u32,
    code: i32,
    bytes: usize,
    payload: impl FnOnce(Kind, &mut Messages) -> Payload,
) {
    let op = remove(lane, state, key);
    let id = lane.id(&op, key);
    let kind = op.kind.completion_kind();
    let payload = match op.kind {
        Kind::SendFile(send) => {
            lane.let_go_of_file(state, send.into_file(), true);
            Payload::None
        }
        kind => payload(kind, &mut state.messages),
    };
    deliver(state, op.ticket.finish(id, kind, code, bytes, payload));
}

/// As `end`, of an operation that tells itself how many bytes it moved.
pub(super) fn finish(lane: &Lane, state: &mut State, key: u32, code: i32) {
    let done = state.ops[key as usize].done;
    end(lane, state, key, code, done);
}

/// Hands a completion out, or holds it back while another of a serial handle is out.
#[inline]
fn deliver(state: &mut State, completion: Completion) {
    match may_go_out(&completion) {
        true => state.outbox.push(completion),
        false => hold(state, completion),
    }
}

#[cold]
fn hold(state: &mut State, completion: Completion) {
    if let Some(handle) = &completion.handle {
        let index = handle.socket().index as usize;
        state.sockets[index].held.push(completion);
    }
}

/// Takes all operations of a socket back that wait for their turn. Returns how many.
pub(super) fn withdraw_all(lane: &Lane, state: &mut State, socket: u32) -> usize {
    let entry = &mut state.sockets[socket as usize];
    let waiting: Vec<u32> = entry
        .receives
        .waiting
        .take()
        .chain(entry.sends.waiting.take())
        .collect();
    for &key in &waiting {
        finish(lane, state, key, ABORTED);
    }
    waiting.len()
}

/// Ends an operation: at once, if the kernel has no memory of it.
pub(super) fn cancel(lane: &Lane, state: &mut State, key: u32, worker: bool) {
    let op = &mut state.ops[key as usize];
    match &op.kind {
        // What it is receiving is there in a moment, and not to be lost.
        Kind::ReceiveStream(stream) if stream.is_receiving() => op.cancelled = true,
        Kind::ReceiveStream(_) => withdraw(lane, state, key),
        _ if op.in_kernel => lane.cancel_in_kernel(state, key, worker),
        _ => withdraw(lane, state, key),
    }
}

/// Takes an operation back that waits for its turn: it completes as aborted.
pub(super) fn withdraw(lane: &Lane, state: &mut State, key: u32) {
    let op = &state.ops[key as usize];
    if let Some(socket) = state.sockets.get_mut(op.socket as usize) {
        socket.receives.waiting.retain(|&waiting| waiting != key);
        socket.sends.waiting.retain(|&waiting| waiting != key);
    }
    finish(lane, state, key, ABORTED);
}

/// Takes a finished operation out of the table, lets the next of its direction go, and closes the
/// socket if that was waited for.
pub(super) fn remove(lane: &Lane, state: &mut State, key: u32) -> Op {
    let op = match state.ops[key as usize].in_kernel {
        false => state.ops.remove(key as usize),
        true => remove_from_kernel(lane, state, key),
    };
    let Some(socket) = state.sockets.get_mut(op.socket as usize) else {
        return op;
    };
    if let Some(next) = next_of(socket, &op, key) {
        lane.start(state, next, true);
    } else if socket.closing && socket.in_kernel == 0 {
        lane.close_now(state, op.socket, true);
    }
    op
}

fn remove_from_kernel(lane: &Lane, state: &mut State, key: u32) -> Op {
    left_kernel(state, key);
    match state.ops[key as usize].kind {
        Kind::ReceiveStream(_) => retire(lane, state, key),
        _ => state.ops.remove(key as usize),
    }
}

/// Takes a stream of receives out of the table that leaves its poll with the kernel: the poll is
/// told to end, uses none of our memory, and is nobody's concern any more.
fn retire(lane: &Lane, state: &mut State, key: u32) -> Op {
    let op = &mut state.ops[key as usize];
    let mut spent = Op::new(op.generation, Kind::Spent, NO_SOCKET, Ticket::default());
    spent.in_kernel = true;
    let op = std::mem::replace(op, spent);
    lane.cancel_in_kernel(state, key, true);
    op
}

fn next_of(socket: &mut Socket, op: &Op, key: u32) -> Option<u32> {
    let direction = match op.kind.is_send() {
        true => &mut socket.sends,
        false if op.kind.is_receive() => &mut socket.receives,
        false => return None,
    };
    direction.leave(key)
}

/// Lets the next held-back completion of a socket out. On a closed lane nobody will take it: it
/// comes back, to be dropped once the lane is unlocked.
pub(super) fn next_turn(lane: &Lane, state: &mut State, socket: u32) -> Option<Completion> {
    let entry = state.sockets.get_mut(socket as usize)?;
    let (completion, left) = entry.held.next()?;
    if state.closed {
        return Some(completion);
    }
    state.outbox.push(completion);
    if left == 0 {
        receive::resume(lane, state, socket);
    }
    None
}
