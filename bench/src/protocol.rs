//! What the client and every server agree on: messages come back as they were sent.
//!
//! The first byte may ask for more. Ordinary content never holds the bytes that do, so a server
//! may look at the first byte of whatever piece of a message it has received.

use std::thread;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Asks the handler to compute for [`COMPUTATION`] before it answers.
pub const COMPUTE: u8 = 1;
/// Asks the handler to block its thread for [`NAP`] before it answers.
pub const SLEEP: u8 = 2;
/// Asks the handler to compute for [`LONG_COMPUTATION`] before it answers.
pub const COMPUTE_LONG: u8 = 3;
/// Ordinary content holds no byte below this one.
pub const FIRST_ORDINARY: u8 = 4;

pub const COMPUTATION: Duration = Duration::from_millis(5);
pub const LONG_COMPUTATION: Duration = Duration::from_millis(50);
pub const NAP: Duration = Duration::from_secs(1);

/// Does what a message asks of its handler before the echo: nothing, unless it is one of
/// those above. It blocks the calling thread on purpose: whom that delays is what `sharing` measures.
pub fn attend(message: &[u8]) {
    match message.first() {
        Some(&COMPUTE) => compute(COMPUTATION),
        Some(&COMPUTE_LONG) => compute(LONG_COMPUTATION),
        Some(&SLEEP) => thread::sleep(NAP),
        _ => {}
    }
}

/// Spends processor time rather than wall time, so that being preempted does not shorten the work.
fn compute(amount: Duration) {
    let end = thread_time() + amount;
    while thread_time() < end {
        std::hint::spin_loop();
    }
}

fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("Linux gives every thread a processor clock")
        .into()
}
