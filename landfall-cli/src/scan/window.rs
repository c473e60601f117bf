//! How many connects are under way at once.
//!
//! It is found by trying, as TCP finds how much a network takes: it grows with every port that is
//! settled, and is halved when this machine runs out of something, or when an answer comes only at
//! a second try, which says that the first was lost on the way.

use std::cmp::Ordering;
use std::time::Instant;

use parking_lot::Mutex;

/// How many there are at first: more than a network or a machine of today should mind.
const FIRST: u32 = 256;

/// The number of connects under way, and how many there may be.
#[derive(Debug)]
pub struct Window {
    most: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: u32,
    /// Up to here every settled port adds one; from here on, as many as the limit do.
    threshold: u32,
    settled: u32,
    active: u32,
    peak: u32,
    shrunk: Instant,
}

/// What a task does that has settled a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// Goes on with the next.
    GoOn,
    /// Goes on, and another task may begin.
    GoOnWithAnother,
    /// Ends: fewer are to be under way.
    Leave,
}

impl Window {
    /// A window of at most this many.
    pub fn new(most: u32) -> Self {
        let most = most.max(1);
        Self {
            most,
            state: Mutex::new(State {
                limit: FIRST.min(most),
                threshold: most,
                settled: 0,
                active: 0,
                peak: 0,
                shrunk: Instant::now(),
            }),
        }
    }

    /// Takes a place if there is one.
    pub fn enter(&self) -> bool {
        let mut state = self.state.lock();
        let is_free = state.active < state.limit;
        if is_free {
            state.active += 1;
            state.peak = state.peak.max(state.active);
        }
        is_free
    }

    /// Gives a place back. `true`: it was the last one taken.
    pub fn leave(&self) -> bool {
        let mut state = self.state.lock();
        state.active -= 1;
        state.active == 0
    }

    /// A port is settled, and the window may grow. The task that settled it learns whether there is
    /// a place for another one, or too many have one already; then its own has been taken from it.
    pub fn settled(&self) -> Course {
        let mut state = self.state.lock();
        state.grow(self.most);
        match state.active.cmp(&state.limit) {
            Ordering::Less => Course::GoOnWithAnother,
            Ordering::Equal => Course::GoOn,
            Ordering::Greater => {
                state.active -= 1;
                Course::Leave
            }
        }
    }

    /// A connect that began at this time met a limit, or a loss. All that were under way together
    /// meet the same one, so only those begun since the window last shrank count.
    pub fn shrink(&self, began: Instant) {
        let mut state = self.state.lock();
        if began < state.shrunk {
            return;
        }
        state.shrunk = Instant::now();
        state.limit = (state.limit / 2).max(1);
        state.threshold = state.limit;
        state.settled = 0;
    }

    /// The most that were under way at one time.
    pub fn peak(&self) -> u32 {
        self.state.lock().peak
    }
}

impl State {
    fn grow(&mut self, most: u32) {
        if self.limit >= most {
            return;
        }
        self.settled += 1;
        if self.limit < self.threshold || self.settled >= self.limit {
            self.limit += 1;
            self.settled = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(window: &Window) -> u32 {
        window.state.lock().limit
    }

    #[test]
    fn it_grows_to_its_most_and_no_further() {
        let window = Window::new(300);
        (0..1000).for_each(|_| drop(window.settled()));
        assert_eq!(limit(&window), 300);
        assert_eq!(limit(&Window::new(5)), 5);
    }

    #[test]
    fn what_fails_together_halves_it_once() {
        let window = Window::new(1000);
        let began = Instant::now();
        (0..10).for_each(|_| window.shrink(began));
        assert_eq!(limit(&window), FIRST / 2);
        window.shrink(Instant::now());
        assert_eq!(limit(&window), FIRST / 4);
        (0..20).for_each(|_| window.shrink(Instant::now()));
        assert_eq!(limit(&window), 1);
    }

    #[test]
    fn after_a_loss_it_grows_by_one_each_time_all_are_settled() {
        let window = Window::new(1000);
        window.shrink(Instant::now());
        (0..FIRST / 2).for_each(|_| drop(window.settled()));
        assert_eq!(limit(&window), FIRST / 2 + 1);
    }

    #[test]
    fn nobody_enters_a_full_window() {
        let window = Window::new(2);
        assert!(window.enter() && window.enter() && !window.enter());
        assert!(!window.leave());
        assert!(window.leave());
        assert_eq!(window.peak(), 2);
    }

    #[test]
    fn a_task_learns_whether_it_is_one_too_few_or_too_many() {
        let window = Window::new(4);
        (0..4).for_each(|_| assert!(window.enter()));
        assert_eq!(window.settled(), Course::GoOn);
        window.shrink(Instant::now());
        assert_eq!(window.settled(), Course::Leave);
        assert!(!window.leave() && !window.leave());
        assert_eq!(window.settled(), Course::GoOnWithAnother);
    }
}
