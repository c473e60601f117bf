//! How many connects are under way at once.
//!
//! It is found by trying, as TCP finds how much a network takes. It is halved when this machine runs
//! out of something, and when an answer comes only at a second try, which says that the first was
//! lost on the way. Else it follows TCP Vegas: where answers take no longer than the fastest of
//! their host, more can be under way; where they take longer the others only wait for each other, on
//! the way or in this process, and less would be as fast.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How many there are at first: more than a network or a machine of today should mind.
const FIRST: u32 = 128;

/// How many may wait for the others: below the first of these the window grows, above the second it
/// shrinks.
const FEW_WAIT: f64 = 32.0;
const MANY_WAIT: f64 = 96.0;

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

/// How long an answer took, and how long the fastest of that host did.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// This one.
    pub took: Duration,
    /// The fastest so far, which this may be.
    pub fastest: Duration,
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
        }
        is_free
    }

    /// Gives a place back. `true`: it was the last one taken.
    pub fn leave(&self) -> bool {
        let mut state = self.state.lock();
        state.active -= 1;
        state.active == 0
    }

    /// A port is settled, by an answer at this pace or without one. The task that settled it learns
    /// whether there is a place for another one, or too many have one already; then its own has been
    /// taken from it.
    pub fn settled(&self, pace: Option<Pace>) -> Course {
        let mut state = self.state.lock();
        state.follow(pace, self.most);
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
}

impl State {
    fn follow(&mut self, pace: Option<Pace>, most: u32) {
        let waiting = pace.map_or(0.0, |pace| pace.waiting(self.active));
        if waiting > MANY_WAIT {
            self.limit -= u32::from(self.limit > 1);
        } else if waiting < FEW_WAIT && self.limit < most {
            self.settled += 1;
            if self.limit < self.threshold || self.settled >= self.limit {
                self.limit += 1;
                self.settled = 0;
            }
        }
    }
}

impl Pace {
    /// How many of those under way wait for the others, if all take as long as this one.
    fn waiting(self, active: u32) -> f64 {
        let share = self.fastest.as_secs_f64() / self.took.as_secs_f64();
        // Both can be too short to be measured.
        match share.is_finite() {
            true => f64::from(active) * (1.0 - share),
            false => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Option<Pace> = Some(Pace {
        took: Duration::from_millis(1),
        fastest: Duration::from_millis(1),
    });

    fn limit(window: &Window) -> u32 {
        window.state.lock().limit
    }

    fn full(most: u32) -> Window {
        let window = Window::new(most);
        while window.enter() {}
        window
    }

    /// Settles so many, with as many tasks as there may be.
    fn settle(window: &Window, count: u32, pace: Option<Pace>) {
        for _ in 0..count {
            if window.settled(pace) == Course::GoOnWithAnother {
                window.enter();
            }
        }
    }

    #[test]
    fn it_grows_to_its_most_and_no_further() {
        let window = full(300);
        settle(&window, 1000, FAST);
        assert_eq!((limit(&window), window.state.lock().active), (300, 300));
        assert_eq!(limit(&Window::new(5)), 5);
    }

    #[test]
    fn silence_does_not_keep_it_from_growing() {
        let window = full(300);
        settle(&window, 1000, None);
        assert_eq!(limit(&window), 300);
    }

    #[test]
    fn where_most_wait_for_each_other_there_are_fewer() {
        let window = full(1000);
        // A machine that is busy with one after the other, each taking 10 µs.
        for _ in 0..1000 {
            let active = window.state.lock().active;
            let pace = Pace {
                took: Duration::from_micros(10) * active,
                fastest: Duration::from_micros(10),
            };
            settle(&window, 1, Some(pace));
        }
        assert!((32..=100).contains(&limit(&window)), "{}", limit(&window));
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
        settle(&window, FIRST / 2, FAST);
        assert_eq!(limit(&window), FIRST / 2 + 1);
    }

    #[test]
    fn nobody_enters_a_full_window() {
        let window = Window::new(2);
        assert!(window.enter() && window.enter() && !window.enter());
        assert!(!window.leave());
        assert!(window.leave());
    }

    #[test]
    fn a_task_learns_whether_it_is_one_too_few_or_too_many() {
        let window = full(4);
        assert_eq!(window.settled(FAST), Course::GoOn);
        window.shrink(Instant::now());
        assert_eq!(window.settled(FAST), Course::Leave);
        assert!(!window.leave() && !window.leave());
        assert_eq!(window.settled(FAST), Course::GoOnWithAnother);
    }
}
