//! Rules of the runtime that a test can break, to see that the fuzzing notices.

use std::cell::Cell;

/// What a broken runtime does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    LosesWhatADroppedReadBrought,
    ReceivesTwice,
    PutsTheRestBehind,
    LeaksWhatNobodyReceives,
    ForgetsTheReader,
}

thread_local! {
    static BROKEN: Cell<Option<Broken>> = const { Cell::new(None) };
}

/// Whether a rule is broken on the calling thread. Asked by the code that keeps the rule, in tests
/// only.
pub(crate) fn is(rule: Broken) -> bool {
    BROKEN.get() == Some(rule)
}

pub(super) fn with<R>(rule: Broken, work: impl FnOnce() -> R) -> R {
    BROKEN.set(Some(rule));
    let result = work();
    BROKEN.set(None);
    result
}
