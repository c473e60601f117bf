//! Shape B: one thread does all input and output and feeds a queue; the workers only handle.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use crate::ring::{Message, Port};

#[derive(Default)]
struct Queue {
    messages: Mutex<Waiting>,
    arrived: Condvar,
    replies: Mutex<Vec<Message>>,
    /// The I/O thread waits in the kernel, or is about to.
    parked: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    idle_workers: usize,
}

pub fn start(port: Arc<Port>, workers: usize) {
    let queue = Arc::new(Queue::default());
    for _ in 0..workers {
        let (port, queue) = (port.clone(), queue.clone());
        std::thread::spawn(move || work(&port, &queue));
    }
    std::thread::spawn(move || do_io(&port, &queue));
}

fn do_io(port: &Port, queue: &Queue) {
    let ring = &port.rings[0];
    ring.io
        .submitter()
        .register_enable_rings()
        .expect("a disabled ring");
    // SAFETY: only this thread touches the ring.
    let mut queues = unsafe { ring.unlocked() };
    queues.accept(port);
    queues.push(port.wake.request());
    let (mut replies, mut messages) = (Vec::new(), Vec::new());
    loop {
        queue.parked.store(true, Ordering::SeqCst);
        std::mem::swap(
            &mut replies,
            &mut queue.replies.lock().expect("no panic while held"),
        );
        replies
            .drain(..)
            .for_each(|message| queues.reply(port, message));
        ring.submit_and_wait(1);
        queue.parked.store(false, Ordering::SeqCst);
        messages.extend(std::iter::from_fn(|| queues.take(port)));
        deliver(queue, &mut messages);
    }
}

fn deliver(queue: &Queue, messages: &mut Vec<Message>) {
    if messages.is_empty() {
        return;
    }
    let wake = {
        let mut waiting = queue.messages.lock().expect("no panic while held");
        let wake = waiting.idle_workers.min(messages.len());
        waiting.messages.extend(messages.drain(..));
        wake
    };
    (0..wake).for_each(|_| queue.arrived.notify_one());
}

fn work(port: &Port, queue: &Queue) {
    loop {
        let message = next(queue);
        port.handle(message);
        queue
            .replies
            .lock()
            .expect("no panic while held")
            .push(message);
        if queue.parked.swap(false, Ordering::SeqCst) {
            port.wake.ring();
        }
    }
}

fn next(queue: &Queue) -> Message {
    let mut waiting = queue.messages.lock().expect("no panic while held");
    loop {
        if let Some(message) = waiting.messages.pop_front() {
            return message;
        }
        waiting.idle_workers += 1;
        waiting = queue.arrived.wait(waiting).expect("no panic while held");
        waiting.idle_workers -= 1;
    }
}
