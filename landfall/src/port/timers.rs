//! Timers, ordered by deadline.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use slab::Slab;

use super::completion::Packet;
use super::operation::OperationId;

/// A heap of deadlines over a slab of timers. A cancelled timer leaves its entry in the heap until
/// its deadline or until such entries are the majority, so that cancelling costs no search.
#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, u64)>>,
    armed: Slab<(u64, Packet)>,
    /// Counts timers ever set, so that no identifier comes twice.
    serial: u32,
}

fn index(id: u64) -> usize {
    (id & u64::from(u32::MAX)) as usize
}

impl Timers {
    /// Returns the name of the timer, and whether it is now the earliest.
    pub(super) fn insert(&mut self, deadline: Instant, packet: Packet) -> (OperationId, bool) {
        let entry = self.armed.vacant_entry();
        self.serial = self.serial.wrapping_add(1);
        let id = (u64::from(self.serial) << 32) | entry.key() as u64;
        entry.insert((id, packet));
        let earliest = self
            .heap
            .peek()
            .is_none_or(|Reverse((first, _))| deadline < *first);
        self.heap.push(Reverse((deadline, id)));
        (OperationId(id), earliest)
    }

    pub(super) fn remove(&mut self, id: OperationId) -> bool {
        let found = self
            .armed
            .get(index(id.0))
            .is_some_and(|(armed, _)| *armed == id.0);
        if found {
            self.armed.remove(index(id.0));
            if self.heap.len() > 64 && self.heap.len() > 2 * self.armed.len() {
                let armed = &self.armed;
                self.heap
                    .retain(|Reverse((_, id))| armed.get(index(*id)).is_some_and(|(a, _)| a == id));
            }
        }
        found
    }

    /// The next timer that has run out by `now`.
    pub(super) fn expired(&mut self, now: Instant) -> Option<(OperationId, Packet)> {
        while let Some(Reverse((deadline, id))) = self.heap.peek().copied() {
            let armed = self
                .armed
                .get(index(id))
                .is_some_and(|(armed, _)| *armed == id);
            if armed && deadline > now {
                return None;
            }
            self.heap.pop();
            if armed {
                let (_, packet) = self.armed.remove(index(id));
                return Some((OperationId(id), packet));
            }
        }
        None
    }

    /// Arms a timer again that has run out, under the same name unless that was given away.
    pub(super) fn put_back(&mut self, id: OperationId, packet: Packet, deadline: Instant) {
        let entry = self.armed.vacant_entry();
        let id = (id.0 & !u64::from(u32::MAX)) | entry.key() as u64;
        entry.insert((id, packet));
        self.heap.push(Reverse((deadline, id)));
    }

    /// When to look again. May name a cancelled timer's deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((deadline, _))| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn packet(token: usize) -> Packet {
        Packet {
            token,
            ..Packet::default()
        }
    }

    #[test]
    fn timers_come_out_by_deadline_and_cancelled_ones_do_not() {
        let mut timers = Timers::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (late, earliest) = timers.insert(at(30), packet(30));
        assert!(earliest);
        let (early, earliest) = timers.insert(at(10), packet(10));
        assert!(earliest);
        let (_, earliest) = timers.insert(at(20), packet(20));
        assert!(!earliest);
        assert!(timers.expired(at(9)).is_none());
        assert_eq!(timers.expired(at(10)).map(|(id, _)| id), Some(early));
        assert!(!timers.remove(early), "it has run out");
        assert!(timers.remove(late));
        assert!(!timers.remove(late), "it was cancelled");
        assert_eq!(timers.expired(at(100)).map(|(_, p)| p.token), Some(20));
        assert!(timers.expired(at(100)).is_none());
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn cancelled_timers_do_not_pile_up() {
        let mut timers = Timers::default();
        let deadline = Instant::now() + Duration::from_secs(3600);
        for token in 0..10_000 {
            let (id, _) = timers.insert(deadline, packet(token));
            assert!(timers.remove(id));
        }
        assert!(
            timers.heap.len() <= 65,
            "{} entries kept",
            timers.heap.len()
        );
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A timer so many milliseconds from the start.
        Set(u64),
        /// Takes one of the timers ever set back.
        Cancel(Index),
        /// So many milliseconds go by.
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0..200u64).prop_map(Step::Set),
            3 => any::<Index>().prop_map(Step::Cancel),
            2 => (0..30u64).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// Against a list of what is armed.
        #[test]
        fn each_timer_runs_out_once_or_is_cancelled(
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let start = Instant::now();
            let at = |ms| start + Duration::from_millis(ms);
            let mut timers = Timers::default();
            let mut armed: Vec<(u64, OperationId)> = Vec::new();
            let mut ever = Vec::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Set(deadline) => {
                        let (id, earliest) = timers.insert(at(deadline), packet(ever.len()));
                        prop_assert!(!ever.contains(&id), "a name is given once");
                        if armed.iter().all(|&(other, _)| deadline < other) {
                            // A cancelled timer may hide that, as `next` says.
                            prop_assert!(earliest || timers.next() <= Some(at(deadline)));
                        }
                        ever.push(id);
                        armed.push((deadline, id));
                    }
                    Step::Cancel(which) if !ever.is_empty() => {
                        let id = *which.get(&ever);
                        let place = armed.iter().position(|&(_, other)| other == id);
                        prop_assert_eq!(timers.remove(id), place.is_some());
                        place.map(|place| armed.swap_remove(place));
                    }
                    Step::Cancel(_) => {}
                    Step::Pass(time) => {
                        now += time;
                        let mut last = 0;
                        while let Some((id, packet)) = timers.expired(at(now)) {
                            prop_assert_eq!(ever[packet.token], id);
                            let place = armed.iter().position(|&(_, other)| other == id);
                            let (deadline, _) = armed.swap_remove(place.expect("armed"));
                            prop_assert!(last <= deadline && deadline <= now);
                            last = deadline;
                        }
                        prop_assert!(armed.iter().all(|&(deadline, _)| deadline > now));
                    }
                }
                // Nobody sleeps past a timer.
                let first = armed.iter().map(|&(deadline, _)| at(deadline)).min();
                prop_assert!(first.is_none() || timers.next() <= first);
            }
        }
    }
}
