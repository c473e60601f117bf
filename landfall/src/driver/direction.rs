//! The order of a socket's operations, and of a serial handle's completions.

#[cfg(landfall_broken)]
use super::broken::{self, Broken};
use crate::port::Completion;
use crate::rare_queue::RareQueue;

/// Operations of one direction: one is under way, the others wait their turn. They are what the
/// driver knows its operations by.
#[derive(Debug)]
pub(crate) struct Direction<T = u32> {
    pub(crate) current: Option<T>,
    pub(crate) waiting: RareQueue<T>,
}

impl<T> Default for Direction<T> {
    fn default() -> Self {
        Direction {
            current: None,
            waiting: RareQueue::default(),
        }
    }
}

impl<T> Direction<T> {
    /// Puts an operation last. Returns whether it is its turn at once.
    pub(crate) fn enter(&mut self, op: T) -> bool {
        if self.current.is_none() {
            self.current = Some(op);
            return true;
        }
        #[cfg(landfall_broken)]
        if broken::is(Broken::Turns) {
            self.waiting.push_front(op);
            return false;
        }
        self.waiting.push_back(op);
        false
    }

    /// Has the next one take its turn, unless another has it. Returns whether one did.
    pub(crate) fn advance(&mut self) -> bool {
        if self.current.is_some() {
            return false;
        }
        self.current = self.waiting.pop_front();
        self.current.is_some()
    }

    /// Takes the waiting ones out for which `which` is true.
    pub(crate) fn take_waiting(&mut self, which: impl Fn(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for op in self.waiting.take() {
            match which(&op) {
                true => taken.push(op),
                false => self.waiting.push_back(op),
            }
        }
        taken
    }
}

#[cfg(unix)]
impl Direction {
    /// An operation is over. Returns the one whose turn it is now.
    pub(crate) fn leave(&mut self, key: u32) -> Option<u32> {
        if self.current != Some(key) {
            return None;
        }
        self.current = None;
        self.advance();
        self.current
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
    !completion.kind.takes_turns()
        || completion
            .handle
            .as_ref()
            .is_none_or(|handle| handle.take_turn())
}
