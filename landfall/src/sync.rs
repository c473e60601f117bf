//! What the threads of a port meet at, for the code that decides who waits and who is woken.
//!
//! Built for tests with `--cfg loom`, that same code runs on the primitives of a model checker, which
//! goes through the orders in which threads may meet.

#[cfg(not(all(test, loom)))]
mod primitives {
    pub(crate) use std::sync::atomic;
    pub(crate) use std::thread;
    pub(crate) use std::thread_local;

    pub(crate) use parking_lot::{Mutex, MutexGuard};

    /// Accesses that are `SeqCst` are in one order for all by themselves.
    #[cfg_attr(
        not(target_os = "linux"),
        allow(dead_code, reason = "rings have these")
    )]
    #[inline(always)]
    pub(crate) fn one_order_for_all() {}
}

#[cfg(all(test, loom))]
mod primitives {
    pub(crate) use loom::sync::{MutexGuard, atomic};

    /// As the standard library's, for one variable.
    macro_rules! local_to_thread {
        (static $name:ident: $type:ty = const { $value:expr };) => {
            loom::thread_local! { static $name: $type = $value; }
        };
    }
    pub(crate) use local_to_thread as thread_local;

    pub(crate) mod thread {
        use std::time::Duration;

        pub(crate) use loom::thread::{Thread, current, park};

        /// The checker knows no time: any wait with an end may be over at once.
        pub(crate) fn park_timeout(_time: Duration) {
            loom::thread::yield_now();
        }
    }

    /// The checker takes `SeqCst` accesses for no more than `AcqRel` ones, but knows such fences.
    pub(crate) fn one_order_for_all() {
        atomic::fence(atomic::Ordering::SeqCst);
    }

    /// As `parking_lot`'s, which knows no poison.
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("a panic ends the whole model")
        }
    }
}

pub(crate) use primitives::*;
