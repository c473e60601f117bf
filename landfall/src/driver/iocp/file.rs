//! Files: operations on them, and ranges of them that are sent.

use std::fs::File;
use std::io;
use std::os::windows::io::AsRawHandle;
use std::ptr::null_mut;
use std::sync::Arc;

use parking_lot::MutexGuard;
use socket2::Socket as SystemSocket;
use windows_sys::Win32::Foundation::{
    ERROR_HANDLE_EOF, ERROR_INVALID_PARAMETER, ERROR_IO_PENDING, ERROR_WRITE_FAULT, GetLastError,
};
use windows_sys::Win32::Storage::FileSystem::{ReadFile, WriteFile};
use windows_sys::Win32::System::IO::CancelIoEx;

use super::complete::{deliver, finished};
use super::op::{Begun, Kind, MOST_BYTES, Op};
use super::socket::State;
use super::winsock::{Block, Extensions};
use super::{Core, code, submitted};
use crate::buffer::filled;
use crate::driver::file::{FileOp, FileRange};
use crate::driver::{ABORTED, SocketRef, Submitted};
use crate::port::{Completion, Handle, Operation};

/// Bytes that one call on a file is given at most; what is left of a write goes in the next.
const MOST_AT_ONCE: usize = 1 << 30;

/// Takes a file over. Operations on one that was not opened for it would not end by packets, and
/// so the kernel refuses it.
pub(super) fn attach(core: &Core, file: Arc<File>) -> io::Result<SocketRef> {
    let entry = core.sockets.insert_file(file.clone());
    match core.queue.associate_file(&file, entry.name) {
        Ok(()) => Ok(entry.reference()),
        Err(error) => {
            core.sockets.remove(entry.reference().index);
            Err(explain(error))
        }
    }
}

fn explain(error: io::Error) -> io::Error {
    if error.raw_os_error() != Some(ERROR_INVALID_PARAMETER as i32) {
        return error;
    }
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "the file was not opened with FILE_FLAG_OVERLAPPED, or belongs to a port already; open it \
         with landfall::fs::options(), once for each port",
    )
}

/// Begins an operation on a file, which nothing has to wait for.
pub(super) fn submit(
    core: &Core,
    mut state: MutexGuard<'_, State>,
    file: &File,
    handle: &Handle,
    operation: Operation,
    token: usize,
) -> Submitted {
    let kind = Kind::File(FileOp::of(operation));
    let id = core.next_id();
    let op = Op::new(id, kind, token, Some(handle.clone()));
    let completion = match op.kind {
        Kind::File(FileOp::Sync { all }) => {
            // There is no overlapped form of it.
            let code = MutexGuard::unlocked(&mut state, || store(file, all));
            if core.is_closed() {
                // Nobody takes it any more, and whoever closes may have been here.
                drop(state);
                drop(finished(op, code, 0));
                return submitted(id);
            }
            deliver(&mut state, finished(op, code, 0))
        }
        _ => run(core, &mut state, op),
    };
    completion.into_iter().for_each(|c| core.announce(c));
    submitted(id)
}

fn store(file: &File, all: bool) -> i32 {
    let stored = match all {
        true => file.sync_all(),
        false => file.sync_data(),
    };
    stored.err().map_or(0, |error| code::of(&error))
}

/// Hands an operation, or what is left of it, to the kernel. Returns its completion if it is over.
fn run(core: &Core, state: &mut State, mut op: Box<Op>) -> Option<Completion> {
    let Some(file) = state.file.clone() else {
        let done = op.done;
        return deliver(state, finished(op, ABORTED, done));
    };
    // As for sockets: its packet may be taken before the call returns, by a thread that then waits
    // for the lock that is held here.
    op.in_kernel = true;
    core.into_kernel();
    match begin(&mut op, &file) {
        Ok(()) => {
            state.file_ops.push(op);
            None
        }
        Err(code) => {
            op.in_kernel = false;
            core.out_of_kernel();
            let done = op.done;
            deliver(state, finished(op, at_the_end(code), done))
        }
    }
}

/// A read at the end of a file brings nothing, as everywhere else.
fn at_the_end(code: i32) -> i32 {
    match code {
        code if code == ERROR_HANDLE_EOF as i32 => 0,
        code => code,
    }
}

