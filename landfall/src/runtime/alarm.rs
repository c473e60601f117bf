//! Wakers that are called at a time to come, on the port's timers.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::Mutex;
use slab::Slab;

use super::Shared;
use crate::port::OperationId;

/// The alarms of a runtime that have been set and not dropped.
#[derive(Default)]
pub(super) struct Alarms(Mutex<List>);

#[derive(Default)]
struct List {
    entries: Slab<Entry>,
    /// Counts alarms, so that a timer that was too late to be cancelled rings nobody else's.
    serial: usize,
}

struct Entry {
    serial: usize,
    state: State,
}

enum State {
    Waiting(Waker),
    Rung,
}

impl Alarms {
    /// A timer ran out: `serial` and `index` are the key and token it was set with.
    pub(super) fn ring(&self, serial: usize, index: usize) {
        let mut list = self.0.lock();
        let state = match list.entries.get_mut(index) {
            Some(entry) if entry.serial == serial => {
                std::mem::replace(&mut entry.state, State::Rung)
            }
            _ => return,
        };
        drop(list);
        if let State::Waiting(waker) = state {
            waker.wake();
        }
    }

    /// Rings all: the runtime is being dropped, its tasks have been, and what still waits is run
    /// by another one.
    pub(super) fn abandon(&self) {
        let mut list = self.0.lock();
        let states = list
            .entries
            .iter_mut()
            .map(|(_, entry)| std::mem::replace(&mut entry.state, State::Rung));
        let states: Vec<_> = states.collect();
        drop(list);
        for state in states {
            if let State::Waiting(waker) = state {
                waker.wake();
            }
        }
    }
}

/// One alarm. Dropped, it is taken back.
pub(crate) struct Alarm {
    shared: Arc<Shared>,
    index: usize,
    serial: usize,
    /// `None` when the port was closed: it never rings for a task, which will be dropped, and has
    /// rung for anybody else.
    timer: Option<OperationId>,
}

impl Alarm {
    pub(crate) fn set(shared: &Arc<Shared>, deadline: Instant, waker: Waker) -> Self {
        let mut list = shared.alarms.0.lock();
        list.serial = list.serial.wrapping_add(1);
        let serial = list.serial;
        let index = list.entries.insert(Entry {
            serial,
            state: State::Waiting(waker),
        });
        drop(list);
        let timer = shared.port.timer(deadline, serial, index).ok();
        if timer.is_none() && !shared.is_current() {
            shared.alarms.ring(serial, index);
        }
        Alarm {
            shared: shared.clone(),
            index,
            serial,
            timer,
        }
    }

    /// Whether it has rung; if not, it will wake the context's task.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut list = self.shared.alarms.0.lock();
        let entry = &mut list.entries[self.index];
        debug_assert_eq!(entry.serial, self.serial);
        let outdated = match &mut entry.state {
            State::Rung => return Poll::Ready(()),
            State::Waiting(waker) if waker.will_wake(cx.waker()) => return Poll::Pending,
            State::Waiting(waker) => std::mem::replace(waker, cx.waker().clone()),
        };
        drop(list);
        drop(outdated);
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let entry = self.shared.alarms.0.lock().entries.remove(self.index);
        if let (State::Waiting(_), Some(timer)) = (&entry.state, self.timer) {
            self.shared.port.cancel_timer(timer);
        }
    }
}
