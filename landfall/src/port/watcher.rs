//! The port's one thread of its own. It posts timers that ran out, and finds workers that block or
//! compute for long. It sleeps while all workers wait and no timer is due.

use std::io;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Shared;
use super::completion::{CompletionKind, Packet};
use super::operation::OperationId;
use super::os::{ask_for_short_slices, exact_pauses};
use super::scheduler::{Looked, Posted, Suspects};
use super::timers::Timers;
use crate::explained::no_thread;

/// After a look that found workers in user code, until the second one that tells which of them are
/// still at the same completion. Longer than most handlers take.
const CHECK: Duration = Duration::from_micros(200);
/// The same while workers are being found blocked or computing.
const ALERT_CHECK: Duration = Duration::from_micros(100);
/// Between pairs of looks then.
const ALERT: Duration = Duration::from_micros(100);
/// Between pairs of looks while every worker comes back soon. A look costs 5 to 50 us, so this is some
/// 1 % at most of a processor that they have other uses for.
const CALM: Duration = Duration::from_millis(8);
/// After a look that found nobody at work: there is time to find out a computation of 5 ms before it ends.
const LIGHT: Duration = Duration::from_millis(2);
/// After a look that found a worker waiting for a processor: about as long as Linux leaves one to another
/// thread (its slice of 3 ms).
const SLICE: Duration = Duration::from_millis(3);
/// Between looks while all that is going on is workers that stay blocked.
const IDLE: Duration = Duration::from_millis(100);
/// How long looks stay frequent after something was found.
const ALERT_TIME: Duration = Duration::from_secs(1);
/// Until a timer is posted again that the system had no memory for.
const RETRY: Duration = Duration::from_millis(10);
/// Looks with nobody running before the watcher goes to sleep.
const QUIET_LOOKS: u32 = 3;

pub(super) struct Watcher {
    timers: Arc<Mutex<Timers>>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let timers = Arc::new(Mutex::new(Timers::default()));
        let watch = Watch::new(Arc::downgrade(shared), timers.clone());
        let thread = thread::Builder::new()
            .name("landfall-watch".to_owned())
            .spawn(move || watch.run())
            .map_err(|error| no_thread("the one that watches the port's workers", error))?;
        shared.queue.set_watcher(thread.thread().clone());
        Ok(Watcher {
            timers,
            thread: Some(thread),
        })
    }

    /// Without a thread: a test posts timers itself, and is the only worker.
    #[cfg(all(test, unix, not(loom)))]
    pub(super) fn without_thread() -> Self {
        Watcher {
            timers: Arc::default(),
            thread: None,
        }
    }

    /// Posts what has run out by `now`; returns when the next timer is due.
    #[cfg(all(test, unix, not(loom)))]
    pub(super) fn post_due_timers(&self, shared: &Shared, now: Instant) -> Option<Instant> {
        post_due_timers(&self.timers, shared, now)
    }

    pub(super) fn timer(&self, deadline: Instant, packet: Packet) -> OperationId {
        let (id, earliest) = self.timers.lock().insert(deadline, packet);
        if let Some(thread) = self.thread.as_ref().filter(|_| earliest) {
            thread.thread().unpark();
        }
        id
    }

    pub(super) fn cancel_timer(&self, id: OperationId) -> bool {
        self.timers.lock().remove(id)
    }

    /// Waits for the end of the thread, which comes soon after the port was closed.
    pub(super) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The last clone of a port may be dropped by anybody, but not by this thread: it
            // holds none.
            let _ = thread.join();
        }
    }
}

struct Watch {
    shared: Weak<Shared>,
    timers: Arc<Mutex<Timers>>,
    suspects: Suspects,
    /// The next look is the second of a pair.
    checking: bool,
    /// Until the next look.
    pause: Duration,
    /// Between the last pair of looks and the one before.
    period: Duration,
    alert_until: Option<Instant>,
    quiet: u32,
}

impl Watch {
    fn new(shared: Weak<Shared>, timers: Arc<Mutex<Timers>>) -> Self {
        Watch {
            shared,
            timers,
            suspects: Suspects::default(),
            checking: false,
            pause: CALM,
            period: ALERT,
            alert_until: None,
            quiet: 0,
        }
    }

    fn run(mut self) {
        exact_pauses();
        ask_for_short_slices();
        while let Some(pause) = self.step() {
            match pause {
                Pause::For(pause) => thread::park_timeout(pause),
                Pause::UntilWoken => thread::park(),
            }
        }
    }

