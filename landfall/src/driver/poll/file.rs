//! Files: operations on them, which are done at once, and ranges of them that are sent.
//!
//! A range is read into memory of ours, which may have to wait for the disk, and is done with the
//! lane unlocked; and sent from there, which never waits. `sendfile` would do both in one call, with
//! no flag against waiting for the socket, nor for the disk, nor against `SIGPIPE`.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::complete;
use super::lane::{Lane, State};
use super::op::{self, Kind, MOST_AT_ONCE, code_of};
use crate::buffer::filled;
use crate::driver::Submitted;
use crate::driver::file::{FileOp, FileRange, Piece};
use crate::driver::refusal::{self, closed};
use crate::driver::ticket::Ticket;
use crate::port::{Handle, Operation, SubmitError};

/// Bytes moved by one call at most: some systems take no more than an `i32` holds.
const MOST_BYTES: usize = 0x7fff_f000;

/// Does an operation on a file, however long that takes, with no lane locked. No system tells when
/// a disk is ready, so somebody has to wait: here the thread that asks, which is in user code, so
/// that the watcher sees it blocked.
pub(super) fn submit(
    lanes: &[Lane],
    lane: &Lane,
    file: &File,
    handle: &Handle,
    operation: Operation,
    token: usize,
) -> Result<Submitted, SubmitError> {
    let index = handle.socket().index;
    let refused = {
        let state = lane.state.lock();
        match () {
            () if state.closed || state.sockets[index as usize].closing => Some(closed()),
            () if !state.has_room() => Some(refusal::too_many()),
            () => refusal::check_file(&operation).err(),
        }
    };
    if let Some(error) = refused {
        return Err(SubmitError { error, operation });
    }
    let mut op = FileOp::of(operation);
    let (code, bytes) = perform(&mut op, file);
    let id = lane.locked(lanes, |state| {
        let ticket = Ticket::new(Some(handle.clone()), token);
        let key = state.insert(Kind::File(op), index, ticket);
        state.ops[key as usize].done = bytes;
        let id = lane.id(state, key);
        complete::finish(lane, state, key, code);
        id
    });
    Ok(Submitted {
        id,
        lanes: 1 << lane.index,
    })
}

/// Returns the system's code, and the bytes that were moved.
fn perform(op: &mut FileOp, file: &File) -> (i32, usize) {
    match op {
        FileOp::Read { offset, vec } => match read_at(file, vec.spare_capacity_mut(), *offset) {
            Ok(bytes) => {
                *vec = filled(std::mem::take(vec), bytes);
                (0, bytes)
            }
            Err(code) => (code, 0),
        },
        FileOp::Write { offset, buffer } => write_all(file, buffer, *offset),
        FileOp::Sync { all: true } => (code_of(file.sync_all()), 0),
        FileOp::Sync { all: false } => (code_of(file.sync_data()), 0),
    }
}

/// Reads once. Returns how many bytes there were, or the system's code.
fn read_at(file: &File, room: &mut [MaybeUninit<u8>], offset: u64) -> Result<usize, i32> {
    let length = room.len().min(MOST_BYTES);
    loop {
        match rustix::io::pread(file, &mut room[..length], offset) {
            Ok((read, _)) => return Ok(read.len()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.raw_os_error()),
        }
    }
}

fn write_all(file: &File, bytes: &[u8], offset: u64) -> (i32, usize) {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &bytes[done..];
        let rest = &rest[..rest.len().min(MOST_BYTES)];
        match rustix::io::pwrite(file, rest, offset + done as u64) {
            // Takes nothing and does not say why.
            Ok(0) => return (libc::EIO, done),
            Ok(written) => done += written,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return (error.raw_os_error(), done),
        }
    }
    (0, done)
}

/// A range of a file on its way to a socket.
pub(super) struct SendFile {
    range: FileRange,
    piece: Piece,
    /// The next piece is among the lane's reads, or is being read.
    reading: bool,
    /// What reading has failed with.
    failed: Option<i32>,
}

impl SendFile {
    pub(super) fn new(range: FileRange) -> Box<Self> {
        Box::new(SendFile {
            range,
            piece: Piece::default(),
            reading: false,
            failed: None,
        })
    }

    /// To be closed with the lane unlocked, if nobody else has it.
    pub(super) fn into_file(self) -> Arc<File> {
        self.range.file
    }

    /// How many bytes there are, unless the file ends before.
    pub(super) fn length(&self) -> usize {
        self.range.length()
    }

    /// Whether there is nothing to send before more has been read.
    pub(super) fn waits_for_bytes(&self, done: usize) -> bool {
        done < self.range.length() && self.piece.rest().is_empty() && self.failed.is_none()
    }

    /// Whether nobody reads the next piece yet. From now on somebody does.
    pub(super) fn begin_reading(&mut self) -> bool {
        !std::mem::replace(&mut self.reading, true)
    }

    /// Tries to send from the piece. Returns the bytes that went, and whether the socket may take
    /// more.
    pub(super) fn send(&mut self, socket: &OwnedFd) -> io::Result<(usize, bool)> {
        if let Some(code) = self.failed {
            return Err(io::Error::from_raw_os_error(code));
        }
        let rest = self.piece.rest();
        let rest = &rest[..rest.len().min(MOST_AT_ONCE)];
        if rest.is_empty() {
            return Ok((0, true));
        }
        let sent = op::send(socket, rest);
        let all = sent.as_ref().is_ok_and(|&sent| sent == rest.len());
        self.piece.went(*sent.as_ref().unwrap_or(&0));
        if !all {
            self.piece.let_go();
        }
        Ok((sent?, all))
    }
}

/// A piece that somebody reads, with no lane locked.
pub(super) struct Read {
    /// Of the operation.
    name: u64,
    file: Arc<File>,
    position: u64,
    left: usize,
    piece: Piece,
}

/// What came of it.
pub(super) struct HasRead {
    name: u64,
    piece: Piece,
    result: Result<usize, i32>,
}

impl Read {
    /// The one whose turn it is.
    pub(super) fn next(state: &mut State) -> Option<Self> {
        while let Some(name) = state.reads.pop_front() {
            // Otherwise it has been cancelled.
            let Some(key) = state.find(name) else {
                continue;
            };
            let op = &mut state.ops[key as usize];
            if let Kind::SendFile(send) = &mut op.kind {
                return Some(Read {
                    name,
                    file: send.range.file.clone(),
                    position: send.range.position(op.done),
                    left: send.range.length() - op.done,
                    piece: std::mem::take(&mut send.piece),
                });
            }
        }
        None
    }

    /// Takes as long as the disk does.
    pub(super) fn carry_out(mut self) -> HasRead {
        let result = read_at(&self.file, self.piece.room(self.left), self.position);
        HasRead {
            name: self.name,
            piece: self.piece,
            result,
        }
    }
}

impl HasRead {
    /// Goes on with the operation, unless it has been cancelled meanwhile.
    pub(super) fn apply(self, lane: &Lane, state: &mut State) {
        let Some(key) = state.find(self.name) else {
            return;
        };
        let op = &mut state.ops[key as usize];
        let Kind::SendFile(send) = &mut op.kind else {
            return;
        };
        send.reading = false;
        send.piece = self.piece;
        match self.result {
            Ok(0) => send.range.ends_after(op.done),
            Ok(bytes) => send.piece.filled(bytes),
            Err(code) => send.failed = Some(code),
        }
        let socket = op.socket;
        complete::send(lane, state, socket);
    }
}
