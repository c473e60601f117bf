//! The common course of all connections: they wait for each other, start together, and stop when
//! told.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use event_listener::Event;

/// What all connections of a run share about its course.
#[derive(Debug)]
pub struct Control {
    asked: u64,
    /// Connections that are open, or failed to open, or were not begun because of a stop.
    settled: AtomicU64,
    open: AtomicU64,
    peak_open: AtomicU64,
    ended: AtomicU64,
    start: OnceLock<Instant>,
    stopping: AtomicBool,
    /// Told to everybody: the start, the stop.
    announced: Event,
    /// Told to the one who waits for all: a connection was settled or has ended.
    counted: Event,
}

impl Control {
    /// The control of a run with so many connections.
    pub fn new(connections: u64) -> Self {
        Self {
            asked: connections,
            settled: AtomicU64::new(0),
            open: AtomicU64::new(0),
            peak_open: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            start: OnceLock::new(),
            stopping: AtomicBool::new(false),
            announced: Event::new(),
            counted: Event::new(),
        }
    }

    /// Lets the messages begin at a moment. Only the first call counts.
    pub fn start(&self, at: Instant) {
        let _ = self.start.set(at);
        self.announced.notify(usize::MAX);
    }

    /// Lets nothing new begin.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.announced.notify(usize::MAX);
    }

    /// Whether nothing new is to begin.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Waits for the stop.
    pub async fn stopped(&self) {
        until(&self.announced, || self.is_stopping().then_some(())).await;
    }

    /// Waits for the moment the messages begin at; `None` if the stop comes first.
    pub async fn started(&self) -> Option<Instant> {
        until(&self.announced, || {
            if self.is_stopping() {
                return Some(None);
            }
            self.start.get().map(|start| Some(*start))
        })
        .await
    }

    /// The moment the messages begin at, once it is known.
    pub fn start_moment(&self) -> Option<Instant> {
        self.start.get().copied()
    }

    /// Waits until every connection is open or will never be.
    pub async fn all_settled(&self) {
        until(&self.counted, || {
            (self.settled.load(Ordering::Acquire) >= self.asked).then_some(())
        })
        .await;
    }

    /// Waits until every connection has ended.
    pub async fn all_ended(&self) {
        until(&self.counted, || {
            (self.ended.load(Ordering::Acquire) >= self.asked).then_some(())
        })
        .await;
    }

    /// The most connections that were open at one time.
    pub fn peak_open(&self) -> u64 {
        self.peak_open.load(Ordering::Relaxed)
    }

    /// How many connections are settled so far.
    pub fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    fn settle(&self) {
        if self.settled.fetch_add(1, Ordering::AcqRel) + 1 == self.asked {
            self.counted.notify(usize::MAX);
        }
    }
}

/// Waits until `look` finds something; it is called again whenever the event happens.
async fn until<T>(event: &Event, look: impl Fn() -> Option<T>) -> T {
    loop {
        if let Some(found) = look() {
            return found;
        }
        let change = event.listen();
        // Looked at again now that nothing can be missed.
        if let Some(found) = look() {
            return found;
        }
        change.await;
    }
}

/// One connection's part in the course. However the connection ends, even by a panic, it is counted
/// as settled and ended when this is dropped, so that nobody waits for it for ever.
#[derive(Debug)]
pub struct Attendance<'a> {
    control: &'a Control,
    is_open: bool,
}

impl<'a> Attendance<'a> {
    /// A connection that is about to be opened.
    pub fn new(control: &'a Control) -> Self {
        Self {
            control,
            is_open: false,
        }
    }

    /// The connection is open.
    pub fn opened(&mut self) {
        self.is_open = true;
        let open = self.control.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.control.peak_open.fetch_max(open, Ordering::Relaxed);
        self.control.settle();
    }
}

impl Drop for Attendance<'_> {
    fn drop(&mut self) {
        let Control {
            open,
            ended,
            counted,
            asked,
            ..
        } = self.control;
        if self.is_open {
            open.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.control.settle();
        }
        if ended.fetch_add(1, Ordering::AcqRel) + 1 == *asked {
            counted.notify(usize::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn everyone_waits_for_everyone() {
        let control = Control::new(2);
        let mut first = Attendance::new(&control);
        first.opened();
        assert!(block_on(poll_once(control.all_settled())).is_none());
        drop(Attendance::new(&control));
        block_on(control.all_settled());
        assert!(block_on(poll_once(control.all_ended())).is_none());
        drop(first);
        block_on(control.all_ended());
        assert_eq!(control.peak_open(), 1);
    }

    #[test]
    fn the_start_is_told_to_those_who_wait() {
        let control = Control::new(1);
        let at = Instant::now();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| block_on(control.started()));
            control.start(at);
            assert_eq!(waiter.join().unwrap(), Some(at));
        });
    }

    #[test]
    fn a_stop_before_the_start_ends_the_waiting() {
        let control = Control::new(1);
        control.stop();
        assert_eq!(block_on(control.started()), None);
        block_on(control.stopped());
    }
}
