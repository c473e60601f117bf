//! A queue that is mostly never used, of which every connection has a few.

use std::collections::VecDeque;

/// First in, first out; one word while nothing was ever queued.
#[derive(Debug)]
#[allow(
    clippy::box_collection,
    reason = "the box is what makes an unused queue one word instead of four"
)]
pub(crate) struct RareQueue<T>(Option<Box<VecDeque<T>>>);

impl<T> Default for RareQueue<T> {
    fn default() -> Self {
        RareQueue(None)
    }
}

impl<T> RareQueue<T> {
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn push_back(&mut self, item: T) {
        self.0.get_or_insert_default().push_back(item);
    }

    pub(crate) fn push_front(&mut self, item: T) {
        self.0.get_or_insert_default().push_front(item);
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        self.0.as_mut()?.pop_front()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|queue| queue.iter())
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        if let Some(queue) = &mut self.0 {
            queue.retain(keep);
        }
    }

    /// Takes everything out.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.0.take().into_iter().flat_map(|queue| *queue)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        PushBack(u8),
        PushFront(u8),
        PopFront,
        KeepAbove(u8),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => any::<u8>().prop_map(Step::PushBack),
            2 => any::<u8>().prop_map(Step::PushFront),
            3 => Just(Step::PopFront),
            1 => any::<u8>().prop_map(Step::KeepAbove),
            1 => Just(Step::Take),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_queue(steps in prop::collection::vec(step(), 0..60)) {
            let mut queue = RareQueue::default();
            let mut model = VecDeque::new();
            for step in steps {
                match step {
                    Step::PushBack(item) => {
                        queue.push_back(item);
                        model.push_back(item);
                    }
                    Step::PushFront(item) => {
                        queue.push_front(item);
                        model.push_front(item);
                    }
                    Step::PopFront => prop_assert_eq!(queue.pop_front(), model.pop_front()),
                    Step::KeepAbove(bound) => {
                        queue.retain(|&item| item > bound);
                        model.retain(|&item| item > bound);
                    }
                    Step::Take => {
                        let taken: Vec<u8> = queue.take().collect();
                        prop_assert_eq!(taken, Vec::from(std::mem::take(&mut model)));
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert!(queue.iter().eq(model.iter()));
            }
        }
    }
}
