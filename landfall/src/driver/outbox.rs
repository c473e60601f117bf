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

    /// Whether nothing rests here, nor was left by a taker's panic.
    pub(crate) fn is_empty(&self) -> bool {
        self.resting.is_empty() && self.taken.is_empty()
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
        self.wanted = 0;
        let mut all = std::mem::take(&mut self.taken);
        all.extend(self.resting.drain(..));
        all
    }
}

impl Extend<Completion> for Outbox {
    fn extend<T: IntoIterator<Item = Completion>>(&mut self, completions: T) {
        completions.into_iter().for_each(|next| self.push(next));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::{CompletionKind, OperationId, Packet};

    fn completion(token: usize) -> Completion {
        let packet = Packet {
            token,
            ..Packet::default()
        };
        Completion::unbound(CompletionKind::Packet, OperationId(0), packet)
    }

    fn tokens(completions: &[Completion]) -> Vec<usize> {
        completions.iter().map(Completion::token).collect()
    }

    /// What `max` gets with these made meanwhile, behind what its vector has.
    fn take(outbox: &mut Outbox, taken: &mut Vec<Completion>, max: usize, made: &[usize]) -> usize {
        outbox.begin(&mut Sink::Many(taken), max);
        outbox.extend(made.iter().copied().map(completion));
        outbox.end(&mut Sink::Many(taken), max)
    }

    #[test]
    fn a_taker_gets_what_rests_and_then_what_is_made_and_no_more_than_it_wants() {
        let mut outbox = Outbox::default();
        outbox.extend([1, 2].map(completion));
        let mut taken = vec![completion(0)];
        assert_eq!(take(&mut outbox, &mut taken, 3, &[3, 4, 5]), 3);
        assert_eq!(tokens(&taken), [0, 1, 2, 3]);
        assert!(!outbox.is_wanted() && !outbox.is_empty());
        let mut taken = Vec::new();
        assert_eq!(take(&mut outbox, &mut taken, 1, &[6]), 1);
        assert_eq!(tokens(&taken), [4]);
        assert_eq!(take(&mut outbox, &mut taken, 9, &[]), 2);
        assert_eq!(tokens(&taken), [4, 5, 6]);
        assert_eq!(take(&mut outbox, &mut taken, 9, &[]), 0);
        assert!(outbox.is_empty());
    }

    #[test]
    fn who_takes_one_gets_one() {
        let mut outbox = Outbox::default();
        let mut one = None;
        outbox.begin(&mut Sink::One(&mut one), 1);
        outbox.extend([7, 8].map(completion));
        assert_eq!(outbox.end(&mut Sink::One(&mut one), 1), 1);
        assert_eq!(one.map(|one| one.token()), Some(7));
        assert_eq!(tokens(&outbox.clear()), [8]);
    }

    #[test]
    fn what_a_panic_left_goes_to_the_next_taker_and_is_counted() {
        let mut outbox = Outbox::default();
        let mut unlucky = Vec::new();
        outbox.begin(&mut Sink::Many(&mut unlucky), 4);
        outbox.push(completion(1));
        assert!(!outbox.is_empty());
        let mut taken = Vec::new();
        assert_eq!(take(&mut outbox, &mut taken, 4, &[2]), 2);
        assert_eq!(tokens(&taken), [1, 2]);
        assert!(outbox.is_empty());
        outbox.begin(&mut Sink::Many(&mut taken), 4);
        outbox.push(completion(3));
        assert_eq!(tokens(&outbox.clear()), [1, 2, 3]);
        outbox.push(completion(4));
        assert!(!outbox.is_empty() && !outbox.is_wanted());
    }
}
