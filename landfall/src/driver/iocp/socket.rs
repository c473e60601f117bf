//! What the driver keeps of each socket, under the name that its packets carry.

use std::fs::File;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use slab::Slab;
use socket2::{Domain, Socket as SystemSocket};

use super::accept::Posted;
use super::op::Op;
use super::winsock::{self, Block};
use crate::driver::SocketRef;
use crate::driver::direction::{Direction, Held};
use crate::rare_queue::RareQueue;

/// Which of a socket's two directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Receives,
    /// Sends, and what must keep its order with them: connects and shutdowns.
    Sends,
}

pub(super) struct Socket {
    /// The key of its packets.
    pub(super) name: usize,
    pub(super) datagram: bool,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    /// `None` once closed.
    pub(super) system: Option<SystemSocket>,
    /// In place of a socket, and its operations that the kernel has.
    pub(super) file: Option<Arc<File>>,
    pub(super) file_ops: Vec<Box<Op>>,
    pub(super) closing: bool,
    /// It carries a stream, in which nothing may follow a gap.
    pub(super) stream: bool,
    /// What a send has ended with before all of it had gone: sends queued behind it end with it, and
    /// later ones too unless it was cancelled.
    pub(super) gap: Option<i32>,
    /// This side has shut its receiving down.
    pub(super) receives_shut: bool,
    pub(super) receives: Direction<Box<Op>>,
    pub(super) sends: Direction<Box<Op>>,
    /// Blocks of operations that are over, of which a packet is still to come.
    pub(super) strays: RareQueue<Block>,
    /// Accepts that the kernel has, of a listener.
    pub(super) accepts: Vec<Posted>,
    pub(super) held: Held,
}

impl State {
    pub(super) fn direction(&mut self, way: Way) -> &mut Direction<Box<Op>> {
        self.parts(way).1
    }

    /// The socket, unless it is closed, and one direction of its operations.
    pub(super) fn parts(&mut self, way: Way) -> (Option<&SystemSocket>, &mut Direction<Box<Op>>) {
        let direction = match way {
            Way::Receives => &mut self.receives,
            Way::Sends => &mut self.sends,
        };
        (self.system.as_ref(), direction)
    }

    /// Closes the socket or file, if it is open.
    pub(super) fn close(&mut self) {
        self.file = None;
        if let Some(system) = self.system.take() {
            winsock::close(system);
        }
    }

    /// The direction whose operation in the kernel has this block.
    pub(super) fn way_of(&self, block: usize) -> Option<Way> {
        let has = |direction: &Direction<Box<Op>>| {
            direction
                .current
                .as_ref()
                .is_some_and(|op| op.in_kernel && op.block.address() == block)
        };
        match () {
            () if has(&self.receives) => Some(Way::Receives),
            () if has(&self.sends) => Some(Way::Sends),
            () => None,
        }
    }
}

/// Bits of a name that are an index; the others count, so that a packet that comes late does not
/// find another socket under the name of its own.
const INDEX_BITS: u32 = match usize::BITS {
    64 => 32,
    _ => 20,
};
const INDEX: usize = (1 << INDEX_BITS) - 1;

/// The sockets of a port, by name. Names are numbers, never pointers.
#[derive(Default)]
pub(super) struct Sockets(RwLock<(Slab<Arc<Socket>>, usize)>);

impl Sockets {
    /// Enters a socket that is still to be associated under its name.
    pub(super) fn insert(&self, system: SystemSocket, datagram: bool) -> Arc<Socket> {
        self.enter(Some(system), None, datagram)
    }

    /// As [`insert`](Self::insert), for a file.
    pub(super) fn insert_file(&self, file: Arc<File>) -> Arc<Socket> {
        self.enter(None, Some(file), false)
    }

    fn enter(
        &self,
        system: Option<SystemSocket>,
        file: Option<Arc<File>>,
        datagram: bool,
    ) -> Arc<Socket> {
        let (sockets, generation) = &mut *self.0.write();
        *generation = generation.wrapping_add(1);
        let entry = sockets.vacant_entry();
        // The highest generation is kept for the names of our own packets.
        let generation = *generation % (usize::MAX >> INDEX_BITS);
        let socket = Arc::new(Socket {
            name: generation << INDEX_BITS | entry.key() & INDEX,
            datagram,
            state: Mutex::new(State {
                system,
                file,
                file_ops: Vec::new(),
                closing: false,
                stream: !datagram,
                gap: None,
                receives_shut: false,
                receives: Direction::default(),
                sends: Direction::default(),
                strays: RareQueue::default(),
                accepts: Vec::new(),
                held: Held::default(),
            }),
        });
        entry.insert(socket).clone()
    }

    /// The socket of a name, if it is still known.
    pub(super) fn named(&self, name: usize) -> Option<Arc<Socket>> {
        let (sockets, _) = &*self.0.read();
        sockets
            .get(name & INDEX)
            .filter(|socket| socket.name == name)
            .cloned()
    }

    /// The socket of a handle, which keeps it here.
    pub(super) fn at(&self, index: u32) -> Arc<Socket> {
        let (sockets, _) = &*self.0.read();
        sockets[index as usize].clone()
    }

    pub(super) fn remove(&self, index: u32) -> Arc<Socket> {
        self.0.write().0.remove(index as usize)
    }

    pub(super) fn all(&self) -> Vec<Arc<Socket>> {
        let (sockets, _) = &*self.0.read();
        sockets.iter().map(|(_, socket)| socket.clone()).collect()
    }
}

impl Socket {
    /// What stands for it outside of the driver.
    pub(super) fn reference(&self) -> SocketRef {
        SocketRef {
            lane: 0,
            index: (self.name & INDEX) as u32,
        }
    }
}

/// The family of a listener's connections.
pub(super) fn domain_of(listener: &SystemSocket) -> std::io::Result<Domain> {
    listener.local_addr().map(|address| address.domain())
}
