//! Tasks that wait for some state to change.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// Whom to wake when a state changes that a lock guards. Part of that state, so that nobody misses a
/// change. Who does not wait any more is not kept.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// By numbers that are not used again.
    wakers: BTreeMap<u64, Waker>,
    last_number: u64,
}

impl Waiting {
    /// All of them, to be woken with the lock open.
    pub(crate) fn take(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.wakers).into_values().collect()
    }

    /// Returns the waker that this one replaces, to be dropped with the lock open.
    fn add(&mut self, number: &mut Option<u64>, cx: &Context<'_>) -> Option<Waker> {
        let number = *number.get_or_insert_with(|| {
            self.last_number += 1;
            self.last_number
        });
        self.wakers.insert(number, cx.waker().clone())
    }
}

/// A place among those that wait, left when it is dropped.
struct Place<'a, S> {
    state: &'a Mutex<S>,
    waiting: fn(&mut S) -> &mut Waiting,
    number: Option<u64>,
}

impl<S> Drop for Place<'_, S> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let waker = (self.waiting)(&mut self.state.lock())
                .wakers
                .remove(&number);
            // With the lock open again: it may be the last that a task is known by.
            drop(waker);
        }
    }
}

/// Waits until a state gives what is wanted of it. It is looked at again when those who wait in it are
/// [taken](Waiting::take) and woken.
pub(crate) async fn until<S, T>(
    state: &Mutex<S>,
    waiting: fn(&mut S) -> &mut Waiting,
    mut wanted: impl FnMut(&mut S) -> Option<T>,
) -> T {
    let mut place = Place {
        state,
        waiting,
        number: None,
    };
    poll_fn(|cx| {
        let mut state = place.state.lock();
        if let Some(found) = wanted(&mut state) {
            return Poll::Ready(found);
        }
        let outdated = waiting(&mut state).add(&mut place.number, cx);
        drop(state);
        drop(outdated);
        Poll::Pending
    })
    .await
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct State {
        value: u32,
        waiting: Waiting,
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn value(state: &Mutex<State>, wanted: u32) -> impl Future<Output = u32> {
        let find = move |state: &mut State| (state.value >= wanted).then_some(state.value);
        until(state, |state| &mut state.waiting, find)
    }

    fn change(state: &Mutex<State>) {
        let wakers = {
            let mut state = state.lock();
            state.value += 1;
            state.waiting.take()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    #[test]
    fn each_change_is_told_to_those_who_still_wait() {
        let (state, woken) = (Mutex::new(State::default()), Arc::new(Woken::default()));
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let mut second = pin!(value(&state, 2));
        for changes in 0..2 {
            assert!(second.as_mut().poll(&mut cx).is_pending());
            // Asking twice makes one place.
            assert!(second.as_mut().poll(&mut cx).is_pending());
            change(&state);
            assert_eq!(woken.0.load(Ordering::Relaxed), changes + 1);
        }
        assert_eq!(second.poll(&mut cx), Poll::Ready(2));
    }

    #[test]
    fn who_waits_no_more_is_not_kept() {
        let (state, woken) = (Mutex::new(State::default()), Arc::new(Woken::default()));
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let mut stays = pin!(value(&state, 1));
        assert!(stays.as_mut().poll(&mut cx).is_pending());
        for _ in 0..100 {
            assert!(pin!(value(&state, 1)).poll(&mut cx).is_pending());
        }
        assert_eq!(state.lock().waiting.wakers.len(), 1);
        change(&state);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert_eq!(stays.poll(&mut cx), Poll::Ready(1));
    }
}
