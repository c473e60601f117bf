//! What a server, its handles and its connections share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use parking_lot::Mutex;

use super::Stats;
use super::counter::Counter;
use crate::runtime::Observer;

pub(super) struct Control {
    local: SocketAddr,
    state: Mutex<State>,
    /// Handlers that have not ended are to be dropped.
    is_cut: AtomicBool,
    received: Counter,
    sent: Counter,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// Connections that may be open at a time.
    limit: u64,
    /// Handlers that have not ended.
    running: u64,
    /// The server's own task, waiting for another phase or for a connection to end.
    waiter: Option<Waker>,
    /// All counts but those of bytes. Active connections are those that are open.
    counts: Stats,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug, Default)]
pub(super) enum Phase {
    #[default]
    Serving,
    Draining,
    Stopped,
}

/// How a handler ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Done,
    Failed,
    /// With the error of the idle timeout.
    TimedOut,
    Panicked,
    /// It was dropped before its end.
    Cut,
}

impl Control {
    pub(super) fn new(local: SocketAddr) -> Self {
        Control {
            local,
            state: Mutex::default(),
            is_cut: AtomicBool::new(false),
            received: Counter::default(),
            sent: Counter::default(),
        }
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            received_bytes: self.received.sum(),
            sent_bytes: self.sent.sum(),
            ..self.state.lock().counts
        }
    }

    pub(super) fn drain(&self) {
        self.enter(Phase::Draining);
    }

    pub(super) fn stop(&self) {
        self.enter(Phase::Stopped);
    }

    fn enter(&self, phase: Phase) {
        self.change(|state| {
            // A server that was stopped does not drain any more.
            if state.phase < phase {
                state.phase = phase;
            }
            true
        });
    }

    /// Changes the state, and wakes the server's task if `change` says that it is concerned.
    fn change(&self, change: impl FnOnce(&mut State) -> bool) {
        let waiter = {
            let mut state = self.state.lock();
            if change(&mut state) {
                state.waiter.take()
            } else {
                None
            }
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    #[cfg(all(test, unix, not(loom)))]
    pub(super) fn is_serving(&self) -> bool {
        self.state.lock().phase == Phase::Serving
    }

    /// How many connections may be open at a time.
    pub(super) fn set_limit(&self, connections: u64) {
        self.state.lock().limit = connections;
    }

    /// The phase, how many more connections may be opened, and how many handlers or connections
    /// are left, whichever are more. Wakes the context's task when the phase changes, and when
    /// something ends that others wait for.
    pub(super) fn look(&self, cx: &Context<'_>) -> (Phase, u64, u64) {
        let mut state = self.state.lock();
        let last = state.waiter.replace(cx.waker().clone());
        let open = state.counts.active;
        let seen = (
            state.phase,
            state.limit.saturating_sub(open),
            open.max(state.running),
        );
        drop(state);
        drop(last);
        seen
    }

    pub(super) fn started(&self) {
        let mut state = self.state.lock();
        state.counts.accepted += 1;
        state.running += 1;
    }

    pub(super) fn ended(&self, outcome: Outcome) {
        self.change(|state| {
            match outcome {
                Outcome::Done | Outcome::Cut => {}
                Outcome::Failed => state.counts.failed += 1,
                Outcome::TimedOut => state.counts.timed_out += 1,
                Outcome::Panicked => state.counts.panicked += 1,
            }
            state.running -= 1;
            state.phase != Phase::Serving
        });
    }

    pub(super) fn accept_failed(&self) {
        self.state.lock().counts.accept_errors += 1;
    }

    pub(super) fn refused(&self, connections: usize) {
        self.state.lock().counts.refused += connections as u64;
    }

    /// Has handlers dropped where they wait, once they are polled.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }
}

impl Observer for Control {
    fn opened(&self) {
        self.state.lock().counts.active += 1;
    }

    fn received(&self, bytes: usize) {
        self.received.add(bytes as u64);
    }

    fn sent(&self, bytes: usize) {
        self.sent.add(bytes as u64);
    }

    fn closed(&self) {
        self.change(|state| {
            let was_full = state.counts.active >= state.limit;
            state.counts.active -= 1;
            was_full || state.phase != Phase::Serving
        });
    }
}
