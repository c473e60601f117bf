//! The kernel's queue: a completion port, and packets of our own in it.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::windows::io::{AsRawHandle, AsRawSocket, FromRawHandle, OwnedHandle};
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use socket2::Socket;
use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::System::IO::{
    CreateIoCompletionPort, GetQueuedCompletionStatusEx, OVERLAPPED_ENTRY,
    PostQueuedCompletionStatus,
};
use windows_sys::Win32::System::Threading::INFINITE;

/// Packets taken at a time at most, whatever the program asks for.
const MOST_TAKEN: usize = 64;

/// The longest wait in one call, in milliseconds; longer ones are waited for again.
const LONGEST_WAIT: u32 = 0x7fff_ffff;

/// A packet as plain numbers. The pointer that came with it may be anybody's: it stays a number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) key: usize,
    pub(super) block: usize,
    pub(super) status: usize,
    pub(super) bytes: usize,
}

pub(super) struct Queue(OwnedHandle);

/// Room for packets.
pub(super) struct Room([MaybeUninit<OVERLAPPED_ENTRY>; MOST_TAKEN]);

impl Room {
    pub(super) fn new() -> Self {
        Room([const { MaybeUninit::uninit() }; MOST_TAKEN])
    }
}

impl Queue {
    pub(super) fn new(concurrency: usize) -> io::Result<Self> {
        let concurrency = u32::try_from(concurrency).unwrap_or(u32::MAX);
        // SAFETY: makes a new port, since no file is given.
        let handle =
            unsafe { CreateIoCompletionPort(INVALID_HANDLE_VALUE, null_mut(), 0, concurrency) };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle was just made, and is nobody else's.
        Ok(Queue(unsafe { OwnedHandle::from_raw_handle(handle) }))
    }

    fn handle(&self) -> HANDLE {
        self.0.as_raw_handle()
    }

    /// Has packets of a socket come here, with a key.
    pub(super) fn associate(&self, socket: &Socket, key: usize) -> io::Result<()> {
        let socket = socket.as_raw_socket() as usize as HANDLE;
        // SAFETY: the socket is open.
        unsafe { self.associate_handle(socket, key) }
    }

    /// As [`associate`](Self::associate), for a file.
    pub(super) fn associate_file(&self, file: &File, key: usize) -> io::Result<()> {
        // SAFETY: the file is open.
        unsafe { self.associate_handle(file.as_raw_handle(), key) }
    }

    /// # Safety
    ///
    /// The handle is open.
    unsafe fn associate_handle(&self, handle: HANDLE, key: usize) -> io::Result<()> {
        // SAFETY: both handles are open. The key is a number to the kernel.
        match unsafe { CreateIoCompletionPort(handle, self.handle(), key, 0) }.is_null() {
            true => Err(io::Error::last_os_error()),
            false => Ok(()),
        }
    }

    /// Queues a packet of our own, which carries a number in place of a block.
    pub(super) fn post(&self, key: usize, number: usize) -> io::Result<()> {
        // SAFETY: the kernel hands the number on, and does not read what it points to.
        match unsafe { PostQueuedCompletionStatus(self.handle(), 0, key, number as *const _) } {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Waits for packets, no longer than until `deadline`, and takes up to `max`. None: the time
    /// is over, or the wait was interrupted; see whether it is.
    pub(super) fn take<'a>(
        &self,
        room: &'a mut Room,
        max: usize,
        deadline: Option<Instant>,
    ) -> impl Iterator<Item = Packet> + use<'a> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let mut taken = 0;
        // SAFETY: the room has place for so many entries.
        let success = unsafe {
            GetQueuedCompletionStatusEx(
                self.handle(),
                room.0.as_mut_ptr().cast(),
                max.min(MOST_TAKEN) as u32,
                &mut taken,
                milliseconds(left),
                0,
            )
        };
        // After a failure the count says nothing.
        let taken = if success == 0 { 0 } else { taken as usize };
        room.0[..taken].iter().map(|entry| {
            // SAFETY: the call has filled the first `taken` entries.
            let entry = unsafe { entry.assume_init_ref() };
            Packet {
                key: entry.lpCompletionKey,
                block: entry.lpOverlapped as usize,
                status: entry.Internal,
                bytes: entry.dwNumberOfBytesTransferred as usize,
            }
        })
    }
}

/// A time in the kernel's unit, rounded up so that a short wait is not a busy one.
fn milliseconds(time: Option<Duration>) -> u32 {
    let Some(time) = time else {
        return INFINITE;
    };
    let rounded = time.as_nanos().div_ceil(1_000_000);
    u32::try_from(rounded).map_or(LONGEST_WAIT, |rounded| rounded.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_neither_truncate_nor_wrap() {
        let of = |time| milliseconds(Some(time));
        assert_eq!(of(Duration::ZERO), 0);
        assert_eq!(of(Duration::from_nanos(1)), 1);
        assert_eq!(of(Duration::from_micros(1001)), 2);
        assert_eq!(of(Duration::from_millis(5)), 5);
        assert_eq!(of(Duration::from_secs(60 * 86_400)), LONGEST_WAIT);
        assert_eq!(of(Duration::MAX), LONGEST_WAIT);
        assert_eq!(milliseconds(None), INFINITE);
    }
}
