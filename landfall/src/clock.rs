//! What time it is for whoever waits for time to pass.

use std::time::Instant;

/// Now; in a test over the simulated driver, what the test says it is.
pub(crate) fn now() -> Instant {
    #[cfg(all(test, unix, not(loom)))]
    if let Some(now) = simulated::now() {
        return now;
    }
    Instant::now()
}

#[cfg(all(test, unix, not(loom)))]
pub(crate) mod simulated {
    use std::cell::Cell;
    use std::time::Instant;

    thread_local! {
        static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
    }

    pub(super) fn now() -> Option<Instant> {
        NOW.get()
    }

    /// Sets the clock of the calling thread; `None`: the system's again.
    pub(crate) fn set(now: Option<Instant>) {
        NOW.set(now);
    }
}