    /// One look, and how long until the next; `None` when the port is closed.
    fn step(&mut self) -> Option<Pause> {
        let shared = self.shared.upgrade().filter(|shared| !shared.is_closed())?;
        let now = Instant::now();
        let due = post_due_timers(&self.timers, &shared, now);
        let looked = shared
            .queue
            .look(shared.driver.as_ref(), &mut self.suspects);
        self.adapt(&looked, now);
        let asleep = self.quiet >= QUIET_LOOKS && shared.queue.watcher_may_sleep();
        if self.pause > CALM {
            shared.queue.watcher_naps();
        }
        let due = due.map(|due| due.saturating_duration_since(now));
        Some(match (asleep, due) {
            (true, None) => Pause::UntilWoken,
            (true, Some(due)) => Pause::For(due),
            (false, due) => Pause::For(due.map_or(self.pause, |due| due.min(self.pause))),
        })
    }

    fn adapt(&mut self, looked: &Looked, now: Instant) {
        let running = looked.handling || looked.taking;
        if running || looked.blocked {
            self.quiet = 0;
        } else {
            self.quiet = self.quiet.saturating_add(1);
        }
        if looked.changed {
            self.alert_until = Some(now + ALERT_TIME);
        }
        let alert = self.alert_until.is_some_and(|until| now < until);
        let longest = match running {
            _ if alert => ALERT,
            false if looked.blocked => IDLE,
            false => LIGHT,
            true => CALM,
        };
        self.checking = looked.handling && !self.checking;
        // What a computing worker submitted is posted when it is poked, at each look.
        self.pause = if self.checking || looked.computing {
            if alert { ALERT_CHECK } else { CHECK }
        } else {
            self.period = longest.min(self.period.max(ALERT) * 2);
            match looked.unsure {
                true => self.period.min(SLICE),
                false => self.period,
            }
        };
    }
}

/// Posts what has run out; returns when the next timer is due.
fn post_due_timers(timers: &Mutex<Timers>, shared: &Shared, now: Instant) -> Option<Instant> {
    let mut timers = timers.lock();
    while let Some((id, packet)) = timers.expired(now) {
        let item = Posted {
            kind: CompletionKind::Timer,
            id,
            packet,
        };
        let posted = shared.queue.post(shared.driver.as_ref(), item, false);
        if posted.is_err() && !shared.is_closed() {
            // The system has no memory for it: try again soon.
            timers.put_back(id, packet, now + RETRY);
            break;
        }
    }
    timers.next()
}

enum Pause {
    For(Duration),
    UntilWoken,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The pauses that follow looks which see this, once they change no more.
    fn pauses(watch: &mut Watch, looked: &Looked, now: Instant) -> [Duration; 2] {
        (0..40).for_each(|_| watch.adapt(looked, now));
        [(); 2].map(|()| {
            watch.adapt(looked, now);
            watch.pause
        })
    }

    #[test]
    fn looks_come_in_pairs_while_somebody_is_in_user_code() {
        let mut watch = Watch::new(Weak::new(), Arc::default());
        let now = Instant::now();
        let handling = Looked {
            handling: true,
            ..Looked::default()
        };
        assert_eq!(pauses(&mut watch, &handling, now), [CHECK, CALM]);
        assert_eq!(watch.quiet, 0, "it does not go to sleep");
        let unsure = Looked {
            unsure: true,
            ..handling
        };
        assert_eq!(pauses(&mut watch, &unsure, now), [CHECK, SLICE]);
        let taking = Looked {
            taking: true,
            ..Looked::default()
        };
        assert_eq!(pauses(&mut watch, &taking, now), [CALM, CALM]);
        let blocked = Looked {
            blocked: true,
            ..Looked::default()
        };
        assert_eq!(pauses(&mut watch, &blocked, now), [IDLE, IDLE]);
        assert_eq!(watch.quiet, 0);
        let nobody = Looked::default();
        assert_eq!(pauses(&mut watch, &nobody, now), [LIGHT, LIGHT]);
        assert!(watch.quiet >= QUIET_LOOKS, "it may go to sleep");
    }

    #[test]
    fn looks_are_frequent_for_a_second_after_something_was_found() {
        let mut watch = Watch::new(Weak::new(), Arc::default());
        let now = Instant::now();
        let found = Looked {
            handling: true,
            computing: true,
            changed: true,
            ..Looked::default()
        };
        assert_eq!(pauses(&mut watch, &found, now), [ALERT_CHECK; 2]);
        let handling = Looked {
            handling: true,
            ..Looked::default()
        };
        let soon = now + ALERT_TIME / 2;
        assert_eq!(pauses(&mut watch, &handling, soon), [ALERT_CHECK, ALERT]);
        let later = now + ALERT_TIME;
        assert_eq!(pauses(&mut watch, &handling, later), [CHECK, CALM]);
    }
}
