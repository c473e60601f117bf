//! Completions on their way out of a lane.

use std::collections::VecDeque;

use super::Sink;
use crate::port::Completion;

/// Completions go to whoever is taking some, or rest here for the next to come.
///
/// There are two for each message, so a taker lends its vector, and they are made in their place.
#[derive(Default)]
pub(crate) struct Outbox {
    resting: VecDeque<Completion>,
    /// The vector of whoever takes some.
    taken: Vec<Completion>,
    /// How many more it wants.
    wanted: usize,
}

impl Outbox {
    #[inline]
    pub(crate) fn push(&mut self, completion: Completion) {
        match self.wanted {
            0 => self.resting.push_back(completion),
            _ => {
                self.wanted -= 1;
                self.taken.push(completion);
            }
        }
    }

    /// Whether nothing rests here.
    pub(crate) fn is_empty(&self) -> bool {
        self.resting.is_empty()
    }

    /// Whether somebody is taking completions and has not got enough.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted > 0
    }

    /// Up to `max` completions go to `sink` from here on, those that rest first, until `end`.
    pub(crate) fn begin(&mut self, sink: &mut Sink<'_>, max: usize) {
        // After a panic between `begin` and `end`, some are here that nobody got.
        self.resting.extend(self.taken.drain(..));
        self.lend(sink);
        self.wanted = max;
        while self.wanted > 0 {
            let Some(completion) = self.resting.pop_front() else {
                break;
            };
            self.push(completion);
        }
    }

    /// Ends what `begin` began with the same arguments; returns how many went.
    pub(crate) fn end(&mut self, sink: &mut Sink<'_>, max: usize) -> usize {
        let went = max - std::mem::take(&mut self.wanted);
        self.lend(sink);
        if let Some(one) = self.taken.pop() {
            sink.push(one);
        }
        went
    }

    /// Swaps the taker's vector for our own, and back. Who takes but one has none, and gets it from
    /// ours.
    fn lend(&mut self, sink: &mut Sink<'_>) {
        if let Sink::Many(taken) = sink {
            std::mem::swap(*taken, &mut self.taken);
        }
    }

    /// Takes out what rests here.
    pub(crate) fn clear(&mut self) -> Vec<Completion> {
        std::mem::take(&mut self.resting).into()
    }
}
