//! What a server, its handles and its connections share.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::task::{Context, Waker};

use parking_lot::Mutex;
use slab::Slab;

use super::Stats;
use super::counter::Counter;
use crate::net::{Observer, SocketState, TcpStream};
use crate::runtime::JoinHandle;

pub(super) struct Control {
    local: SocketAddr,
    state: Mutex<State>,
    received: Counter,
    sent: Counter,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// Connections that may be open at a time.
    limit: usize,
    /// Connections that are open, or whose handler runs.
    connections: Slab<Entry>,
    /// The server's own task, waiting for another phase or for a connection to end.
    waiter: Option<Waker>,
    /// All counts but those of bytes and of what is active.
    counts: Stats,
}

struct Entry {
    socket: Weak<SocketState>,
    is_open: bool,
    handler: Handler,
}

enum Handler {
    /// About to be started.
    New,
    Running(JoinHandle<()>),
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug, Default)]
pub(super) enum Phase {
    #[default]
    Serving,
    Draining,
    Stopped,
}

/// How a handler ended.
pub(super) enum Outcome {
    Done,
    Failed,
    Panicked,
    /// It was aborted.
    Cut,
}

impl Control {
    pub(super) fn new(local: SocketAddr) -> Self {
        Control {
            local,
            state: Mutex::default(),
            received: Counter::default(),
            sent: Counter::default(),
        }
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    pub(super) fn stats(&self) -> Stats {
        let state = self.state.lock();
        Stats {
            active: state.connections.len() as u64,
            received_bytes: self.received.sum(),
            sent_bytes: self.sent.sum(),
            ..state.counts
        }
    }

    pub(super) fn drain(&self) {
        self.enter(Phase::Draining);
    }

    pub(super) fn stop(&self) {
        self.enter(Phase::Stopped);
    }

    fn enter(&self, phase: Phase) {
        let waiter = {
            let mut state = self.state.lock();
            // A server that was stopped does not drain any more.
            if state.phase < phase {
                state.phase = phase;
            }
            state.waiter.take()
        };
        wake(waiter);
    }

    /// How many connections may be open at a time.
    pub(super) fn set_limit(&self, connections: usize) {
        self.state.lock().limit = connections;
    }

    /// The phase and the number of connections. Wakes the context's task at the next phase, and
    /// when a connection ends that others wait for.
    pub(super) fn look(&self, cx: &Context<'_>) -> (Phase, usize) {
        let mut state = self.state.lock();
        let last = state.waiter.replace(cx.waker().clone());
        let seen = (state.phase, state.connections.len());
        drop(state);
        drop(last);
        seen
    }

    /// Counts a new connection. Returns its number.
    pub(super) fn admit(self: &Arc<Self>, stream: &TcpStream) -> usize {
        let mut state = self.state.lock();
        state.counts.accepted += 1;
        let socket = Arc::downgrade(stream.state());
        let number = state.connections.insert(Entry {
            socket,
            is_open: true,
            handler: Handler::New,
        });
        drop(state);
        stream.state().observe(self.clone(), number);
        number
    }

    /// Keeps the handler of a new connection, to be able to abort it.
    pub(super) fn started(&self, number: usize, handler: JoinHandle<()>) {
        let mut handler = Some(handler);
        let mut state = self.state.lock();
        // Nobody admits another connection meanwhile, so the number is this one's or nobody's.
        if let Some(entry) = state.connections.get_mut(number)
            && let Handler::New = entry.handler
            && let Some(handler) = handler.take()
        {
            entry.handler = Handler::Running(handler);
        }
        drop(state);
        drop(handler);
    }

    pub(super) fn ended(&self, number: usize, outcome: &Outcome) {
        self.update(number, |counts, entry| {
            match outcome {
                Outcome::Done | Outcome::Cut => {}
                Outcome::Failed => counts.failed += 1,
                Outcome::Panicked => counts.panicked += 1,
            }
            std::mem::replace(&mut entry.handler, Handler::Ended)
        });
    }

    /// Changes an entry, and removes it if nothing is left of the connection. What `change`
    /// returns is dropped without the lock.
    fn update<T>(&self, number: usize, change: impl FnOnce(&mut Stats, &mut Entry) -> T) {
        let mut state = self.state.lock();
        let State {
            phase,
            limit,
            connections,
            waiter,
            counts,
        } = &mut *state;
        let Some(entry) = connections.get_mut(number) else {
            return;
        };
        let changed = change(counts, entry);
        let mut concerned = None;
        if !entry.is_open && matches!(entry.handler, Handler::Ended) {
            if connections.len() >= *limit || *phase != Phase::Serving {
                concerned = waiter.take();
            }
            connections.remove(number);
        }
        drop(state);
        drop(changed);
        wake(concerned);
    }

    pub(super) fn accept_failed(&self) {
        self.state.lock().counts.accept_errors += 1;
    }

    pub(super) fn refused(&self, connections: usize) {
        self.state.lock().counts.refused += connections as u64;
    }

    /// Tells every connection that the server drains.
    pub(super) fn drain_connections(&self) {
        let sockets: Vec<_> = {
            let state = self.state.lock();
            state
                .connections
                .iter()
                .filter_map(|(_, entry)| entry.socket.upgrade())
                .collect()
        };
        for socket in sockets {
            socket.drain();
        }
    }

    /// Aborts every handler that has not ended. Returns how many connections there still were.
    pub(super) fn cut_connections(&self) -> u64 {
        let (count, handlers) = {
            let mut state = self.state.lock();
            let handlers: Vec<_> = state
                .connections
                .iter_mut()
                .filter_map(|(_, entry)| entry.take_handler())
                .collect();
            (state.connections.len() as u64, handlers)
        };
        for mut handler in handlers {
            handler.abort();
        }
        count
    }
}

impl Entry {
    /// The running handler. It counts as running until it says that it has ended.
    fn take_handler(&mut self) -> Option<JoinHandle<()>> {
        match std::mem::replace(&mut self.handler, Handler::New) {
            Handler::Running(handler) => Some(handler),
            other => {
                self.handler = other;
                None
            }
        }
    }
}

fn wake(waiter: Option<Waker>) {
    if let Some(waiter) = waiter {
        waiter.wake();
    }
}

impl Observer for Control {
    fn received(&self, _: usize, bytes: usize) {
        self.received.add(bytes as u64);
    }

    fn sent(&self, _: usize, bytes: usize) {
        self.sent.add(bytes as u64);
    }

    fn closed(&self, number: usize) {
        self.update(number, |_, entry| entry.is_open = false);
    }
}
