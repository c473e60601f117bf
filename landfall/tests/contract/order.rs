//! Order and exclusion where several workers share a connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use landfall::port::{Association, Completion, CompletionKind, Handle, Operation};

use crate::support::{
    PATIENCE, Variant, assert_quiet, connected, eventually, for_each_driver, next, pair, post,
};
use crate::threads::Worker;

/// A byte that depends on its place.
fn byte(at: usize) -> u8 {
    (at % 249) as u8
}

/// Sends messages of different sizes, some of them apart enough to be received apart, until told
/// to stop. Returns how many bytes that were.
fn sender(mut peer: TcpStream, stop: impl Fn() -> bool + Send + 'static) -> Worker<usize> {
    Worker::start(move || {
        let start = Instant::now();
        let mut at = 0;
        for message in 0.. {
            let size = 1 + message % 97;
            let bytes: Vec<u8> = (at..at + size).map(byte).collect();
            peer.write_all(&bytes).expect("the port goes on receiving");
            at += size;
            if message % 8 == 0 {
                thread::sleep(Duration::from_micros(100));
                if stop() {
                    break;
                }
                assert!(
                    start.elapsed() < PATIENCE,
                    "it was not shared by several workers"
                );
            }
        }
        at
    })
}

const WORKERS: usize = 4;

/// Several workers share a few connections, and this is what they see of one.
#[derive(Default)]
struct Seen {
    inside: AtomicBool,
    overlaps: AtomicUsize,
    pieces: Mutex<Vec<Piece>>,
    /// The workers that handled something, as bits.
    workers: AtomicUsize,
    ended: AtomicBool,
}

struct Piece {
    sequence: u32,
    data: Vec<u8>,
}

impl Seen {
    fn handle(&self, worker: usize, mut taken: Completion) {
        if self.inside.swap(true, Ordering::AcqRel) {
            self.overlaps.fetch_add(1, Ordering::Relaxed);
        }
        let data = taken
            .take_buffer()
            .map(|data| data.into_vec())
            .unwrap_or_default();
        let sequence = taken.sequence();
        let mut pieces = self.pieces.lock().expect("not poisoned");
        pieces.push(Piece { sequence, data });
        let count = pieces.len();
        drop(pieces);
        // Blocks now and then, so that others come to help: long at first, so that it is noticed.
        match count {
            1 => thread::sleep(Duration::from_millis(10)),
            _ if count % 8 == 0 => thread::sleep(Duration::from_micros(500)),
            _ => {}
        }
        self.workers.fetch_or(1 << worker, Ordering::Relaxed);
        self.ended.fetch_or(taken.is_final(), Ordering::AcqRel);
        self.inside.store(false, Ordering::Release);
        drop(taken);
    }

    /// Whether more than one worker handled it, and enough to have met.
    fn was_shared(&self) -> bool {
        let pieces = self.pieces.lock().expect("not poisoned").len();
        self.workers.load(Ordering::Relaxed).count_ones() > 1 && pieces > 60
    }
}

/// Lets workers share connections until each was handled by several and has ended. Returns what
/// was seen of each, and what was sent on it.
fn share(driver: &Variant, serial: bool) -> Vec<(Arc<Seen>, Vec<u8>)> {
    let port = driver.port(WORKERS);
    let seen: Vec<Arc<Seen>> = (0..3).map(|_| Arc::default()).collect();
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let (port, seen) = (port.clone(), seen.clone());
            Worker::start(move || {
                while let Ok(taken) = port.get(None) {
                    seen[taken.key()].handle(worker, taken);
                }
            })
        })
        .collect();
    let begin = |(key, seen): (usize, &Arc<Seen>)| {
        let (ours, peer) = pair();
        let association = Association::new(key).serial(serial);
        let connection = port.associate_with(ours, association).expect("associates");
        connection
            .submit(Operation::ReceiveStream, 0)
            .expect("submits");
        let seen = seen.clone();
        sender(peer, move || seen.was_shared())
    };
    let senders: Vec<_> = seen.iter().enumerate().map(begin).collect();
    let sent = senders
        .into_iter()
        .map(|sender| (0..sender.join()).map(byte).collect());
    let sent: Vec<Vec<u8>> = sent.collect();
    for seen in &seen {
        eventually("the stream ends", || seen.ended.load(Ordering::Acquire));
    }
    port.close();
    workers.into_iter().for_each(Worker::join);
    seen.into_iter().zip(sent).collect()
}

