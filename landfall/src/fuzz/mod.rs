//! The runtime and the server over the simulated driver, fuzzed.
//!
//! A *schedule* is one server with a few connections from its start to its end, everything in one
//! thread: what the system does, what the clients do, which completion is taken next, when the clock
//! moves and what fails all follow from one seed, so a schedule that fails does so each time. The
//! seed is printed; `LANDFALL_SIM_SEED=<seed> cargo test -p landfall --lib fuzz` plays it again.
//! `LANDFALL_SIM_SCHEDULES` says how many are played; `.ci/run` plays 100,000. A seed means the same
//! only as long as nothing here changes, so what a schedule has shown once is kept as a test in
//! `regressions`.
//!
//! What each schedule is checked for: no byte of a connection is lost, doubled or out of order;
//! nobody waits for ever for what has come; the counts of the server are those of the network; and
//! in the end there is no task, socket, operation, buffer or port left.
//!
//! What it cannot find is what needs two threads at once: that is for the tests over real sockets.

pub(crate) mod broken;
mod handler;
mod peer;
mod regressions;
mod schedule;

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use broken::Broken;

/// Schedules that a plain `cargo test` plays.
const SCHEDULES: u64 = 10_000;
/// Enough for each of the broken runtimes to be caught many times over.
const SCHEDULES_TO_CATCH: u64 = 3_000;

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect("a number"))
}

/// Plays one schedule; what went wrong, if something did.
fn play(seed: u64) -> Result<u64, String> {
    catch_unwind(|| schedule::play(seed, false)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref().map(|text: &&str| text.to_string()));
        text.unwrap_or_default()
    })
}

/// Plays schedules on all processors until one fails.
fn play_many(count: u64) {
    let failed = AtomicBool::new(false);
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64;
    let worker = |first: u64| {
        for seed in (first..count).step_by(threads as usize) {
            if failed.load(Ordering::Relaxed) {
                return;
            }
            if let Err(error) = play(seed) {
                failed.store(true, Ordering::Relaxed);
                panic!(
                    "{error}\nreplay: LANDFALL_SIM_SEED={seed} cargo test -p landfall --lib fuzz"
                );
            }
        }
    };
    thread::scope(|scope| {
        let started: Vec<_> = (0..threads)
            .map(|first| scope.spawn(move || worker(first)))
            .collect();
        for thread in started {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

#[test]
fn no_schedule_loses_doubles_or_reorders_a_byte_or_leaks() {
    if let Some(seed) = variable("LANDFALL_SIM_SEED") {
        schedule::play(seed, true);
        return;
    }
    play_many(variable("LANDFALL_SIM_SCHEDULES").unwrap_or(SCHEDULES));
}

#[test]
fn a_seed_is_the_same_schedule_each_time() {
    for seed in 0..200 {
        assert_eq!(play(seed), play(seed), "seed {seed}");
    }
}

/// Plays schedules on a runtime with one rule broken, until one shows it. Returns what it said.
fn catch(rule: Broken) -> String {
    let caught = broken::with(rule, || {
        (0..SCHEDULES_TO_CATCH).find_map(|seed| play(seed).err())
    });
    caught.unwrap_or_else(|| panic!("nothing shows that {rule:?}"))
}

#[test]
fn a_runtime_that_loses_bytes_is_caught() {
    let said = catch(Broken::LosesWhatADroppedReadBrought);
    assert!(said.contains("stream"), "{said}");
}

#[test]
fn a_runtime_that_doubles_bytes_is_caught() {
    let said = catch(Broken::ReceivesTwice);
    assert!(said.contains("stream"), "{said}");
}

#[test]
fn a_runtime_that_reorders_bytes_is_caught() {
    let said = catch(Broken::PutsTheRestBehind);
    assert!(said.contains("stream"), "{said}");
}

#[test]
fn a_runtime_that_leaks_is_caught() {
    let said = catch(Broken::LeaksWhatNobodyReceives);
    assert!(said.contains("pooled buffers"), "{said}");
}

#[test]
fn a_runtime_that_forgets_to_wake_is_caught() {
    let said = catch(Broken::ForgetsTheReader);
    assert!(
        said.contains("stream") || said.contains("for ever"),
        "{said}"
    );
}
