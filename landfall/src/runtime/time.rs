//! Waiting for time to pass.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;

use super::{Alarm, OUTSIDE, current};
use crate::clock::now;

/// So far ahead that nobody waits for it, where the clock cannot count any further.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Waits for a while.
///
/// # Panics
///
/// Polled outside of a runtime.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(after(now(), duration))
}

/// Waits until a moment.
///
/// # Panics
///
/// Polled outside of a runtime.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep {
        deadline,
        alarm: None,
    }
}

fn after(start: Instant, duration: Duration) -> Instant {
    start
        .checked_add(duration)
        .unwrap_or_else(|| start + FOREVER)
}

/// What [`sleep`] and [`sleep_until`] return.
#[must_use = "nothing sleeps until it is awaited"]
pub struct Sleep {
    deadline: Instant,
    /// Set at the first poll that has to wait.
    alarm: Option<Alarm>,
}

impl Sleep {
    /// When it ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(alarm) = &self.alarm {
            return alarm.poll(cx);
        }
        if self.deadline <= now() {
            return Poll::Ready(());
        }
        let Some(shared) = current() else {
            panic!("{OUTSIDE}");
        };
        self.alarm = Some(Alarm::set(&shared, self.deadline, cx.waker().clone()));
        Poll::Pending
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// Gives a future so long to end, and then drops it.
///
/// ```
/// use std::time::Duration;
/// use landfall::runtime::{Runtime, time::timeout};
///
/// let runtime = Runtime::new()?;
/// let waited = runtime.block_on(timeout(Duration::from_millis(5), std::future::pending::<()>()));
/// assert!(waited.is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
///
/// Polled outside of a runtime.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout {
        future,
        sleep: sleep(duration),
    }
}

pin_project! {
    /// What [`timeout`] returns.
    #[must_use = "nothing happens until it is awaited"]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        sleep: Sleep,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // The future first: a result that is there counts, however late.
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        ready!(Pin::new(this.sleep).poll(cx));
        Poll::Ready(Err(Elapsed(())))
    }
}

impl<F: fmt::Debug> fmt::Debug for Timeout<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeout")
            .field("future", &self.future)
            .field("sleep", &self.sleep)
            .finish()
    }
}

/// The time given to [`timeout`] ran out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Elapsed(());

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time given ran out")
    }
}

impl Error for Elapsed {}

impl From<Elapsed> for io::Error {
    fn from(elapsed: Elapsed) -> Self {
        io::Error::new(io::ErrorKind::TimedOut, elapsed)
    }
}

/// Ticks at equal distances, the first one a period from now.
///
/// # Panics
///
/// When the period is zero.
pub fn interval(period: Duration) -> Interval {
    assert!(!period.is_zero(), "an interval needs a period");
    Interval {
        period,
        sleep: sleep(period),
    }
}

/// What [`interval`] returns.
#[derive(Debug)]
#[must_use = "it ticks for whoever awaits `tick`"]
pub struct Interval {
    period: Duration,
    sleep: Sleep,
}

impl Interval {
    /// Waits for the next tick and returns when it was due.
    ///
    /// Ticks that nobody waited for in time are left out, but for the last of them: the rhythm is
    /// kept, and nothing is made up for.
    pub async fn tick(&mut self) -> Instant {
        std::future::poll_fn(|cx| Pin::new(&mut self.sleep).poll(cx)).await;
        let due = self.sleep.deadline;
        let missed = now().saturating_duration_since(due).as_nanos() / self.period.as_nanos();
        let last = due
            + self
                .period
                .saturating_mul(u32::try_from(missed).unwrap_or(u32::MAX));
        self.sleep = sleep_until(after(last, self.period));
        last
    }
}