fn bytes(pieces: &[Piece]) -> Vec<u8> {
    pieces
        .iter()
        .flat_map(|piece| &piece.data)
        .copied()
        .collect()
}

#[test]
fn the_sequence_puts_a_stream_in_order_whoever_took_what() {
    for_each_driver(|driver| {
        for (seen, sent) in share(driver, false) {
            let mut pieces = seen.pieces.lock().expect("not poisoned");
            pieces.sort_by_key(|piece| piece.sequence);
            let places = pieces.iter().map(|piece| piece.sequence);
            assert!(
                places.eq(0..pieces.len() as u32),
                "each place in the stream once"
            );
            assert!(bytes(&pieces) == sent, "every byte, in order");
        }
    });
}

#[test]
fn a_serial_handle_has_one_completion_out_at_a_time_and_in_order() {
    for_each_driver(|driver| {
        for (seen, sent) in share(driver, true) {
            assert_eq!(seen.overlaps.load(Ordering::Relaxed), 0, "two at once");
            let pieces = seen.pieces.lock().expect("not poisoned");
            assert!(
                bytes(&pieces) == sent,
                "every byte, in the order of handling"
            );
        }
    });
}

#[test]
fn a_serial_handle_holds_back_until_the_completion_is_dropped() {
    for_each_driver(|driver| {
        let port = driver.port(2);
        let (ours, mut peer) = pair();
        let association = Association::new(1).serial(true);
        let serial = port.associate_with(ours, association).expect("associates");
        serial.submit(Operation::ReceiveOnce, 0).expect("submits");
        peer.write_all(b"one").expect("the connection is open");
        let first = next(&port);
        assert_eq!(first.token(), 0);
        serial
            .submit(Operation::Send("two".into()), 1)
            .expect("submits");
        serial
            .submit(Operation::Send("three".into()), 2)
            .expect("submits");
        assert_quiet(&port);
        peer.read_exact(&mut [0; 8])
            .expect("completions are held back, operations are not");
        post(&port, 9);
        assert_eq!(next(&port).token(), 9, "others are not held back");

        let (tell, told) = std::sync::mpsc::channel();
        let waiting = {
            let port = port.clone();
            Worker::start(move || {
                while let Ok(taken) = port.get(None) {
                    tell.send(taken.token()).expect("the test listens");
                }
            })
        };
        waiting.wait_until_asleep();
        thread::spawn(move || drop(first))
            .join()
            .expect("any thread may drop it");
        assert_eq!(told.recv_timeout(PATIENCE), Ok(1));
        assert_eq!(told.recv_timeout(PATIENCE), Ok(2));
        port.close();
        waiting.join();
    });
}

#[test]
fn serial_handles_do_not_hold_each_other_back() {
    for_each_driver(|driver| {
        const CONNECTIONS: usize = 8;
        let port = driver.port(2);
        let mut kept = Vec::new();
        for key in 0..CONNECTIONS {
            let (ours, peer) = pair();
            let association = Association::new(key).serial(true);
            let connection = port.associate_with(ours, association).expect("associates");
            connection
                .submit(Operation::ReceiveStream, 0)
                .expect("submits");
            kept.push((connection, peer));
        }
        for (_, peer) in &mut kept {
            peer.write_all(b"x").expect("the connection is open");
        }
        let out: Vec<_> = (0..CONNECTIONS).map(|_| next(&port)).collect();
        let mut keys: Vec<_> = out.iter().map(|completion| completion.key()).collect();
        keys.sort_unstable();
        assert_eq!(keys, (0..CONNECTIONS).collect::<Vec<_>>());
        assert_quiet(&port);
        drop(out);
    });
}

