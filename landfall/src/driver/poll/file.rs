//! Files: operations on them, which are done at once, and ranges of them that are sent.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use socket2::SockRef;

use super::complete;
use super::lane::Lane;
use super::op::{Kind, Op, SEND_FLAGS, code_of};
use crate::buffer::filled;
use crate::driver::Submitted;
use crate::driver::file::{FileOp, FileRange};
use crate::driver::refusal::{self, closed};
use crate::port::{Handle, Operation, SubmitError};

/// Bytes moved by one call at most: some systems take no more than an `i32` holds.
const MOST_BYTES: usize = 0x7fff_f000;

/// Bytes copied at a time where the system does not send from files by itself.
const COPIED: usize = 64 * 1024;

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
            () => None,
        }
    };
    if let Some(error) = refused {
        return Err(SubmitError { error, operation });
    }
    let mut op = FileOp::of(operation)?;
    let (code, bytes) = perform(&mut op, file);
    let id = lane.locked(lanes, |state| {
        let op = Op::new(Kind::File(op), index, token, Some(handle.clone()));
        let key = state.insert(op);
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
        FileOp::Read { offset, vec } => loop {
            let spare = vec.spare_capacity_mut();
            let length = spare.len().min(MOST_BYTES);
            match rustix::io::pread(file, &mut spare[..length], *offset) {
                Ok((read, _)) => {
                    let bytes = read.len();
                    *vec = filled(std::mem::take(vec), bytes);
                    return (0, bytes);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return (error.raw_os_error(), 0),
            }
        },
        FileOp::Write { offset, buffer } => write_all(file, buffer, *offset),
        FileOp::Sync { all: true } => (code_of(file.sync_all()), 0),
        FileOp::Sync { all: false } => (code_of(file.sync_data()), 0),
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

/// Tries to send what follows the first `done` bytes of a range, `most` at most. Returns the bytes
/// that went, and whether the socket may take more.
///
/// Where the file ends before the range, that becomes its end. A piece that comes back short is
/// either that or a full socket; asking once more tells.
pub(super) fn send(
    socket: &OwnedFd,
    range: &mut FileRange,
    done: usize,
    most: usize,
) -> io::Result<(usize, bool)> {
    let most = most.min(range.length() - done);
    let mut sent = 0;
    while sent < most {
        let position = range.position(done + sent);
        match send_piece(socket, &range.file, position, most - sent) {
            Ok(0) => {
                range.ends_after(done + sent);
                break;
            }
            Ok(bytes) => sent += bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && sent > 0 => {
                return Ok((sent, false));
            }
            // Seen again by the next attempt.
            Err(_) if sent > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok((sent, true))
}

/// Inside the kernel. That call has no flag that says that it must not wait, only the socket has.
#[cfg(target_os = "linux")]
fn send_piece(socket: &OwnedFd, file: &File, position: u64, most: usize) -> io::Result<usize> {
    let mut offset = position;
    let system = SockRef::from(socket);
    system.set_nonblocking(true)?;
    let sent = rustix::fs::sendfile(socket, file, Some(&mut offset), most);
    // The program may have a descriptor of this socket, and expects it to block.
    system.set_nonblocking(false)?;
    match sent {
        // A file system that cannot lend its pages, or a socket that cannot take them.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            copy_piece(socket, file, position, most)
        }
        sent => Ok(sent?),
    }
}

#[cfg(not(target_os = "linux"))]
fn send_piece(socket: &OwnedFd, file: &File, position: u64, most: usize) -> io::Result<usize> {
    copy_piece(socket, file, position, most)
}

/// Through memory of ours, of which nothing is kept: what the socket does not take is read again.
fn copy_piece(socket: &OwnedFd, file: &File, position: u64, most: usize) -> io::Result<usize> {
    let mut bytes = Vec::with_capacity(most.min(COPIED));
    if rustix::io::pread(file, spare_capacity(&mut bytes), position)? == 0 {
        return Ok(0);
    }
    let system = SockRef::from(socket);
    system.send_with_flags(&bytes, SEND_FLAGS)
}
