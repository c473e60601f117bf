//! The limit: one ring a thread, nothing shared, everything drained and flushed in one go.

use std::sync::{Arc, Barrier};

use crate::ring::{Port, Ring, TaskRun};

/// How replies reach the kernel.
#[derive(Clone, Copy, PartialEq)]
pub enum Flush {
    /// With the waiting call. A send's own completion ends that wait at once.
    Combined,
    /// By a call of their own, then the waiting call.
    Split,
    /// By a call after every reply, then the waiting call.
    Each,
    /// With the waiting call, which waits for one completion more than there are sends.
    PastSends,
}

pub fn start(port: Arc<Port>, task_run: TaskRun, flush: Flush) {
    // No ring may pass a connection to one that is not yet enabled.
    let enabled = Arc::new(Barrier::new(port.rings.len()));
    for index in 0..port.rings.len() {
        let (port, enabled) = (port.clone(), enabled.clone());
        std::thread::spawn(move || {
            let ring = &port.rings[index];
            if task_run == TaskRun::Deferred {
                ring.io
                    .submitter()
                    .register_enable_rings()
                    .expect("a disabled ring");
            }
            enabled.wait();
            serve(&port, ring, index == 0, flush);
        });
    }
}

fn serve(port: &Port, ring: &Ring, accepts: bool, flush: Flush) {
    // SAFETY: only this thread touches the ring.
    let mut queues = unsafe { ring.unlocked() };
    if accepts {
        queues.accept(port);
    }
    loop {
        let mut sends = 0;
        while let Some(message) = queues.take(port) {
            port.handle(message);
            queues.reply(port, message);
            sends += 1;
            if flush == Flush::Each {
                ring.submit();
            }
        }
        match flush {
            Flush::Combined | Flush::Each => ring.submit_and_wait(1),
            Flush::PastSends => ring.submit_and_wait(1 + sends),
            Flush::Split => {
                ring.submit();
                ring.submit_and_wait(1);
            }
        }
    }
}