#[test]
fn a_batch_has_one_completion_of_a_serial_handle() {
    for_each_driver(|driver| {
        let port = driver.port(1);
        let (ours, mut peer) = pair();
        let association = Association::new(1).serial(true);
        let serial = port.associate_with(ours, association).expect("associates");
        for token in 0..4 {
            serial
                .submit(Operation::Send("x".into()), token)
                .expect("submits");
        }
        for token in 0..4 {
            let mut batch = Vec::new();
            let count = port
                .get_many(&mut batch, 8, Some(PATIENCE))
                .expect("a completion comes");
            assert_eq!((count, batch[0].token()), (1, token));
            assert_quiet(&port);
        }
        peer.read_exact(&mut [0; 4]).expect("all four were sent");
    });
}

/// While a completion of a serial stream is out, the peer cannot fill memory without bound.
#[test]
fn a_held_back_stream_slows_its_sender_down() {
    for_each_driver(|driver| {
        const TOO_MUCH: usize = 128 << 20;
        let port = driver.port(2);
        let (ours, mut peer) = pair();
        let association = Association::new(1).serial(true);
        let serial = port.associate_with(ours, association).expect("associates");
        serial.submit(Operation::ReceiveStream, 0).expect("submits");
        peer.write_all(b"first").expect("the connection is open");
        let held = next(&port);
        let idle = {
            let port = port.clone();
            Worker::start(move || while port.get(None).is_ok() {})
        };
        peer.set_write_timeout(Some(Duration::from_millis(200)))
            .expect("above zero");
        let chunk = vec![0; 1 << 20];
        let mut written = 0;
        while let Ok(count) = peer.write(&chunk) {
            written += count;
            assert!(
                written < TOO_MUCH,
                "{written} bytes were taken in and held back"
            );
        }
        drop(held);
        serial.close();
        port.close();
        idle.join();
    });
}

/// Sends of several threads on one handle keep each thread's order, and none is torn.
#[test]
fn sends_of_several_threads_are_whole_and_in_each_ones_order() {
    for_each_driver(|driver| {
        const SENDS: usize = 200;
        const SIZE: usize = 1_000;
        let port = driver.port(2);
        let (connection, mut peer) = connected(&port, 1);
        let done = Arc::new(AtomicUsize::new(0));
        let worker = {
            let (port, done) = (port.clone(), done.clone());
            Worker::start(move || {
                while let Ok(sent) = port.get(None) {
                    assert_eq!(sent.kind(), CompletionKind::Send);
                    assert_eq!(sent.result().expect("sent"), SIZE);
                    done.fetch_add(1, Ordering::AcqRel);
                }
            })
        };
        let senders = [1, 2].map(|name: u8| send_many(connection.clone(), name, SENDS, SIZE));
        let mut next_of = [0; 3];
        for _ in 0..2 * SENDS {
            let mut message = [0; SIZE];
            peer.read_exact(&mut message).expect("every send arrives");
            let (name, number) = (message[0], message[1]);
            assert!(
                message.iter().skip(2).all(|byte| *byte == name),
                "a send was torn"
            );
            assert_eq!(usize::from(number), next_of[usize::from(name)] % 256);
            next_of[usize::from(name)] += 1;
        }
        senders.into_iter().for_each(Worker::join);
        eventually("all have completed", || {
            done.load(Ordering::Acquire) == 2 * SENDS
        });
        assert_quiet(&port);
        port.close();
        worker.join();
    });
}

fn send_many(connection: Handle, name: u8, sends: usize, size: usize) -> Worker<()> {
    Worker::start(move || {
        for number in 0..sends {
            let mut message = vec![name; size];
            message[1] = number as u8;
            connection
                .submit(Operation::Send(message.into()), number)
                .expect("submits");
        }
    })
}