fn begin(op: &mut Op, file: &File) -> Result<(), i32> {
    let Op {
        block, done, kind, ..
    } = op;
    match kind {
        Kind::File(FileOp::Read { offset, vec }) => {
            let spare = vec.spare_capacity_mut();
            let length = spare.len().min(MOST_AT_ONCE) as u32;
            let memory = spare.as_mut_ptr().cast();
            // SAFETY: the operation owns the vector and the block, and touches neither until its
            // packet has been taken.
            started(unsafe {
                ReadFile(
                    file.as_raw_handle(),
                    memory,
                    length,
                    null_mut(),
                    block.at(*offset),
                )
            })
        }
        Kind::File(FileOp::Write { offset, buffer }) => {
            let rest = &buffer[*done..];
            let length = rest.len().min(MOST_AT_ONCE) as u32;
            // SAFETY: the operation owns the buffer and the block until its packet has been taken,
            // and what it writes lies behind a further pointer, so that it stays where it is.
            started(unsafe {
                WriteFile(
                    file.as_raw_handle(),
                    rest.as_ptr(),
                    length,
                    null_mut(),
                    block.at(*offset + *done as u64),
                )
            })
        }
        _ => Err(ABORTED),
    }
}

/// What a call that returns other than 0 for success has started. A packet follows at once, too.
fn started(result: i32) -> Result<(), i32> {
    if result != 0 {
        return Ok(());
    }
    // SAFETY: reads a number of the calling thread's.
    match unsafe { GetLastError() } {
        ERROR_IO_PENDING => Ok(()),
        code => Err(code as i32),
    }
}

/// The operation on a file that has this block.
pub(super) fn place_of(state: &State, block: usize) -> Option<usize> {
    let has = |op: &Box<Op>| op.block.address() == block;
    state.file_ops.iter().position(has)
}

/// The kernel is done with an operation on a file, or a part of one.
pub(super) fn reported(
    core: &Core,
    state: &mut State,
    place: usize,
    code: i32,
    bytes: usize,
) -> Option<Completion> {
    let mut op = state.file_ops.swap_remove(place);
    op.in_kernel = false;
    let mut code = at_the_end(code);
    let bytes = if code == 0 { bytes } else { 0 };
    op.done += bytes;
    let done = op.done;
    let left = match &mut op.kind {
        Kind::File(FileOp::Read { vec, .. }) => {
            *vec = filled(std::mem::take(vec), bytes);
            0
        }
        Kind::File(FileOp::Write { buffer, .. }) => buffer.len() - done,
        _ => 0,
    };
    if code == 0 && left > 0 {
        match bytes {
            // Takes nothing and does not say why.
            0 => code = ERROR_WRITE_FAULT as i32,
            _ if op.cancelled || state.closing => code = ABORTED,
            _ => return run(core, state, op),
        }
    }
    deliver(state, finished(op, code, done))
}

/// Asks for the end of operations on a file. Returns how many there are.
pub(super) fn cancel(state: &mut State, which: impl Fn(&Op) -> bool) -> usize {
    let State { file, file_ops, .. } = state;
    let mut count = 0;
    for op in file_ops.iter_mut().filter(|op| which(op)) {
        op.cancelled = true;
        count += 1;
        if let Some(file) = file {
            // SAFETY: the pointer is only compared with those of pending operations.
            unsafe { CancelIoEx(file.as_raw_handle(), op.block.pointer()) };
        }
    }
    count
}

/// Hands the next piece of a range to the kernel, which sends it without our seeing it.
pub(super) fn transmit(
    socket: &SystemSocket,
    range: &mut FileRange,
    done: usize,
    extensions: &Extensions,
    block: &mut Block,
) -> Result<Begun, i32> {
    // The call fails if the file ends before the piece.
    let end = range
        .file
        .metadata()
        .map_err(|error| code::of(&error))?
        .len();
    let there = end.saturating_sub(range.position(done));
    let piece = MOST_BYTES.min(range.length() - done) as u64;
    let piece = piece.min(there) as u32;
    if piece == 0 {
        range.ends_after(done);
        return Ok(Begun::Done);
    }
    let offset = range.position(done);
    // SAFETY: the operation keeps the file open and owns the block until its packet has been taken.
    unsafe { extensions.transmit(socket, &range.file, offset, piece, block)? };
    Ok(Begun::Pending)
}
