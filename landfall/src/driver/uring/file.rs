//! Files: operations on them, and ranges of them that are sent.
//!
//! The ring has no `sendfile`. Its `splice` always goes to a kernel thread, twice a piece (into a
//! pipe and out of it), and a socket that takes nothing would hold that thread. So a piece is read
//! into memory of ours and sent from there; `docs/decisions/0005-files.md` has the figures.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use super::complete::{code, end, end_broken, retried};
use super::lane::{Lane, State};
use super::op::{Kind, spare_length};
use super::socket::{Place, Target};
use crate::buffer::filled;
use crate::driver::ABORTED;
use crate::driver::file::{FileOp, FileRange, Piece};

impl FileOp {
    /// The entry that hands the operation to the kernel, or what is left of it after `done` bytes.
    pub(super) fn entry(&mut self, fd: types::Fd, done: usize) -> Entry {
        match self {
            FileOp::Read { offset, vec } => {
                let spare = vec.spare_capacity_mut();
                opcode::Read::new(fd, spare.as_mut_ptr().cast(), spare_length(spare.len()))
                    .offset(*offset)
                    .build()
            }
            FileOp::Write { offset, buffer } => {
                let rest = &buffer[done..];
                opcode::Write::new(fd, rest.as_ptr(), spare_length(rest.len()))
                    .offset(*offset + done as u64)
                    .build()
            }
            FileOp::Sync { all } => {
                let flags = match all {
                    true => types::FsyncFlags::empty(),
                    false => types::FsyncFlags::DATASYNC,
                };
                opcode::Fsync::new(fd).flags(flags).build()
            }
        }
    }
}

/// The kernel is done with an operation on a file.
pub(super) fn reported(lane: &Lane, state: &mut State, key: u32, result: i32) {
    if result < 0 {
        if retried(lane, state, key, result) {
            return;
        }
        let op = &state.ops[key as usize];
        let (code, done) = (code(op, result), op.done);
        return end(lane, state, key, code, done);
    }
    let bytes = result as usize;
    let op = &mut state.ops[key as usize];
    op.retries = 0;
    op.done += bytes;
    let done = op.done;
    let Kind::File(file) = &mut op.kind else {
        return;
    };
    let left = match file {
        FileOp::Read { vec, .. } => {
            *vec = filled(std::mem::take(vec), bytes);
            0
        }
        FileOp::Write { buffer, .. } => buffer.len() - done,
        FileOp::Sync { .. } => 0,
    };
    match (left, bytes) {
        (0, _) => end(lane, state, key, 0, done),
        // Takes nothing and does not say why.
        (_, 0) => end(lane, state, key, libc::EIO, done),
        _ if op.cancelled || state.closed => end(lane, state, key, ABORTED, done),
        _ => lane.start(state, key, true),
    }
}

/// Whether the kernel is moving bytes of a file, or shuts a socket down: that ends by itself and cannot be
/// cancelled.
pub(super) fn is_at_work(kind: &Kind) -> bool {
    match kind {
        Kind::File(_) | Kind::Shutdown(_) => true,
        Kind::SendFile(send) => matches!(send.stage, Stage::Read),
        _ => false,
    }
}

/// Asks for the end of a file's operations. Returns how many there are.
pub(super) fn cancel_all(lane: &Lane, state: &mut State, index: u32, worker: bool) -> usize {
    let entry = &state.sockets[index as usize];
    if !matches!(entry.place, Place::File(_)) || entry.in_kernel == 0 {
        return 0;
    }
    let ops = state.ops.iter().filter(|(_, op)| op.socket == index);
    let keys: Vec<u32> = ops.map(|(key, _)| key as u32).collect();
    for &key in &keys {
        lane.cancel_in_kernel(state, key, worker);
    }
    keys.len()
}

/// A range of a file on its way to a socket.
pub(super) struct SendFile {
    range: FileRange,
    stage: Stage,
    piece: Piece,
}

enum Stage {
    /// The next piece is read,
    Read,
    /// and sent.
    Send,
    /// The socket takes nothing: wait until it does, then read again what is left of the piece.
    Wait,
}

impl SendFile {
    pub(super) fn new(range: FileRange) -> Box<Self> {
        Box::new(SendFile {
            range,
            stage: Stage::Read,
            piece: Piece::default(),
        })
    }

    /// To be closed by the kernel, if nobody else has it.
    pub(super) fn into_file(self) -> Arc<File> {
        self.range.file
    }

    pub(super) fn entry(&mut self, socket: Target, done: usize) -> Entry {
        let fd = types::Fd(socket.number);
        match self.stage {
            Stage::Read => {
                let room = self.piece.room(self.range.length() - done);
                let file = types::Fd(self.range.file.as_raw_fd());
                opcode::Read::new(file, room.as_mut_ptr().cast(), room.len() as u32)
                    .offset(self.range.position(done))
                    .build()
            }
            Stage::Send => {
                let rest = self.piece.rest();
                let send = opcode::Send::new(fd, rest.as_ptr(), spare_length(rest.len()));
                let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
                socket.apply(send.flags(flags).build())
            }
            Stage::Wait => socket.apply(opcode::PollAdd::new(fd, libc::POLLOUT as u32).build()),
        }
    }

    /// So many bytes of the piece have gone.
    fn went(&mut self, bytes: usize) {
        self.piece.went(bytes);
        self.stage = match self.piece.rest() {
            [] => Stage::Read,
            _ => {
                self.piece.let_go();
                Stage::Wait
            }
        };
    }
}

/// The kernel has read or sent a piece, or the socket takes bytes again.
pub(super) fn sent(lane: &Lane, state: &mut State, key: u32, result: i32) {
    let ending = state.ops[key as usize].cancelled || state.closed;
    let op = &mut state.ops[key as usize];
    let Kind::SendFile(send) = &mut op.kind else {
        return;
    };
    let full = matches!(send.stage, Stage::Send) && result == -libc::EAGAIN;
    if result < 0 && !full {
        if retried(lane, state, key, result) {
            return;
        }
        let code = code(&state.ops[key as usize], result);
        return end_broken(lane, state, key, code);
    }
    op.retries = 0;
    let bytes = result.max(0) as usize;
    match send.stage {
        Stage::Read if bytes == 0 => send.range.ends_after(op.done),
        Stage::Read => {
            send.piece.filled(bytes);
            send.stage = Stage::Send;
        }
        Stage::Send => {
            op.done += bytes;
            send.went(bytes);
        }
        Stage::Wait => send.stage = Stage::Read,
    }
    let done = op.done;
    if done == send.range.length() {
        end(lane, state, key, 0, done);
    } else if ending {
        end_broken(lane, state, key, ABORTED);
    } else {
        lane.start(state, key, true);
    }
}
