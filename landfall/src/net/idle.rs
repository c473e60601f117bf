//! Idle timeouts: one alarm a connection, which looks at the time of the last traffic when it
//! rings, so that a message costs no more than reading the clock.

use std::error::Error;
use std::fmt;
use std::io;
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
    /// When bytes last moved, in nanoseconds since `begun`.
    last: AtomicU64,
    setting: Mutex<Setting>,
}

/// The alarm of the latest timeout, and how many there have been: an alarm is set with the lock
/// open, as it may ring at once, and whoever comes late with that keeps nothing.
#[derive(Default)]
struct Setting {
    serial: u64,
    alarm: Option<Alarm>,
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
            setting: Mutex::default(),
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

/// Whether a wait ended because of an [idle timeout](super::TcpStream::set_idle_timeout): others, and
/// the system's own, are of the same kind.
///
/// ```
/// # use landfall::net::is_idle_timeout;
/// assert!(!is_idle_timeout(&std::io::Error::from(std::io::ErrorKind::TimedOut)));
/// ```
pub fn is_idle_timeout(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<TimedOut>())
}

pub(super) fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, TimedOut)
}

#[derive(Debug)]
struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no traffic within the connection's idle timeout")
    }
}

impl Error for TimedOut {}

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
        let serial = {
            let mut setting = idle.setting.lock();
            setting.serial += 1;
            // A period of nothing at all still is one.
            let period = period.map_or(0, |period| nanos(period).max(1));
            idle.period.store(period, Ordering::Relaxed);
            setting.serial
        };
        idle.touch();
        self.set_alarm(
            idle,
            serial,
            Waker::from(Arc::new(Bell(Arc::downgrade(self)))),
        );
    }

    pub(super) fn idle_timeout(&self) -> Option<Duration> {
        match self.idle.get()?.period.load(Ordering::Relaxed) {
            0 => None,
            period => Some(Duration::from_nanos(period)),
        }
    }

    fn set_alarm(&self, idle: &Idle, serial: u64, waker: Waker) {
        if self.shared.is_closing() {
            // It would ring at once, and be set again by that.
            return;
        }
        let alarm = idle.due().map(|due| Alarm::set(&self.shared, due, waker));
        let outdated = {
            let mut setting = idle.setting.lock();
            match setting.serial == serial {
                true => std::mem::replace(&mut setting.alarm, alarm),
                // Another timeout has been set meanwhile, which has an alarm of its own.
                false => alarm,
            }
        };
        drop(outdated);
    }

    /// The alarm has rung: either it was for nothing, or those that wait have waited for too long.
    fn check_idle(&self, waker: Waker) {
        let Some(idle) = self.idle.get() else {
            return;
        };
        let serial = idle.setting.lock().serial;
        if idle.due().is_some_and(|due| due <= now()) {
            self.expire();
            // A program at work on something else is not late: the time begins anew.
            idle.touch();
        }
        self.set_alarm(idle, serial, waker);
    }

    fn expire(&self) {
        let reader = self.inbox.lock().expire();
        let sender = self.calls.lock().expire();
        for waker in [reader, sender].into_iter().flatten() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;
    use crate::net::TcpListener;
    use crate::net::socket::Socket;
    use crate::runtime::Runtime;

    #[test]
    fn of_two_timeouts_set_at_once_the_later_one_has_its_alarm() {
        let runtime = Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
            let address = listener.local_addr().expect("an address");
            let peer = std::net::TcpStream::connect(address).expect("connect");
            let shared = crate::runtime::current().expect("in a runtime");
            let socket = Socket::associate(shared, peer, None, None).expect("associate");
            let state = &socket.state;
            for round in 0..2_000 {
                let start = Barrier::new(2);
                thread::scope(|scope| {
                    scope.spawn(|| {
                        start.wait();
                        state.set_idle_timeout(None);
                    });
                    start.wait();
                    state.set_idle_timeout(Some(Duration::from_secs(60)));
                });
                let idle = state.idle.get().expect("a timeout was set");
                let has_period = idle.due().is_some();
                let has_alarm = idle.setting.lock().alarm.is_some();
                assert_eq!(has_period, has_alarm, "in round {round}");
            }
        });
    }
}
