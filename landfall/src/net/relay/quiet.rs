//! How long nothing has moved in a relay: one alarm, which looks when it rings whether it was for
//! nothing, so that a message costs no more than reading the clock.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::clock::now;
use crate::runtime::time::{Sleep, sleep_until};

pub(super) struct Quiet {
    /// `None`: it may last for ever.
    period: Option<Duration>,
    half_close: Option<Duration>,
    /// When bytes last moved, and how many had by then.
    last: Instant,
    moved: u64,
    alarm: Option<Sleep>,
}

impl Quiet {
    pub(super) fn new(period: Option<Duration>, half_close: Option<Duration>) -> Self {
        Quiet {
            period,
            half_close,
            last: now(),
            moved: 0,
            alarm: None,
        }
    }

    /// One side has ended its sending.
    pub(super) fn half_closed(&mut self) {
        if self.half_close.is_some() {
            self.period = self.period.into_iter().chain(self.half_close).min();
            self.last = now();
            self.alarm = None;
        }
    }

    /// Ready when nothing has moved for too long. `moved`: the bytes that have by now.
    pub(super) fn poll(&mut self, moved: u64, cx: &mut Context<'_>) -> Poll<()> {
        let Some(period) = self.period else {
            return Poll::Pending;
        };
        if self.moved != moved {
            self.moved = moved;
            self.last = now();
        }
        // Too far for the clock: never.
        while let Some(due) = self.last.checked_add(period) {
            let alarm = self.alarm.get_or_insert_with(|| sleep_until(due));
            ready!(Pin::new(&mut *alarm).poll(cx));
            if due <= now() {
                return Poll::Ready(());
            }
            self.alarm = None;
        }
        Poll::Pending
    }
}
