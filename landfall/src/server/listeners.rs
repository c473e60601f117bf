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
    /// Numbers of those that wait for a connection to end, the longest waiting first.
    waiting_for_room: VecDeque<u64>,
    /// The first address ever listened on.
    first: Option<SocketAddr>,
}

struct Entry {
    address: SocketAddr,
    /// Until it is made ready for its task, which has the listener then.
    added: Option<ListeningSocket>,
    listener: Option<Arc<TcpListener>>,
    /// Its task, which accepts.
    task: Option<Waker>,
    waits_for_room: bool,
}

/// A listener that is to have a task.
pub(super) struct Added {
    pub(super) number: u64,
    pub(super) address: SocketAddr,
    pub(super) listener: Arc<TcpListener>,
}

pub(super) enum ListeningSocket {
    /// Made by the library, before there was a port.
    Own(socket2::Socket),
    /// Of the program, which may have given it to others as well.
    Given(std::net::TcpListener),
    Associated(TcpListener),
}

impl ListeningSocket {
    pub(super) fn associate(self, runtime: &Arc<Shared>) -> io::Result<TcpListener> {
        self.check_runtime(runtime)?;
        match self {
            ListeningSocket::Own(socket) => {
                TcpListener::associate(runtime.clone(), socket).map(TcpListener::own)
            }
            ListeningSocket::Given(socket) => TcpListener::associate(runtime.clone(), socket),
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

/// What was removed, to be closed with no lock held.
pub(super) struct Removed(Vec<Entry>);

impl Removed {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Listens by them no more, and has their tasks end.
    pub(super) fn close(self) {
        for entry in self.0 {
            if let Some(listener) = &entry.listener {
                listener.stop();
            }
            if let Some(task) = entry.task {
                task.wake();
            }
        }
    }
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
                added: Some(socket),
                listener: None,
                task: None,
                waits_for_room: false,
            },
        );
    }

    pub(super) fn remove(&mut self, is_meant: impl Fn(SocketAddr) -> bool) -> Removed {
        let entries = std::mem::take(&mut self.entries).into_iter();
        let (removed, kept): (BTreeMap<_, _>, _) =
            entries.partition(|(_, entry)| is_meant(entry.address));
        self.entries = kept;
        self.waiting_for_room
            .retain(|number| self.entries.contains_key(number));
        Removed(removed.into_values().collect())
    }

    /// Whether some are not ready yet.
    pub(super) fn has_added(&self) -> bool {
        self.entries.values().any(|entry| entry.added.is_some())
    }

    /// Those that are to be made ready, by their numbers.
    pub(super) fn take_added(&mut self) -> Vec<(u64, ListeningSocket)> {
        let entries = self.entries.iter_mut();
        entries
            .filter_map(|(number, entry)| Some((*number, entry.added.take()?)))
            .collect()
    }

    /// Enters one that is ready, for its task. It may have been removed when it gets it.
    pub(super) fn put(&mut self, number: u64, listener: TcpListener) -> Option<Added> {
        let listener = Arc::new(listener);
        let entry = self.entries.get_mut(&number)?;
        entry.listener = Some(listener.clone());
        Some(Added {
            number,
            address: entry.address,
            listener,
        })
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
