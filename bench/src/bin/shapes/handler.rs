//! What a user's handler does with a message, told by the message's first byte.

use std::time::{Duration, Instant};

pub const ECHO: u8 = b'E';
pub const COMPUTE: u8 = b'C';
pub const SLEEP: u8 = b'S';

pub fn handle(what: u8) {
    match what {
        COMPUTE => compute(Duration::from_millis(5)),
        SLEEP => std::thread::sleep(Duration::from_secs(1)),
        _ => {}
    }
}

/// Reads the clock in user space only: a handler that entered the kernel would let its ring move.
fn compute(span: Duration) {
    let start = Instant::now();
    while start.elapsed() < span {
        std::hint::spin_loop();
    }
}
