//! The thread that hangs up on accepted clients that stay silent for too long. It exists once an
//! accept asks for first data.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{OnceLock, Weak};
use std::thread;
use std::time::Instant;

use super::{Core, accept};

pub(super) struct Deadlines {
    core: Weak<Core>,
    sender: OnceLock<Option<Sender<Deadline>>>,
}

/// When, and the name of the connection.
type Deadline = (Instant, usize);

impl Deadlines {
    pub(super) fn new(core: Weak<Core>) -> Self {
        Deadlines {
            core,
            sender: OnceLock::new(),
        }
    }

    pub(super) fn add(&self, deadline: Instant, name: usize) {
        let sender = self.sender.get_or_init(|| start(self.core.clone()).ok());
        if let Some(sender) = sender {
            // The thread lives as long as the sender.
            let _ = sender.send((deadline, name));
        }
    }
}

fn start(core: Weak<Core>) -> std::io::Result<Sender<Deadline>> {
    let (sender, receiver) = channel();
    thread::Builder::new()
        .name("landfall-deadlines".to_owned())
        .spawn(move || watch(&core, &receiver))?;
    Ok(sender)
}

/// Runs until the driver, and with it the sender, is gone.
fn watch(core: &Weak<Core>, deadlines: &Receiver<Deadline>) {
    let mut heap = BinaryHeap::<Reverse<Deadline>>::new();
    loop {
        let next = heap.peek().map(|&Reverse((deadline, _))| deadline);
        let received = match next {
            None => deadlines.recv().map_err(RecvTimeoutError::from),
            Some(next) => deadlines.recv_timeout(next.saturating_duration_since(Instant::now())),
        };
        match received {
            Ok(deadline) => heap.push(Reverse(deadline)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        while let Some(&Reverse((deadline, name))) = heap.peek() {
            if deadline > now {
                break;
            }
            heap.pop();
            if let Some(core) = core.upgrade() {
                accept::hang_up(&core, name);
            }
        }
    }
}
