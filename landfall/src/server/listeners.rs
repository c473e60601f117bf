//! The listeners of a server, which come and go.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Waker};

use crate::net::TcpListener;
use crate::runtime::Shared;

/// Those that have not been removed.
#[derive(Default)]
pub(super) struct Listeners {
    /// By the numbers they got, which are not used again.
    entries: BTreeMap<u64, Entry>,
    last_number: u64,
    /// Those of them that have no task yet.
    added: Vec<Added>,
    /// Numbers of those that wait for a connection to end, the longest waiting first.
    waiting_for_room: VecDeque<u64>,
    /// The first address ever listened on.
    first: Option<SocketAddr>,
}

struct Entry {
    address: SocketAddr,
    /// Its task, which accepts.
    task: Option<Waker>,
    waits_for_room: bool,
}

/// A listener that has no task yet.
pub(super) struct Added {
    pub(super) number: u64,
    pub(super) address: SocketAddr,
    pub(super) socket: ListeningSocket,
}

pub(super) enum ListeningSocket {
    /// Of before there was a port.
    Unassociated(std::net::TcpListener),
    Associated(TcpListener),
}

impl ListeningSocket {
    pub(super) fn associate(self, runtime: &Arc<Shared>) -> io::Result<TcpListener> {
        self.check_runtime(runtime)?;
        match self {
            ListeningSocket::Unassociated(socket) => {
                TcpListener::associate(runtime.clone(), socket)
            }
            ListeningSocket::Associated(listener) => Ok(listener),
        }
    }

    /// Another runtime's connections would not hear of the server's end, and end with that runtime.
    pub(super) fn check_runtime(&self, runtime: &Arc<Shared>) -> io::Result<()> {
        match self {
            ListeningSocket::Associated(listener) if !listener.is_of(runtime) => {
                Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the listener belongs to another runtime than the server's: bind it on the one \
                     that the server runs on",
                ))
            }
            _ => Ok(()),
        }
    }
}

/// What was removed.
pub(super) struct Removed {
    pub(super) count: usize,
    /// Tasks that are to end, to be woken with no lock held.
    pub(super) tasks: Vec<Waker>,
    /// Closed when dropped, with no lock held.
    _sockets: Vec<Added>,
}

impl Listeners {
    pub(super) fn add(&mut self, address: SocketAddr, socket: ListeningSocket) {
        self.last_number += 1;
        let number = self.last_number;
        self.first.get_or_insert(address);
        self.entries.insert(
            number,
            Entry {
                address,
                task: None,
                waits_for_room: false,
            },
        );
        self.added.push(Added {
            number,
            address,
            socket,
        });
    }

    pub(super) fn remove(&mut self, is_meant: impl Fn(SocketAddr) -> bool) -> Removed {
        let before = self.entries.len();
        let mut tasks = Vec::new();
        self.entries.retain(|_, entry| {
            let stays = !is_meant(entry.address);
            if !stays {
                tasks.extend(entry.task.take());
            }
            stays
        });
        self.waiting_for_room
            .retain(|number| self.entries.contains_key(number));
        let added = std::mem::take(&mut self.added).into_iter();
        let (sockets, added) = added.partition(|added| is_meant(added.address));
        self.added = added;
        Removed {
            count: before - self.entries.len(),
            tasks,
            _sockets: sockets,
        }
    }

    /// Those that need a task. Some may have been removed when they get it.
    pub(super) fn take_added(&mut self) -> Vec<Added> {
        std::mem::take(&mut self.added)
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.entries.contains_key(&number)
    }

    /// Has the context's task woken when the listener is removed, and if it waits for room, when
    /// there is some. Returns the waker that it had, to be dropped with no lock held.
    pub(super) fn wait(&mut self, number: u64, for_room: bool, cx: &Context<'_>) -> Option<Waker> {
        let entry = self.entries.get_mut(&number)?;
        if for_room && !entry.waits_for_room {
            entry.waits_for_room = true;
            self.waiting_for_room.push_back(number);
        }
        match &entry.task {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            _ => entry.task.replace(cx.waker().clone()),
        }
    }

    /// A listener has taken room, or has nobody to take it for. Until then it keeps its place among
    /// those that wait, also when it was called in vain, since another one was faster.
    pub(super) fn wait_no_more(&mut self, number: u64) {
        if let Some(entry) = self.entries.get_mut(&number) {
            if std::mem::take(&mut entry.waits_for_room) {
                self.waiting_for_room.retain(|other| *other != number);
            }
        }
    }

    /// The task that has waited longest for room, but for those that are called already, to be woken.
    pub(super) fn call_for_room(&mut self) -> Option<Waker> {
        let mut waiting = self.waiting_for_room.iter();
        waiting.find_map(|number| self.entries.get_mut(number)?.task.take())
    }

    pub(super) fn first(&self) -> Option<SocketAddr> {
        self.first
    }

    /// In the order in which they were added.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.entries.values().map(|entry| entry.address).collect()
    }
}
