//! Shape A: one ring, one elected waiter. The leader takes a message, hands leadership on, then handles it.

use std::sync::{Arc, Mutex};

use crate::ring::Port;

pub fn start(port: Arc<Port>, workers: usize) {
    port.rings[0].lock().accept(&port);
    let leadership = Arc::new(Mutex::new(()));
    for _ in 0..workers {
        let (port, leadership) = (port.clone(), leadership.clone());
        std::thread::spawn(move || work(&port, &leadership));
    }
}

fn work(port: &Port, leadership: &Mutex<()>) {
    let ring = &port.rings[0];
    let lead = || leadership.lock().expect("no panic while held");
    let mut leader = lead();
    loop {
        let taken = ring.lock().take(port);
        let Some(message) = taken else {
            ring.submit_and_wait(1);
            continue;
        };
        drop(leader);
        port.handle(message);
        ring.lock().reply(port, message);
        // A leader flushes when it waits. Somebody else leads and may be waiting already: flush here.
        leader = leadership.try_lock().unwrap_or_else(|_| {
            ring.submit();
            lead()
        });
    }
}
