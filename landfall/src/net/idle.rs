//! Idle timeouts: one alarm a connection, which looks at the time of the last traffic when it
//! rings, so that a message costs no more than reading the clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::socket::SocketState;
use crate::clock::now;
use crate::runtime::Alarm;

pub(super) struct Idle {
    begun: Instant,
    /// In nanoseconds; 0 when there is no timeout.
    period: AtomicU64,
    /// When something last went on, in nanoseconds since `begun`.
    last: AtomicU64,
    alarm: Mutex<Option<Alarm>>,
}

/// Rings for one socket.
struct Bell(Weak<SocketState>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        if let Some(state) = self.0.upgrade() {
            state.check_idle(Waker::from(self));
        }
    }
}

impl Idle {
    fn new() -> Self {
        Idle {
            begun: now(),
            period: AtomicU64::new(0),
            last: AtomicU64::new(0),
            alarm: Mutex::new(None),
        }
    }

    pub(super) fn touch(&self) {
        self.last.store(
            nanos(now().saturating_duration_since(self.begun)),
            Ordering::Relaxed,
        );
    }

    /// When the timeout ends, as things stand; nothing when there is none.
    fn due(&self) -> Option<Instant> {
        match self.period.load(Ordering::Relaxed) {
            0 => None,
            period => {
                let last = self.last.load(Ordering::Relaxed);
                self.begun
                    .checked_add(Duration::from_nanos(last.saturating_add(period)))
            }
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl SocketState {
    /// Makes waits on this socket fail after a time without traffic in either direction.
    pub(super) fn set_idle_timeout(self: &Arc<Self>, period: Option<Duration>) {
        if period.is_none() && self.idle.get().is_none() {
            return;
        }
        let idle = self.idle.get_or_init(|| Box::new(Idle::new()));
        // A period of nothing at all still is one.
        idle.period.store(
            period.map_or(0, |period| nanos(period).max(1)),
            Ordering::Relaxed,
        );
        idle.touch();
        self.set_alarm(idle, Waker::from(Arc::new(Bell(Arc::downgrade(self)))));
    }

    fn set_alarm(&self, idle: &Idle, waker: Waker) {
        if self.shared.is_closing() {
            // It would ring at once, and be set again by that.
            return;
        }
        let alarm = idle.due().map(|due| Alarm::set(&self.shared, due, waker));
        let last = std::mem::replace(&mut *idle.alarm.lock(), alarm);
        drop(last);
    }

    /// The alarm has rung: either it was for nothing, or those that wait have waited for too long.
    fn check_idle(&self, waker: Waker) {
        let Some(idle) = self.idle.get() else {
            return;
        };
        if idle.due().is_some_and(|due| due <= now()) {
            self.expire();
            // A program at work on something else is not late: the time begins anew.
            idle.touch();
        }
        self.set_alarm(idle, waker);
    }

    fn expire(&self) {
        let reader = self.inbox.lock().expire();
        let sender = self.calls.lock().expire();
        for waker in [reader, sender].into_iter().flatten() {
            waker.wake();
        }
    }
}
