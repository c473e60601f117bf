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
