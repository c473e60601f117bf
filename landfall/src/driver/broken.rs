//! Promises that a driver breaks when it is told to, to see that the tests of the contract notice.
//!
//! Compiled with `--cfg landfall_broken` only, which `.ci/broken` sets; the environment
//! (`LANDFALL_BROKEN`) then names the promise.

use std::env;
use std::sync::OnceLock;

/// A promise that is broken, by the name that the environment gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    /// `turns`: the operation that waits longest is the last to have its turn.
    Turns,
    /// `first-data`: an accept does not wait for it.
    #[cfg(target_os = "linux")]
    FirstData,
    /// `reset-as-end`: a reset is taken for the orderly end of the stream.
    #[cfg(unix)]
    ResetAsEnd,
    /// `raw-codes`: the kernel's codes are handed on as they are.
    #[cfg(windows)]
    RawCodes,
}

/// Whether the promise is to be broken.
///
/// # Panics
///
/// If the environment names none.
pub(crate) fn is(promise: Broken) -> bool {
    static BROKEN: OnceLock<Option<Broken>> = OnceLock::new();
    let broken = BROKEN.get_or_init(|| match &*env::var("LANDFALL_BROKEN").ok()? {
        "turns" => Some(Broken::Turns),
        #[cfg(target_os = "linux")]
        "first-data" => Some(Broken::FirstData),
        #[cfg(unix)]
        "reset-as-end" => Some(Broken::ResetAsEnd),
        #[cfg(windows)]
        "raw-codes" => Some(Broken::RawCodes),
        other => panic!("LANDFALL_BROKEN names no promise of this system's drivers: {other:?}"),
    });
    *broken == Some(promise)
}
