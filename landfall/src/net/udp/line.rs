//! Tasks that wait for their turn.

use std::collections::VecDeque;
use std::task::{Context, Waker};

/// The longest waiting is the first.
#[derive(Default)]
pub(super) struct Line {
    waiting: VecDeque<(u64, Waker)>,
    places: u64,
}

/// The place that a future has drawn, if it waits, or has been called since.
#[derive(Default)]
pub(super) struct Place(Option<u64>);

impl Line {
    /// Has the context's task wait in the place that it has, or at the end. Returns the waker that it
    /// had there, to be dropped without a lock held.
    pub(super) fn wait(&mut self, place: &mut Place, cx: &Context<'_>) -> Option<Waker> {
        let waker = cx.waker().clone();
        match self.waiting.iter_mut().find(|(at, _)| place.0 == Some(*at)) {
            Some((_, held)) => Some(std::mem::replace(held, waker)),
            None => {
                self.places += 1;
                place.0 = Some(self.places);
                self.waiting.push_back((self.places, waker));
                None
            }
        }
    }

    /// Takes a place out of the line. Returns its waker, as `wait` does.
    pub(super) fn leave(&mut self, place: &mut Place) -> Option<Waker> {
        let place = place.0.take()?;
        let index = self.waiting.iter().position(|(at, _)| *at == place)?;
        let (_, waker) = self.waiting.remove(index)?;
        Some(waker)
    }

    /// Takes the first one out, to be woken.
    pub(super) fn call(&mut self) -> Option<Waker> {
        self.waiting.pop_front().map(|(_, waker)| waker)
    }
}
