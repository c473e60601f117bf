//! What a lane keeps of each socket.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use io_uring::squeue::{Entry, Flags};

use crate::driver::direction::{Direction, Held};
use crate::driver::kind::SocketKind;
use crate::driver::refusal;
use crate::port::Operation;

/// Where a socket lives.
#[derive(Debug)]
pub(super) enum Place {
    /// In the ring's own table.
    Direct(u32),
    /// In the process's table; shared with pending accepts, which name it in entries to come.
    Plain(Arc<OwnedFd>),
    /// No socket but a file, which the program may share.
    File(Arc<File>),
    Closed,
}

/// How a submission names a socket.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) number: RawFd,
    direct: bool,
}

impl Target {
    pub(super) fn plain(number: RawFd) -> Self {
        Target {
            number,
            direct: false,
        }
    }

    /// Marks an entry built for `number` as one for the ring's own table if it is.
    pub(super) fn apply(self, entry: Entry) -> Entry {
        match self.direct {
            true => entry.flags(Flags::FIXED_FILE),
            false => entry,
        }
    }
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) place: Place,
    pub(super) kind: SocketKind,
    pub(super) closing: bool,
    /// Nothing refers to the socket any more: forget it once it is closed.
    pub(super) released: bool,
    /// What a send has failed with, on a stream: later ones end with it.
    pub(super) broken: Option<i32>,
    /// Operations that the kernel has.
    pub(super) in_kernel: u32,
    pub(super) receives: Direction,
    /// Sends, and what must keep its order with them: connects and shutdowns.
    pub(super) sends: Direction,
    /// Completions of a serial handle that wait for their turn.
    pub(super) held: Held,
}

impl Socket {
    pub(super) fn new(place: Place, kind: SocketKind) -> Self {
        Socket {
            place,
            kind,
            closing: false,
            released: false,
            broken: None,
            in_kernel: 0,
            receives: Direction::default(),
            sends: Direction::default(),
            held: Held::default(),
        }
    }

    /// Whether an operation fits, as far as that can be told without the system.
    pub(super) fn check(&self, operation: &Operation) -> io::Result<()> {
        match self.place {
            Place::File(_) => refusal::check_file(operation),
            _ => refusal::check(operation, self.kind.datagram),
        }
    }

    /// `None` once closed.
    pub(super) fn target(&self) -> Option<Target> {
        match &self.place {
            Place::Direct(slot) => Some(Target {
                number: *slot as RawFd,
                direct: true,
            }),
            Place::Plain(fd) => Some(Target::plain(fd.as_raw_fd())),
            Place::File(file) => Some(Target::plain(file.as_raw_fd())),
            Place::Closed => None,
        }
    }
}

/// The free places of a ring's own table.
#[derive(Debug)]
pub(super) struct Slots {
    freed: Vec<u32>,
    unused: std::ops::Range<u32>,
}

impl Slots {
    pub(super) fn new(size: u32) -> Self {
        Slots {
            freed: Vec::new(),
            unused: 0..size,
        }
    }

    pub(super) fn take(&mut self) -> Option<u32> {
        self.freed.pop().or_else(|| self.unused.next())
    }

    pub(super) fn give_back(&mut self, slot: u32) {
        self.freed.push(slot);
    }
}
