//! The order of a socket's operations, and of a serial handle's completions.

#[cfg(landfall_broken)]
use super::broken::{self, Broken};
use crate::port::Completion;
use crate::rare_queue::RareQueue;

/// Operations of one direction: one is under way, the others wait their turn.
#[derive(Debug, Default)]
pub(crate) struct Direction {
    pub(crate) current: Option<u32>,
    pub(crate) waiting: RareQueue<u32>,
}

impl Direction {
    /// Puts an operation last. Returns whether it is its turn at once.
    pub(crate) fn enter(&mut self, key: u32) -> bool {
        match self.current {
            Some(_) => {
                #[cfg(landfall_broken)]
                if broken::is(Broken::Turns) {
                    self.waiting.push_front(key);
                    return false;
                }
                self.waiting.push_back(key);
                false
            }
            None => {
                self.current = Some(key);
                true
            }
        }
    }

    /// An operation is over. Returns the one whose turn it is now.
    pub(crate) fn leave(&mut self, key: u32) -> Option<u32> {
        if self.current != Some(key) {
            return None;
        }
        self.current = self.waiting.pop_front();
        self.current
    }

    /// Takes the waiting ones out for which `which` is true.
    pub(crate) fn take_waiting(&mut self, which: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut taken = Vec::new();
        self.waiting.retain(|&key| {
            let take = which(key);
            if take {
                taken.push(key);
            }
            !take
        });
        taken
    }
}

/// Completions of a serial handle that wait for their turn.
#[derive(Debug, Default)]
pub(crate) struct Held(RareQueue<Completion>);

impl Held {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn push(&mut self, completion: Completion) {
        self.0.push_back(completion);
    }

    /// The next one, whose turn it is now. Returns how many are left.
    pub(crate) fn next(&mut self) -> Option<(Completion, usize)> {
        let completion = self.0.pop_front()?;
        let left = self.0.len();
        if let Some(handle) = &completion.handle {
            handle.keep_turn(left > 0);
        }
        Some((completion, left))
    }

    pub(crate) fn take(&mut self) -> impl Iterator<Item = Completion> + use<> {
        self.0.take()
    }
}

/// Whether a completion may go out now; if not, it belongs into its socket's [`Held`].
pub(crate) fn may_go_out(completion: &Completion) -> bool {
    !completion.takes_turns()
        || completion
            .handle
            .as_ref()
            .is_none_or(|handle| handle.take_turn())
}
